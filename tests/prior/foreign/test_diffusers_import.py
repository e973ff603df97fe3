from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from klip_monai.errors import BundleError
from klip_monai.prior import VariancePreservingDenoiser
from klip_monai.prior.foreign.diffusers_import import import_diffusers
from klip_monai.prior.foreign.imported import ImportedPrior

SMALL = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16, 16),
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers", reason="diffusers, a development dependency, is not installed")


def saved(diffusers: Any, folder: Path, *, scheduler: dict[str, Any] | None = None, **options: Any) -> Any:
    """A pipeline's folder with random weights, all of them large enough to matter; returns the original network."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**{**SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    unet.save_pretrained(folder / "unet")
    diffusers.DDPMScheduler(**(scheduler or {})).save_pretrained(folder / "scheduler")
    return unet


def built(imported: ImportedPrior) -> VariancePreservingDenoiser:
    parser = ConfigParser({**imported.config, "network_def": dict(imported.network_def)})
    denoiser = parser.get_parsed_content("network_def")
    denoiser.load_state_dict(imported.weights, strict=True)
    return denoiser.eval()


def assert_same_network(unet: Any, denoiser: VariancePreservingDenoiser) -> None:
    x = torch.randn(2, 1, 16, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for times in (torch.tensor([0.0, 999.0]), torch.tensor([3.25, 417.5])):
            expected = unet(x, times).sample
            assert float(expected.std()) > 0.1
            torch.testing.assert_close(denoiser.network(x, times), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0, "norm_eps": 1e-6},
        {"attention_head_dim": None, "layers_per_block": 1},
        {"attention_head_dim": 4, "act_fn": "swish", "dropout": 0.3},
    ],
)
def test_the_network_gives_what_the_original_gives(diffusers, tmp_path, options):
    unet = saved(diffusers, tmp_path, **options)
    imported = import_diffusers(tmp_path)
    assert imported.image_shape == (16, 16)
    assert imported.multiple == 4
    assert_same_network(unet, built(imported))


@pytest.mark.parametrize(
    ("name", "betas"),
    [
        ("linear", {"beta_start": 2e-4, "beta_end": 0.03}),
        ("scaled_linear", {"beta_start": 0.00085, "beta_end": 0.012}),
        ("squaredcos_cap_v2", {}),
        ("sigmoid", {"beta_start": 1e-4, "beta_end": 0.02}),
    ],
)
def test_noise_levels_and_prediction_are_those_of_the_scheduler(diffusers, tmp_path, name, betas):
    scheduler = {"beta_schedule": name, "num_train_timesteps": 500, "prediction_type": "v_prediction", **betas}
    saved(diffusers, tmp_path, scheduler=scheduler)
    denoiser = built(import_diffusers(tmp_path))
    assert denoiser.prediction == "v_prediction"
    alphas = diffusers.DDPMScheduler(**scheduler).alphas_cumprod.double()
    sigmas = ((1 - alphas) / alphas).sqrt()
    torch.testing.assert_close(denoiser.log_sigmas.double().exp(), sigmas, rtol=2e-3, atol=0)


def test_a_denoised_slice_is_what_the_scheduler_predicts(diffusers, tmp_path):
    unet, time = saved(diffusers, tmp_path), 250
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    x_t = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = scheduler.step(unet(x_t, time).sample, time, x_t).pred_original_sample
        alpha = scheduler.alphas_cumprod[time]
        denoised = built(import_diffusers(tmp_path))(x_t / alpha.sqrt(), ((1 - alpha) / alpha).sqrt())
    torch.testing.assert_close(denoised, expected, rtol=1e-3, atol=1e-4)


def test_a_plain_folder_with_pickled_weights_of_older_names_is_read_too(diffusers, tmp_path):
    unet = saved(diffusers, tmp_path)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", r"to_out\.0": "proj_attn"}
    state = unet.state_dict()
    for new, old in older.items():
        state = {re.sub(rf"\.{new}\.", f".{old}.", name): value for name, value in state.items()}
    plain = tmp_path / "plain"
    plain.mkdir()
    torch.save(state, plain / "diffusion_pytorch_model.bin")
    (plain / "config.json").write_bytes((tmp_path / "unet" / "config.json").read_bytes())
    settings = (tmp_path / "scheduler").rename(plain / "elsewhere") / "scheduler_config.json"
    with pytest.raises(BundleError, match=r"no scheduler_config\.json"):
        import_diffusers(plain)
    settings.rename(plain / "scheduler_config.json")
    assert_same_network(unet, built(import_diffusers(plain)))


def settings_folder(folder: Path, scheduler: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Settings alone; everything is refused before the weights are looked for."""
    model = {name: list(value) if isinstance(value, tuple) else value for name, value in SMALL.items()} | changes
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **model}))
    noise = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", **(scheduler or {})}
    (folder / "scheduler_config.json").write_text(json.dumps(noise))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 3, "out_channels": 3}, "in_channels=3"),
        ({"out_channels": 2}, "out_channels=2"),
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift='scale_shift'"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"add_attention": False}, "add_attention=False"),
        ({"downsample_type": "resnet"}, "downsample_type='resnet'"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D", "DownBlock2D"]}, "SkipDownBlock2D"),
        ({"up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]}, "mirror"),
        ({"downsample_padding": 2}, "downsample_padding=2"),
        ({"layers_per_block": "$print(1)"}, r"layers_per_block='\$print"),
        ({"norm_eps": {"_target_": "print"}}, "norm_eps="),
        ({"attention_head_dim": "$print(1)"}, "heads"),
        ({"block_out_channels": [8, 16, "$print(1)"]}, "channels"),
        ({"sample_size": "$print(1)"}, "sample_size"),
        ({"freq_shift": None}, "freq_shift=None"),
        ({"scheduler": {"num_train_timesteps": "$print(1)"}}, r"num_train_timesteps='\$print"),
        ({"scheduler": {"beta_start": "@x"}}, "beta_start='@x'"),
        ({"scheduler": {"beta_schedule": ["linear"]}}, "beta_schedule="),
        ({"novelty": 1}, "novelty=1"),
        ({"scheduler": {"beta_schedule": "laplace"}}, "beta_schedule='laplace'"),
        ({"scheduler": {"prediction_type": "flow"}}, "prediction_type='flow'"),
        ({"scheduler": {"trained_betas": [0.1, 0.2]}}, "trained_betas"),
        ({"scheduler": {"rescale_betas_zero_snr": True}}, "rescale_betas_zero_snr"),
        ({}, "no diffusion_pytorch_model"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(BundleError, match=message):
        import_diffusers(settings_folder(tmp_path, **changes))


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"config\.json: cannot be read"):
        import_diffusers(tmp_path)
