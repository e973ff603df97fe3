"""A bundle around a prior that another program trained, on whole slices or on patches of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

from klip_monai.errors import BundleError, InputError, OutputError
from klip_monai.prior.foreign.diffusers_import import import_diffusers
from klip_monai.prior.foreign.edm_import import import_edm
from klip_monai.prior.foreign.imported import ImportedPrior
from klip_monai.prior.weights import load_state, save_weights
from klip_monai.standard import PriorGrid

_VERSION = "0.0.1"
_CARD = """# {name}

{description}. Everything but the weights comes from klip_monai; **their licence is that of their source**.

> Research use only. Not a medical device; not for diagnosis.

| | |
|---|---|
| slices | {height} x {width}, {pixel_mm:g} mm pixels, {low:g} to {high:g} HU mapped to [-1, 1]; air around the body |
| orientation | rows from anterior to posterior, columns from the patient's right to left |
| values in training | {value_low:g} to {value_high:g} |
| parameters | {parameters:.1f} M |
| measurement and window | those of {base}; chosen for its prior, not for this one |

The slice format above was stated by whoever imported the weights. The scores mean nothing unless it is the one that the
prior was trained in, and the training slices were healthy.

There are no thresholds yet: make them from healthy scans that did not train the prior, with
`klip-monai calibrate --bundle {name} --healthy FOLDER`.
"""


def import_weights(
    source: Path,
    target: Path,
    *,
    base: Path,
    hu_window: tuple[float, float],
    pixel_mm: float,
    image_shape: tuple[int, int] | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    patch: int | None = None,
) -> tuple[int, int]:
    """Write a bundle for a checkpoint of diffusers, EDM, Patch Diffusion or PaDIS. Nothing in it is executed.

    A network of PaDIS has seen no more than patches, so its bundle denoises slices by patches
    (:class:`klip_monai.prior.PatchDenoiser`); one of Patch Diffusion has seen whole images too. Their files look alike:
    for both, ``patch`` has to say which it is.

    Args:
        source: a folder that diffusers saved, or a ``.pkl`` network snapshot.
        target: folder of the new bundle; its name becomes the bundle's name.
        base: folder of the bundle whose scoring settings the new one takes.
        hu_window: HU that the prior knows as the lowest and the highest value.
        pixel_mm: pixel spacing of its slices, mm.
        image_shape: (H, W) of its slices, in pixels; default: the checkpoint's, without the padding if there are
            patches. Then it can be no other, since a network knows positions within the padded slice.
        value_range: (low, high) values of the images it was trained on.
        patch: side of the largest patches it was trained on, in pixels, 56 for PaDIS; 0: denoise whole slices. Needed
            for networks that know positions, of no use for others.

    Returns:
        (H, W) of the bundle's slices, in pixels.

    Raises:
        InputError: if the source is neither, its slices' shape or window is not usable, or ``patch`` does not fit the
            network.
        BundleError: if the checkpoint is refused, see `import_diffusers` and `import_edm`.
        OutputError: if ``target`` exists or cannot be written.
    """
    if target.exists():
        raise OutputError(f"output: got {target}, which exists; choose a new folder")
    prior = _adapted(_read(source), value_range=value_range, patch=patch)
    shape = image_shape or prior.image_shape
    if shape is None:
        raise InputError(f"image_shape: {source} does not say the size of its images; give --image-size")
    if patch and shape != prior.image_shape:
        raise InputError(
            f"image_shape: got {shape}, but with patches of {patch} this network's slices are {prior.image_shape}; "
            "give the patch it was trained with, and no --image-size"
        )
    if any(side % prior.multiple for side in shape):
        raise InputError(f"image_shape: got {shape}, expected multiples of {prior.multiple} for this network")
    try:
        grid = PriorGrid(shape, pixel_mm, hu_window)
    except ValueError as error:
        raise InputError(str(error)) from error
    config = _inference(base, prior, grid)
    network = _network(config, prior, source)
    card = _CARD.format(
        name=target.name,
        description=prior.description,
        height=shape[0],
        width=shape[1],
        pixel_mm=pixel_mm,
        low=hu_window[0],
        high=hu_window[1],
        value_low=value_range[0],
        value_high=value_range[1],
        parameters=sum(p.numel() for p in network.parameters()) / 1e6,
        base=base.name,
    )
    try:
        for folder in ("configs", "docs", "models/id_reference"):
            (target / folder).mkdir(parents=True)
        for name in ("configs/logging.conf", "docs/metadata.schema.json"):
            shutil.copy(base / name, target / name)
        _write_json(target / "configs" / "inference.json", config)
        _write_json(target / "configs" / "metadata.json", _metadata(base, target.name, prior, grid))
        (target / "docs" / "README.md").write_text(card)
    except OSError as error:
        raise OutputError(f"output: cannot write {target} ({error.strerror}); choose a writable place") from error
    save_weights(target / "models" / "model.safetensors", network, half=False)
    return shape


def _read(source: Path) -> ImportedPrior:
    if source.is_dir():
        return import_diffusers(source)
    if source.suffix == ".pkl" and source.is_file():
        return import_edm(source)
    raise InputError(f"source: got {str(source)!r}, expected a folder that diffusers saved or a .pkl of EDM or PaDIS")


def _adapted(prior: ImportedPrior, *, value_range: tuple[float, float], patch: int | None) -> ImportedPrior:
    """The prior of slices in [-1, 1], by patches or as a whole."""
    if prior.knows_positions and patch is None:
        raise InputError(
            "patch: got none for a network that knows positions; give --patch with the side of the patches it was "
            "trained on (PaDIS: 56), or --patch 0 if it was trained on whole images too (Patch Diffusion)"
        )
    prior = prior.in_range(value_range)
    return prior.in_patches(patch) if patch else prior


def _inference(base: Path, prior: ImportedPrior, grid: PriorGrid) -> dict[str, Any]:
    """The base's inference configuration with another network and slice format."""
    config = _read_json(base / "configs" / "inference.json")
    entries: dict[str, Any] = {
        "image_shape": list(grid.image_shape),
        "grid": {"_target_": "klip_monai.standard.PriorGrid", **grid.describe(), "image_shape": "@image_shape"},
        **prior.config,
        "network_def": dict(prior.network_def),
    }
    known = {name: entries.get(name, value) for name, value in config.items()}
    return known | entries


