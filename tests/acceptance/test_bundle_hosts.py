"""Bundles run in MONAI Label and MONAI Deploy: their calls, made by themselves where they are installed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from safetensors.torch import load_file

from klip_monai.io import read_volume
from klip_monai.io.names import case_name, fingerprint
from klip_monai.scoring import IDReference, settings_key

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom bundle with its small prior and few levels, and the model.pt that hosts look for."""
    root = tmp_path_factory.mktemp("host") / "klip_ct_phantom"
    shutil.copytree(ROOT / "bundles" / "klip_ct_phantom", root)
    parser = ConfigParser()
    parser.read_config([root / "configs" / name for name in ("inference.json", "small_inference.json")])
    parser["inferer#sampler_levels"] = 4
    parser["overwrite"] = True  # hosts score a scan again when asked again
    parser.config.pop("_meta_")  # MONAI Deploy has read the metadata by then, and would lose them
    ConfigParser.export_config_file(parser.config, str(root / "configs" / "inference.json"), fmt="json")
    # Thresholds of other settings mean nothing, but where overlays lie does not depend on them.
    parser["bundle_root"] = str(root)
    made = next((root / "models" / "id_reference").glob("*.json"))
    reference = replace(IDReference.load(made), key=settings_key(parser.get_parsed_content("settings")))
    reference.save(made)
    torch.save(load_file(root / "models" / "small.safetensors"), root / "models" / "model.pt")
    return root


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slices of the sample series."""
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nib.save(nib.load(ROOT / "sample_data" / "lesion.nii.gz").slicer[:, :, 10:14], path)
    return path


def check(labels: Any, scan: Path, written: Path) -> None:
    """Labels (X, Y, Z) lie on the scan's grid and are those of the case that the bundle wrote."""
    name = case_name(read_volume(scan))
    case = nib.load(written / f"{name}_labels.nii.gz")
    np.testing.assert_allclose(case.affine, nib.load(scan).affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(labels), np.asarray(case.dataobj))
    assert (written / f"{name}_summary.json").is_file()


@pytest.mark.parametrize("in_memory", [False, True])  # a path by MONAI Label, voxels by MONAI Deploy
def test_the_calls_of_a_host_give_labels_on_the_grid_of_the_scan(bundle: Path, scan: Path, in_memory: bool) -> None:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"], parser["device"] = str(bundle), "cpu"
    metadata = ConfigParser.load_config_file(str(bundle / "configs" / "metadata.json"))["network_data_format"]
    assert (list(metadata["inputs"]), list(metadata["outputs"])) == (["image"], ["pred"])
    network = parser.get_parsed_content("network_def", instantiate=True)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    voxels = MetaTensor(np.asarray(nib.load(scan).dataobj), affine=nib.load(scan).affine)
    data: dict[str, Any] = {"image": voxels if in_memory else str(scan), "device": "cpu"}
    for transform in parser.get_parsed_content("preprocessing", instantiate=True).transforms:
        data = transform(data)
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer", instantiate=True)(data["image"][None], network.eval())[0]
    for transform in parser.get_parsed_content("postprocessing", instantiate=True).transforms:
        data = transform(data)
    check(data["pred"][0], scan, bundle / "eval")


def test_monai_label_runs_the_bundle(bundle: Path, scan: Path) -> None:
    reason = "MONAI Label is not installed; it needs numpy below 2, so give it an environment of its own"
    host = pytest.importorskip("monailabel.tasks.infer.bundle", reason=reason, exc_type=ImportError)
    task = host.BundleInferTask(str(bundle), {"preload": "false"})
    assert task.is_valid()
    labels, _ = task({"image": str(scan), "device": "cpu", "result_extension": ".nii.gz"})
    check(nib.load(labels).dataobj, scan, bundle / "eval")


def test_monai_deploy_runs_the_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "MONAI Deploy App SDK is not installed; it and MONAI have to be in one environment"
    operators = pytest.importorskip("monai.deploy.operators", reason=reason, exc_type=ImportError)
    from holoscan.conditions import CountCondition
    from monai.deploy.core import AppContext, Application, Image, IOType, Operator, OperatorSpec

    received: list[Any] = []

    class Receiver(Operator):
        def setup(self, spec: OperatorSpec) -> None:
            spec.input("pred")

        def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
            received.append(op_input.receive("pred"))

    class App(Application):
        def compose(self) -> None:
            folder = ROOT / "sample_data" / "lesion"
            load = operators.DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=folder, name="load")
            select = operators.DICOMSeriesSelectorOperator(self, name="select")
            volume = operators.DICOMSeriesToVolumeOperator(self, name="volume")
            infer = operators.MonaiBundleInferenceOperator(
                self,
                app_context=AppContext({"model": str(bundle / "none")}),
                bundle_path=bundle,
                input_mapping=[operators.IOMapping("image", Image, IOType.IN_MEMORY)],
                output_mapping=[operators.IOMapping("pred", Image, IOType.IN_MEMORY)],
                name="infer",
            )
            self.add_flow(load, select, {("dicom_study_list", "dicom_study_list")})
            self.add_flow(select, volume, {("study_selected_series_list", "study_selected_series_list")})
            self.add_flow(volume, infer, {("image", "image")})
            self.add_flow(infer, Receiver(self, name="receiver"), {("pred", "pred")})

    monkeypatch.chdir(bundle)  # it leaves bundle_root at "."
    App([]).run()
    (labels,) = received
    scan = read_volume(ROOT / "sample_data" / "lesion")
    name = fingerprint(scan[0].numpy(), np.asarray(scan.affine))  # the voxels and places are those of the files
    case = nib.load(bundle / "eval" / f"{name}_labels.nii.gz")
    np.testing.assert_allclose(case.affine, scan.affine, atol=1e-4)
    np.testing.assert_array_equal(labels.asnumpy().swapaxes(0, 2), np.asarray(case.dataobj))
    assert labels.asnumpy().any()
