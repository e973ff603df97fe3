"""Awkward CT series read by this package and by the usual readers: right, refused, or silently wrong.

``klip-monai readers`` writes the table. Each synthetic series shows a smooth field that is known at every point of the
patient, so that any volume a reader makes of it, resampled or not, can be held against it: a volume is right if the
field is where it should be within 10 HU, at all source voxels but 5 %. Real series are held against their own files,
each of which says by itself where its pixels are: a volume is right if, at the tissue of every slice of one series, the
median difference is at most 15 HU, or if it is a part of a series of which other volumes hold the rest. A reader is
right if each of its volumes is; it refuses by an exception, an exit code or no volume.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from scipy.ndimage import map_coordinates

from klip_monai.errors import InputError
from klip_monai.evaluation.awkward_series import AwkwardSeries, Slice, awkward_series, field, write_awkward_series
from klip_monai.evaluation.readers import Reader, Volume, installed_readers
from klip_monai.io.dicom.files import DicomFiles
from klip_monai.io.dicom.pixels import iter_stored
from klip_monai.io.dicom.scan import scan_headers

Part = tuple[NDArray[np.float64], NDArray[np.float64]]

_TOLERANCE_HU = 10.0
_REAL_TOLERANCE_HU = 15.0
_TISSUE_HU = -500.0
_SAMPLES = 2000
_RESCALE = ("Slope", "Intercept")


def verdict(series: AwkwardSeries, read: Reader) -> str:
    """Have a reader read a series: "right", "refused" or "silently wrong", the latter also for a volume too few."""
    with tempfile.TemporaryDirectory() as folder:
        write_awkward_series(series, Path(folder))
        volumes = _attempt(read, Path(folder))
    shown = [[_shows(volume, series, phase) for phase in series.phases] for volume in volumes]
    if not all(any(row[i] for row in shown) for i in range(len(series.phases))):
        return _verdict([False] * len(volumes))
    return _verdict([any(row) for row in shown])


def real_verdicts(folder: Path, readers: Sequence[Reader]) -> list[str]:
    """Have readers read a folder of CT: verdicts as :func:`verdict` gives them, with the number of volumes."""
    truth = _source_series(folder)
    return [_verdict(_right_volumes(_attempt(read, folder), truth)) for read in readers]


def _verdict(right: Sequence[bool]) -> str:
    """One word for the volumes of a reader."""
    if not right:
        return "refused"
    if all(right):
        return "right" + (f" ({len(right)} volumes)" if len(right) > 1 else "")
    return "silently wrong" if not any(right) else f"silently wrong ({right.count(False)} of {len(right)} volumes)"


def _only_ct(folder: Path) -> Path:
    """Take away what is no CT; give the folder that all files are in, as some readers do not look into subfolders."""
    kept = []
    for file in (path for path in folder.rglob("*") if path.is_file()):
        try:
            ct = dcmread(file, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality") in ("CT", None)
        except Exception:  # damaged files stay: a reader has to cope with them
            ct = True
        if ct:
            kept.append(str(file.parent))
        else:
            file.unlink()
    return Path(os.path.commonpath(kept)) if kept else folder


def _attempt(read: Reader, folder: Path) -> Sequence[Volume]:
    """What a reader makes of a folder; nothing if it refuses, whatever the exception."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return read(folder)
    except Exception:
        return ()


def _source_series(folder: Path) -> list[list[Part]]:
    """Each series of a folder that is complete: places, RAS mm (n, 3), and values (n,) of some tissue of each slice."""
    found = []
    with DicomFiles(folder) as files:
        for headers in scan_headers(files).volumes.values():
            parts, rng = [], np.random.default_rng(0)
            try:
                for header, stored in zip(headers, iter_stored(headers, files, "series"), strict=True):
                    slope, intercept = (float(header.get(f"Rescale{name}", 1 - k)) for k, name in enumerate(_RESCALE))
                    rows, columns = np.nonzero(stored * slope + intercept > _TISSUE_HU)
                    some = rng.permutation(len(rows))[:_SAMPLES]
                    place = Slice(np.array(header.ImagePositionPatient, float), tuple(header.ImageOrientationPatient))
                    indices = np.stack([columns[some], rows[some]], axis=1)
                    values = stored[rows[some], columns[some]] * slope + intercept
                    points = place.at(indices, tuple(map(float, header.PixelSpacing)))
                    parts.append((points * [-1, -1, 1], values))
            except (AttributeError, InputError, TypeError, ValueError):  # what is incomplete has no right volume
                continue
            found.append(parts)
    return found


def _right_volumes(volumes: Sequence[Volume], truth: Sequence[Sequence[Part]]) -> list[bool]:
    """Whether each volume has slices of a series where they lie, all of which are in one of the volumes."""
    held = [[[_holds(volume, part) for part in parts] for parts in truth] for volume in volumes]
    complete = [all(any(volume[s][k] for volume in held) for k in range(len(parts))) for s, parts in enumerate(truth)]
    return [
        any(
            done and sum(found) >= min(len(found), volume[0].shape[2]) for done, found in zip(complete, of, strict=True)
        )
        for volume, of in zip(volumes, held, strict=True)
    ]


def _holds(volume: Volume, part: Part) -> bool:
    """Whether a volume has a slice's values where the slice lies."""
    points, values = part
    if not len(values):
        return True
    found, inside = _sample(volume, points)
    return bool(np.median(np.where(inside, np.abs(found - values), np.inf)) <= _REAL_TOLERANCE_HU)


def _shows(volume: Volume, series: AwkwardSeries, phase: float) -> bool:
    """Whether a volume shows one phase of the field at the source voxels."""
    lps = np.concatenate([part.points.reshape(-1, 3) for part in series.slices if part.phase == phase])
    found, inside = _sample(volume, lps * [-1, -1, 1])
    close = inside & (np.abs(found - field(lps) - phase) <= _TOLERANCE_HU)
    return bool(close.mean() >= 0.95)


def _sample(volume: Volume, ras: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values of a volume at places, RAS mm (n, 3), and whether it reaches there."""
    values, affine = volume
    if values.ndim != 3:
        return np.zeros(len(ras)), np.zeros(len(ras), bool)
    index = np.linalg.solve(affine, np.c_[ras, np.ones(len(ras))].T)[:3]
    limit = np.array(values.shape)[:, None] - 1
    inside = ((index > -0.05) & (index < limit + 0.05)).all(axis=0)
    found = map_coordinates(np.asarray(values, np.float32), np.clip(index, 0, limit), order=1)
    return found.astype(np.float64), np.asarray(inside)


def reader_table(folder: Path | None = None) -> str:
    """Every case with the verdict on every reader, as Markdown; a reader that is not installed is left out.

    Args:
        folder: with real cases, each a folder or an archive of DICOM files; its names stand in the table.
    """
    readers = installed_readers()
    lines = [f"| case | {' | '.join(readers)} |", "|---" * (len(readers) + 1) + "|"]
    for series in awkward_series():
        lines.append(f"| {series.name} | " + " | ".join(verdict(series, read) for read in readers.values()) + " |")
    for path in sorted(folder.iterdir()) if folder is not None else ():
        with tempfile.TemporaryDirectory() as unpacked:
            try:
                put = shutil.copytree if path.is_dir() else shutil.unpack_archive
                put(path, f"{unpacked}/case")
            except (shutil.ReadError, OSError):
                continue
            found = real_verdicts(_only_ct(Path(unpacked)), list(readers.values()))
        lines.append(f"| {path.name.split('.')[0]} | " + " | ".join(found) + " |")
    return "\n".join(lines) + "\n"
