"""The series of a DICOMweb server as a source for screening."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from klip_monai.io.dicomweb import Pacs, RemoteSeries


class Filters(Protocol):
    """What narrows the search down at the server; all else is decided on what was found."""

    @property
    def modality(self) -> str | None:
        """As "CT"."""

    @property
    def since(self) -> date | None:
        """First day of studies."""


@dataclass(frozen=True)
class FoundInPacs:
    """One series of a server, without anything that tells who the patient is but its handle.

    Attributes:
        files: the series, which may be pickled; ``with files.open() as folder`` fetches it into a temporary folder
            that is deleted at the end, with the credentials of the environment of whoever opens it.
    """

    files: RemoteSeries

    @property
    def name(self) -> str:
        """Pseudonym, see :attr:`klip_monai.io.dicomweb.RemoteSeries.name`."""
        return self.files.name

    @property
    def key(self) -> str:
        """SHA-256 of the series UID, hexadecimal: the same series on any server."""
        return hashlib.sha256(self.files.series_uid.encode()).hexdigest()

    @property
    def modality(self) -> str:
        """As "CT"; empty if the server does not say, as the next two."""
        return self.files.modality

    @property
    def description(self) -> str:
        """SeriesDescription."""
        return self.files.description

    @property
    def body_part(self) -> str:
        """BodyPartExamined."""
        return self.files.body_part

    @property
    def n_slices(self) -> int:
        """Number of instances; 0 if the server does not say, and 1 for a multi-frame file."""
        return self.files.n_instances

    @property
    def date(self) -> date | None:
        """Day of the study; None if unknown."""
        return self.files.date


@dataclass(frozen=True)
class PacsSource:
    """A server whose series are to be screened.

    Attributes:
        pacs: the server.
    """

    pacs: Pacs

    def series(self, filters: Filters) -> Iterator[FoundInPacs]:
        """Find series page by page, as they are asked for.

        Args:
            filters: modality and date go to the server, which leaves out what does not match; the rest is for the
                caller to decide on what was found.

        Yields:
            The series, in the order of the server, each once.

        Raises:
            PacsError: the server cannot be reached, does not let us in, or does not answer as DICOMweb.
        """
        yield from map(FoundInPacs, self.pacs.find_series(modality=filters.modality, since=filters.since))
