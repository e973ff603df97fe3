"""The ledger of a screening: what is known about each series, kept on disk and shared by processes of one machine."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from klip_monai.errors import InputError, OutputError
from klip_monai.screening.entry import Entry, State

FILE_NAME = "ledger.sqlite"
LEASE = 120.0
"""Seconds after which a process that gave no sign of life counts as dead; one on this machine is looked up besides."""

_BEAT = 10.0
_BUSY_MS = 60_000
_MAX_STARTS = 20  # a scan that took its process down each of so many times is given up
_OPEN = (State.pending.value, State.skipped.value)
_SQL_TYPES = {int: "INTEGER", float: "REAL"}
_CLAIMED = {"owner": "TEXT", "found_slices": "INTEGER", "provenance": "INTEGER", "mask": "TEXT"}  # beside the record
_DONE_AGAIN = {  # what a fresh start forgets
    "state": State.pending.value,
    "reason": "",
    "group": "",
    "attempts": 0,
}

Claim = Literal["ours", "done", "elsewhere"]


class Ledger:
    """An SQLite file with a row for each series: its :class:`Entry`, who works on it, and how it was scored.

    Claims are made in immediate transactions, so any number of processes of one machine can share a ledger. A row that
    a dead process left running is free again: a process is dead when its machine says so, or when it has not been
    heard of for :data:`LEASE` seconds. Use as a context manager: leaving it frees the rows that this process still
    holds. Several machines share the work through one process and Dask, not through the file.

    Args:
        path: the file; made if missing.

    Raises:
        OutputError: it cannot be opened or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.owner = Path(path), _identity()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._sql = self._connect()
            with self._transaction():
                self._make_tables()
                self._beat(self._sql)
        except (OSError, sqlite3.Error) as error:
            raise OutputError(
                f"ledger {self.path}: got {error}, expected a file that can be written; choose another --output"
            ) from error
        self._closing = threading.Event()
        self._heart = threading.Thread(target=self._keep_beating, daemon=True)
        self._heart.start()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the rows that this process still holds, and close the file."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._heart.join()
        with self._transaction():
            self._sql.execute(
                f"UPDATE series SET state = '{State.pending.value}' WHERE owner = ? AND state = ?",
                (self.owner, State.running.value),
            )
            self._sql.execute("DELETE FROM owners WHERE id = ?", (self.owner,))
        self._sql.close()

    def settings(self) -> dict[str, Any]:
        """What all scores of this ledger were made with; empty before the first."""
        row = self._sql.execute("SELECT value FROM facts WHERE key = 'settings'").fetchone()
        return {} if row is None else json.loads(row[0])

    def agree(self, settings: Mapping[str, Any], *, rescore: bool = False) -> None:
        """Bind the ledger to settings, so that all its scores can be compared.

        Args:
            settings: everything that changes results, JSON-able.
            rescore: take these settings, and do every series again.

        Raises:
            InputError: the ledger was made with others.
        """
        with self._transaction():
            stored, wanted = self.settings(), json.loads(json.dumps(settings))
            if stored and stored != wanted and not rescore:
                raise InputError(
                    f"settings: got {_differences(stored, wanted)} for a screening that was begun otherwise, expected "
                    "the same, as scores could not be compared; choose another --output, or --rescore to do all again"
                )
            self._sql.execute("INSERT OR REPLACE INTO facts VALUES ('settings', ?)", (json.dumps(wanted),))
            if rescore:
                self._sql.execute(*_update(_DONE_AGAIN))

    def batch_size(self, wanted: int | None, *, otherwise: int) -> int:
        """Slices that pass the network together: as wanted, else as in the last run, else ``otherwise``."""
        with self._transaction():
            row = self._sql.execute("SELECT value FROM facts WHERE key = 'batch_size'").fetchone()
            size = wanted or (otherwise if row is None else int(row[0]))
            self._sql.execute("INSERT OR REPLACE INTO facts VALUES ('batch_size', ?)", (str(size),))
        return size

    def retry(self, states: Iterable[State], *, groups: Sequence[str] = ()) -> None:
        """Do the series again that are in one of these states, for reasons of these groups; of all groups without."""
        among = f' AND "group" IN ({", ".join("?" * len(groups))})' if groups else ""
        with self._transaction():
            for state in states:
                statement, values = _update(_DONE_AGAIN)
                self._sql.execute(f"{statement} WHERE state = ?{among}", (*values, state.value, *groups))

    def redo(self, names: Iterable[str]) -> None:
        """Do these series again."""
        with self._transaction():
            for name in names:
                statement, values = _update(_DONE_AGAIN)
                self._sql.execute(f"{statement} WHERE name = ?", (*values, name))

    def claim(self, name: str, *, n_slices: int = 0, description: str = "", mask: str = "") -> Claim:
        """Take a series to work on.

        Args:
            name: of the series.
            n_slices: as the archive says; a series that has got more since it was done is done again.
            description: SeriesDescription, if asked for.
            mask: hash of the mask that it is to be scored in; a series that was scored in another one is done again.
                Empty if there are no masks; what it was scored in is then not looked at, nor if it is not known.

        Returns:
            "ours": it is now, and was counted as started; "done": nothing is left to do; "elsewhere": another process
            has it.
        """
        if self._standing(name, n_slices, mask) == "done":  # most of a second run: without the lock for writing
            return "done"
        with self._transaction():
            standing = self._standing(name, n_slices, mask)
            if standing != "ours":
                return standing
            self._sql.execute(
                "INSERT INTO series (name, state, description, n_slices, found_slices, mask, attempts, owner, updated) "
                "VALUES (?1, ?2, ?3, ?4, ?4, ?5, 1, ?6, ?7) ON CONFLICT (name) DO UPDATE SET state = excluded.state, "
                "description = excluded.description, n_slices = excluded.n_slices, "
                "found_slices = excluded.found_slices, mask = excluded.mask, "
                # One that came to an end is new now: its earlier starts are no deaths of a process.
                "attempts = CASE WHEN state = ?8 THEN 1 ELSE attempts + 1 END, "
                "owner = excluded.owner, updated = excluded.updated",
                (
                    *(name, State.running.value, description, n_slices, mask, self.owner, time.time()),
                    State.scored.value,
                ),
            )
            starts = self._sql.execute("SELECT attempts FROM series WHERE name = ?", (name,)).fetchone()[0]
        if starts <= _MAX_STARTS:
            return "ours"
        reason = f"the process died each of the {starts - 1} times that this scan was begun"
        self.finish(Entry(name, State.failed, reason, "process died", description, n_slices, attempts=starts - 1))
        return "done"

    def starts(self, name: str) -> int:
        """How often a series was started."""
        row = self._sql.execute("SELECT attempts FROM series WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def finish(self, entry: Entry, provenance: Mapping[str, Any] | None = None) -> bool:
        """Record how a series that this process holds came out.

        Returns:
            False if it is no longer ours, because this process was taken for dead; nothing is recorded then.
        """
        values = _row(entry) | {"updated": time.time()}
        with self._transaction():
            if provenance is not None:
                text = json.dumps(provenance, sort_keys=True)
                self._sql.execute("INSERT OR IGNORE INTO provenance (content) VALUES (?)", (text,))
                row = self._sql.execute("SELECT id FROM provenance WHERE content = ?", (text,)).fetchone()
                values["provenance"] = row[0]
            statement, given = _update(values)
            done = self._sql.execute(f"{statement} WHERE name = ? AND owner = ?", (*given, entry.name, self.owner))
            return done.rowcount == 1

    def skip(self, name: str, reason: str, *, group: str, n_slices: int = 0, description: str = "") -> None:
        """Record that a series is left out, unless it was done before."""
        row = self._sql.execute("SELECT state, reason FROM series WHERE name = ?", (name,)).fetchone()
        if row is not None and (row[0] not in _OPEN or row == (State.skipped.value, reason)):
            return
        entry = Entry(name, State.skipped, reason, group, description, n_slices, updated=time.time())
        values = {**_row(entry), "found_slices": n_slices}
        names = ", ".join(f'"{key}"' for key in values)
        with self._transaction():
            self._sql.execute(
                f"INSERT OR REPLACE INTO series ({names}) VALUES ({', '.join('?' * len(values))})",
                tuple(values.values()),
            )

    def standing(self, name: str, *, n_slices: int = 0, mask: str = "") -> tuple[Claim, State | None]:
        """What :meth:`claim` would answer now, and the state of the series; None if it is new."""
        row = self._sql.execute("SELECT state FROM series WHERE name = ?", (name,)).fetchone()
        return self._standing(name, n_slices, mask), None if row is None else State(row[0])

    def entries(self) -> Iterator[Entry]:
        """All series by name; one row at a time is in memory."""
        names = ", ".join(f'"{field.name}"' for field in fields(Entry))
        for row in self._sql.execute(f"SELECT {names} FROM series ORDER BY name"):
            yield _entry(row)

    def provenance(self, name: str | None = None) -> dict[str, Any] | None:
        """How a series was scored, or without a name the first that was; None unless it was."""
        row = self._sql.execute(
            "SELECT content FROM series JOIN provenance ON provenance.id = series.provenance "
            "WHERE ?1 IS NULL OR name = ?1 ORDER BY name LIMIT 1",
            (name,),
        ).fetchone()
        return None if row is None else json.loads(row[0])

    def counts(self) -> Counter[State]:
        """Number of series in each state."""
        rows = self._sql.execute("SELECT state, COUNT(*) FROM series GROUP BY state").fetchall()
        return Counter({State(state): n for state, n in rows})

    def precisions(self) -> Counter[str]:
        """Number of scored series by the arithmetic of their network, the most frequent first."""
        rows = self._sql.execute(
            "SELECT precision, COUNT(*) FROM series WHERE state = ? AND precision <> '' GROUP BY precision "
            "ORDER BY COUNT(*) DESC, precision",
            (State.scored.value,),
        )
        return Counter(dict(rows.fetchall()))

    def seconds_per_slice(self) -> float | None:
        """Mean time of reading, scoring and writing a slice, s; None before the first."""
        row = self._sql.execute(
            "SELECT SUM(read_seconds + score_seconds + write_seconds), SUM(n_slices) FROM series WHERE state = ?",
            (State.scored.value,),
        ).fetchone()
        return row[0] / row[1] if row[1] else None

    def _standing(self, name: str, n_slices: int, mask: str) -> Claim:
        row = self._sql.execute(
            "SELECT state, found_slices, owner, mask FROM series WHERE name = ?", (name,)
        ).fetchone()
        if row is None or row[0] in _OPEN:
            return "ours"
        state, found, owner, before = row
        if state == State.running.value:
            return "elsewhere" if self._lives(owner) else "ours"
        other_mask = state == State.scored.value and mask and before and mask != before
        return "ours" if other_mask or 0 < (found or 0) < n_slices else "done"

    def _lives(self, owner: str | None) -> bool:
        """Whether a process is at work still."""
        row = self._sql.execute("SELECT beat FROM owners WHERE id = ?", (owner,)).fetchone()
        if row is None or time.time() - row[0] > LEASE:
            return False
        host, pid, started = str(owner).split("|")
        return host != socket.gethostname() or _start_of(int(pid)) == started

    def _connect(self) -> sqlite3.Connection:
        sql = sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_MS / 1000)
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("PRAGMA synchronous = NORMAL")
        return sql

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._sql.execute("ROLLBACK")
            raise
        self._sql.execute("COMMIT")

    def _make_tables(self) -> None:
        """Make the tables, and the columns that a newer version added to the record."""
        for table in ("facts (key TEXT PRIMARY KEY, value TEXT)", "owners (id TEXT PRIMARY KEY, beat REAL)"):
            self._sql.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        self._sql.execute("CREATE TABLE IF NOT EXISTS provenance (id INTEGER PRIMARY KEY, content TEXT UNIQUE)")
        self._sql.execute("CREATE TABLE IF NOT EXISTS series (name TEXT PRIMARY KEY)")
        there = {row[1] for row in self._sql.execute("PRAGMA table_info(series)")}
        wanted = {name: _SQL_TYPES.get(kind, "") for name, kind in get_type_hints(Entry).items()}
        for name, kind in {**_CLAIMED, **wanted}.items():
            if name not in there:
                self._sql.execute(f'ALTER TABLE series ADD COLUMN "{name}" {kind}')
        self._sql.execute("CREATE INDEX IF NOT EXISTS series_by_state ON series (state)")

    def _beat(self, sql: sqlite3.Connection) -> None:
        sql.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (self.owner, time.time()))

    def _keep_beating(self) -> None:
        sql = self._connect()
        while not self._closing.wait(_BEAT):
            with suppress(sqlite3.OperationalError):  # a busy file: the next beat comes well within the lease
                self._beat(sql)
        sql.close()


