from __future__ import annotations

import astra
import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from klip_monai.errors import InputError
from klip_monai.physics import FanBeam, ParallelBeam, Tomography

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

geometries = st.builds(
    ParallelBeam,
    image_shape=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    pixel_mm=st.floats(0.3, 3.0),
    views=st.integers(1, 7),
    angle_range=st.floats(5.0, 360.0),
    start_angle=st.floats(-180.0, 180.0),
)
fans = st.builds(
    FanBeam,
    image_shape=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    pixel_mm=st.floats(0.3, 3.0),
    views=st.integers(1, 7),
    source_mm=st.floats(40.0, 600.0),
    detector_mm=st.floats(0.0, 500.0),
    angle_range=st.floats(5.0, 360.0),
    start_angle=st.floats(-180.0, 180.0),
)
anywhere = {
    "view_angles": st.lists(st.floats(-400.0, 400.0), min_size=1, max_size=6),
    "views": st.just(0),
    "detector_offset_mm": st.floats(-3.0, 3.0),
    "detectors": st.integers(8, 24),
    "detector_pitch_mm": st.floats(0.4, 3.0),
}
free_geometries = st.builds(ParallelBeam, image_shape=st.just((9, 7)), pixel_mm=st.floats(0.5, 2.0), **anywhere)
free_fans = st.builds(
    FanBeam,
    image_shape=st.just((9, 7)),
    pixel_mm=st.floats(0.5, 2.0),
    source_mm=st.floats(40.0, 600.0),
    detector_mm=st.floats(0.0, 500.0),
    **anywhere,
)
kernels = st.sampled_from(["linear", "strip"])
acquisitions = st.one_of(
    st.tuples(geometries, st.sampled_from(["linear", "line", "strip"])),
    st.tuples(fans, st.sampled_from(["line", "strip"])),
    st.tuples(free_geometries, st.sampled_from(["linear", "line", "strip"])),
    st.tuples(free_fans, st.just("line")),
)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def disc(side: int, *, radius: float, x: float, y: float) -> torch.Tensor:
    """A disc of ones, edges anti-aliased; radius and centre in pixels from the middle, y upwards."""
    fine = 8
    grid = (np.arange(side * fine) + 0.5) / fine - side / 2
    inside = (grid[None, :] - x) ** 2 + (-grid[:, None] - y) ** 2 <= radius**2
    return torch.from_numpy(inside.reshape(side, fine, side, fine).mean((1, 3)))[None, None]


def adjointness(operator: Tomography, dtype: torch.dtype) -> float:
    """|<A x, y> - <x, Aᵀ y>| against |A x| |y|, on noise."""
    x = random(2, 1, *operator.image_shape, dtype=dtype)
    y = random(2, *operator.range_shape, seed=1, dtype=dtype)
    image, back = operator.A(x).double(), operator.A_adjoint(y).double()
    return float(((image * y).sum() - (x * back).sum()).abs() / (image.norm() * y.norm() + 1e-30))


@settings(max_examples=40, deadline=None)
@given(acquisitions)
def test_adjoint_is_exact_for_every_geometry(acquisition):
    geometry, kernel = acquisition
    operator = Tomography(geometry, kernel=kernel)
    assert adjointness(operator, torch.float64) < 1e-10
    assert adjointness(operator, torch.float32) < 1e-5


# Two nearly equal singular values: the iteration once stopped 1.03e-4 short.
NEARLY_DEGENERATE = ParallelBeam(
    image_shape=(1, 3), pixel_mm=1.0, views=1, angle_range=5.0, start_angle=1.0, detectors=5, detector_pitch_mm=1.0
)


@settings(max_examples=30, deadline=None)
@given(acquisitions)
@example((NEARLY_DEGENERATE, "linear"))
def test_spectral_norm_is_one_for_every_geometry(acquisition):
    geometry, kernel = acquisition
    operator = Tomography(geometry, kernel=kernel)
    pixels = geometry.image_shape[0] * geometry.image_shape[1]
    dense = operator.A(torch.eye(pixels, dtype=torch.float64).reshape(-1, 1, *geometry.image_shape)).flatten(1)
    assert float(torch.linalg.matrix_norm(dense, 2)) == pytest.approx(1.0, rel=1e-4)


