from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from klip_monai.prior import load_weights, save_weights

CONFIGS = Path(__file__).parents[2] / "bundles" / "klip_ct_phantom" / "configs"
TINY = {"channels": [8, 16, 16], "num_head_channels": 8}
PRIORS = {
    "slices": (["train.json"], {f"network_def#{name}": value for name, value in TINY.items()}, "model.safetensors"),
    "patches": (
        ["train.json", "train_patches.json"],
        {f"network_def#unet#{name}": value for name, value in TINY.items()}
        | {"network_def#unet#image_shape": [16, 16], "train#prepare_batch#sizes": [16, 8, 8]},
        "patches.safetensors",
    ),
}


@pytest.fixture(params=PRIORS)
def prior(request):
    return PRIORS[request.param]


@pytest.fixture
def make_workflow(tmp_path, prior):
    """The bundle's own training configurations, at the size of a test."""
    files, tiny, _ = prior

    def make(epochs: int) -> ConfigWorkflow:
        meta = {"version": "0", "monai_version": "1.6", "pytorch_version": "2.8", "numpy_version": "1.26"}
        (tmp_path / "metadata.json").write_text(json.dumps(meta))
        workflow = ConfigWorkflow(
            [str(CONFIGS / name) for name in files],
            meta_file=str(tmp_path / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            bundle_root=str(tmp_path),
            image_shape=[32, 32],
            batch_size=2,
            val_interval=2,
            device="cpu",
            **tiny,
            **{
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


def test_the_bundle_trains_validates_resumes_and_releases_weights(make_workflow, prior, tmp_path):
    for epochs in (1, 2):
        workflow = make_workflow(epochs)
        workflow.run()
        assert workflow.trainer.state.iteration == 2 * epochs
    records = [json.loads(line) for line in next(tmp_path.glob("training/*.jsonl")).read_text().splitlines()]
    assert {record["iteration"] for record in records} >= {2, 4}
    average = workflow.evaluator.network
    weights = {name: value.clone() for name, value in average.state_dict().items()}
    load_weights(tmp_path / "models" / prior[2], average)
    for name, value in average.state_dict().items():
        assert value.sub(weights[name]).abs().max() < 1e-2


def test_the_scoring_configuration_of_the_patch_prior_takes_what_its_training_releases(tmp_path):
    trained, scoring = ConfigParser(), ConfigParser()
    trained.read_config([CONFIGS / "train.json", CONFIGS / "train_patches.json"])
    scoring.read_config([CONFIGS / "inference.json", CONFIGS / "inference_patches.json"])
    for config in (trained, scoring):
        config["bundle_root"], config["device"] = str(tmp_path), "cpu"
    network = trained.get_parsed_content("network")
    save_weights(trained.get_parsed_content("weights"), network)
    prior, inferer = scoring.get_parsed_content("network"), scoring.get_parsed_content("inferer")
    assert prior.unet.image_shape == network.unet.image_shape
    assert prior.unet.sigma_data == network.unet.sigma_data
    density = inferer.changed(window_levels=2, sampler_levels=2)(torch.zeros(1, 1, 128, 128), prior)
    assert density.shape == (1, 1, 128, 128)
    assert bool((density > 0).all())
