from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klip_monai.errors import InputError
from klip_monai.physics import FanBeam, ParallelBeam, Tomography
from klip_monai.physics.filtered_back_projection import fan_beam_fbp, redundancy_weights

SIDE, PIXEL_MM = 64, 1.5
FAR = {"source_mm": 570.0, "detector_mm": 500.0}
NEAR = {"source_mm": 110.0, "detector_mm": 40.0}


def fan_beam(**options: object) -> FanBeam:
    return FanBeam(**{"image_shape": (SIDE, SIDE), "pixel_mm": PIXEL_MM, "views": 160, **NEAR, **options})


def distance_from(x: float, y: float) -> torch.Tensor:
    """Distance of each pixel's centre from a point in mm from the middle, y upwards."""
    axis = (torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2) * PIXEL_MM
    return torch.hypot(axis[None, :] - x, -axis[:, None] - y)


def smooth_disc_and_gaussian() -> torch.Tensor:
    """A central disc with a soft rim and a Gaussian off the centre, shape (2, 1, SIDE, SIDE)."""
    disc = torch.sigmoid((28.0 - distance_from(0, 0)) / 2.5)
    gaussian = torch.exp(-0.5 * (distance_from(19, -13) / 8.0) ** 2)
    return torch.stack([disc, gaussian])[:, None].float()


def analytic_gaussian_sinogram(geometry: FanBeam, *, x: float, y: float, sigma: float) -> torch.Tensor:
    """Line integrals of exp(-|p - (x, y)|² / 2 sigma²) along the geometry's rays, without any pixels."""
    theta = np.deg2rad(geometry.angles)[:, None]
    source = geometry.source_mm * np.stack([np.sin(theta), -np.cos(theta)])
    elements = (np.arange(geometry.detectors) - (geometry.detectors - 1) / 2) * geometry.pitch_mm
    elements = elements + geometry.detector_offset_mm
    towards = np.stack([np.cos(theta), np.sin(theta)]) * elements + np.stack([-np.sin(theta), np.cos(theta)]) * (
        geometry.source_mm + geometry.detector_mm
    )
    towards /= np.linalg.norm(towards, axis=0)
    apart = (x - source[0]) * towards[1] - (y - source[1]) * towards[0]
    return torch.from_numpy(sigma * np.sqrt(2 * np.pi) * np.exp(-0.5 * (apart / sigma) ** 2))[None, None]


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    """Of images whose values span one, in dB."""
    return -10 * float(torch.log10((image - truth).square().mean()))


@settings(max_examples=12, deadline=None)
@given(
    source_mm=st.floats(90.0, 2000.0),
    detector_mm=st.floats(0.0, 600.0),
    oversampling=st.floats(1.0, 2.0),
    spare_elements=st.integers(0, 40),
    start_angle=st.floats(-180.0, 180.0),
    shift=st.floats(-0.5, 0.5),
    arc=st.floats(0.0, 1.0),
)
def test_values_do_not_depend_on_the_scanner(
    source_mm, detector_mm, oversampling, spare_elements, start_angle, shift, arc
):
    distances = {"source_mm": source_mm, "detector_mm": detector_mm}
    plain = fan_beam(**distances)
    pitch = plain.pitch_mm / oversampling
    least = 180 + plain.fan_angle
    geometry = fan_beam(
        **distances,
        start_angle=start_angle,
        angle_range=min(least + 1 + arc * (360 - least), 360.0),
        detectors=int(plain.detectors * oversampling) + 2 + spare_elements,
        detector_pitch_mm=pitch,
        detector_offset_mm=shift * pitch,
    )
    image = fan_beam_fbp(analytic_gaussian_sinogram(geometry, x=17.0, y=-11.0, sigma=6.0), geometry)[0, 0]
    truth = torch.exp(-0.5 * (distance_from(17, -11) / 6.0) ** 2)
    assert float((image - truth).abs().max()) < 0.03
    assert float(image.sum() / truth.sum()) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("options", [NEAR, {"angle_range": 260.0}, {"detector_offset_mm": 0.5}], ids=str)
def test_it_undoes_the_scaled_operator(options):
    operator, truth = Tomography(fan_beam(**options)), smooth_disc_and_gaussian()
    y, middle = operator.A(truth), distance_from(0, 0) < 20
    for window, tolerance in (("ram-lak", 0.03), ("hann", 0.06)):
        image = operator.A_dagger(y, method="fbp", window=window)
        assert image.dtype == torch.float32
        assert float((image - truth).abs().max()) < tolerance
        assert float(image[0, 0][middle].mean()) == pytest.approx(float(truth[0, 0][middle].mean()), rel=5e-3)