def test_spectral_norm_agrees_with_scipy():
    operator = Tomography(ParallelBeam(image_shape=(24, 24), pixel_mm=1.7, views=9))
    map_ = scipy.sparse.linalg.LinearOperator(
        shape=(int(np.prod(operator.range_shape)), 24 * 24),
        matvec=lambda v: operator.A(torch.from_numpy(v).reshape(1, 1, 24, 24)).flatten().numpy(),
        rmatvec=lambda v: operator.A_adjoint(torch.from_numpy(v).reshape(1, *operator.range_shape)).flatten().numpy(),
        dtype=np.float64,
    )
    assert scipy.sparse.linalg.svds(map_, k=1, return_singular_vectors=False)[0] == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("kernel", ["linear", "strip"])
def test_matrix_agrees_with_an_astra_call_per_slice(kernel):
    geometry = ParallelBeam(image_shape=(24, 20), pixel_mm=1.4, views=7, angle_range=130, start_angle=11)
    operator = Tomography(geometry, kernel=kernel)
    x = random(3, 1, 24, 20, dtype=torch.float32)
    y = operator.A(x) / operator.scale
    volume = astra.create_vol_geom(24, 20, -14.0, 14.0, -16.8, 16.8)
    angles = np.deg2rad(11 + np.arange(7) * 130 / 7)
    projector = astra.create_projector(
        kernel, astra.create_proj_geom("parallel", 1.4, geometry.detectors, angles), volume
    )
    for image, sinogram in zip(x[:, 0].numpy(), y[:, 0].numpy(), strict=True):
        data, expected = astra.create_sino(image, projector)
        np.testing.assert_allclose(sinogram, expected, rtol=1e-4, atol=1e-4)
        back = operator.A_adjoint(torch.from_numpy(sinogram)[None, None])[0, 0].numpy() / operator.scale
        back_data, expected = astra.create_backprojection(sinogram, projector)
        np.testing.assert_allclose(back, expected, rtol=1e-4, atol=1e-2)
        astra.data2d.delete([data, back_data])
    astra.projector.delete(projector)


@pytest.mark.parametrize("kernel", ["linear", "strip"])
@pytest.mark.parametrize("start_angle", [0.0, 20.0])
def test_sinogram_of_an_offset_disc_is_its_chord_lengths(kernel, start_angle):
    pixel, radius, x, y = 0.8, 18.0, 13.0, -9.0
    geometry = ParallelBeam(image_shape=(96, 96), pixel_mm=pixel, views=12, start_angle=start_angle)
    operator = Tomography(geometry, kernel=kernel)
    measured = (operator.A(disc(96, radius=radius, x=x, y=y)) / operator.scale)[0, 0].numpy()
    theta = np.deg2rad(geometry.angles)[:, None]
    u = (np.arange(geometry.detectors) - (geometry.detectors - 1) / 2) * geometry.pitch_mm
    distance = u - pixel * (x * np.cos(theta) + y * np.sin(theta))
    chord = 2 * np.sqrt(np.clip((pixel * radius) ** 2 - distance**2, 0, None))
    # Chords have a vertical tangent at the rim, where a pixel grid cannot follow them.
    smooth = np.abs(np.abs(distance) - pixel * radius) > 2 * pixel
    assert np.abs(measured - chord)[smooth].max() < 0.02 * chord.max()
    assert np.abs(measured - chord).mean() < 0.005 * chord.max()
    np.testing.assert_allclose(measured.sum(1) * geometry.pitch_mm, np.pi * (pixel * radius) ** 2, rtol=0.01)


@pytest.mark.parametrize("kernel", ["line", "strip"])
def test_fan_beam_sinogram_of_an_offset_disc_is_its_chord_lengths(kernel):
    pixel, radius, centre = 0.8, 18.0, np.array([13.0, -9.0])
    geometry = FanBeam(
        image_shape=(96, 96), pixel_mm=pixel, views=12, source_mm=150.0, detector_mm=60.0, start_angle=20.0
    )
    operator = Tomography(geometry, kernel=kernel)
    measured = (operator.A(disc(96, radius=radius, x=centre[0], y=centre[1])) / operator.scale)[0, 0].numpy()
    theta = np.deg2rad(geometry.angles)[:, None]
    towards, along = np.stack([np.sin(theta), -np.cos(theta)], -1), np.stack([np.cos(theta), np.sin(theta)], -1)
    u = (np.arange(geometry.detectors) - (geometry.detectors - 1) / 2) * geometry.pitch_mm
    ray = u[None, :, None] * along - (150.0 + 60.0) * towards  # from the source to each element
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    offset = centre * pixel - 150.0 * towards
    distance = np.abs(offset[..., 0] * ray[..., 1] - offset[..., 1] * ray[..., 0])
    chord = 2 * np.sqrt(np.clip((pixel * radius) ** 2 - distance**2, 0, None))
    smooth = np.abs(distance - pixel * radius) > 2 * pixel
    assert np.abs(measured - chord)[smooth].max() < 0.03 * chord.max()
    assert np.abs(measured - chord).mean() < 0.005 * chord.max()


