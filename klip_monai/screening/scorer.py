"""Scoring one series of an archive: the same function in a thread, a worker process or on a cluster."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from klip_monai.bundle import bundle_info, open_workflow
from klip_monai.errors import BundleError, InputError, OutputError, PacsError, known_error
from klip_monai.io.dicom.files import ListedFiles
from klip_monai.io.masks.roi import Roi
from klip_monai.io.pacs.dicomweb import RemoteSeries
from klip_monai.prior.precision import precision_of
from klip_monai.report.summary import Summary
from klip_monai.scan import Case, Scorer
from klip_monai.scan.opened import Reading
from klip_monai.scan.outputs import check_outputs
from klip_monai.scan.save import PartialCaseError, save_case
from klip_monai.scoring import IDReference, settings_key
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.placement import slices_per_batch
from klip_monai.screening.reasons import NOT_NOW, group_of, without_names
from klip_monai.slice_batches import Progress

DEFAULT_OUTPUTS = ("seg-nrrd",)
_writing = threading.Lock()


class Stopped(Exception):  # noqa: N818  not an error: asked for
    """The run was stopped while a series was being scored."""


@dataclass(frozen=True)
class Model:
    """A bundle and how it is used; small, and the same wherever it is opened.

    Attributes:
        root: folder of the bundle.
        overrides: (config id, value) pairs of its inference configuration.
        seed: of measurement noise and sampling.
        outputs: which of :data:`klip_monai.scan.output_files.OUTPUTS` to write.
        repair: what to repair, see :func:`klip_monai.io.read.read_volume`.
        masks: folder with the region of each series to look at, see :meth:`klip_monai.io.masks.roi.Roi.in_folder`; None
            looks at whole scans.
        threads: CPU threads of torch; None leaves them.
        batch_size: slices that pass a GPU's network together; None is not settled yet. Another one changes scores by
            rounding only; a CPU settles it itself.
        share: share of the device's free memory that one process may use.
        device: where to compute, as in "cuda:1"; None is the bundle's choice.
    """

    root: Path
    overrides: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS
    repair: tuple[str, ...] = ()
    masks: Roi | None = None
    threads: int | None = field(default=None, compare=False)
    batch_size: int | None = field(default=None, compare=False)
    share: float = field(default=1.0, compare=False)
    device: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Job:
    """One series to score.

    Attributes:
        entry: what is known of it; its name is that of the case.
        files: what :func:`klip_monai.io.read.read_volume` accepts, or a series to fetch from a server first.
        model: what to score it with.
        output: folder of the screening.
        after: called with the folder of the case and the entry once the files are there, e.g. to send them on; the
            series fails if it raises.
        key: of the series, after which its mask may be named, see :class:`klip_monai.screening.found.FoundSeries`.
    """

    entry: Entry
    files: ListedFiles | Path | RemoteSeries
    model: Model
    output: Path
    after: Callable[[Path, Entry], None] | None = None
    key: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a series came out: its entry, how it was scored if it was, and the traceback of a failure, for a log file."""

    entry: Entry
    provenance: Mapping[str, Any] | None = None
    trace: str = ""


def case_dir(name: str) -> str:
    """Folder of a case relative to the screening's, as "cases/ab/ct-abcdef12": no folder gets too many entries."""
    return f"cases/{name.rpartition('-')[2][:2].lower() or '_'}/{name}"


def score_one(job: Job, *, stop: threading.Event | None = None) -> Outcome:
    """Read, score and write one series; what is wrong with the series is told, not raised.

    Args:
        job: the series.
        stop: ends the work at the next batch when set.

    Returns:
        Scored, refused (its data cannot be used, and the reader said why) or failed (anything else, also files that
        could not be read this time).

    Raises:
        OutputError: the output cannot be written, so that no other series could be.
        BundleError: likewise, if the bundle cannot be used.
        Stopped: if ``stop`` was set.
    """
    try:
        return _opened(job.model).run(job, stop)
    except Stopped:
        raise
    except Exception as error:
        known, trace = known_error(error), traceback.format_exc()
        if isinstance(known, OutputError | BundleError):
            raise known from None
        reason = without_names(str(known))
        if isinstance(known, InputError):
            state = State.failed if group_of(reason) in NOT_NOW else State.refused
            return Outcome(replace(job.entry, state=state, reason=reason, group=group_of(reason)))
        if isinstance(known, PacsError):
            return Outcome(failed(job.entry, reason, "server"), trace=trace)
        return Outcome(failed(job.entry, *_crash(error)), trace=trace)


def failed(entry: Entry, reason: str, group: str) -> Entry:
    """The entry of a series that could not be scored for a reason that is not in its data."""
    return replace(entry, state=State.failed, reason=reason, group=group)


@dataclass(frozen=True)
class Description:
    """What is to be known of a model before it scores.

    Attributes:
        settings: everything that its results depend on, but for the batch size; JSON-able.
        batch_size: slices that fit the device together.
        reference: what its scores are compared with.
        precision: arithmetic of its network there, which changes scores by rounding only.
    """

    settings: Mapping[str, Any]
    batch_size: int
    reference: IDReference
    precision: str


def describe(model: Model) -> Description:
    """Open a model and tell what its scores depend on."""
    opened = _opened(model)
    return Description(opened.settings, opened.fitting_batch(), opened.reference, opened.precision)


