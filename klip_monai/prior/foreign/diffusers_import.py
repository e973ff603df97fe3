"""Folders of Hugging Face diffusers (`UNet2DModel` and a scheduler) as priors, without diffusers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from klip_monai.errors import BundleError
from klip_monai.prior.foreign.imported import ImportedPrior
from klip_monai.prior.variance_preserving import PREDICTIONS
from klip_monai.prior.weights import read_state

_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_SCHEDULES = {  # diffusers' name: MONAI's
    "linear": "linear_beta",
    "scaled_linear": "scaled_linear_beta",
    "sigmoid": "sigmoid_beta",
    "squaredcos_cap_v2": "cosine",
}
_REPRESENTED = {  # settings that a DiffusersUNet takes, with the values they have where the file does not say
    "block_out_channels": None,
    "down_block_types": None,
    "up_block_types": None,
    "sample_size": None,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "downsample_padding": 1,
}
_REQUIRED: dict[str, tuple[Any, ...]] = {  # the only values that MONAI's network can represent
    "in_channels": (1,),
    "out_channels": (1,),
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "attn_norm_num_groups": (None,),
    "resnet_time_scale_shift": ("default",),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
}
_UNUSED = ("dropout", "num_train_timesteps")  # in training, and of learned time embeddings
_BLOCKS = {"DownBlock2D": False, "AttnDownBlock2D": True, "UpBlock2D": False, "AttnUpBlock2D": True}
_NAMES = (  # diffusers' names of weights and MONAI's; the attention's older names too
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2.conv."),
    (r"^conv_in\.", "conv_in.conv."),
    (r"^mid_block\.resnets\.0\.", "middle_block.resnet_1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.resnet_2."),
    (r"^mid_block\.attentions\.0\.", "middle_block.attention."),
    (r"\.(conv[12])\.", r".\1.conv."),
    (r"\.conv_shortcut\.", ".skip_connection.conv."),
    (r"\.downsamplers\.0\.conv\.", ".downsampler.op.conv."),
    (r"\.upsamplers\.0\.conv\.", ".upsampler.postconv.conv."),
    (r"\.group_norm\.", ".norm."),
    (r"\.(?:to_q|query)\.", ".attn.to_q."),
    (r"\.(?:to_k|key)\.", ".attn.to_k."),
    (r"\.(?:to_v|value)\.", ".attn.to_v."),
    (r"\.(?:to_out\.0|proj_attn)\.", ".attn.out_proj."),
)


def import_diffusers(folder: str | Path) -> ImportedPrior:
    """Read a gray, unconditional diffusion model that diffusers saved.

    Args:
        folder: a pipeline's folder (``unet/`` and ``scheduler/``), or a model's (``config.json`` and the weights) with
            a ``scheduler_config.json`` in it or beside it under ``scheduler/``.

    Returns:
        The prior, as :class:`klip_monai.prior.VariancePreservingDenoiser`.

    Raises:
        BundleError: if a file is missing or damaged, or the model has settings that MONAI's network cannot represent;
            these are named.
    """
    folder = Path(folder)
    model = folder / "unet" if (folder / "unet").is_dir() else folder
    config = _read_json(model / "config.json")
    schedule, prediction = _schedule(_scheduler_file(folder))
    network, image_shape = _network(model / "config.json", config)
    weights = next((model / name for name in _WEIGHTS if (model / name).is_file()), None)
    if weights is None:
        raise BundleError(f"{model}: no {' or '.join(_WEIGHTS)}; weights in several parts have to be joined first.")
    definition = {
        "_target_": "klip_monai.prior.VariancePreservingDenoiser",
        "network": network,
        "alphas_cumprod": "$@noise_schedule.alphas_cumprod",
        "prediction": prediction,
    }
    return ImportedPrior(
        network_def=definition,
        config={"noise_schedule": schedule},
        weights={f"network.unet.{_name(name)}": value.float() for name, value in read_state(weights).items()},
        image_shape=image_shape,
        multiple=2 ** (len(network["channels"]) - 1),
        description=f"UNet2DModel of diffusers ({prediction} prediction), imported from {folder.resolve().name}",
    )


def _network(path: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Configuration of a `DiffusersUNet`, and (H, W) of its images; what cannot be represented is refused by name."""
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise BundleError(f"{path}: got a {config['_class_name']}, expected a UNet2DModel.")
    for name, value in config.items():
        allowed = _REQUIRED.get(name)
        if allowed is not None and value not in allowed:
            expected = " or ".join(map(repr, allowed))
            raise BundleError(f"{path}: got {name}={value!r}, which cannot be represented; expected {expected}.")
        if allowed is None and name not in _REPRESENTED and name not in _UNUSED and not name.startswith("_"):
            raise BundleError(f"{path}: got {name}={value!r}, a setting that is not known here.")
    for name in ("in_channels", "out_channels"):
        if name not in config:
            raise BundleError(f"{path}: {name} is missing, so the model is one of 3 channels; expected 1.")
    settings = {name: config.get(name, default) for name, default in _REPRESENTED.items()}
    _check_numbers(path, settings, ("layers_per_block", "norm_num_groups", "norm_eps", "freq_shift", "flip_sin_to_cos"))
    try:
        channels = [int(c) for c in settings["block_out_channels"]]
        down, up = ([_BLOCKS[block] for block in settings[f"{way}_block_types"]] for way in ("down", "up"))
        heads = [int(settings["attention_head_dim"] or c) for c in channels]
        size = settings["sample_size"]
        shape = None if size is None else (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path}: channels, heads, blocks or sample_size cannot be represented ({error}); expected blocks "
            f"among {', '.join(_BLOCKS)}."
        ) from error
    if up != down[::-1] or len(down) != len(channels):
        raise BundleError(f"{path}: up_block_types do not mirror down_block_types, which cannot be represented.")
    if settings["downsample_padding"] not in (0, 1):
        raise BundleError(f"{path}: got downsample_padding={settings['downsample_padding']!r}, expected 0 or 1.")
    network = {
        "_target_": "klip_monai.prior.DiffusersUNet",
        "channels": channels,
        "attention_levels": down,
        "num_res_blocks": settings["layers_per_block"],
        "num_head_channels": heads,
        "norm_num_groups": settings["norm_num_groups"],
        "norm_eps": settings["norm_eps"],
        "freq_shift": settings["freq_shift"],
        "cosine_first": settings["flip_sin_to_cos"],
        "downsample_padding": settings["downsample_padding"],
    }
    return network, shape


