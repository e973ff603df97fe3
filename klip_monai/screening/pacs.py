"""The series of a DICOMweb server as a source for screening."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Protocol

from klip_monai.io.dicomweb import Pacs, RemoteSeries


class Filters(Protocol):
    """Which series are wanted."""

    @property
    def modality(self) -> str:
        """As "CT"."""

    @property
    def since(self) -> date | None:
        """First day; None for all."""

    def reason_to_skip(self, found: Any) -> str:
        """Why a series is not wanted; empty if it is."""


@dataclass(frozen=True)
class FoundInPacs:
    """One series of a server, with the attributes of a series found on disk; picklable.

    Attributes:
        name: pseudonym, see :attr:`klip_monai.io.dicomweb.RemoteSeries.name`.
        key: SeriesInstanceUID. Private.
        modality: as "CT"; empty if the server does not say, as the next two.
        description: SeriesDescription.
        body_part: BodyPartExamined.
        n_files: number of instances; 0 if the server does not say.
        n_slices: the same; 0 for a single file, which may hold any number of frames.
        rows: 0, as unknown before reading.
        columns: 0, as unknown before reading.
        copies: 0, as a server keeps each instance once.
        date: StudyDate; None if unknown. Private.
        duplicate_of: empty.
        reason: why it is not to be scored; empty if it is.
        files: where it is; None where there is a reason not to. ``with files.open() as folder`` fetches it into a
            temporary folder, deleted at the end, with the credentials in the environment of whoever opens it. Private.
    """

    name: str
    key: str
    modality: str = ""
    description: str = ""
    body_part: str = ""
    n_files: int = 0
    n_slices: int = 0
    rows: int = 0
    columns: int = 0
    copies: int = 0
    date: date | None = None
    duplicate_of: str = ""
    reason: str = ""
    files: RemoteSeries | None = None

    @property
    def is_dicom(self) -> bool:
        """Always; a server holds nothing else."""
        return True


@dataclass(frozen=True)
class PacsSource:
    """A server whose series are to be screened.

    Attributes:
        pacs: the server.
    """

    pacs: Pacs

    def series(self, filters: Filters) -> Iterator[FoundInPacs]:
        """Give the series, page by page, as they are asked for.

        Args:
            filters: which are wanted. Modality and date go to the server, and what they leave out does not appear;
                series that the rest leaves out come with the reason and without files.

        Yields:
            The series, in the order of the server, each once.

        Raises:
            PacsError: the server cannot be reached, does not let us in, or does not answer as DICOMweb.
        """
        for remote in self.pacs.find_series(modality=filters.modality, since=filters.since):
            found = FoundInPacs(
                name=remote.name,
                key=remote.series_uid,
                modality=remote.modality,
                description=remote.description,
                body_part=remote.body_part,
                n_files=remote.n_instances,
                n_slices=remote.n_instances if remote.n_instances > 1 else 0,
                date=remote.date,
            )
            reason = filters.reason_to_skip(found)
            yield replace(found, reason=reason, files=None if reason else remote)
