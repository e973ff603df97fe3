"""From a raw sinogram to files: what comes out is what scoring the slice itself gives, and it says what it is not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from command_line import klip_monai
from typer.testing import CliRunner

from klip_monai.cli import app
from klip_monai.errors import InputError
from klip_monai.inferer import KLIPInferer
from klip_monai.io.files.sinogram import Sinogram, read_sinogram
from klip_monai.io.names import sinogram_name
from klip_monai.phantom import random_scan
from klip_monai.physics import (
    AttenuationScale,
    GaussianNoise,
    Identity,
    LinearOperator,
    Measurement,
    ParallelBeam,
    PoissonNoise,
    Tomography,
)
from klip_monai.prior import GaussianDenoiser
from klip_monai.report.summary import Provenance
from klip_monai.scan import Scorer
from klip_monai.scan.sinogram_case import CG_ITERATIONS, NO_REFERENCE, measured_slice, score_sinogram
from klip_monai.standard import AIR_HU, PriorGrid, standard_slices

GRID = PriorGrid(image_shape=(32, 32), pixel_mm=12.0)
GEOMETRY = ParallelBeam(image_shape=(32, 32), pixel_mm=12.0, views=40)
SCALE = AttenuationScale.from_hu(GRID.hu_window)


def ellipse(*, hu: float, air_hu: float) -> torch.Tensor:
    """A slice in HU, (1, 1, 32, 32): a body with a denser spot."""
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    inside, spot = (x / 12) ** 2 + (y / 9) ** 2 < 1, (x - 5) ** 2 + (y - 2) ** 2 < 6
    image = torch.where(inside, hu, air_hu)
    return torch.where(spot, hu + 80, image)[None, None].float()


def standard(hu: torch.Tensor) -> torch.Tensor:
    low, high = GRID.hu_window
    return ((hu - low) / (high - low) * 2 - 1).clamp(-1, 1)


def sinogram(hu: torch.Tensor, operator: LinearOperator | None = None, **options) -> Sinogram:
    operator = operator or Tomography(GEOMETRY)
    lines = operator.A(0.0193 * (1 + hu / 1000)) / operator.scale
    lines = lines + options.pop("noise", 0.0) * torch.randn(lines.shape, generator=torch.Generator().manual_seed(0))
    acquisition = {
        "view_angles": tuple(GEOMETRY.angles),
        "detectors": GEOMETRY.detectors,
        "detector_pitch_mm": GEOMETRY.pitch_mm,
    }
    return Sinogram(**{"name": "a", "line_integrals": lines[0, 0].numpy(), "acquisition": acquisition} | options)


WINDOW = (0.0, 0.06)  # per mm: nothing of the ellipse lies outside of it, nor does its least-squares image


def in_window(hu: torch.Tensor) -> torch.Tensor:
    return 0.0193 * (1 + hu / 1000) / 0.03 - 1


def test_a_slice_within_the_window_becomes_its_own_measurement():
    hu = ellipse(hu=40, air_hu=AIR_HU)
    measured = measured_slice(sinogram(hu, mu_window=WINDOW), GRID)
    torch.testing.assert_close(measured.measurement.y, measured.operator.A(in_window(hu)), rtol=0, atol=1e-5)


def test_a_slice_as_the_prior_knows_it_is_nearly_its_own_measurement():
    hu = ellipse(hu=40, air_hu=-160)
    measured = measured_slice(sinogram(hu), GRID)
    expected = measured.operator.A(standard(hu))
    assert float((measured.measurement.y - expected).norm() / expected.norm()) < 0.015
    assert measured.remarks == (NO_REFERENCE,)


def test_air_beyond_the_window_is_taken_off_the_data():
    hu = ellipse(hu=40, air_hu=AIR_HU)
    measured = measured_slice(sinogram(hu, noise=0.005), GRID)
    clipped = measured.operator.A(standard(hu))
    raw = measured.scale.measurement(torch.from_numpy(measured.sinogram.line_integrals)[None, None], measured.operator)
    before, after = (float((y - clipped).norm() / clipped.norm()) for y in (raw, measured.measurement.y))
    assert before > 0.5
    assert after < 0.03


def test_noise_is_found_in_the_data_or_told_by_the_photons():
    hu, noise = ellipse(hu=40, air_hu=AIR_HU), 0.2
    found = measured_slice(sinogram(hu, noise=noise), GRID)
    assert isinstance(found.noise, GaussianNoise)
    assert found.measurement.std / SCALE.unit(found.operator) == pytest.approx(noise, rel=0.3)
    told = measured_slice(sinogram(hu, photons=1e4), GRID)
    assert told.noise == PoissonNoise(1e4, SCALE)
    lines = torch.from_numpy(told.sinogram.line_integrals)
    torch.testing.assert_close(
        told.measurement.std[0, 0] / SCALE.unit(told.operator), torch.exp(lines / 2) / 100, rtol=1e-3, atol=0
    )


def test_the_map_is_that_of_the_slice_with_this_operator_and_noise():
    image = in_window(ellipse(hu=40, air_hu=AIR_HU))
    prior = GaussianDenoiser(mean=image, std=0.2)
    measured = measured_slice(sinogram(ellipse(hu=40, air_hu=AIR_HU), mu_window=WINDOW), GRID)
    options = {"window": (0.6, 0.1), "window_levels": 4, "sampler_levels": 10}
    scorer = Scorer(
        prior, KLIPInferer.of(Identity((32, 32)), **options), grid=GRID, provenance=Provenance("test", "0", "")
    )
    case = score_sinogram(sinogram(ellipse(hu=40, air_hu=AIR_HU), mu_window=WINDOW), scorer)
    one = scorer.measuring(measured.operator, noise=measured.noise, cg_iterations=CG_ITERATIONS).inferer
    assert case.provenance.settings == one.describe()
    sample, heatmap = case.reconstruction, case.heatmap
    y = measured.operator.A(image)
    expected, samples = one.score_measurement(Measurement(y, measured.measurement.std), prior)
    inside = heatmap > 0
    assert 0.1 < inside.mean() < 0.5
    np.testing.assert_allclose(heatmap[inside], expected[0, 0].numpy()[inside], rtol=1e-2)
    np.testing.assert_allclose(sample, samples[0, 0].clamp(-1, 1).numpy(), atol=1e-3)
    assert np.abs(sample - image[0, 0].numpy())[inside].mean() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_mm": 4.0}, "pixel_mm: got a slice of 128 x 128 mm whose outside attenuates"),
        ({"mu_window": (0.0, 5.0)}, "sinogram: nothing in it attenuates more than 1.25 per mm"),
    ],
)
def test_objects_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        measured_slice(sinogram(ellipse(hu=40, air_hu=AIR_HU), **options), GRID)


def test_remarks_say_what_is_unlike_the_prior():
    hu = ellipse(hu=40, air_hu=AIR_HU)
    raw = sinogram(hu, mu_window=(0.0, 0.04), pixel_mm=12.5)
    half = {**raw.acquisition, "view_angles": raw.acquisition["view_angles"][:20]}
    raw = Sinogram(**{**vars(raw), "acquisition": half, "line_integrals": raw.line_integrals[:20]})
    remarks = " ".join(measured_slice(raw, GRID).remarks)
    for words in ("no p-values", "0 to 0.04 per mm stands for", "Pixels are 12.5 mm", "cover 90 degrees"):
        assert words in remarks
    backwards = dict(raw.acquisition) | {"view_angles": tuple(np.random.default_rng(0).permutation(40) * 4.5)}
    wrong = Sinogram(**{**vars(sinogram(hu)), "acquisition": backwards})
    assert "check angles" in " ".join(measured_slice(wrong, GRID).remarks)


def test_fine_detectors_are_averaged_to_the_pixels():
    fine = Tomography(
        ParallelBeam(image_shape=(32, 32), pixel_mm=12.0, views=40, detectors=150, detector_pitch_mm=4.0),
        kernel="strip",
    )
    options = {"view_angles": tuple(fine.geometry.angles), "detectors": 150, "detector_pitch_mm": 4.0}
    measured = measured_slice(sinogram(ellipse(hu=40, air_hu=AIR_HU), fine, acquisition=options), GRID)
    assert measured.operator.geometry.sinogram_shape == (40, 50)
    assert measured.misfit < 0.02


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    """A sinogram file of a healthy phantom slice in air, its geometry.json, and its standard slice (1, 1, H, W)."""
    folder, grid = tmp_path_factory.mktemp("phantom"), PriorGrid()
    scan = random_scan(920_000, slices=3).image
    low, high = -1000.0, 2000.0
    wide = standard_slices(scan, PriorGrid(hu_window=(low, high))).images[1:2]
    operator = Tomography(ParallelBeam(image_shape=grid.image_shape, pixel_mm=grid.pixel_mm, views=48))
    lines = operator.A(0.0193 * (1 + ((wide + 1) / 2 * (high - low) + low) / 1000)) / operator.scale
    lines = lines + 0.01 * torch.randn(lines.shape, generator=torch.Generator().manual_seed(0))
    np.save(folder / "slice.npy", lines[0, 0].numpy())
    fields = {"kind": "parallel", "angles": {"start": 0, "step": 180 / 48}, "pitch_mm": grid.pixel_mm}
    (folder / "geometry.json").write_text(json.dumps(fields))
    return folder, standard_slices(scan, grid).images[1:2]


def test_the_command_reconstructs_and_scores_a_sinogram(phantom, tmp_path):
    folder, truth = phantom
    command = ("--sinogram", folder / "slice.npy", "--geometry", folder / "geometry.json", "-o", tmp_path)
    result = klip_monai("score", *command, "--bundle", "klip_ct_phantom")
    assert result.returncode == 0, result.stderr
    name = sinogram_name(np.load(folder / "slice.npy"))
    names = [f"{name}_{kind}" for kind in ("heatmap.nii.gz", "preview.png", "reconstruction.nii.gz", "summary.json")]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    heatmap, image = nib.load(tmp_path / names[0]), nib.load(tmp_path / names[2])
    assert heatmap.shape == image.shape == (128, 128, 1)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_allclose(image.affine @ [63.5, 63.5, 0, 1], [0, 0, 0, 1], atol=1e-4)
    hu, true_hu = image.get_fdata()[..., 0].T, (truth[0, 0].numpy() + 1) / 2 * 400 - 160
    body = true_hu > -159
    assert np.abs(hu - true_hu)[body].mean() < 20
    summary = json.loads((tmp_path / names[3]).read_text())
    assert summary["p_value"] is None
    assert summary["thresholds"] is None
    assert summary["remarks"][0] == NO_REFERENCE
    assert summary["source"]["noise_std"] == pytest.approx(0.01, rel=0.6)
    assert summary["slice_score"] == pytest.approx(heatmap.get_fdata().max())
    assert math.isclose(heatmap.get_fdata()[tuple(summary["worst"]["voxel"])], summary["slice_score"], rel_tol=1e-6)
    assert summary["provenance"]["settings"]["operator"]["geometry"]["view_angles"][1] == 3.75
    assert "no p-values" in " ".join(result.stdout.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "INPUT, or --sinogram"),
        (("scan.nii", "--sinogram", "a.npy"), "INPUT, or --sinogram"),
        (("scan.nii", "--geometry", "a.json"), "INPUT, or --sinogram"),
        (("--sinogram", "a.npy", "--views", 12), "its geometry says how it was measured"),
        (("--sinogram", "a.npy"), "which is no file"),
    ],
)
def test_contradictions_are_refused(tmp_path, arguments, words):
    result = CliRunner().invoke(app, ["score", *map(str, arguments), "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, InputError)
    assert words in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_laboratory_data_are_read_without_a_geometry(shared_data):
    folder = shared_data / "sinograms"
    if not folder.is_dir():
        pytest.skip(f"laboratory sinograms are not at {folder}")
    measured = measured_slice(read_sinogram(folder / "ta_subsample73.mat"), PriorGrid())
    assert measured.operator.geometry.sinogram_shape == (61, 140)
    assert measured.misfit < 0.02
    assert len(measured.remarks) == 4
