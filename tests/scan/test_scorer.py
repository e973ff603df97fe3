"""The one road from a scan to its overlays, from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

import klip_monai.scan
from klip_monai.bundle import find_bundle
from klip_monai.errors import BundleError, InputError
from klip_monai.inferer import KLIPInferer
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.scan import Scorer, save_case
from klip_monai.scan.opened import Reading
from klip_monai.standard import PriorGrid

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data"
PHANTOM = "klip_ct_phantom"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slices of the lesion sample."""
    import nibabel as nib

    path = tmp_path_factory.mktemp("scan") / "small.nii.gz"
    nib.save(nib.load(SAMPLES / "lesion.nii.gz").slicer[:, :, 12:15], path)
    return path


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.open(PHANTOM, device="cpu", operator="identity")


def test_a_scan_is_scored_and_saved_and_told_step_by_step(scorer: Scorer, small: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    case = scorer(small, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (3, 3)
    assert case.scan_score == pytest.approx(float(case.heatmap.max()), rel=0.1)
    assert case.seconds.keys() == {"read", "score"}
    saved = save_case(case, tmp_path, outputs=("nifti",))
    assert saved.summary.provenance.bundle == PHANTOM
    assert saved.summary.provenance.settings["operator"]["type"] == "Identity"
    assert json.loads(saved.files["summary"].read_text()) == json.loads(json.dumps(saved.summary.to_json()))
    assert all(path.is_file() for path in saved.files.values())


def test_its_steps_give_what_calling_it_gives(scorer: Scorer, small: Path) -> None:
    whole = scorer(small)
    scan = scorer.read(small)
    density = scorer.densities(scan.slices.images, slice_mm=scan.slice_mm)
    by_steps = scorer.case(scan, density)
    heatmap, score = scorer.heatmap_of(scan)
    for found in (by_steps.heatmap, heatmap):
        assert torch.equal(found.as_tensor(), whole.heatmap.as_tensor())
    assert score == by_steps.scan_score == whole.scan_score
    on_slices = scorer.heatmap(scan.slices.images, scan.slices.body, slice_mm=scan.slice_mm)
    assert float(on_slices.max()) == whole.scan_score


def test_a_volume_in_memory_is_a_scan(scorer: Scorer, small: Path) -> None:
    from_file = scorer(small)
    volume = from_file.volume
    case = scorer(MetaTensor(volume.as_tensor().clone(), affine=volume.affine.clone()))
    assert torch.equal(case.heatmap.as_tensor(), from_file.heatmap.as_tensor())
    assert case.name.startswith("ct-")


def test_names_are_kept_only_if_asked_for(scorer: Scorer, small: Path) -> None:
    assert scorer.read(small).name.startswith("ct-")
    assert scorer.read(small, reading=Reading(keep_names=True)).name == "small"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"view": 3}, "view: there is no such setting, expected operator, what it takes, or .*estimator"),
        ({"source_mm": 600.0}, "source_mm=: got it with the measurement sparse_view, .*or add operator= fan_beam"),
        ({"operator": "limited_angle", "angle_range": 200.0}, "angle_range: got 200 degrees for limited_angle"),
        ({"null": "nope"}, "null: got 'nope', expected one of contrast"),
        ({"window": [0.1, 1.0]}, "window: got .*expected two noise levels, the higher one first"),
        ({"window_levels": 0}, "window_levels: got 0, expected 1 or more"),
        ({"sharp": True, "twins": 1}, "sharp: got it with 1 twins"),
        ({"noise": 0.01}, "noise: got 0.01, expected a Noise"),
        ({"null": "$print('run')"}, "null: got .*expected a plain value"),
        ({"device": "nope"}, "device: got 'nope', expected auto"),
    ],
)
def test_settings_that_there_are_not_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Scorer.open(PHANTOM, **{"device": "cpu", **settings})


def test_only_what_changes_no_score_leaves_a_scorer_calibrated(scorer: Scorer) -> None:
    same = scorer.changed(batch_size=2, seed=3)
    assert same.reference is scorer.reference
    assert (same.inferer.seed, same.provenance.seed, scorer.provenance.seed) == (3, 3, 0)
    other = scorer.changed(lowpass_px=5.0)
    assert other.reference is None
    assert other.settings["lowpass_px"] == 5.0
    assert other.settings["weights_sha256"] == scorer.settings["weights_sha256"]
    assert other.provenance.key != scorer.provenance.key
    with pytest.raises(InputError, match="there is no such setting"):
        scorer.changed(view=3)


def test_white_noise_by_its_plain_name_is_no_old_configuration(recwarn: pytest.WarningsRecorder) -> None:
    opened = Scorer.open(PHANTOM, device="cpu", operator="identity", noise_std=0.01, calibrated=False)
    assert opened.settings["noise_std"] == 0.01
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]


@pytest.mark.parametrize("scan", ["", None, b"CT", 3, ["CT"]])
def test_what_is_no_scan_is_refused(scorer: Scorer, scan: object) -> None:
    with pytest.raises(InputError, match="scan: got"):
        scorer(scan)


def test_settings_without_a_reference_are_refused_before_any_scan() -> None:
    with pytest.raises(BundleError, match=r"none of the 4 .* was made with these settings"):
        Scorer.open(PHANTOM, device="cpu", views=7)


def test_a_limited_angle_has_its_own_range_of_views() -> None:
    opened = Scorer.open(PHANTOM, device="cpu", operator="limited_angle")
    assert opened.settings["operator"]["geometry"]["angle_range"] == 120.0


def test_without_a_reference_there_are_heat_maps_and_no_cases(small: Path) -> None:
    inferer = KLIPInferer.of(Identity((32, 32)), sampler_levels=0, window_levels=2)
    bare = Scorer(GaussianDenoiser(), inferer, grid=PriorGrid((32, 32), 12.0))
    scan = bare.read(small)
    heatmap, score = bare.heatmap_of(scan)
    assert score > 0
    assert heatmap.shape == scan.volume.shape
    with pytest.raises(BundleError, match="ID reference: got none"):
        bare.score(scan)


def test_a_bundle_of_an_earlier_build_is_opened_as_it_is(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "earlier"
    shutil.copytree(find_bundle(PHANTOM).root, root)
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    del config["scorer"]
    config["operator"]["name"] = "identity"
    for name in ("preprocessing", "postprocessing"):
        config[name]["transforms"] = [{"_target_": "klip_monai.transforms.GoneSince"}]
    path.write_text(json.dumps(config))
    earlier = Scorer.open(root, device="cpu")
    assert torch.equal(
        earlier(small).heatmap.as_tensor(), Scorer.open(PHANTOM, operator="identity")(small).heatmap.as_tensor()
    )


def test_what_there_is_not_is_no_part_of_the_package() -> None:
    assert klip_monai.scan.Case.__name__ == "Case"
    with pytest.raises(AttributeError, match="no attribute 'Cases'"):
        klip_monai.scan.Cases  # noqa: B018