def _network(config: dict[str, Any], prior: ImportedPrior, source: Path) -> nn.Module:
    """The denoiser that the configuration defines, with the imported weights."""
    names = ("image_shape", *prior.config, "network_def")
    try:
        network: nn.Module = ConfigParser({name: config[name] for name in names}).get_parsed_content("network_def")
    except RuntimeError as error:  # MONAI's, around whatever went wrong
        raise BundleError(f"{source}: its settings do not make a network ({error.__cause__ or error})") from error
    return load_state(prior.weights, network, source=str(source))


def _metadata(base: Path, name: str, prior: ImportedPrior, grid: PriorGrid) -> dict[str, Any]:
    """The base's metadata with what is known of the imported prior."""
    metadata = _read_json(base / "configs" / "metadata.json") | {
        "version": _VERSION,
        "changelog": {_VERSION: "imported"},
        "name": name,
        "description": prior.description,
        "authors": "see the source of the weights",
        "copyright": "see the source of the weights",
        "data_source": "see the source of the weights",
        "intended_use": "Research only. Imported weights; what they were trained on is as their source says.",
    }
    low, high = grid.hu_window
    slices = f"standard slice, {low:g} to {high:g} HU, {grid.pixel_mm:g} mm pixels"
    formats = metadata["network_data_format"]
    formats["inputs"]["image"] |= {"spatial_shape": list(grid.image_shape), "channel_def": {"0": slices}}
    formats["outputs"]["pred"] |= {"spatial_shape": list(grid.image_shape)}
    return metadata


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    except (OSError, ValueError) as error:
        raise BundleError(f"bundle {path.parents[1].name}: no readable configs/{path.name} ({error})") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n")
