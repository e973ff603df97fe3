"""Single 8-bit slices with masks of the organ and its lesions, read from a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from klip_monai.errors import InputError
from klip_monai.standard import PriorGrid, resample_mask, standard_slices
from klip_monai.training.sources import read_picture, read_table

_MANIFEST, _MASKS = "manifest.csv", "masks.npz"
_COLUMNS = ("file", "source", "group")


@dataclass(frozen=True)
class SliceLabels:
    """What the labels of a source mean.

    Attributes:
        lesion: labels of the lesions looked for.
        organ: labels of the organ, lesions included; empty if the source does not mark it.
        ignore: labels of what is neither right nor wrong to find.
        clip_hu: the lowest HU that the source kept, everything below being stored as this value; None if it kept all
            that matters.
    """

    lesion: Collection[int]
    organ: Collection[int] = ()
    ignore: Collection[int] = ()
    clip_hu: float | None = None


@dataclass(frozen=True)
class LabelledSlices:
    """The slices of one source, in a prior's slice format.

    Attributes:
        source: the data set.
        people: whose each slice is, B of them.
        images: float32 (B, 1, H, W) in [-1, 1].
        body: bool (B, 1, H, W).
        counted: bool (B, 1, H, W), in-body pixels that count: HU known, and not to be ignored.
        organ: bool (B, 1, H, W), those of them in the organ.
        lesion: bool (B, 1, H, W), those of them in a lesion.
    """

    source: str
    people: tuple[str, ...]
    images: torch.Tensor
    body: torch.Tensor
    counted: torch.Tensor
    organ: torch.Tensor
    lesion: torch.Tensor


def read_labelled_slices(
    folder: str | Path, sources: Mapping[str, SliceLabels], *, grid: PriorGrid, pixel_mm: float
) -> list[LabelledSlices]:
    """Read ``manifest.csv``, the pictures that it lists, and ``masks.npz``.

    Pictures are as for :func:`klip_monai.training.sources.picture_groups`, those of sources that clipped their HU are
    filled as there, and what was filled in does not count. The masks are ``names`` (N,), files as the manifest names
    them, and ``labels``, integers (N, rows, columns), on the pictures' own pixels.

    Args:
        folder: where they are.
        sources: what the labels mean, by the manifest's source; slices of other sources are left out.
        grid: the prior's slice format.
        pixel_mm: pixel size taken where the manifest gives none, mm.

    Returns:
        The slices of each source, in the order of ``sources``.

    Raises:
        InputError: if a table, picture or mask is missing or cannot be read, a mask has another shape than its picture,
            or a source has no slice.
    """
    folder = Path(folder)
    rows = read_table(folder / _MANIFEST, _COLUMNS)
    masks = _read_masks(folder / _MASKS)
    absent = [row["file"] for row in rows if row["source"] in sources and row["file"] not in masks]
    if absent:
        raise InputError(f"{_MASKS}: got no mask of {absent[0]} ({len(absent)} are missing), expected one of each file")
    result = []
    for source, labels in sources.items():
        chosen = [row for row in rows if row["source"] == source]
        if not chosen:
            known = ", ".join(sorted({row["source"] for row in rows}))
            raise InputError(f"manifest {folder / _MANIFEST}: got no slice of source {source!r}, only of {known}")
        result.append(_read_source(folder, source, labels, chosen, masks, grid=grid, pixel_mm=pixel_mm))
    return result


def _read_masks(path: Path) -> dict[str, NDArray[np.integer]]:
    try:
        with np.load(path, allow_pickle=False) as content:
            names, labels = content["names"], content["labels"]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"masks {path}: cannot be read ({error}); expected names and labels in an npz") from error
    if labels.ndim != 3 or len(names) != len(labels) or labels.dtype.kind not in "iu":
        raise InputError(
            f"masks {path}: got {len(names)} names and labels {labels.dtype} {labels.shape}, expected integers "
            "(N, rows, columns)"
        )
    return {str(name): plane for name, plane in zip(names, labels, strict=True)}


def _read_source(
    folder: Path,
    source: str,
    labels: SliceLabels,
    rows: Sequence[Mapping[str, str]],
    masks: Mapping[str, NDArray[np.integer]],
    *,
    grid: PriorGrid,
    pixel_mm: float,
) -> LabelledSlices:
    images, bodies, parts = [], [], []
    for row in rows:
        size = float(row.get("pixel_mm") or pixel_mm)
        volume = read_picture(folder / row["file"], pixel_mm=size, clip_hu=labels.clip_hu)
        mask = masks[row["file"]][:, :, None]  # rows and columns of the picture are the first two axes of the volume
        if mask.shape != volume.shape[1:]:
            raise InputError(
                f"mask of {row['file']}: got shape {mask.shape[:2]}, expected that of its picture, "
                f"{tuple(volume.shape[1:3])}"
            )
        standard = standard_slices(volume, grid)
        images.append(standard.images)
        bodies.append(standard.body)
        kinds = (labels.organ, labels.lesion, labels.ignore)
        parts.append([resample_mask(np.isin(mask, list(kind)), standard.placement) for kind in kinds])
    image, body = torch.cat(images), torch.cat(bodies)
    organ, lesion, ignore = (torch.cat(planes) for planes in zip(*parts, strict=True))
    counted = body & ~ignore & (image >= _lowest_known(labels.clip_hu, grid))
    people = tuple(row["group"] for row in rows)
    return LabelledSlices(source, people, image, body, counted, organ & counted, lesion & counted)


def _lowest_known(clip_hu: float | None, grid: PriorGrid) -> float:
    """The lowest value in [-1, 1] that is not filled in."""
    low, high = grid.hu_window
    return -1.0 if clip_hu is None else (clip_hu - low) / (high - low) * 2 - 1