@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_listed_views_are_those_of_evenly_spaced_ones_in_their_order(kind):
    options = {"image_shape": (24, 20), "pixel_mm": 1.4}
    beam, extra = (ParallelBeam, {}) if kind == "parallel" else (FanBeam, {"source_mm": 90.0, "detector_mm": 50.0})
    even = Tomography(beam(**options, **extra, views=6, start_angle=10.0, angle_range=180.0))
    order = [4, 0, 5, 1]
    listed = Tomography(beam(**options, **extra, view_angles=even.geometry.angles[order].tolist()))
    x = random(1, 1, 24, 20)
    torch.testing.assert_close(listed.A(x) / listed.scale, even.A(x)[:, :, order] / even.scale, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["parallel", "fan"])
@pytest.mark.parametrize("elements", [3, -2])
def test_a_detector_moved_by_whole_elements_sees_what_its_neighbours_saw(kind, elements):
    options = {"image_shape": (24, 20), "pixel_mm": 1.4, "views": 5, "detectors": 60, "detector_pitch_mm": 1.1}
    beam, extra = (ParallelBeam, {}) if kind == "parallel" else (FanBeam, {"source_mm": 90.0, "detector_mm": 50.0})
    centred = Tomography(beam(**options, **extra), kernel="line")
    moved = Tomography(beam(**options, **extra, detector_offset_mm=1.1 * elements), kernel="line")
    x = disc(24, radius=7.0, x=2.0, y=-3.0)[..., 2:22]
    expected = (centred.A(x) / centred.scale).roll(-elements, dims=-1)[..., 3:-3]
    torch.testing.assert_close((moved.A(x) / moved.scale)[..., 3:-3], expected, rtol=1e-4, atol=1e-3)


def test_what_an_offset_or_listed_views_rule_out_is_refused():
    fan = FanBeam(image_shape=(8, 8), pixel_mm=1.0, views=3, source_mm=60.0, detector_mm=40.0, detector_offset_mm=0.5)
    assert Tomography(fan).kernel == "line"
    with pytest.raises(InputError, match="kernel: got 'strip', expected one of line for a FanBeam with a detector off"):
        Tomography(fan, kernel="strip")
    listed = Tomography(ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, view_angles=(0.0, 45.0, 90.0)))
    with pytest.raises(InputError, match="method: got 'fbp', expected 'cg' for a geometry with a list of view_angles"):
        listed.A_dagger(torch.zeros(1, *listed.range_shape), method="fbp")


def test_a_fan_beam_from_afar_is_a_parallel_beam():
    image = disc(32, radius=9.0, x=4.0, y=-3.0)
    options = {"image_shape": (32, 32), "pixel_mm": 1.3, "views": 5, "start_angle": 11.0, "angle_range": 180.0}
    detector = {"detectors": 48, "detector_pitch_mm": 1.3}
    parallel = Tomography(ParallelBeam(**options, **detector), kernel="strip")
    fan = Tomography(FanBeam(**options, **detector, source_mm=1e5, detector_mm=0.0), kernel="strip")
    torch.testing.assert_close(fan.A(image) / fan.scale, parallel.A(image) / parallel.scale, rtol=0, atol=0.05)


def test_a_fan_beam_reconstructs_by_least_squares():
    image = disc(24, radius=7.0, x=2.0, y=3.0)
    operator = Tomography(FanBeam(image_shape=(24, 24), pixel_mm=1.0, views=40, source_mm=60.0, detector_mm=40.0))
    torch.testing.assert_close(operator.A_dagger(operator.A(image), iterations=500), image, rtol=0, atol=0.02)


def test_a_kernel_that_fan_beams_have_not_is_refused():
    fan = FanBeam(image_shape=(8, 8), pixel_mm=1.0, views=3, source_mm=60.0, detector_mm=40.0)
    with pytest.raises(InputError, match="kernel: got 'linear', expected one of strip, line for a FanBeam"):
        Tomography(fan, kernel="linear")


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 14), st.integers(1, 6), st.floats(1.0, 360.0), st.floats(-90.0, 90.0), kernels)
def test_rotating_the_image_is_shifting_the_angles(side, views, angle_range, start_angle, kernel):
    x = random(1, 1, side, side)
    sinograms = []
    for shift in (0.0, 90.0):
        operator = Tomography(
            ParallelBeam(
                image_shape=(side, side),
                pixel_mm=1.1,
                views=views,
                angle_range=angle_range,
                start_angle=start_angle + shift,
            ),
            kernel=kernel,
        )
        sinograms.append(operator.A(x.rot90(int(shift / 90), dims=(2, 3))) / operator.scale)
    torch.testing.assert_close(sinograms[0], sinograms[1], rtol=1e-4, atol=1e-3)


