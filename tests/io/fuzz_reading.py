"""Read thousands of damaged scans and sinograms, each in a process that may crash, hang or run out of memory.

    python tests/io/fuzz_reading.py --files 20000 --seed 0 --seconds 1500
    python tests/io/fuzz_reading.py --seed 0 --replay 4711

A damaged input may be read, or be refused with one line that says what was got and what was expected. Anything else is
a finding: another exception, a warning, a crash, more than ten seconds, or more than 1.5 GiB of memory.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom.config
from fuzz_corpus import Specimen, specimens
from fuzz_mutations import Files, mutated

from klip_monai.errors import KlipError
from klip_monai.io import index_series, read_volume
from klip_monai.io.files.nrrd import read_nrrd  # noqa: F401 (the workers are copies of this process: slow imports first)
from klip_monai.io.files.sinogram import read_sinogram
from klip_monai.screening.discovery import ArchiveIndex
from klip_monai.screening.found import SeriesFilter

SECONDS = 10.0
GROWTH_MB = 1536
_ADDRESS_SPACE = 4 * 2**30
_RENEWED_MB = 512
_FOLDER = "Patient4711"
_SECRETS = ("Secret", "SECRET", _FOLDER)
_SCREEN_EVERY = 4


class Outcome(NamedTuple):
    """What became of a damaged input: "read", "refused" or "BAD", and the message or what was wrong."""

    what: str
    detail: str


@dataclass
class Tally:
    """Outcomes by specimen, and the findings: number, specimen, what was done to it, what was wrong."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[tuple[int, str, str, str]] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(sum(counts.values()) for counts in self.outcomes.values())


def draw_case(corpus: Sequence[Specimen], seed: int, number: int) -> tuple[Specimen, Files, str]:
    """The damaged input of this number: its specimen, its files, and what was done."""
    specimen = corpus[number % len(corpus)]
    return specimen, *mutated(specimen, np.random.default_rng([seed, number]))


def read(specimen: Specimen, files: Files, number: int, folder: Path) -> Outcome:
    """Put the files into a folder, read them in every way there is, and judge the outcome."""
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / _FOLDER
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    path = source / specimen.target
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)
        name = None
        try:
            reasons = []
            if specimen.kind in ("dicom", "archive"):
                found = index_series(path).series
                reasons = [info.reason for info in found]
                name = found[0].name if len(found) > 1 else None
            if specimen.kind != "sinogram" and number // 37 % _SCREEN_EVERY == 0:
                reasons += _screened(source, folder / "index.sqlite")
        except KlipError as error:
            reasons, name = [], None
            if problem := _unfit(str(error), secrets=_SECRETS[:2]):
                return Outcome("BAD", f"index: {problem}")
        except Exception as error:
            return Outcome("BAD", f"index: {_where(error)}")
        for reason in reasons:
            if reason and (not reason.isprintable() or any(secret in reason for secret in _SECRETS)):
                return Outcome("BAD", f"reason unfit to be shown: {reason!r}")
        try:
            if specimen.kind == "sinogram":
                sinogram = read_sinogram(path, source / "geometry.json")
                sinogram.geometry(image_shape=(16, 16), pixel_mm=2.0)
                sinogram.scale((-160.0, 240.0))
            else:
                read_volume(path, series_uid=name, repair=("gaps",) if number % 3 == 0 else ())
            outcome = Outcome("read", "")
        except KlipError as error:
            problem = _unfit(str(error), secrets=_SECRETS[:2])
            outcome = Outcome("BAD", problem) if problem else Outcome("refused", str(error))
        except Exception as error:
            return Outcome("BAD", _where(error))
    if caught:
        return Outcome("BAD", f"warning: {caught[0].category.__name__}: {caught[0].message} ({caught[0].filename})")
    return outcome


def _screened(source: Path, index: Path) -> list[str]:
    """Index the folder as a screening does, read what it found, and give the reasons of what cannot be read."""
    for file in index.parent.glob(f"{index.name}*"):
        file.unlink()
    reasons = []
    with ArchiveIndex(index) as archive:
        archive.update([source], workers=1)
        archive.counts()
        for series in archive.series(SeriesFilter(min_slices=1)):
            reasons.append(series.reason)
            if series.files is None or isinstance(series.files, Path):  # files with a path are read below
                continue
            try:
                read_volume(series.files)
            except KlipError as error:
                reasons.append(str(error))
                if problem := _unfit(str(error), secrets=_SECRETS):
                    raise AssertionError(problem) from error
    return reasons


def _unfit(message: str, *, secrets: Sequence[str]) -> str:
    """Why a message is no use to the reader; "" if it is."""
    if not message.isprintable():
        return f"message of several lines or with control characters: {message!r}"
    if not ("got" in message and "expected" in message):
        return f"message without got and expected: {message}"
    if len(message) > 4000:
        return f"message of {len(message)} characters: {message[:300]}"
    if any(secret in message.replace("\\", "") for secret in secrets):
        return f"message that tells who the patient is: {message}"
    return ""