def test_from_afar_it_is_that_of_a_parallel_beam():
    options = {"image_shape": (SIDE, SIDE), "pixel_mm": PIXEL_MM, "views": 120, "detectors": 96, "angle_range": 360.0}
    detector = {"detector_pitch_mm": PIXEL_MM}
    parallel = Tomography(ParallelBeam(**options, **detector), kernel="strip")
    fan = Tomography(FanBeam(**options, **detector, source_mm=1e6, detector_mm=0.0))
    truth = smooth_disc_and_gaussian()
    one, other = (op.A_dagger(op.A(truth), method="fbp") for op in (parallel, fan))
    torch.testing.assert_close(one, other, rtol=0, atol=0.02)
    assert psnr(other, truth) > psnr(one, truth) - 0.5


def test_a_clinical_fan_loses_less_than_a_decibel_against_a_parallel_beam():
    truth = smooth_disc_and_gaussian()
    beam = ParallelBeam(image_shape=(SIDE, SIDE), pixel_mm=PIXEL_MM, views=160, angle_range=360.0)
    parallel = Tomography(beam, kernel="strip")
    fan = Tomography(fan_beam(**FAR))
    of_parallel, of_fan = (psnr(op.A_dagger(op.A(truth), method="fbp"), truth) for op in (parallel, fan))
    assert of_fan > max(of_parallel - 1, 50)


@settings(max_examples=20, deadline=None)
@given(source_mm=st.floats(80.0, 600.0), arc=st.floats(0.05, 0.98))
def test_the_sightings_of_each_line_share_its_weight(source_mm, arc):
    options = {"image_shape": (32, 32), "views": 2000, "source_mm": source_mm, "detectors": 31}
    least = 180 + fan_beam(**options).fan_angle
    geometry = fan_beam(**options, angle_range=least + arc * (360 - least))
    weights, views = redundancy_weights(geometry).numpy(), geometry.angles
    elements = (np.arange(31) - 15) * geometry.pitch_mm
    fan = np.degrees(np.arctan(elements / (geometry.source_mm + geometry.detector_mm)))
    for element, seen_by in enumerate(weights.T):
        opposite = weights[:, 30 - element]
        before, after = views - 180 - 2 * fan[element], views + 180 - 2 * fan[element]
        total = seen_by + sum(np.interp(other, views, opposite, left=0, right=0) for other in (before, after))
        np.testing.assert_allclose(total, 1.0, atol=0.02)


def test_it_is_linear_and_differentiable_and_keeps_samples_apart():
    geometry = FanBeam(image_shape=(6, 5), pixel_mm=1.0, views=9, **NEAR)
    a, b = torch.randn(2, 1, 1, *geometry.sinogram_shape, generator=torch.Generator().manual_seed(0)).double()
    one, other = (fan_beam_fbp(sinogram, geometry) for sinogram in (a, b))
    torch.testing.assert_close(fan_beam_fbp(2.5 * a - b, geometry), 2.5 * one - other)
    torch.testing.assert_close(fan_beam_fbp(torch.cat([a, b]), geometry), torch.cat([one, other]))
    assert fan_beam_fbp(torch.cat([a, b])[:0], geometry).shape == (0, 1, 6, 5)
    assert torch.autograd.gradcheck(lambda y: fan_beam_fbp(y, geometry), (a.requires_grad_(),))


def test_turning_the_gantry_turns_the_image():
    first, turned = (fan_beam(views=8, start_angle=start) for start in (0.0, 90.0))
    sinogram = torch.rand(1, 1, *first.sinogram_shape, generator=torch.Generator().manual_seed(0)).double()
    image = fan_beam_fbp(sinogram, first).rot90(1, dims=(2, 3))
    torch.testing.assert_close(fan_beam_fbp(sinogram, turned), image)


def test_views_that_cannot_be_back_projected_are_refused():
    short = Tomography(fan_beam(views=5, angle_range=200.0))
    with pytest.raises(InputError, match=r"angle_range of 200 degrees, expected at least 256\.2 for this fan beam"):
        short.A_dagger(torch.zeros(1, *short.range_shape), method="fbp")
    listed = Tomography(fan_beam(views=0, view_angles=(0.0, 120.0, 240.0)))
    with pytest.raises(InputError, match="method: got 'fbp', expected 'cg' for a geometry with a list of view_angles"):
        listed.A_dagger(torch.zeros(1, *listed.range_shape), method="fbp")