def test_physical_values_do_not_depend_on_the_pixel_size_but_for_length():
    x = random(1, 1, 12, 12)
    fine, coarse = (Tomography(ParallelBeam(image_shape=(12, 12), pixel_mm=mm, views=5)) for mm in (1.0, 2.0))
    torch.testing.assert_close(fine.A(x), coarse.A(x), rtol=1e-5, atol=1e-6)
    assert coarse.scale == pytest.approx(fine.scale / 2, rel=1e-5)


@pytest.fixture(
    scope="module",
    params=[
        {"views": 120},
        {"views": 120, "angle_range": 360.0},
        {"views": 180, "angle_range": 270.0},
        {"views": 120, "detector_pitch_mm": 0.6},
    ],
    ids=str,
)
def many_views(request) -> Tomography:
    return Tomography(ParallelBeam(image_shape=(64, 64), pixel_mm=1.2, **request.param))


@pytest.mark.parametrize(
    "method", [{"method": "fbp"}, {"method": "fbp", "window": "hann"}, {"iterations": 30}, {"regularization": 1e-3}]
)
def test_reconstructions_bring_an_offset_disc_back_with_its_values(many_views, method):
    truth = 0.5 + disc(64, radius=14, x=7, y=-5) * disc(64, radius=30, x=0, y=0)
    truth = (truth * disc(64, radius=31, x=0, y=0)).float()
    image = many_views.A_dagger(many_views.A(truth), **method)
    inside, around = disc(64, radius=11, x=7, y=-5) == 1, disc(64, radius=18, x=7, y=-5) == 0
    around &= disc(64, radius=27, x=0, y=0) == 1
    assert float(image[inside].mean()) == pytest.approx(1.5, rel=0.02)
    assert float(image[around].mean()) == pytest.approx(0.5, rel=0.03)
    assert float((image - truth)[inside | around].square().mean().sqrt()) < 0.06


def test_conjugate_gradient_solves_the_regularised_normal_equations():
    operator = Tomography(ParallelBeam(image_shape=(12, 12), pixel_mm=1.0, views=5))
    y = random(2, *operator.range_shape)
    x = operator.A_dagger(y, regularization=0.1, iterations=200, tolerance=1e-12)
    torch.testing.assert_close(operator.A_adjoint(operator.A(x)) + 0.1 * x, operator.A_adjoint(y))


def test_fbp_is_differentiable():
    operator = Tomography(ParallelBeam(image_shape=(6, 6), pixel_mm=1.0, views=4))
    y = random(1, *operator.range_shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: operator.A_dagger(v, method="fbp"), (y,))


def test_auto_is_the_matrix_and_describes_itself_so():
    geometry = ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=3)
    auto, matrix = Tomography(geometry), Tomography(geometry, backend="matrix")
    assert auto.describe() == matrix.describe()
    assert auto.describe()["backend"] == "matrix"


def test_unknown_choices_are_refused():
    geometry = ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=3)
    with pytest.raises(InputError, match="backend: got 'gpu', expected one of auto, matrix, astra_cuda"):
        Tomography(geometry, backend="gpu")
    with pytest.raises(InputError, match="kernel: got 'cubic', expected one of linear, line, strip for a ParallelBeam"):
        Tomography(geometry, kernel="cubic")
    with pytest.raises(InputError, match="geometry: got tuple, expected a ParallelBeam"):
        Tomography((8, 8))
    with pytest.raises(InputError, match="kernel: got 'strip', expected 'linear' and a ParallelBeam with"):
        Tomography(geometry, backend="astra_cuda", kernel="strip")
    blind = ParallelBeam(image_shape=(2, 2), pixel_mm=0.3, views=2, detectors=2, detector_pitch_mm=4.0)
    with pytest.raises(InputError, match="geometry: no ray meets the image, expected a finer detector_pitch_mm"):
        Tomography(blind)
    operator = Tomography(geometry)
    with pytest.raises(InputError, match="window: got 'hamming', expected one of ram-lak, hann"):
        operator.A_dagger(torch.zeros(1, *operator.range_shape), method="fbp", window="hamming")
    with pytest.raises(InputError, match="method: got 'sirt', expected 'cg' or 'fbp'"):
        operator.A_dagger(torch.zeros(1, *operator.range_shape), method="sirt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_astra_cuda_without_a_device_is_refused():
    with pytest.raises(InputError, match="torch finds no CUDA device; use backend='matrix'"):
        Tomography(ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=3), backend="astra_cuda")


