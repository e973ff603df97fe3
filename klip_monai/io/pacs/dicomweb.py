"""A DICOMweb server (DICOM PS3.18) as a source of series, and as the place where derived objects are filed.

QIDO-RS finds series, WADO-RS fetches one, STOW-RS files what was derived from it. Nothing else is ever asked of a
server: it cannot lose or change what it holds. Credentials come from the environment only (``KLIP_PACS_USER`` with
``KLIP_PACS_PASSWORD``, or ``KLIP_PACS_TOKEN``), so that no command line, configuration or pickle carries them.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from klip_monai.errors import InputError, OutputError, PacsError, printable
from klip_monai.io.pacs.http import PASSWORD, USER, check_is_of, checked_uid, is_whole, named_errors, open_client
from klip_monai.io.pacs.scratch import scratch_folder
from klip_monai.io.pacs.store import derived, doubt_in, outcome_of, refusal_in

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from pydicom import Dataset
    from requests import Response

_SERIES_URL = re.compile(r"(?P<base>https?://.+?)(/studies/(?P<study>[^/]+)(/series/(?P<series>[^/]+))?)?/?", re.I)
_TAGS = {
    "study_uid": "0020000D",
    "series_uid": "0020000E",
    "modality": "00080060",
    "description": "0008103E",
    "body_part": "00180015",
    "date": "00080020",
    "n_instances": "00201209",
}
_ASKED_FOR = ("StudyDate", "SeriesDescription", "BodyPartExamined", "NumberOfSeriesRelatedInstances")
_AS_STORED = (("application/dicom", "*"),)
_WHOLE_BODY = 2**40  # bytes; a body sent in one piece can be sent again
_MAX_LISTED = 8


def is_url(text: str) -> bool:
    """Whether an input is an http or https address instead of a path."""
    return text.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class Pacs:
    """A DICOMweb server; a plain value that holds no connection and no credentials, and may be pickled.

    Attributes:
        url: base of the service, as in ``https://pacs.example.org/dicom-web``.
        ca_bundle: PEM file of the authorities that its certificate is verified with; None takes
            ``KLIP_PACS_CA_BUNDLE``, else those of the system.
        timeout: seconds without a byte after which the server is taken for dead.
        retries: how often what may pass (no connection, a busy server, an answer that broke off) is tried again.
        backoff: pause between tries, s; doubles with each further one.

    Raises:
        InputError: when built, for another address than http or https, or one that holds a password.
    """

    url: str
    ca_bundle: str | None = None
    timeout: float = 60.0
    retries: int = 3
    backoff: float = 0.5

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise InputError(
                f"url: got an address with credentials in it, expected none; set {USER} and {PASSWORD} instead"
            )
        if not is_url(self.url) or not parts.hostname or parts.query or parts.fragment:
            raise InputError(
                f"url: got {self.url!r}, expected the base of a DICOMweb service such as https://host/dicom-web; check "
                "the address"
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def check(self) -> None:
        """Ask for one study, to learn before long work whether the server is there and lets us in.

        Raises:
            PacsError: if not.
        """
        client = self._client()
        with named_errors(self.url):
            client.search_for_studies(limit=1)

    def find_series(
        self,
        *,
        study_uid: str | None = None,
        series_uid: str | None = None,
        modality: str | None = None,
        body_part: str | None = None,
        description: str | None = None,
        since: date | None = None,
        page: int = 200,
    ) -> Iterator[RemoteSeries]:
        """Find series (QIDO-RS), page by page as they are asked for.

        The server narrows down by what the standard obliges it to match (UIDs, modality, date of the study); all
        filters are applied here again, as servers ignore what they do not know.

        Args:
            study_uid: StudyInstanceUID.
            series_uid: SeriesInstanceUID.
            modality: as "CT".
            body_part: BodyPartExamined, upper or lower case.
            description: SeriesDescription, upper or lower case, with the wildcards ``*`` and ``?``.
            since: first day of studies; those without a date are left out.
            page: how many series to ask for at once.

        Yields:
            The series, in the order of the server, each once.

        Raises:
            InputError: a UID that is none.
            PacsError: the server cannot be reached, does not let us in, does not answer as DICOMweb, or does not page.
        """
        study_uid = study_uid and checked_uid("study_uid", study_uid)
        asked = {
            "SeriesInstanceUID": series_uid and checked_uid("series_uid", series_uid),
            "Modality": modality,
            "StudyDate": since and f"{since:%Y%m%d}-",
        }
        search = {keyword: value for keyword, value in asked.items() if value}
        filters = {"series_uid": series_uid, "modality": modality, "body_part": body_part, "description": description}
        wanted = {name: value for name, value in filters.items() if value}
        client, offset, before = self._client(), 0, set[str]()
        while True:
            with named_errors(self.url):
                items = client.search_for_series(
                    study_uid, limit=page, offset=offset, fields=_ASKED_FOR, search_filters=search
                )
                found = {series.series_uid: series for series in (_remote(self, item, study_uid) for item in items)}
            if not found.keys() - before:
                # The end, or a server that knows no pages and sends the first again: whole if longer than asked for.
                if found and not series_uid and offset == len(before) <= page:
                    raise PacsError(
                        f"{self.url}: got the same {len(before)} series for the first and the second page, and perhaps "
                        "not all it has, expected pages by offset; give the address of a series, or ask its operator"
                    )
                return
            for uid, series in found.items():
                if uid not in before and _matches(series, wanted, since):
                    yield series
            # Servers may send fewer than asked for, so only an empty page is the end.
            offset, before = offset + len(items), set(found)

    def fetch_series(
        self,
        study_uid: str,
        series_uid: str,
        folder: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Fetch all instances of a series (WADO-RS) as they are stored, compressed or not.

        Instances are written one after the other as they arrive: memory holds one at a time. File names tell nothing.

        Args:
            study_uid: StudyInstanceUID.
            series_uid: SeriesInstanceUID.
            folder: where to; made if missing, readable by its owner only.
            progress: called after each instance with (instances fetched, instances in total).

        Returns:
            Number of instances.

        Raises:
            InputError: no such series.
            PacsError: the server cannot be reached, does not let us in, sent less than it has, or something else.
            OutputError: the folder cannot be written to.
        """
        remote = next(self.find_series(study_uid=study_uid, series_uid=series_uid), None)
        if remote is None:
            raise InputError(f"{self.url}: got no such series in this study, expected one; check the address")
        from requests.exceptions import ChunkedEncodingError

        n_fetched, complete, written = 0, True, list[Path]()
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.backoff * 2 ** (attempt - 1))
                while written:
                    written.pop().unlink(missing_ok=True)
            with named_errors(self.url):
                try:
                    n_fetched, complete = self._download(remote, Path(folder), written, progress)
                except ChunkedEncodingError:
                    if attempt == self.retries:
                        raise
                    continue
            if complete and n_fetched >= max(remote.n_instances, 1):
                return n_fetched
        raise PacsError(
            f"{self.url}: got {n_fetched} instances of a series of {remote.n_instances or 'an unknown number'}"
            f"{'' if complete else ', which the server calls a part'}, expected all; try again, or ask its operator "
            "whether the series is complete"
        )

    def store(self, objects: Iterable[Dataset | str | os.PathLike[str]]) -> int:
        """File derived objects (STOW-RS), one request each, so that one refused object does not take the others along.

        Args:
            objects: datasets or DICOM files whose ImageType is DERIVED; others are refused before anything is sent.

        Returns:
            Number of objects stored.

        Raises:
            InputError: an object that is not derived, or a file that is not DICOM.
            PacsError: the server cannot be reached, does not let us in, or did not take all; says which it took.
        """
        datasets = [derived(item) for item in objects]
        answers: list[Response] = []
        client = self._client(answers.append)
        client.set_chunk_size(_WHOLE_BODY)
        stored, failed = [], []
        for dataset in datasets:
            what = str(dataset.SOPClassUID.name).removesuffix(" Storage")
            answers.clear()
            try:
                with named_errors(self.url):
                    outcome = client.store_instances([dataset]) or outcome_of(answers[-1])
                reason = refusal_in(outcome) or doubt_in(outcome, answers[-1], dataset)
            except PacsError as error:
                reason = (refusal_in(outcome_of(answers[-1])) if answers else "") or str(error)
            if reason:
                failed.append(f"{what} ({reason})")
            else:
                stored.append(what)
        if failed:
            raise PacsError(
                f"{self.url}: got {len(stored)} of {len(datasets)} objects stored ({', '.join(stored) or 'none'}), "
                f"expected all; refused: {'; '.join(failed)}"
            )
        return len(stored)

    def _client(self, on_answer: Callable[[Response], None] | None = None) -> DICOMwebClient:
        return open_client(
            self.url,
            ca_bundle=self.ca_bundle,
            timeout=self.timeout,
            retries=self.retries,
            backoff=self.backoff,
            on_answer=on_answer,
        )

    def _download(
        self, remote: RemoteSeries, folder: Path, written: list[Path], progress: Callable[[int, int], None] | None
    ) -> tuple[int, bool]:
        """Write all that the server sends of a series; gives how many instances, and whether it calls that the whole.

        What comes twice is written twice: whether it is the same, the reader tells from the pixels.
        """
        answers, uids = list[bool](), set[tuple[str, str]]()
        client = self._client(lambda answer: answers.append(is_whole(answer)))
        sent = client.iter_series(remote.study_uid, remote.series_uid, media_types=_AS_STORED)
        for number, dataset in enumerate(sent, start=1):
            check_is_of(dataset, remote.study_uid, remote.series_uid, self.url)
            uids.add((str(dataset.SOPInstanceUID), str(dataset.get("ImagePositionPatient", ""))))
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                written.append(folder / f"{number:06d}.dcm")
                dataset.save_as(written[-1], enforce_file_format=True)
            except OSError as error:
                raise OutputError(
                    f"folder: cannot write a fetched series ({error.strerror}); free some room"
                ) from error
            if progress is not None:
                progress(len(uids), max(remote.n_instances, len(uids)))
        return len(uids), all(answers)


