"""Scoring one series of an archive: the same function in a thread, a worker process or on a cluster."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils import convert_to_dst_type

from klip_monai.bundle import bundle_info, open_workflow
from klip_monai.errors import BundleError, InputError, OutputError, PacsError, known_error
from klip_monai.io.dicom_files import ListedFiles
from klip_monai.io.dicomweb import RemoteSeries
from klip_monai.io.roi import Roi
from klip_monai.prior.precision import precision_of
from klip_monai.scoring import IDReference, settings_key
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.placement import slices_per_batch
from klip_monai.screening.reasons import group_of, without_names
from klip_monai.standard import slice_distance
from klip_monai.transforms import SaveOverlayd

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
        outputs: which of :data:`klip_monai.output_files.OUTPUTS` to write.
        masks: folder with the region of each series to look at, see :meth:`klip_monai.io.roi.Roi.in_folder`; None
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
    masks: Roi | None = None
    threads: int | None = field(default=None, compare=False)
    batch_size: int | None = field(default=None, compare=False)
    share: float = field(default=1.0, compare=False)
    device: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Job:
    """One series to score.

    Attributes:
        entry: what is known of it; its name is that of the case, also for NIfTI, NRRD and MetaImage files, which
            `score` names by their voxels and an archive's index by their bytes, as it does not decode them.
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
        Scored, refused (its data cannot be used, and the reader said why) or failed (anything else).

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
            return Outcome(replace(job.entry, state=State.refused, reason=reason, group=group_of(reason)))
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


class _Scorer:
    """A model ready to score, one scan at a time, while others are read and written."""

    def __init__(self, model: Model) -> None:
        if model.threads is not None:
            torch.set_num_threads(model.threads)
        overrides = {key: list(value) if isinstance(value, tuple) else value for key, value in model.overrides}
        overrides |= {"seed": model.seed, "outputs": list(model.outputs)}
        if model.device is not None:
            overrides["device"] = f"$torch.device('{model.device}')"
        self.model = model
        workflow = open_workflow(bundle_info(model.root), "inference.json", kind="inference", **overrides)
        workflow.initialize()
        names = ("grid", "preprocessing", "postprocessing", "inferer", "network", "device", "settings", "reference")
        parts = {name: workflow.parser.get_parsed_content(name) for name in names}
        self._read: Compose = parts["preprocessing"]
        *finish, save = parts["postprocessing"].transforms
        if not isinstance(save, SaveOverlayd):
            raise BundleError(
                f"bundle {model.root.name}: got {type(save).__name__} as the last transform after scoring, expected "
                "SaveOverlayd; write the case last"
            )
        self._finish, self._save = Compose(finish), save
        self._grid, self._inferer, self._network, self._device = (
            parts[name] for name in ("grid", "inferer", "network", "device")
        )
        self._turn = threading.Lock()
        info, self.reference = bundle_info(model.root), parts["reference"]
        self.precision = precision_of(self._network, self._device)
        self.settings = {
            "bundle": info.name,
            "bundle_version": info.version,
            "reference": settings_key(self.reference.describe()),
            "seed": model.seed,
            "repair": sorted(overrides.get("repair", [])),
            "outputs": list(model.outputs),
            **parts["settings"],
            **({"roi": model.masks.labels or "all labels"} if model.masks else {}),
        }

    def fitting_batch(self) -> int:
        """Slices that fit the device together."""
        shape, size = self._grid.image_shape, self._inferer.batch_size
        return slices_per_batch(self._network, shape, self._device, share=self.model.share, default=size)

    def run(self, job: Job, stop: threading.Event | None) -> Outcome:
        """Read, score and write a series; it is at hand all the time, as DICOM outputs take its headers over."""
        start = time.perf_counter()
        with _at_hand(job.files) as files:
            return self._run(replace(job, files=files), stop, start)

    def _run(self, job: Job, stop: threading.Event | None, start: float) -> Outcome:
        masks = job.model.masks
        data = self._read({"image": job.files, "roi": masks and masks.in_folder(job.key, job.entry.name)})
        _rename(data, job)
        n_slices = int(data["image"].shape[-1])  # a file may store its axes in any order
        read = time.perf_counter() - start
        data["pred"], score = self._score(data["image"], job.model, stop)
        start = time.perf_counter()
        data = self._finish(data)
        score += time.perf_counter() - start
        folder = job.output / case_dir(job.entry.name)
        with _writing:
            if stop is not None and stop.is_set():
                raise Stopped
            start = time.perf_counter()
            shutil.rmtree(folder, ignore_errors=True)  # what an earlier try left
            summary = self._save.into(folder)(data)["summary"]
            write = time.perf_counter() - start
        first = next(iter(summary["candidates"]), None)
        entry = replace(
            job.entry,
            state=State.scored,
            n_slices=n_slices,
            scan_score=float(summary["scan_score"]),
            p_value=float(summary["p_value"]),
            remarks=tuple(summary["remarks"]),
            volume_ml=dict(summary["volume_ml"]),
            worst_slice=int(summary["worst"]["voxel"][2]),
            top_slices=tuple(int(z) for z in summary["worst"]["slices"]),
            n_candidates=int(summary["candidate_count"]),
            first_ras_mm=() if first is None else tuple(first["peak_ras_mm"]),
            first_ml=None if first is None else float(first["volume_ml"]),
            case_dir=case_dir(job.entry.name),
            precision=self.precision,
            read_seconds=read,
            score_seconds=score,
            write_seconds=write,
        )
        if job.after is not None:
            job.after(folder, entry)
        return Outcome(entry, summary["provenance"])

    def _score(self, image: MetaTensor, model: Model, stop: threading.Event | None) -> tuple[torch.Tensor, float]:
        """Density of standard slices (1, H, W, Z), with what is needed to bring it back, and the seconds it took."""

        def check(*_: int) -> None:
            if stop is not None and stop.is_set():
                raise Stopped

        size = model.batch_size or self._inferer.batch_size
        inferer = self._inferer.changed(progress=check, batch_size=size * self._inferer.samples)
        slices = image.as_subclass(torch.Tensor).permute(3, 0, 1, 2).float()
        apart = slice_distance(image.affine.numpy())
        with self._turn:  # a scan has the device for itself; meanwhile others are read and written
            check()
            start = time.perf_counter()
            maps = inferer(slices.to(self._device), self._network, slice_mm=apart).cpu()
            seconds = time.perf_counter() - start
        return convert_to_dst_type(maps.permute(1, 2, 3, 0).contiguous(), image, dtype=maps.dtype)[0], seconds


def _at_hand(files: ListedFiles | Path | RemoteSeries) -> AbstractContextManager[ListedFiles | Path]:
    """Files where they lie, or fetched for as long as they are needed."""
    return files.open() if isinstance(files, RemoteSeries) else nullcontext(files)


def _rename(data: dict[Any, Any], job: Job) -> None:
    """Call the volume by its pseudonym; its UID stays only where a DICOM output needs it to find its study."""
    for volume in (data["image"], data["source"]):
        volume.meta |= {"name": job.entry.name, "filename_or_obj": job.files}
        if not any(output.startswith("dicom") for output in job.model.outputs):
            volume.meta["series_uid"] = ""


_opening = threading.Lock()
_cached = lru_cache(maxsize=1)(_Scorer)


def _opened(model: Model) -> _Scorer:
    """The model of this process, opened once; threads that come meanwhile wait."""
    with _opening:
        return _cached(model)
