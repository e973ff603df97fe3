"""Checkpoints of EDM, Patch Diffusion and PaDIS (NVlabs pickles) as priors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from klip_monai.errors import BundleError
from klip_monai.prior.foreign.imported import ImportedPrior
from klip_monai.prior.foreign.restricted_pickle import PlainObject, named_tensors, read_pickle

_PRECONDITIONINGS = {"EDMPrecond": 1, "Patch_EDMPrecond": 3}  # class: input channels of a network for gray slices
_NETWORK = "SongUNet"
_NUMBERS = (
    "img_resolution",
    "in_channels",
    "out_channels",
    "model_channels",
    "channel_mult",
    "channel_mult_emb",
    "channel_mult_noise",
    "num_blocks",
    "attn_resolutions",
    "resample_filter",
)
_CHOICES = {"embedding_type": ("positional", "fourier"), "encoder_type": ("standard", "residual")}
_REQUIRED = {"label_dim": 0, "decoder_type": "standard", "implicit_mlp": False, "hash_channels": 1}
_TRAINING_ONLY = ("augment_dim", "dropout", "label_dropout")


def import_edm(path: str | Path) -> ImportedPrior:
    """Read a network snapshot of EDM (Karras et al. 2022), Patch Diffusion or PaDIS.

    The moving average ``ema`` is taken. DDPM++ and NCSN++ with EDM's preconditioning are known, for gray slices without
    labels. Nothing in the file is executed.

    Args:
        path: ``network-snapshot-*.pkl``.

    Returns:
        The prior, as :class:`klip_monai.prior.EDMDenoiser`. One that knows positions was trained on patches: those of
        Patch Diffusion up to whole images, those of PaDIS smaller, out of padded images; the file does not tell which.

    Raises:
        BundleError: if the file is no such pickle, asks for code to be executed, or holds another network; what is
            not known is named.
    """
    path = Path(path)
    content = read_pickle(path)
    outer = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(outer, PlainObject):
        raise BundleError(f"{path}: got no network under 'ema', expected a network snapshot of EDM or PaDIS.")
    if outer.class_name not in _PRECONDITIONINGS:
        raise BundleError(
            f"{path}: got the preconditioning {outer.class_name}, expected {' or '.join(_PRECONDITIONINGS)}; others "
            "cannot be imported."
        )
    try:
        model, sigma_data = outer.state["_modules"]["model"], float(outer.state["sigma_data"])
        class_name, kwargs = model.class_name, model.state["_init_kwargs"]
        positional = model.state["_init_args"]
        weights = named_tensors(outer)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: the network's settings cannot be read ({error!r}).") from error
    if class_name != _NETWORK:
        raise BundleError(f"{path}: got the network {class_name}, expected {_NETWORK} (DDPM++ or NCSN++).")
    if positional or not isinstance(kwargs, dict):
        raise BundleError(f"{path}: the network's settings were not recorded by name; they cannot be read.")
    settings = _settings(path, kwargs, in_channels=_PRECONDITIONINGS[outer.class_name])
    side = int(settings["img_resolution"])
    unused = ("resample_filter", "map_augment.weight")  # the filter follows from the settings; the latter is training's
    definition = {
        "_target_": "klip_monai.prior.EDMDenoiser",
        "model": {"_target_": "klip_monai.prior.SongUNet", **settings},
        "image_shape": "@image_shape",
        "sigma_data": sigma_data,
    }
    return ImportedPrior(
        network_def=definition,
        config={},
        weights={name: value.float() for name, value in weights.items() if not name.endswith(unused)},
        image_shape=(side, side),
        multiple=2 ** (len(settings.get("channel_mult", (1, 2, 2, 2))) - 1),
        description=f"{_NETWORK} with {outer.class_name}, imported from {path.name}",
        knows_positions=settings["in_channels"] == 3,
    )


def _settings(path: Path, kwargs: Mapping[str, Any], *, in_channels: int) -> dict[str, Any]:
    """Arguments of our `SongUNet`, plain and JSON-able; everything that it has no place for is refused by name."""
    # The values end up in a MONAI configuration, where a text can be an expression: only numbers and known words pass.
    settings: dict[str, Any] = {}
    for name, value in kwargs.items():
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        numbers = name in _NUMBERS and all(isinstance(v, (int, float)) for v in values)
        if numbers or value in _CHOICES.get(name, ()):
            settings[name] = values if isinstance(value, (list, tuple)) else value
        elif name not in _TRAINING_ONLY and not (name in _REQUIRED and value == _REQUIRED[name]):
            raise BundleError(f"{path}: got {name}={value!r}, which cannot be represented; train without it.")
    channels = (settings.get("in_channels"), settings.get("out_channels"))
    if channels != (in_channels, 1):
        raise BundleError(
            f"{path}: got {channels[0]} input and {channels[1]} output channels, expected {in_channels} and 1: a "
            "network of gray slices."
        )
    return settings
