"""Scoring slices with any method, in parts that are kept, so that a study that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from klip_monai.evaluation.method import Method
from klip_monai.evaluation.reading import Reading, Readings
from klip_monai.inferer import KLIPInferer
from klip_monai.prior import Denoiser, weights_hash
from klip_monai.prior.files import write_whole

PART = 16
"""Slices that are scored, and kept, together."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Scored:
    """What a method said of slices.

    Attributes:
        maps: float32 (B, 1, H, W), or (B, 2, H, W) of a KLIP that is sharp, before smoothing; None from a method that
            does not localise.
        scores: float64 (B,) from such a method; None if there are maps.
        smoothing_px: smoothing that the maps are meant to be given, pixels.
        statistic: how a smoothed map becomes a slice score.
        calibration: how strongly the map is also to be calibrated by local contrast; 0 not, unless there are two.
        skin_px: rim of the body that the map is to leave out, pixels.
        passes: NFE, network passes a slice.
        seconds: wall time a slice.
        memory_mb: most memory taken while scoring, above what was taken before; None where it cannot be told.
        settings: of the method, JSON-able.
    """

    maps: torch.Tensor | None
    scores: torch.Tensor | None
    smoothing_px: float
    statistic: Literal["max", "sum"]
    calibration: float
    skin_px: float
    passes: int
    seconds: float
    memory_mb: float | None
    settings: Mapping[str, Any]


def score_slices(
    method: Method | Readings,
    images: torch.Tensor,
    network: Denoiser,
    *,
    smoothing_px: float,
    keep: str | Path | None = None,
    fitted_to: torch.Tensor | None = None,
    report: Callable[[int], None] | None = None,
) -> dict[str, Scored]:
    """Score slices, part by part.

    Args:
        method: what to score with.
        images: standard slices in [-1, 1], float32 (B, 1, H, W), on the network's device.
        network: the prior.
        smoothing_px: smoothing of the maps of methods that bring none of their own, pixels.
        keep: folder that each part is kept in, under a name that follows from everything it depends on; None keeps
            nothing. Parts found there are not scored again.
        fitted_to: healthy slices that the method was fitted to, which its settings do not tell.
        report: called with the number of slices done after each part.

    Returns:
        By name of the reading; a single entry "" for a method that has none.
    """
    layout = _layout(method, smoothing_px)
    run = _runner(method, network)
    parts: list[dict[str, Any]] = []
    done = 0
    for batch in images.split(PART):
        path = None if keep is None else Path(keep) / f"{_key(method, batch, network, fitted_to)}.npz"
        part = None if path is None else _load(path)
        if part is None:
            with peak_memory(batch.device) as memory:
                start = time.perf_counter()
                part = {name: values.cpu().numpy() for name, values in run(batch).items()}
                part["seconds"] = np.asarray(time.perf_counter() - start)
            part["memory_mb"] = np.asarray(np.nan if memory.mb is None else memory.mb)
            if path is not None:
                _save(path, part)
        parts.append(part)
        done += len(batch)
        if report is not None:
            report(done)
    seconds = float(sum(part["seconds"] for part in parts)) / len(images)
    memory_mb = float(np.max([part["memory_mb"] for part in parts]))
    common: dict[str, Any] = {"passes": method.passes, "seconds": seconds, "settings": method.describe()}
    result = {}
    for name, reading in layout.items():
        values = torch.from_numpy(np.concatenate([part[f"map {name}"] for part in parts]))
        result[name] = replace(
            reading,
            maps=values if values.ndim == 4 else None,
            scores=None if values.ndim == 4 else values.double(),
            memory_mb=None if np.isnan(memory_mb) else memory_mb,
            **common,
        )
    return result


def _layout(method: Method | Readings, smoothing_px: float) -> dict[str, Scored]:
    """What there will be, still empty."""

    def empty(reading: Reading) -> Scored:
        how = (reading.smoothing_px, reading.statistic, reading.calibration, reading.skin_px)
        return Scored(None, None, *how, passes=0, seconds=0.0, memory_mb=None, settings={})

    if isinstance(method, Readings):
        return {name: empty(reading) for name, reading in method.readings.items()}
    if isinstance(method, KLIPInferer):
        own = method.reading
        read = Reading(smoothing_px=own.smoothing_px, calibration=own.strength, skin_px=own.skin_px)
        return {"": empty(read)}
    return {"": empty(Reading(smoothing_px=smoothing_px))}


def _runner(method: Method | Readings, network: Denoiser) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """From a part's slices to its arrays, by the names they are kept under."""
    if isinstance(method, Readings):
        return lambda batch: {f"map {name}": maps for name, maps in method.densities(batch, network).items()}
    if isinstance(method, KLIPInferer):
        plain = method.changed(smoothing_px=0.0)
        return lambda batch: {"map ": plain(batch, network)}
    return lambda batch: {"map ": method(batch, network)}


def _key(method: Method | Readings, images: torch.Tensor, network: Denoiser, fitted_to: torch.Tensor | None) -> str:
    """Names a part by all that it depends on."""
    prior = weights_hash(network) if isinstance(network, nn.Module) else repr(network)
    seed = getattr(method.inferer if isinstance(method, Readings) else method, "seed", None)
    what = json.dumps([type(method).__name__, method.describe(), seed, prior], sort_keys=True)
    digest = hashlib.sha256(what.encode())
    for slices in (images, fitted_to):
        if slices is not None:
            digest.update(slices.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def _load(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _save(path: Path, part: Mapping[str, Any]) -> None:
    def save(draft: Path) -> None:
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **part)

    write_whole(path, save)


class _Peak:
    """Most memory taken, MB; None until it is known, and where it cannot be told."""

    mb: float | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[_Peak]:
    """Watch the most memory that the block takes above what was taken before it.

    On CUDA what torch allocated; on the CPU of Linux the resident memory of the process, elsewhere nothing.
    """
    peak = _Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.mb = (torch.cuda.max_memory_allocated(device) - before) / 1e6
        return
    try:
        _CLEAR.write_text("5")  # forget the highest so far
        resident = _resident("VmRSS")
    except OSError:
        yield peak
        return
    yield peak
    peak.mb = max(0.0, _resident("VmHWM") - resident)


def _resident(field: str) -> float:
    """A field of the process's status, MB."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6
