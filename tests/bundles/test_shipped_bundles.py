"""The shipped bundles pass MONAI's own checks and run from any working directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

from klip_monai.bundle import find_bundle, open_workflow, shipped_bundles
from klip_monai.errors import BundleError, known_error
from klip_monai.phantom import random_scan
from klip_monai.standard import standard_slices


@pytest.fixture(params=[info.name for info in shipped_bundles()])
def root(request) -> Path:
    return find_bundle(request.param).root


def meta(root: Path) -> str:
    return str(root / "configs" / "metadata.json")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_metadata_is_valid_against_the_schema_stored_offline(root, elsewhere):
    verify_metadata(meta_file=meta(root), filepath=str(root / "docs" / "metadata.schema.json"), create_dir=False)


def test_metadata_version_has_a_changelog_entry(root):
    metadata = json.loads(Path(meta(root)).read_text())
    assert metadata["version"] in metadata["changelog"]


def test_network_takes_and_gives_what_the_metadata_says(root, elsewhere):
    verify_net_in_out(
        net_id="network_def",
        meta_file=meta(root),
        config_file=str(root / "configs" / "inference.json"),
        device="cpu",
        extra_forward_args={"sigma": 0.3},
    )


def test_configurations_have_all_properties_of_a_bundle(root, elsewhere):
    evaluations = sorted(path.name for path in (root / "configs").glob("evaluate*.json"))
    assert "evaluate.json" in evaluations
    for files in (["inference.json"], *(["inference.json", name] for name in evaluations)):
        workflow = ConfigWorkflow(
            config_file=[str(root / "configs" / name) for name in files],
            meta_file=meta(root),
            logging_file=str(root / "configs" / "logging.conf"),
            workflow_type="inference",
            bundle_root=str(root),
            dataset_dir=str(elsewhere),
        )
        workflow.initialize()
        assert not workflow.check_properties(), files


def test_files_of_a_complete_bundle_are_there(root):
    names = ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf", "models/model.safetensors")
    for name in names:
        assert (root / name).is_file(), name
    assert sum(p.stat().st_size for p in (root / "models").rglob("*") if p.is_file()) < 25e6


def test_monai_bundle_run_writes_what_klip_monai_score_writes(elsewhere, small_ct):
    phantom = find_bundle("klip_ct_phantom").root
    for command in (
        [
            *("-m", "monai.bundle", "run", "--bundle_root", str(phantom), "--meta_file", meta(phantom)),
            *("--config_file", str(phantom / "configs" / "inference.json"), "--logging_file", "False"),
            *("--dataset_dir", str(small_ct), "--output_dir", "by_bundle", "--device", "$torch.device('cpu')"),
        ],
        ["-m", "klip_monai.cli", "score", str(small_ct), "--output", "by_cli", "--bundle", "klip_ct_phantom"],
    ):
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        subprocess.run([sys.executable, *command], check=True, capture_output=True, env=environment, timeout=300)
    names = sorted(p.name for p in Path("by_cli").iterdir())
    assert names == sorted(p.name for p in Path("by_bundle").iterdir())
    assert len(names) == 5
    for name in names:
        if name.endswith((".nii.gz", ".png")):
            assert Path("by_cli", name).read_bytes() == Path("by_bundle", name).read_bytes(), name


REFERENCES = {
    "klip_ct_abdomen": [
        {"preset": preset, "operator#name": operator, "inferer#sharp": sharp}
        for preset, operator in (
            *[(preset, "identity") for preset in ("fast", "default", "thorough")],
            *[(preset, "sparse_view") for preset in ("fast", "default")],
        )
        for sharp in (False, True)
    ]
    + [
        {"operator#name": operator, "inferer#null": null}
        for operator in ("identity", "sparse_view")
        for null in ("contrast", "none")
    ],
    "klip_ct_phantom": [
        {},
        {"operator#name": "limited_angle", "operator#angle_range": 120.0},
        {"operator#name": "identity"},
        {"inferer#estimator": "trajectory"},
    ],
}


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_still_belongs_to_its_settings(name):
    # A description that changes would orphan thresholds that took hours to make.
    info = find_bundle(name)
    found = []
    for options in REFERENCES[name]:
        workflow = open_workflow(info, "inference.json", kind="inference", **options)
        workflow.initialize()
        found.append(workflow.parser.get_parsed_content("reference").key)
    assert sorted(found) == sorted(path.stem for path in (info.root / "models" / "id_reference").glob("*.json"))


def test_data_of_another_scanner_are_asked_for_by_configuration():
    options = {
        "inferer#data_operator": {"_target_": "klip_monai.physics.FinerGrid", "geometry": "$@operator.geometry"},
        "inferer#noise": {
            "_target_": "klip_monai.physics.PoissonNoise",
            "photons": 1e5,
            "scale": {"_target_": "klip_monai.physics.AttenuationScale.from_hu", "hu_window": "@grid#hu_window"},
        },
    }
    workflow = open_workflow(find_bundle("klip_ct_phantom"), "inference.json", kind="inference", **options)
    workflow.initialize()
    described = workflow.parser.get_parsed_content("inferer").describe()
    assert described["data_operator"]["type"] == "FinerGrid"
    assert described["noise"]["photons"] == 1e5


@pytest.mark.parametrize("overlay", ["small_inference.json", "small_vp.json", "small_patches.json"])
def test_the_small_priors_of_the_phantom_studies_denoise(overlay):
    configs = list(dict.fromkeys(["inference.json", "small_inference.json", overlay]))
    workflow = open_workflow(find_bundle("klip_ct_phantom"), configs, kind="inference", device="$torch.device('cpu')")
    workflow.initialize()
    network, grid = (workflow.parser.get_parsed_content(name) for name in ("network", "grid"))
    clean = random_scan(1, slices=3).image
    images = standard_slices(clean, grid).images
    noisy = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        error = (network(noisy, 0.3) - images).square().mean().sqrt()
    assert float(error) < 0.1, "a third of the noise"


def parts_of(name: str, *parts: str, **options: object) -> list:
    workflow = open_workflow(
        find_bundle(name), "inference.json", kind="inference", device="$torch.device('cpu')", **options
    )
    workflow.initialize()
    return [workflow.parser.get_parsed_content(part) for part in parts]


@pytest.mark.parametrize("operator", ["identity", "sparse_view"])
def test_presets_differ_in_passes_alone(operator):
    described, passes = [], []
    for preset in ("fast", "default", "thorough"):
        (inferer,) = parts_of("klip_ct_abdomen", "inferer", preset=preset, **{"operator#name": operator})
        passes.append(inferer.passes)
        described.append({k: v for k, v in inferer.describe().items() if k not in ("window_levels", "sampler_levels")})
    assert passes == sorted(set(passes))
    assert passes == ([4, 6, 24] if operator == "identity" else [14, 24, 40])
    assert described[0] == described[1] == described[2]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "klip_ct_abdomen",
            {"preset": "quick"},
            "preset: got 'quick' with the bundle klip_ct_abdomen, expected one of",
        ),
        ("klip_ct_phantom", {"preset": "fast"}, "preset: got 'fast' with the bundle klip_ct_phantom, expected none"),
        ("klip_ct_abdomen", {"precision": "int8"}, "precision: got 'int8', expected one of auto, float32, bfloat16"),
    ],
)
def test_presets_and_precisions_that_there_are_not_are_refused(name, options, message):
    with pytest.raises((BundleError, RuntimeError)) as raised:
        parts_of(name, "network", **options)
    assert message in str(known_error(raised.value))


def test_a_configuration_s_precision_gives_way_to_the_device_s_and_to_what_is_asked_for(tmp_path):
    bundle = tmp_path / "own"
    shutil.copytree(find_bundle("klip_ct_phantom").root, bundle)
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    config["network_def"]["precision"] = "bfloat16"
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    found = []
    for options in ({}, {"precision": "float32"}, {"precision": "bfloat16"}):
        (network,) = parts_of(str(bundle), "network", **options)
        found.append(network.precision)
    assert found == ["auto", "float32", "bfloat16"]


def test_a_bundle_whose_network_has_one_precision_refuses_the_other(tmp_path):
    bundle = tmp_path / "own"
    shutil.copytree(find_bundle("klip_ct_phantom").root, bundle)
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    del config["network_def"]["precision"]
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    parts_of(str(bundle), "network", precision="float32")
    with pytest.raises(
        BundleError, match="precision: got 'bfloat16' with the bundle own, whose network has float32 only"
    ):
        parts_of(str(bundle), "network", precision="bfloat16")


@pytest.mark.parametrize(("name", "tolerance"), [("klip_ct_abdomen", 0.01), ("klip_ct_phantom", 0.02)])
def test_references_hold_in_either_precision(name, tolerance):
    # Another draw of the noise changes a map by a fifth. Where a posterior sample is drawn, as by the phantom bundle,
    # rounding grows from step to step.
    grid, inferer, reference = parts_of(name, "grid", "inferer", "reference")
    scan = random_scan(3, slices=3, slice_mm=(5.0, 5.0)).image
    slices = standard_slices(scan, grid)
    images = slices.images
    seen = {"body": slices.body, "noise_left": inferer.noise_left(len(images), slice_mm=5.0)}
    maps, labels = {}, {}
    for precision in ("float32", "bfloat16"):
        (network,) = parts_of(name, "network", precision=precision)
        maps[precision] = reference.expected.heatmap(inferer(images, network, slice_mm=5.0), images, **seen)
        labels[precision] = maps[precision] >= reference.suspicious
    difference = (maps["bfloat16"] - maps["float32"]).norm() / maps["float32"].norm()
    assert 0 < float(difference) <= tolerance
    changed = int((labels["bfloat16"] != labels["float32"]).sum())
    assert changed <= max(2, 0.01 * int(labels["float32"].sum())), "pixels within rounding of the threshold"