@dataclass(frozen=True)
class RemoteSeries:
    """One series of a DICOMweb server; may be pickled, and fetches itself wherever it is opened.

    Attributes:
        pacs: the server.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        modality: "CT", "MR", ...; empty if the server does not say, as the others.
        description: SeriesDescription.
        body_part: BodyPartExamined.
        date: day of the study, None if unknown.
        n_instances: number of files; 0 if the server does not say.
    """

    pacs: Pacs
    study_uid: str
    series_uid: str
    modality: str = ""
    description: str = ""
    body_part: str = ""
    date: date | None = None
    n_instances: int = 0

    @property
    def name(self) -> str:
        """Pseudonym: "ct-" and 8 hexadecimal digits of the SHA-256 of the series UID."""
        return f"ct-{hashlib.sha256(self.series_uid.encode()).hexdigest()[:8]}"

    def __str__(self) -> str:
        description = self.description or "no description"
        return f"{self.series_uid} ({self.modality or 'no modality'}, {description}, {self.n_instances} files)"

    @contextmanager
    def open(self, *, progress: Callable[[int, int], None] | None = None) -> Iterator[Path]:
        """Fetch the series into a folder that is deleted at the end, see :mod:`klip_monai.io.pacs.scratch`.

        Args:
            progress: called after each instance with (instances fetched, instances in total).

        Yields:
            Folder for :func:`klip_monai.io.read_volume`, which takes the pseudonym from it.

        Raises:
            InputError, PacsError, OutputError: as :meth:`Pacs.fetch_series`.
        """
        with scratch_folder() as top:
            folder = top / self.name
            self.pacs.fetch_series(self.study_uid, self.series_uid, folder, progress=progress)
            yield folder