def _identity() -> str:
    """This process, told from an earlier one with the same number."""
    return f"{socket.gethostname()}|{os.getpid()}|{_start_of(os.getpid())}"


def _start_of(pid: int) -> str:
    """When a process of this machine was started; empty if it does not run."""
    with suppress(OSError):
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if state not in "ZX":  # ended, though nobody has asked how
            return rest[18]  # clock ticks since the machine started, field 22 of proc(5)
    return ""


def _row(entry: Entry) -> dict[str, Any]:
    """An entry as values of columns: numbers and text as they are, all else as JSON."""
    values = {field.name: getattr(entry, field.name) for field in fields(entry)}
    values["state"] = entry.state.value
    return {key: json.dumps(value) if isinstance(value, tuple | dict) else value for key, value in values.items()}


def _entry(row: Iterable[Any]) -> Entry:
    """Undo :func:`_row`; columns without a value take the record's default."""
    values = {field.name: value for field, value in zip(fields(Entry), row, strict=True) if value is not None}
    for name, kind in get_type_hints(Entry).items():
        origin = getattr(kind, "__origin__", None)
        if origin in (tuple, dict) and name in values:
            values[name] = origin(json.loads(values[name]))
    return Entry(**values | {"state": State(values["state"])})


def _update(values: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """An UPDATE of the series without its condition, and its values."""
    return "UPDATE series SET " + ", ".join(f'"{key}" = ?' for key in values), tuple(values.values())


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Which settings differ, as "seed 1 (was 0)"."""
    names = sorted(key for key in {*stored, *wanted} if stored.get(key) != wanted.get(key))
    shown = [f"{key} {_short(wanted.get(key))} (was {_short(stored.get(key))})" for key in names]
    return ", ".join(shown)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else "changed" if isinstance(value, dict | list) else f"{text[:12]}..."
