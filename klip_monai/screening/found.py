"""One series of an archive, which of them are wanted, and what else is there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from klip_monai.errors import InputError
from klip_monai.io.dicom.files import ListedFiles
from klip_monai.io.pacs.dicomweb import RemoteSeries


@dataclass(frozen=True)
class FoundSeries:
    """One image series of an archive or a server, or one volume of a series that has several; picklable.

    Attributes:
        name: pseudonym made from the key; unique in the archive.
        key: SeriesInstanceUID, ending in #1, #2, ... for the volumes of one series; a hash for files without one.
            Private, as UIDs and hashes can be looked up.
        modality: "CT", "MR", ...; empty if the files do not say, as NIfTI and NRRD never do.
        description: SeriesDescription; empty if the files do not say.
        body_part: BodyPartExamined; empty if the files do not say.
        n_files: number of files, each SOP instance once; 0 if a server does not say.
        n_slices: number of slices, as its headers say; 0 if unknown before reading (a single file of a server).
        rows: rows of a slice; 0 if unknown.
        columns: columns of a slice; 0 if unknown.
        copies: number of further copies of its files in the archive.
        date: SeriesDate, or else StudyDate; None if the files do not say. Private.
        duplicate_of: name of the series that has the same images under another key; else empty.
        reason: why it is not to be scored; empty if it is.
        files: what :func:`klip_monai.io.read_volume` reads it from, or where it is to be fetched from; None where there
            is a reason not to. Private.
        is_dicom: whether it is DICOM; the other formats have no tags to filter by.
        mask: hash of what the file of its mask holds, see :func:`klip_monai.screening.masks.mask_hash`; empty if none
            was looked for. Private.
    """

    name: str
    key: str
    modality: str = ""
    description: str = ""
    body_part: str = ""
    n_files: int = 1
    n_slices: int = 0
    rows: int = 0
    columns: int = 0
    copies: int = 0
    date: date | None = None
    duplicate_of: str = ""
    reason: str = ""
    files: ListedFiles | Path | RemoteSeries | None = None
    is_dicom: bool = True
    mask: str = ""


@dataclass(frozen=True)
class SeriesFilter:
    """Which series of an archive are wanted.

    Args:
        modality: "CT", ...; NIfTI and NRRD files pass, as they never say.
        body_part: BodyPartExamined, in any case; None for all. Series that do not say do not pass.
        min_slices: fewest slices of a series; files that do not say before they are read pass.
        description: regular expression, searched for in SeriesDescription in any case; None for all.
        since: earliest date; None for all. Series that do not say do not pass.

    Raises:
        InputError: a description that is no regular expression.
    """

    modality: str = "CT"
    body_part: str | None = None
    min_slices: int = 3
    description: str | None = None
    since: date | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.description or "")
        except re.error as error:
            raise InputError(
                f"description: got {self.description!r}, expected a regular expression ({error}); "
                "write \\ before characters that are meant as they are"
            ) from error

    def reason_to_skip(self, found: FoundSeries) -> str:
        """Say why a series is not wanted.

        Args:
            found: the series.

        Returns:
            One clause without numbers or names that could tell who the patient is; empty if it is wanted.
        """
        if found.duplicate_of:
            return f"the same images as {found.duplicate_of}"
        if found.is_dicom and found.modality != self.modality:
            return f"modality {found.modality or 'not given'}, expected {self.modality}"
        if 0 < found.n_slices < self.min_slices:
            return f"{found.n_slices} slice(s), expected at least {self.min_slices}"
        if self.body_part and found.body_part.casefold() != self.body_part.casefold():
            return f"body part {found.body_part or 'not given'}, expected {self.body_part}"
        if self.description and not re.search(self.description, found.description, re.IGNORECASE):
            return "series description does not match"
        if self.since and found.date is None:
            return "date not given"
        if self.since and found.date is not None and found.date < self.since:
            return f"older than {self.since.isoformat()}"
        return ""


@dataclass(frozen=True)
class ArchiveCounts:
    """What the index holds.

    Attributes:
        files: files, members of archives among them.
        series: series, each once, wherever its files lie; the volumes of a series one by one.
        passed_over: number of localizers, reports, files that are not DICOM, ...
        damaged: number of damaged or unreadable files, folders and archives.
        duplicates: number of files that are further copies of others.
        duplicate_series: number of series that have the same images as another one.
    """

    files: int
    series: int
    passed_over: dict[str, int]
    damaged: dict[str, int]
    duplicates: int
    duplicate_series: int
