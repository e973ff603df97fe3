"""A DICOMweb server as an archive to screen, and as the place where overlays are filed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from klip_monai.io.names import pseudonym
from klip_monai.io.pacs.dicomweb import Pacs, RemoteSeries
from klip_monai.screening.entry import Entry
from klip_monai.screening.found import FoundSeries, SeriesFilter

_FILED = ("*_seg.dcm", "*_pm.dcm")


def series_in_pacs(pacs: Pacs, filters: SeriesFilter) -> list[FoundSeries]:
    """List the series of a server, sorted by name.

    Args:
        pacs: the server.
        filters: which are wanted. Modality and date go to the server, and what they leave out does not appear; series
            that the rest leaves out come with the reason and without files.

    Returns:
        Each series once, with the day of its study as date. Its files are fetched by whoever opens them.

    Raises:
        PacsError: the server cannot be reached, does not let us in, or does not answer as DICOMweb.
    """
    remotes = list(pacs.find_series(modality=filters.modality, since=filters.since))
    return sorted(
        (_found(remote, name, filters) for remote, name in zip(remotes, _names(remotes), strict=True)),
        key=lambda found: found.name,
    )


@dataclass(frozen=True)
class Push:
    """Files the overlays of a case on a server; picklable.

    Args:
        pacs: the server.
    """

    pacs: Pacs

    def __call__(self, folder: Path, entry: Entry) -> None:
        """Store what the folder of a scored case has.

        Raises:
            PacsError: the server did not take all.
        """
        self.pacs.store(path for pattern in _FILED for path in folder.glob(pattern))


def _found(remote: RemoteSeries, name: str, filters: SeriesFilter) -> FoundSeries:
    found = FoundSeries(
        name=name,
        key=remote.series_uid,
        modality=remote.modality,
        description=remote.description,
        body_part=remote.body_part,
        n_files=remote.n_instances,
        n_slices=remote.n_instances if remote.n_instances > 1 else 0,  # one file may hold any number
        date=remote.date,
    )
    reason = filters.reason_to_skip(found)
    return replace(found, reason=reason, files=None if reason else remote)


def _names(remotes: list[RemoteSeries]) -> Iterator[str]:
    """Pseudonyms; longer ones where two series would share one."""
    times: dict[str, int] = {}
    for remote in remotes:
        times[remote.name] = times.get(remote.name, 0) + 1
    for remote in remotes:
        yield remote.name if times[remote.name] == 1 else pseudonym(remote.series_uid, digits=16)
