"""Who is who: the one file of a screening that tells which series a pseudonym stands for."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from klip_monai.errors import OutputError
from klip_monai.io.pacs.dicomweb import RemoteSeries
from klip_monai.screening.found import FoundSeries


def write_key_file(path: str | Path, series: Iterable[FoundSeries]) -> None:
    """Write pseudonym, series UID and place of each series as CSV that only its owner can read.

    Args:
        path: the file; keep it away from the results.
        series: of the archive.

    Raises:
        OutputError: it cannot be written.
    """
    staged = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("name", "series_uid", "path"))
            writer.writerows((found.name, found.key, _place(found)) for found in series)
        os.replace(staged, path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise OutputError(
            f"--key-file {path}: got {error.strerror}, expected a place that can be written to; choose another"
        ) from error


def _place(found: FoundSeries) -> str:
    """Deepest folder that holds a series, its file, or its address; empty where it is not wanted."""
    if found.files is None or isinstance(found.files, Path):
        return str(found.files or "")
    if isinstance(found.files, RemoteSeries):
        return f"{found.files.pacs.url}/studies/{found.files.study_uid}/series/{found.files.series_uid}"
    return os.path.commonpath([file.path if file.member else file.path.parent for file in found.files.files])
