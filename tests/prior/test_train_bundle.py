from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from klip_monai.prior import load_weights

CONFIG = Path(__file__).parents[2] / "bundles" / "klip_ct_phantom" / "configs" / "train.json"


@pytest.fixture
def make_workflow(tmp_path):
    """The bundle's own training configuration, at the size of a test."""

    def make(epochs: int) -> ConfigWorkflow:
        meta = {"version": "0", "monai_version": "1.6", "pytorch_version": "2.8", "numpy_version": "1.26"}
        (tmp_path / "metadata.json").write_text(json.dumps(meta))
        workflow = ConfigWorkflow(
            str(CONFIG),
            meta_file=str(tmp_path / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            bundle_root=str(tmp_path),
            image_shape=[32, 32],
            batch_size=2,
            val_interval=2,
            device="cpu",
            **{
                "network_def#channels": [8, 16, 16],
                "network_def#num_head_channels": 8,
                "train#dataset#patients": 1,
                "train#dataset#slices": 4,
                "train#dataset#workers": 0,
                "train#trainer#max_epochs": epochs,
                "validate#dataset#patients": 1,
                "validate#dataset#slices": 2,
                "validate#dataset#workers": 0,
            },
        )
        workflow.initialize()
        return workflow

    return make


def test_the_training_configuration_has_every_property_monai_asks_for(make_workflow):
    assert make_workflow(1).check_properties() == []


def test_the_bundle_trains_validates_resumes_and_releases_weights(make_workflow, tmp_path):
    for epochs in (1, 2):
        workflow = make_workflow(epochs)
        workflow.run()
        assert workflow.trainer.state.iteration == 2 * epochs
    records = [json.loads(line) for line in (tmp_path / "training" / "validation.jsonl").read_text().splitlines()]
    assert {record["iteration"] for record in records} >= {2, 4}
    average = workflow.evaluator.network
    weights = {name: value.clone() for name, value in average.state_dict().items()}
    load_weights(tmp_path / "models" / "model.safetensors", average)
    for name, value in average.state_dict().items():
        assert value.sub(weights[name]).abs().max() < 1e-2