def _crash(error: BaseException) -> tuple[str, str]:
    """Reason and group of an unexpected error; its message is left out, as it may hold paths and tags."""
    causes: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None:
        causes.append(seen)
        seen = seen.__cause__ or seen.__context__
    if any(isinstance(cause, MemoryError | torch.cuda.OutOfMemoryError) for cause in causes):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return "ran out of memory; a smaller --batch-size or fewer --workers need less", "out of memory"
    name = type(causes[-1]).__name__
    return f"stopped by an unexpected {name}", f"unexpected {name}"


class _Opened:
    """A model ready to score, one scan at a time, while others are read and written."""

    def __init__(self, model: Model) -> None:
        if model.threads is not None:
            torch.set_num_threads(model.threads)
        overrides = {key: list(value) if isinstance(value, tuple) else value for key, value in model.overrides}
        if model.device is not None:
            overrides["device"] = f"$torch.device('{model.device}')"
        info = bundle_info(model.root)
        workflow = open_workflow(info, "inference.json", kind="inference", seed=model.seed, **overrides)
        workflow.initialize()
        scorer, self.model = Scorer.of(workflow.parser), model
        assert scorer.reference is not None
        self.reference = scorer.reference
        self.scorer = scorer if model.batch_size is None else _in_batches_of(scorer, model.batch_size)
        self.precision = precision_of(scorer.network, scorer.device)
        self._turn = threading.Lock()
        self.settings = {
            "bundle": info.name,
            "bundle_version": info.version,
            "reference": settings_key(self.reference.describe()),
            "seed": model.seed,
            "repair": sorted(model.repair),
            "outputs": list(model.outputs),
            **scorer.settings,
            **({"roi": model.masks.labels or "all labels"} if model.masks else {}),
        }

    def fitting_batch(self) -> int:
        """Slices that fit the device together."""
        shape, size = self.scorer.grid.image_shape, self.scorer.inferer.batch_size
        return slices_per_batch(self.scorer.network, shape, self.scorer.device, share=self.model.share, default=size)

    def run(self, job: Job, stop: threading.Event | None) -> Outcome:
        """Read, score and write a series; it is at hand all the time, as DICOM outputs take its headers over."""

        def check(*_: int) -> None:
            if stop is not None and stop.is_set():
                raise Stopped

        with _at_hand(job.files) as files:
            case = self._score(files, job, check)
            folder = job.output / case_dir(job.entry.name)
            with _writing:
                check()
                start = time.perf_counter()
                shutil.rmtree(folder, ignore_errors=True)  # what an earlier try left
                summary = _saved(case, folder, job.model.outputs)
                write = time.perf_counter() - start
            entry = replace(
                scored(job.entry, summary, n_slices=case.slices),
                precision=self.precision,
                read_seconds=case.seconds["read"],
                score_seconds=case.seconds["score"],
                write_seconds=write,
            )
            if job.after is not None:
                job.after(folder, entry)
            return Outcome(entry, summary.provenance.to_json())

    def _score(self, files: ListedFiles | Path, job: Job, check: Progress) -> Case:
        masks = job.model.masks
        roi = masks and masks.in_folder(job.key, job.entry.name)
        scan = self.scorer.read(files, roi=roi, reading=Reading(repair=job.model.repair))
        scan.volume.meta |= {"name": job.entry.name, "filename_or_obj": files, "series_uid": ""}
        check_outputs(scan.volume, job.model.outputs)
        check(0, 0)
        return self.scorer.score(scan, progress=check, turn=self._turn)


def _in_batches_of(scorer: Scorer, slices: int) -> Scorer:
    return scorer.changed(batch_size=slices * scorer.inferer.sampling.samples)


def _saved(case: Case, folder: Path, outputs: Sequence[str]) -> Summary:
    """Write a case; the remarks of its summary say what could not be."""
    try:
        return save_case(case, folder, outputs=outputs).summary
    except PartialCaseError as error:
        return error.saved.summary


def scored(entry: Entry, summary: Summary, *, n_slices: int) -> Entry:
    """The entry of a series that was scored, with what its summary says."""
    first = next(iter(summary.candidates), None)
    return replace(
        entry,
        state=State.scored,
        n_slices=n_slices,
        scan_score=summary.scan_score,
        p_value=summary.p_value,
        remarks=summary.remarks,
        volume_ml=dict(summary.volume_ml),
        worst_slice=summary.worst.voxel[2],
        top_slices=summary.worst.slices,
        n_candidates=summary.candidate_count,
        first_ras_mm=() if first is None else first.peak_ras_mm,
        first_ml=None if first is None else first.volume_ml,
        case_dir=case_dir(entry.name),
    )


def _at_hand(files: ListedFiles | Path | RemoteSeries) -> AbstractContextManager[ListedFiles | Path]:
    """Files where they lie, or fetched for as long as they are needed."""
    return files.open() if isinstance(files, RemoteSeries) else nullcontext(files)


_opening = threading.Lock()
_cached = lru_cache(maxsize=1)(_Opened)


def _opened(model: Model) -> _Opened:
    """The model of this process, opened once; threads that come meanwhile wait."""
    with _opening:
        return _cached(model)