def series_at(url: str, series_uid: str | None = None) -> RemoteSeries:
    """Find the one series that an address means.

    Args:
        url: ``https://host/dicom-web/studies/STUDY/series/SERIES`` of a series, or ``.../studies/STUDY`` of a study
            with one CT series, or with ``series_uid`` either that or the base of the service.
        series_uid: SeriesInstanceUID, where the address does not name it.

    Raises:
        InputError: no such series, several, or an address that means none.
        PacsError: the server cannot be reached, does not let us in, or does not answer as DICOMweb.
    """
    match = _SERIES_URL.fullmatch(url)
    base, study, series = match.group("base", "study", "series") if match else (url, None, None)
    pacs = Pacs(base)
    if series and series_uid and series != series_uid:
        raise InputError(
            f"series_uid: got {series_uid!r} with the address of another series, expected one of them; leave it out"
        )
    series = series or series_uid
    if not (study or series):
        raise InputError(
            f"{url}: got a whole server, expected one series; add /studies/STUDY/series/SERIES or give --series-uid"
        )
    found = list(pacs.find_series(study_uid=study, series_uid=series, modality=None if series else "CT"))
    if not found:
        what = "series" if series else "study with a CT series"
        raise InputError(f"{pacs.url}: got no such {what}, expected one that the server has; check the UIDs")
    if len(found) > 1:
        listed = "; ".join(map(str, found[:_MAX_LISTED])) + ("; and more" if len(found) > _MAX_LISTED else "")
        raise InputError(
            f"{pacs.url}: got {len(found)} CT series, expected one; choose one with --series-uid: {listed}"
        )
    return found[0]


def _remote(pacs: Pacs, item: Mapping[str, Mapping[str, Sequence[Any]]], study_uid: str | None) -> RemoteSeries:
    """A series from the DICOM JSON of a search, which may leave out the study that was searched."""
    text = {name: str((item.get(tag, {}).get("Value") or [""])[0] or "").strip() for name, tag in _TAGS.items()}
    day = re.fullmatch(r"(\d{4})(\d\d)(\d\d)", text["date"])
    try:
        studied = date(*map(int, day.groups())) if day else None
    except ValueError:
        studied = None
    return RemoteSeries(
        pacs=pacs,
        study_uid=study_uid or checked_uid("StudyInstanceUID", text["study_uid"]),
        series_uid=checked_uid("SeriesInstanceUID", text["series_uid"]),
        modality=text["modality"],
        description=printable(text["description"]),
        body_part=printable(text["body_part"]),
        date=studied,
        n_instances=int(text["n_instances"] or 0),
    )


def _matches(series: RemoteSeries, wanted: Mapping[str, str], since: date | None) -> bool:
    if since is not None and (series.date is None or series.date < since):
        return False
    return all(
        fnmatchcase(getattr(series, name).upper(), value.upper().replace("[", "[[]")) for name, value in wanted.items()
    )
