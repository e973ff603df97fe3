"""Where training slices come from: an archive of scans, or a folder of 8-bit slices with a manifest."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull

from klip_monai.errors import InputError
from klip_monai.io import read_volume

PICTURE_HU = (-160.0, 240.0)
"""HU of grey 0 and 255 of an 8-bit slice."""

FAT_HU = -100.0
_TABLE_MM = 7.0  # anything thinner is no part of the trunk's outline: table tops, tubes, skin
_GAP_MM = 12.0  # widest layer of fat between parts of the trunk; what lies further off is a table
_GREY_STEP_HU = (PICTURE_HU[1] - PICTURE_HU[0]) / 255


@dataclass(frozen=True)
class Group:
    """Slices that belong together and never part in a split: a patient, or a range of neighbouring slices.

    Attributes:
        name: unique in its archive.
        source: the data set it comes from.
        split: "train", "val" or any other name.
        clip_hu: the lowest HU that the source kept, everything below being stored as this value; None if it kept all
            that matters.
        volumes: reads the volumes, each a MetaTensor float32 HU (1, X, Y, Z); raises InputError.
        slice_mm: distance of neighbouring slices, mm; None if it is not known, or for a scan, which says so itself.
        is_scan: whether there is one volume, a scan; else there is a volume for each slice.
    """

    name: str
    source: str
    split: str
    clip_hu: float | None
    volumes: Callable[[], Iterator[MetaTensor]]
    slice_mm: float | None = None
    is_scan: bool = False


def scan_groups(archive: Path, *, held_out: float) -> list[Group]:
    """Every entry of a folder (a DICOM series, or a volume file) as a group of its own.

    Args:
        archive: one entry per patient.
        held_out: share of the entries that becomes the split "val"; which ones follows from their names alone, so the
            split stays when the archive grows.

    Raises:
        InputError: if the folder is empty.
    """
    entries = sorted(path for path in archive.iterdir() if not path.name.startswith("."))
    if not entries:
        raise InputError(f"archive: got the empty folder {str(archive)!r}, expected one entry for each healthy scan")

    def reader(path: Path) -> Callable[[], Iterator[MetaTensor]]:
        return lambda: iter([read_volume(path)])

    return [
        Group(path.name, archive.resolve().name, _split(path.name, held_out=held_out), None, reader(path), is_scan=True)
        for path in entries
    ]


def _split(name: str, *, held_out: float) -> str:
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return "val" if draw < held_out else "train"


def picture_groups(
    manifest: Path, *, clipped: Mapping[str, float], pixel_mm: float, splits: Path | None = None
) -> list[Group]:
    """Groups of 8-bit slices as a manifest lists them.

    Pictures are in radiological orientation (the patient's right at the left), grey 0 to 255 standing for
    :data:`PICTURE_HU`.

    Args:
        manifest: CSV with the columns ``file`` (relative to the manifest), ``source``, ``group``, ``split`` and
            optionally ``pixel_mm`` and ``slice_mm``, the distance of the slices of a group that are all neighbours.
        clipped: by source, the lowest HU that it kept.
        pixel_mm: pixel size taken where the manifest gives none.
        splits: CSV with the columns ``file``, ``group`` and ``split``, and any others, that count instead of the
            manifest's; slices that it does not list are left out.

    Raises:
        InputError: if a table lacks columns, names a missing file, or puts a group into two splits.
    """
    rows = read_table(manifest, ("file", "source", "group", "split"))
    if splits is not None:
        chosen = {row["file"]: row for row in read_table(splits, ("file", "group", "split"))}
        rows = [row | chosen[row["file"]] for row in rows if row["file"] in chosen]
    by_group: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_group.setdefault(row["group"], []).append(row)
    groups = []
    for name, members in by_group.items():
        sides, sources, apart = ({row.get(key) or "" for row in members} for key in ("split", "source", "slice_mm"))
        if len(apart) > 1:
            raise InputError(
                f"manifest {manifest}: group {name} has slice_mm {sorted(apart)}, expected one distance a group"
            )
        if len(sides) > 1:
            raise InputError(f"manifest {manifest}: group {name} is in {sorted(sides)}, expected one split a group")
        absent = [row["file"] for row in members if not (manifest.parent / row["file"]).is_file()]
        if absent:
            raise InputError(f"manifest {manifest}: {absent[0]} ({len(absent)} in group {name}) is missing beside it")
        source = min(sources)
        clip_hu = clipped.get(source)
        pictures = [(manifest.parent / row["file"], float(row.get("pixel_mm") or pixel_mm)) for row in members]
        slice_mm = float(next(iter(apart))) if apart != {""} else None
        groups.append(Group(name, source, sides.pop(), clip_hu, _picture_reader(pictures, clip_hu), slice_mm))
    return groups


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV, such as a manifest, that has at least these columns.

    Raises:
        InputError: if it cannot be read, is empty or lacks a column.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"manifest {path}: cannot be read ({error.strerror})") from error
    missing = [name for name in columns if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"manifest {path}: got no column {', '.join(missing)}, expected {', '.join(columns)}")
    return rows


def _picture_reader(pictures: list[tuple[Path, float]], clip_hu: float | None) -> Callable[[], Iterator[MetaTensor]]:
    def read() -> Iterator[MetaTensor]:
        for path, pixel_mm in pictures:
            yield read_picture(path, pixel_mm=pixel_mm, clip_hu=clip_hu)

    return read


def read_picture(path: Path, *, pixel_mm: float, clip_hu: float | None = None) -> MetaTensor:
    """Read an 8-bit slice as a volume of one slice.

    Args:
        path: PNG or JPEG, grey, in radiological orientation.
        pixel_mm: pixel size.
        clip_hu: see :func:`fill_clipped`; None if the source kept all HU of the window.

    Returns:
        MetaTensor float32 HU (1, rows, columns, 1), affine to RAS mm.

    Raises:
        InputError: if the picture cannot be read.
    """
    try:
        with Image.open(path) as picture:
            grey = np.asarray(picture.convert("L"), dtype=np.float32)
    except OSError as error:
        raise InputError(f"picture {path.name}: cannot be read ({error}); expected an 8-bit PNG or JPEG") from error
    hu = PICTURE_HU[0] + grey * _GREY_STEP_HU
    if clip_hu is not None:
        hu = fill_clipped(hu, clip_hu=clip_hu, pixel_mm=pixel_mm)
    affine = torch.diag(torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    affine[1, 0] = affine[0, 1] = -pixel_mm  # rows run to posterior, columns to the left
    return MetaTensor(torch.from_numpy(hu)[None, :, :, None], affine=affine)


def fill_clipped(hu: NDArray[np.float32], *, clip_hu: float, pixel_mm: float) -> NDArray[np.float32]:
    """Tell fat from air where a source clipped both to one value: fat in the convex hull of the trunk, air outside.

    Wrong for bowel gas and for fat under the skin; such pixels carry no weight in training (see
    :class:`klip_monai.training.SliceSet`).

    Args:
        hu: float32 (H, W), everything below ``clip_hu`` stored as ``clip_hu``.
        clip_hu: the lowest HU that was kept.
        pixel_mm: pixel size.

    Returns:
        Float32 (H, W): clipped pixels replaced by :data:`FAT_HU` or the lower end of :data:`PICTURE_HU`.
    """
    tissue = hu > clip_hu + 2 * _GREY_STEP_HU
    solid = ndimage.binary_opening(tissue, _disk(max(1, round(_TABLE_MM / 2 / pixel_mm))))
    joined, n = ndimage.label(ndimage.binary_dilation(solid, _disk(round(_GAP_MM / 2 / pixel_mm))))
    if n:
        solid &= joined == 1 + np.argmax(np.bincount(joined[solid], minlength=n + 1)[1:])
    body = _convex_hull(solid) if solid.any() else np.zeros_like(tissue)
    return np.where(body, np.where(tissue, hu, FAT_HU), PICTURE_HU[0]).astype(np.float32)


def _convex_hull(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Everything between any two pixels of a mask that is not a line."""
    at = np.argwhere(mask)
    corners = at[ConvexHull(at).vertices]
    hull = Image.new("1", (mask.shape[1], mask.shape[0]))
    ImageDraw.Draw(hull).polygon([(int(column), int(row)) for row, column in corners], fill=1, outline=1)
    return np.asarray(hull, dtype=bool)


def _disk(radius: int) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(rows**2 + columns**2 <= radius**2)