def _where(error: BaseException) -> str:
    """The exception, and the innermost line of this package that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "klip_monai" in frame.filename] or frames
    last = frames[-1]
    return (
        f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno} "
        f"(raised at {Path(last.filename).name}:{last.lineno}): {str(error)[:300]}"
    )


def _serve(channel: Connection, errors: int, corpus: Sequence[Specimen], seed: int, folder: Path) -> None:
    """Read the inputs whose numbers come in; the main loop of a worker."""
    os.dup2(errors, 2)
    faulthandler.enable(errors)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        number = channel.recv()
        specimen, files, what = draw_case(corpus, seed, number)
        channel.send((specimen.name, what))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = read(specimen, files, number, folder)
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        if growth > GROWTH_MB:
            outcome = Outcome("BAD", f"memory grew by {growth} MB; {outcome.what}: {outcome.detail}")
        channel.send((outcome, growth))


class _Worker:
    """A process that reads damaged inputs, and is replaced when it breaks."""

    def __init__(self, corpus: Sequence[Specimen], seed: int, folder: Path) -> None:
        self._start = (corpus, seed, folder)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._errors = (folder / "stderr").open("w+b")

    def outcome(self, number: int) -> tuple[str, str, Outcome]:
        """Name of the specimen, what was done to it, and the outcome."""
        if self._process is None:
            context = multiprocessing.get_context("fork")
            self._channel, theirs = context.Pipe()
            corpus, seed, folder = self._start
            arguments = (theirs, self._errors.fileno(), corpus, seed, folder / "read")
            self._process = context.Process(target=_serve, args=arguments, daemon=True)
            self._process.start()
            theirs.close()
        self._errors.truncate(0)
        name, what = "?", "?"
        try:
            self._channel.send(number)
            if self._channel.poll(120):
                name, what = self._channel.recv()
            if not self._channel.poll(SECONDS):
                self.stop()
                return name, what, Outcome("BAD", f"hung for over {SECONDS:.0f} s")
            outcome, growth = self._channel.recv()
        except (EOFError, ConnectionError):
            self._process.join(10)
            code = self._process.exitcode
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").partition("Extension modules")[0][-900:]
            self.stop()
            return name, what, Outcome("BAD", f"crashed with exit code {code}: {said}")
        if growth > _RENEWED_MB:
            self.stop()
        return name, what, outcome

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
            self._channel.close()


def fuzz(corpus: Sequence[Specimen], numbers: Sequence[int], *, seed: int, seconds: float) -> Iterator[Tally]:
    """Read damaged inputs until the numbers or the time are used up; the same tally after each."""
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    tally, end = Tally(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        worker = _Worker(corpus, seed, Path(folder))
        try:
            for number in numbers:
                if time.monotonic() > end:
                    break
                name, what, outcome = worker.outcome(number)
                tally.outcomes.setdefault(name, Counter())[outcome.what] += 1
                if outcome.what == "BAD":
                    tally.findings.append((number, name, what, outcome.detail.replace(folder, "")))
                elif outcome.what == "refused":
                    short = re.sub(r"'[^']*'|[-+]?[\d.]+(e[-+]?\d+)?", "*", outcome.detail.replace(folder, ""))
                    tally.refusals[short[:150]] += 1
                yield tally
        finally:
            worker.stop()


def _report(tally: Tally, elapsed: float) -> None:
    for name, counts in sorted(tally.outcomes.items()):
        print(f"{name:24} " + "  ".join(f"{what} {counts[what]:6}" for what in ("read", "refused", "BAD")))
    all_ = Counter[str]()
    for counts in tally.outcomes.values():
        all_ += counts
    print(f"{'all':24} " + "  ".join(f"{what} {all_[what]:6}" for what in ("read", "refused", "BAD")))
    print(
        f"{tally.total} files in {elapsed:.0f} s, {tally.total / elapsed:.1f} a second; {len(tally.findings)} findings"
    )


def main() -> int:
    """Command line; 1 if there were findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--only", default="", help="specimens whose name holds this")
    parser.add_argument("--replay", type=int, default=None, help="read one again, with its traceback")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the files of --replay")
    parser.add_argument("--refusals", action="store_true", help="list the reasons, most frequent first")
    options = parser.parse_args()
    corpus = specimens()
    digest = hashlib.sha256(json.dumps([s.name for s in corpus]).encode())
    for specimen in corpus:
        for name, content in specimen.files.items():
            digest.update(name.encode() + content)
    print(f"{len(corpus)} specimens, SHA-256 {digest.hexdigest()[:12]}", flush=True)
    if options.replay is not None:
        pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        specimen, files, what = draw_case(corpus, options.seed, options.replay)
        print(f"{specimen.name}: {what}")
        with tempfile.TemporaryDirectory() as made:
            print(*read(specimen, files, options.replay, options.keep or Path(made)), sep=": ")
        return 0
    numbers = range(options.first, options.first + options.files)
    chosen = [number for number in numbers if options.only in corpus[number % len(corpus)].name]
    start, shown, tally = time.monotonic(), 0, Tally()
    for tally in fuzz(corpus, chosen, seed=options.seed, seconds=options.seconds):
        for finding in tally.findings[shown:]:
            print(*finding, sep=" | ", flush=True)
        shown = len(tally.findings)
        if tally.total % 2000 == 0:
            print(f"{tally.total} files, {shown} findings, {time.monotonic() - start:.0f} s", flush=True)
    if options.refusals:
        for reason, count in tally.refusals.most_common():
            print(f"{count:6} {reason}")
    _report(tally, time.monotonic() - start)
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
