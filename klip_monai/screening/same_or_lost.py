"""Two questions of an archive's index that headers do not answer: what shows the same, and what may be missing."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable
from typing import Any

from pydicom import dcmread

from klip_monai.io.dicom.files import DicomFiles, ListedFiles
from klip_monai.io.dicom.pixels import quiet_pydicom
from klip_monai.io.kinds import Neighbours
from klip_monai.screening.headers import hash63
from klip_monai.screening.index_schema import LOST

_SHOWN = ("PixelData", "RescaleSlope", "RescaleIntercept", "PixelSpacing", "ImagePositionPatient")
_SINGLE = "SELECT path, series FROM files JOIN folders ON id = folder WHERE name = x'' AND series IS NOT NULL"


def hash_of_pixels(files: ListedFiles) -> str:
    """Hash of what the images of a series show and where, in whatever order they lie; "" if one cannot be read."""
    hashes = set()
    try:
        with quiet_pydicom(), DicomFiles(files) as opened:
            for file in opened:
                with opened.open(file) as stream:
                    image = dcmread(stream, force=True, specific_tags=list(_SHOWN))
                shown = hashlib.sha256(image.PixelData)
                shown.update(repr([str(image.get(keyword)) for keyword in _SHOWN[1:]]).encode())
                hashes.add(shown.digest())
    except Exception:  # pydicom and the archive modules raise many types on damaged files
        return f"unread, {files.name}"
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()


def attribute_lost(db: sqlite3.Connection) -> None:
    """Note in the index which series may miss the files that cannot be read, by the reader's rules.

    Args:
        db: the index, its series summed up.
    """
    db.execute("DELETE FROM lost")
    by_hash: dict[int, int] = {}
    at, around, single = -1, dict[str, Neighbours](), dict[str, Neighbours]()
    for folder, path, name, what, told in db.execute(LOST):
        if told:
            by_hash = by_hash or {hash63(key): ident for ident, key in db.execute("SELECT id, key FROM series")}
            whose = {by_hash[told]} if told in by_hash else set()
        else:
            directory, own = os.path.split(os.fsdecode(name or path))
            if not name:
                single = single or _by_folder(db.execute(_SINGLE))
            elif folder != at:
                images = "SELECT name, series FROM files WHERE folder = ? AND series IS NOT NULL"
                at, around = folder, _by_folder(db.execute(images, (folder,)))
            near = (around if name else single).get(directory)
            whose = {int(series) for series in near.owners(own, what)} if near else set()
        db.executemany("INSERT INTO lost VALUES (?, ?, ?)", [(ident, folder, name) for ident in whose])


def _by_folder(images: Iterable[tuple[Any, ...]]) -> dict[str, Neighbours]:
    """Names of images and their series, by folder."""
    found: dict[str, dict[str, str]] = {}
    for name, series in images:
        directory, own = os.path.split(os.fsdecode(name))
        found.setdefault(directory, {})[own] = str(series)
    return {directory: Neighbours(names) for directory, names in found.items()}
