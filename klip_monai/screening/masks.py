"""Which mask a series has now, told by what its files hold, so that a changed one is noticed without decoding it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from klip_monai.errors import InputError
from klip_monai.io.masks.roi import Roi
from klip_monai.screening.found import FoundSeries

NO_MASK = "none"
"""In place of a hash where a series has no mask, or several, or one that cannot be read."""

_DETACHED = (".nhdr", ".mhd")  # headers whose voxels lie in other files
_AT_ONCE = 2**20  # bytes
_KEPT = 2**17  # hashes; an archive is looked through several times a run


def noting_masks(series: Iterable[FoundSeries], masks: Roi | None) -> Iterator[FoundSeries]:
    """Note the hash of each series' mask, see :attr:`klip_monai.screening.found.FoundSeries.mask`.

    Args:
        series: of an archive; those that have a hash, or are not to be scored, pass as they are.
        masks: folder with the masks; None passes all as they are.
    """
    for found in series:
        if masks is None or found.mask or found.reason:
            yield found
        else:
            yield replace(found, mask=mask_hash(masks, found.key, found.name))


def mask_hash(masks: Roi, key: str, name: str) -> str:
    """Hash of the bytes of a series' mask, also of the data files of a detached header; or :data:`NO_MASK`.

    Args:
        masks: folder with the masks.
        key: see :meth:`klip_monai.io.masks.roi.Roi.in_folder`.
        name: likewise.
    """
    try:
        path = masks.in_folder(key, name).path
        digest = hashlib.sha256(_file_hash(path))
        if path.suffix.lower() in _DETACHED:
            for part in _data_files(path):
                digest.update(_file_hash(part))
    except (InputError, OSError):  # whoever reads it says what is wrong
        return NO_MASK
    return digest.hexdigest()


def _data_files(header: Path) -> list[Path]:
    """Files that a detached header names: one, a list with a line each, or a pattern such as slice%03d.raw."""
    found: list[Path] = []
    for line in header.read_bytes().decode("utf-8", "replace").splitlines():
        named = re.split(r"[:=]", line, maxsplit=1)[-1].split("%")
        start = named[0].strip()
        if len(named) > 1:
            beside = (header.parent / f"{start}_").parent
            stem = Path(f"{start}_").name.removesuffix("_")
            found += sorted(path for path in beside.glob("*") if path.name.startswith(stem) and path.is_file())
        elif start and (path := header.parent / start).is_file():
            found.append(path)
    return found


def _file_hash(path: Path) -> bytes:
    status = path.stat()
    return _hashed(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=_KEPT)
def _hashed(path: Path, size: int, mtime_ns: int) -> bytes:
    """Hash of a file; ``size`` and ``mtime_ns`` have an edited one read again."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_AT_ONCE):
            digest.update(part)
    return digest.digest()