def test_cuda_vectors_mirror_the_2d_convention_of_astra():
    from klip_monai.physics.astra_projector import batch_vectors

    options = {"image_shape": (8, 8), "pixel_mm": 2.0, "views": 5, "angle_range": 130, "detector_pitch_mm": 3.0}
    geometry = ParallelBeam(**options, detector_offset_mm=1.5)
    angles = np.deg2rad(geometry.angles)
    views = astra.create_proj_geom("parallel3d", 1.5, 1.0, 4, geometry.detectors, angles)
    expected = astra.geom_postalignment(views, (0.5, 0.0))["Vectors"]
    expected[:, [1, 4, 7, 10]] *= -1
    np.testing.assert_allclose(batch_vectors(geometry), expected, atol=1e-12)


class TestCuda:
    pytestmark = gpu

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_matrix_agrees_with_the_cpu(self, dtype):
        operator = Tomography(ParallelBeam(image_shape=(24, 20), pixel_mm=1.4, views=7, angle_range=130))
        x, y = random(3, 1, 24, 20, dtype=dtype), random(3, *operator.range_shape, seed=1, dtype=dtype)
        for here, there in (
            (operator.A(x), operator.A(x.cuda())),
            (operator.A_adjoint(y), operator.A_adjoint(y.cuda())),
            (operator.A_dagger(y, method="fbp"), operator.A_dagger(y.cuda(), method="fbp")),
        ):
            assert there.device.type == "cuda"
            torch.testing.assert_close(here, there.cpu(), rtol=1e-4, atol=1e-5)

    def test_fan_beams_are_back_projected_as_on_the_cpu(self):
        operator = Tomography(FanBeam(image_shape=(24, 20), pixel_mm=1.4, views=30, source_mm=90.0, detector_mm=40.0))
        y = random(3, *operator.range_shape, dtype=torch.float32)
        there = operator.A_dagger(y.cuda(), method="fbp")
        torch.testing.assert_close(operator.A_dagger(y, method="fbp"), there.cpu(), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("batch", [1, 3, 8])
    @pytest.mark.parametrize("views", [1, 12])
    def test_astra_cuda_agrees_with_the_matrix(self, batch, views):
        geometry = ParallelBeam(image_shape=(64, 48), pixel_mm=1.4, views=views, start_angle=20, detector_pitch_mm=1.1)
        matrix, cuda = Tomography(geometry), Tomography(geometry, backend="astra_cuda")
        image = disc(64, radius=11, x=6, y=4)[..., 8:56].float()
        x = torch.cat([image * (i + 1) for i in range(batch)])
        expected, result = matrix.A(x) / matrix.scale, cuda.A(x.cuda()).cpu() / cuda.scale
        assert float((result - expected).norm() / expected.norm()) < 5e-3
        back = matrix.A_adjoint(expected) / matrix.scale
        result = cuda.A_adjoint(expected.cuda()).cpu() / cuda.scale
        assert float((result - back).norm() / back.norm()) < 2e-2
        assert cuda.scale == pytest.approx(matrix.scale, rel=2e-2)

    def test_astra_cuda_works_under_autograd_on_a_side_stream(self):
        geometry = ParallelBeam(image_shape=(64, 64), pixel_mm=1.0, views=12)
        operator = Tomography(geometry, backend="astra_cuda")
        with torch.cuda.stream(torch.cuda.Stream()):
            x = disc(64, radius=15, x=6, y=4).float().cuda().requires_grad_()
            operator.A(x).square().sum().backward()
            expected = 2 * operator.A_adjoint(operator.A(x.detach()))
            torch.testing.assert_close(x.grad, expected)

    def test_astra_cuda_refuses_tensors_on_the_cpu(self):
        operator = Tomography(ParallelBeam(image_shape=(8, 8), pixel_mm=1.0, views=3), backend="astra_cuda")
        with pytest.raises(InputError, match="got a tensor on cpu, expected CUDA"):
            operator.A(torch.zeros(1, 1, 8, 8))
