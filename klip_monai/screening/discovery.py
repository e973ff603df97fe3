"""Find the series of an archive: an index on disk of files and series, made from headers and kept up to date."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

from klip_monai.errors import InputError, OutputError
from klip_monai.io.dicom.files import DicomFile, DicomFiles, ListedFiles, Member
from klip_monai.io.dicom.pixels import quiet_pydicom
from klip_monai.io.dicom.scan import scan_headers
from klip_monai.io.dicom.volumes import distinct
from klip_monai.io.kinds import BAD_ARCHIVE, DAMAGED, GZIP, UNREADABLE
from klip_monai.io.names import pseudonym
from klip_monai.screening.found import ArchiveCounts, FoundSeries, SeriesFilter
from klip_monai.screening.headers import (
    ARCHIVE,
    IMAGE,
    NO_UID,
    VOLUME_FILE,
    Facts,
    Task,
    member_place,
    read_files,
    read_members,
)
from klip_monai.screening.index_schema import ALIKE, DUPLICATES, SCHEMA, SUMMARISE, VERSION
from klip_monai.screening.same_or_lost import attribute_lost, hash_of_pixels
from klip_monai.screening.walk import listings

_Located = tuple[DicomFile, tuple[int, bytes]]
_COMMIT_EVERY = 4096
_CACHED_KEYS = 20_000
_DIGITS = (8, 12, 16, 64)
_WANTED = SeriesFilter()
_FILE = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, ?, ?, ?)"
_PLACE = "folders.path, folder, files.name, offset, size, method, packed, crc, streamed"


class ArchiveIndex:
    """The files and series of an archive in one SQLite file; a context manager.

    The file is private: it holds paths and UIDs, so only its owner may read it. What :class:`FoundSeries` calls
    `name`, and :meth:`counts`, may be shown.

    Args:
        path: the index; made if it does not exist. It has to be on a disk of this machine.

    Raises:
        InputError: a file that is no such index.
        OutputError: it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            # SQLite gives its journals the same permissions.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            os.chmod(self.path, 0o600)
        except OSError as error:
            raise OutputError(
                f"index: got {error.strerror} for {str(self.path)!r}, expected a writable file; choose another folder"
            ) from error
        self._db = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise InputError(
                f"index: got {str(self.path)!r}, which is no index of this version, expected one or none; move it away"
            ) from error
        self._ids: dict[str, int] = {}

    def __enter__(self) -> ArchiveIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def update(
        self,
        sources: Iterable[Path],
        *,
        progress: Callable[[int, int], None] | None = None,
        workers: int | None = None,
    ) -> None:
        """Bring the index up to date with the sources; what they no longer hold is dropped.

        Files of known path, size and time of change are not read again, so an interrupted update goes on where it
        stopped. Damaged and unreadable files, folders and archives are counted and passed by.

        Args:
            sources: folders, archives and files; see :func:`klip_monai.screening.walk.listings`.
            progress: called now and then with the number of files and of series so far.
            workers: processes that read headers in large archives; None for one a core, at most 8.

        Raises:
            InputError: a source does not exist.
        """
        workers = workers or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        run = 1 + int(self._one("SELECT coalesce(max(seen), 0) FROM folders"))
        self._n_files = 0
        self._n_series = int(self._one("SELECT count(*) FROM series"))

        def report() -> None:
            if progress is not None:
                progress(self._n_files, self._n_series)

        with closing(read_files(self._tasks(sources, run), workers=workers)) as read:
            self._db.execute("BEGIN")
            try:
                for count, (task, facts) in enumerate(read, start=1):
                    if facts.what == ARCHIVE:
                        facts = self._add_archive(task, run)
                    self._add(task.folder_id, task.name, task.size, task.mtime, facts)
                    if count % _COMMIT_EVERY == 0:
                        self._commit()
                        report()
                self._drop_unseen(run)
                for statement in SUMMARISE:
                    self._db.execute(statement)
                self._confirm_duplicates()
                self._commit()
                self._split_series()
                attribute_lost(self._db)
            finally:
                if self._db.in_transaction:
                    self._db.execute("COMMIT")
        report()

    def series(self, filters: SeriesFilter = _WANTED) -> Iterator[FoundSeries]:
        """Give every series, sorted by name; those that are not wanted with the reason and without files.

        Args:
            filters: which are wanted.
        """
        rows = self._db.execute(
            "SELECT one.id, one.parent, one.volume, one.is_dicom, one.date, other.name, "
            "one.name, one.key, one.modality, one.description, one.body_part, "
            "one.n_files, one.n_slices, one.rows, one.columns, one.copies "
            "FROM series AS one LEFT JOIN series AS other ON other.id = one.duplicate_of "
            "WHERE NOT one.split ORDER BY one.name"
        )
        for ident, parent, volume, is_dicom, day, original, *values in rows:
            found = FoundSeries(*values)
            found = replace(found, date=_date(day), duplicate_of=original or "", is_dicom=bool(is_dicom))
            reason = filters.reason_to_skip(found)
            files: ListedFiles | Path | None = None
            if not reason:
                located = self._located(parent or ident, volume)
                if is_dicom:
                    located += self._lost(parent or ident, len(located))
                listed = tuple(file for file, _ in located)
                uid = "" if found.key.startswith(NO_UID) else found.key.partition("#")[0]
                files = ListedFiles(found.name, listed, uid) if is_dicom else listed[0].path
            yield replace(found, reason=reason, files=files)

    def counts(self) -> ArchiveCounts:
        """Sum up what the index holds."""
        what: dict[str, int] = dict(
            self._db.execute(
                "SELECT what, count(*) FROM files WHERE what IS NOT NULL AND what <> ? GROUP BY what", (VOLUME_FILE,)
            )
        )
        problems = self._db.execute("SELECT problem, count(*) FROM folders WHERE problem <> '' GROUP BY problem")
        damaged = {word: what.pop(word) for word in (DAMAGED, UNREADABLE, BAD_ARCHIVE) if word in what} | dict(problems)
        what.pop(ARCHIVE, None)
        return ArchiveCounts(
            files=self._one("SELECT count(*) FROM files"),
            series=self._one("SELECT count(*) FROM series WHERE NOT split"),
            passed_over=what,
            damaged=damaged,
            duplicates=self._one("SELECT coalesce(sum(copies), 0) FROM series WHERE parent IS NULL"),
            duplicate_series=self._one("SELECT count(*) FROM series WHERE duplicate_of IS NOT NULL"),
        )

    def _prepare(self) -> None:
        """Make the tables of a new file."""
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA cache_size = -65536")
        version = self._one("PRAGMA user_version")
        if 0 < version < VERSION:  # of an earlier version: it is made anew
            for (table,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                self._db.execute(f"DROP TABLE {table}")
            version = 0
        if version == 0 and not self._one("SELECT count(*) FROM sqlite_master"):
            self._db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            raise sqlite3.DatabaseError("another version")

    def _one(self, query: str, values: tuple[Any, ...] = ()) -> Any:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _commit(self) -> None:
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")

    def _tasks(self, sources: Iterable[Path], run: int) -> Iterator[Task]:
        """List the sources, note what is gone, and give the files that are new or have changed."""
        for listing in listings(sources, leave_out=self.path.parent.resolve()):
            ident, seen = self._folder(listing.path, run, listing.problem)
            if seen == run or listing.problem:
                continue
            known = self._known(ident) if seen else {}
            for name, size, mtime in listing.entries:
                *stamp, what = known.pop(name, (None, None, None))
                task = Task(ident, listing.path, name, size, mtime)
                if what == ARCHIVE:
                    self._archive_seen(task.path, run if stamp == [size, mtime] else 0)
                if stamp == [size, mtime]:
                    self._n_files += 1
                else:
                    yield task
            gone = [(ident, os.fsencode(name)) for name in known]
            self._db.executemany("DELETE FROM files WHERE folder = ? AND name = ?", gone)

    def _known(self, folder_id: int) -> dict[str, tuple[int, int, str | None]]:
        """Size, time of change and kind of a folder's files as indexed; members of archives have no time."""
        rows = self._db.execute(
            "SELECT name, size, mtime, what FROM files WHERE folder = ? AND mtime IS NOT NULL", (folder_id,)
        )
        return {os.fsdecode(name): (size, mtime, what) for name, size, mtime, what in rows}

    def _folder(self, path: str, run: int, problem: str = "") -> tuple[int, int]:
        """Number of a folder, and the update that saw it before; 0 for none."""
        key = os.fsencode(path)
        row = self._db.execute("SELECT id, seen FROM folders WHERE path = ?", (key,)).fetchone()
        if row is None:
            made = self._db.execute("INSERT INTO folders (path, seen, problem) VALUES (?, ?, ?)", (key, run, problem))
            return int(made.lastrowid or 0), 0
        self._db.execute("UPDATE folders SET seen = ?, problem = ? WHERE id = ?", (run, problem, row[0]))
        if problem:
            self._db.execute("DELETE FROM files WHERE folder = ?", (row[0],))
        return row

    def _archive_seen(self, path: str, run: int) -> None:
        """Keep what is known of an unchanged archive's members, or drop it (run 0)."""
        ident = self._one("SELECT id FROM folders WHERE path = ?", (os.fsencode(path),))
        if run:
            self._db.execute("UPDATE folders SET seen = ? WHERE id = ?", (run, ident))
        else:
            self._db.execute("DELETE FROM files WHERE folder = ? AND mtime IS NULL", (ident,))

    def _add_archive(self, task: Task, run: int) -> Facts:
        """Add the members of an archive; gives what the archive is."""
        ident, _ = self._folder(task.path, run)
        self._db.execute("DELETE FROM files WHERE folder = ?", (ident,))
        what = GZIP
        try:
            for count, (file, facts) in enumerate(read_members(Path(task.path)), start=1):
                assert file.member is not None
                self._add(ident, file.name, file.member.size, None, facts, file.member)
                what = ARCHIVE
                if count % _COMMIT_EVERY == 0:
                    self._commit()
        except (InputError, OSError):
            self._db.execute("DELETE FROM files WHERE folder = ?", (ident,))
            what = BAD_ARCHIVE
        return Facts(what)

    def _add(
        self, folder_id: int, name: str, size: int | None, mtime: int | None, facts: Facts, member: Member | None = None
    ) -> None:
        """Add one file, and its series if that is new."""
        self._n_files += 1
        series = self._series_id(facts) if facts.key else None
        mtime = -1 if facts.what == UNREADABLE else mtime  # to be tried again
        what = None if facts.what == IMAGE else facts.what
        self._db.execute(
            _FILE,
            (
                *(folder_id, os.fsencode(name), size, mtime, what, series, facts.instance, facts.frames),
                *(facts.position, facts.traits, *(member_place(member) if member else (None,) * 5)),
            ),
        )

    def _series_id(self, facts: Facts) -> int:
        """Number of a series; a new one takes its description from this file, and a name no other has."""
        ident: Any = self._ids.get(facts.key) or self._one("SELECT id FROM series WHERE key = ?", (facts.key,))
        if ident is None:
            names = (pseudonym(facts.key, digits=digits) for digits in _DIGITS)
            name = next(name for name in names if not self._one("SELECT count(*) FROM series WHERE name = ?", (name,)))
            made = self._db.execute(
                "INSERT INTO series (key, name, is_dicom, modality, description, body_part, rows, columns, date) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (facts.key, name, facts.what == IMAGE, *facts.series),
            )
            ident = made.lastrowid
            self._n_series += 1
        if len(self._ids) >= _CACHED_KEYS:
            self._ids.clear()
        self._ids[facts.key] = ident
        return int(ident)

    def _drop_unseen(self, run: int) -> None:
        """Drop what lay in folders and archives that this update has not met."""
        self._db.execute("DELETE FROM files WHERE folder IN (SELECT id FROM folders WHERE seen <> ?)", (run,))
        self._db.execute("DELETE FROM folders WHERE seen <> ?", (run,))
        self._ids.clear()

    def _located(self, series_id: int, volume: int | None = None) -> list[_Located]:
        """The files of a series or of one of its volumes, with their keys in the index.

        Copies are among them: whether they show the same, only their pixels tell.
        """
        rows = self._db.execute(
            f"SELECT {_PLACE} FROM files JOIN folders ON folders.id = folder WHERE series = ? AND volume IS ? "
            "ORDER BY coalesce(streamed, 0), folder, files.name",
            (series_id, volume),
        )
        return _files(rows)

    def _lost(self, series_id: int, count: int) -> list[_Located]:
        """Files that cannot be read and may be slices of a series, numbered behind those that can."""
        rows = self._db.execute(
            f"SELECT {_PLACE} FROM lost JOIN files USING (folder, name) JOIN folders ON folders.id = folder "
            "WHERE lost.series = ? ORDER BY coalesce(streamed, 0), folder, files.name",
            (series_id,),
        )
        return _files(rows, count)

    def _confirm_duplicates(self) -> None:
        """Hold the pixels of series against each other that have the same instances at the same places."""
        for ident, content in self._db.execute(ALIKE).fetchall():
            files = ListedFiles("series", tuple(file for file, _ in self._located(ident)))
            self._db.execute("UPDATE series SET pixels = ? WHERE id = ?", (f"{content} {hash_of_pixels(files)}", ident))
        self._db.execute(DUPLICATES)

    def _split_series(self) -> None:
        """Tell the volumes of CT series apart whose slices share places, as the reader does."""
        candidates = self._db.execute(
            "SELECT id, key, name, content FROM series WHERE is_dicom AND parent IS NULL AND modality = 'CT' "
            "AND (n_places < n_files OR n_places IS NULL AND n_files > 1 OR is_mixed) "
            "AND duplicate_of IS NULL AND looked_at IS NOT content"
        ).fetchall()
        for ident, key, name, content in candidates:
            self._db.execute("UPDATE files SET volume = NULL WHERE series = ?", (ident,))
            located = dict(self._located(ident))
            with quiet_pydicom(), DicomFiles(ListedFiles(name, tuple(located))) as files:
                volumes = list(scan_headers(files).volumes.values())
            sources = [list(dict.fromkeys(header.source for header in headers)) for headers in volumes]
            if len(volumes) == 1 or len(set(chain(*sources))) < sum(map(len, sources)):  # volumes within one file
                volumes, sources = [], []
            self._db.execute("UPDATE series SET looked_at = ?, split = ? WHERE id = ?", (content, bool(volumes), ident))
            for number, (headers, held) in enumerate(zip(volumes, sources, strict=True), start=1):
                self._db.executemany(
                    "UPDATE files SET volume = ? WHERE folder = ? AND name = ?",
                    [(number, *located[source]) for source in held],
                )
                self._db.execute(
                    "INSERT INTO series (key, name, is_dicom, modality, description, body_part, rows, columns, date, "
                    "n_files, n_slices, copies, parent, volume) "
                    "SELECT ?, ?, is_dicom, modality, description, body_part, rows, columns, date, ?, ?, 0, id, ? "
                    "FROM series WHERE id = ?",
                    (f"{key}#{number}", f"{name}.{number}", len(held), len(distinct(headers)), number, ident),
                )
            self._commit()


def _files(rows: Iterable[tuple[Any, ...]], count: int = 0) -> list[_Located]:
    """Files of rows of the index, numbered from a count on: their names may be those of patients."""
    located: list[_Located] = []
    for number, (path, folder, name, offset, *place) in enumerate(rows, start=count + 1):
        member, where = None, os.fsdecode(path)
        if offset is not None:
            member = Member(offset, *place)
        elif name:
            where = os.path.join(where, os.fsdecode(name))
        located.append((DicomFile(f"file {number}", Path(where), member), (folder, name)))
    return located


def _date(written: str | None) -> date | None:
    """A DICOM date (PS3.5, 6.2); None for anything else."""
    try:
        return date.fromisoformat("-".join((written[:4], written[4:6], written[6:8]))) if written else None
    except ValueError:
        return None