def _schedule(path: Path) -> tuple[dict[str, Any], str]:
    """Configuration of MONAI's scheduler with the same noise, and what the network predicts."""
    config = _read_json(path)
    name, prediction = config.get("beta_schedule"), config.get("prediction_type", "epsilon")
    if not isinstance(name, str) or name not in _SCHEDULES:
        raise BundleError(
            f"{path}: got beta_schedule={name!r} of a {config.get('_class_name')}, expected {', '.join(_SCHEDULES)}."
        )
    if prediction not in PREDICTIONS:
        raise BundleError(f"{path}: got prediction_type={prediction!r}, expected {', '.join(PREDICTIONS)}.")
    for refused in ("trained_betas", "rescale_betas_zero_snr"):
        if config.get(refused):
            raise BundleError(f"{path}: got {refused}, which cannot be represented; expected a model without.")
    noise = {"num_train_timesteps": config.get("num_train_timesteps", 1000)}
    if name != "squaredcos_cap_v2":
        noise |= {"beta_start": config.get("beta_start", 1e-4), "beta_end": config.get("beta_end", 0.02)}
    _check_numbers(path, noise, noise)
    schedule = {"_target_": "monai.networks.schedulers.DDPMScheduler", "schedule": _SCHEDULES[name], **noise}
    return schedule, prediction


def _check_numbers(path: Path, settings: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse anything but numbers: the values end up in a MONAI configuration, where a text can be an expression."""
    for name in names:
        if not isinstance(settings[name], (int, float)):
            raise BundleError(f"{path}: got {name}={settings[name]!r}, expected a number.")


def _scheduler_file(folder: Path) -> Path:
    """The scheduler's settings that belong to a pipeline's or a model's folder."""
    name = "scheduler_config.json"
    places = [folder / "scheduler" / name, folder / name, folder.parent / "scheduler" / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise BundleError(f"{folder}: no {name}; put the scheduler's settings beside the model's.")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); give a folder that diffusers saved.") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: got no settings, expected a JSON object.")
    return content


def _name(name: str) -> str:
    """MONAI's name of a weight of diffusers."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name
