"""Scoring copies of one scan under several settings, with no network pass made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from klip_monai.bundle import find_reference, scoring_settings
from klip_monai.inferer import KLIPInferer
from klip_monai.prior import Denoiser
from klip_monai.scan import Scorer
from klip_monai.scoring import ContextNull, SliceMoves
from klip_monai.slice_batches import Progress, Work
from klip_monai.slice_generator import SliceGenerator
from klip_monai.standard import PriorGrid

Memory = MutableMapping[Hashable, SliceMoves]
"""Moves of single slices, by all that they follow from."""

# What is done with moves once the network has made them.
_READING = ("smoothing_px", "lowpass_z_mm", "smoothing_z_mm", "calibration", "null", "skin_px", "twin_smoothing_px")


def scores_by_settings(
    settings: Mapping[str, Mapping[str, Any]],
    *,
    network: Denoiser,
    inferer: KLIPInferer,
    grid: PriorGrid,
    weights: str | Path,
    id_references: str | Path,
    device: torch.device | str = "cpu",
) -> dict[str, Scorer]:
    """A bundle's score under several settings, each with the ID reference that was made with them.

    Args:
        settings: by name, what differs from ``inferer``, see :meth:`KLIPInferer.changed`. With ``null`` "none", or a
            ``calibration`` of 0, the density stays as it is and no reference is needed.
        network: the prior.
        inferer: the bundle's.
        grid: the prior's slice format.
        weights: file of the prior.
        id_references: folder of the bundle's references.
        device: where the network is.

    Raises:
        BundleError: if there is no reference for one of them.
    """
    scores = {}
    for name, changes in settings.items():
        changed = inferer.changed(**changes)
        reference = None
        if changed.reading.strength:
            reference = find_reference(id_references, scoring_settings(weights, grid, changed))
        scores[name] = Scorer(network, changed, grid=grid, reference=reference, device=device)
    return scores


def context_nulls(
    rows: Mapping[str, object], *, weights: str | Path, grid: PriorGrid, id_references: str | Path
) -> dict[str, ContextNull]:
    """The nulls by context of those inferers among ``rows`` that have one, from the references made with them.

    Raises:
        BundleError: if there is no reference for one of them.
    """
    found = {}
    for name, row in rows.items():
        if isinstance(row, KLIPInferer) and row.reading.null == "context":
            expected = find_reference(id_references, scoring_settings(weights, grid, row)).expected
            assert isinstance(expected, ContextNull)
            found[name] = expected
    return found


def passes_of(score: Scorer) -> Hashable:
    """What the moves of slices follow from, but for the slices: equal for scores that read the same moves."""
    inferer = score.inferer
    described = {name: value for name, value in inferer.describe().items() if name not in _READING}
    return id(score.network), inferer.seed, json.dumps(described, sort_keys=True)


def remembering(score: Scorer, memory: Memory) -> Scorer:
    """The same score, which makes network passes only for slices that the memory lacks, and adds them to it.

    The noise of a slice follows from the seed and its place alone, so the heat map is what it would be without.

    Args:
        score: what to score with; stays as it is.
        memory: one for all scores, as long as the networks of all of them exist. Progress is of the slices that the
            network sees.
    """
    inferer = _Remembering(score.inferer, memory, passes_of(score))
    return Scorer(score.network, inferer, grid=score.grid, reference=score.reference, device=score.device)


class _Remembering(KLIPInferer):
    """An inferer that remembers moves."""

    def __init__(self, inferer: KLIPInferer, memory: Memory, passes: Hashable) -> None:
        vars(self).update(vars(inferer))  # a copy: all settings were checked when it was made
        self._memory, self._passes = memory, passes

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Denoiser,
        *args: Any,
        slice_mm: float | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Map the slices (Z, 1, H, W) of one scan; always from moves, which in the plane come to the same."""
        return self.maps(inputs, network, slice_mm=[slice_mm], progress=progress)[0]

    @contextmanager
    def batches(
        self,
        slices: torch.Tensor,
        work: Callable[[torch.Tensor, SliceGenerator], Work],
        *,
        places: Sequence[int] | None = None,
        any_number: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Iterator[tuple[list[int], Work]]]:
        """Like the inferer's, with what was worked out before first; ``work`` gives moves."""
        at = list(range(len(slices)) if places is None else places)
        pixels = slices.cpu().numpy()
        keys = [
            (self._passes, place, hashlib.blake2b(image.tobytes(), digest_size=16).digest())
            for place, image in zip(at, pixels, strict=True)
        ]
        # What is new stays in the memory, so a slice that is known now stays so.
        known = [n for n, key in enumerate(keys) if key in self._memory]
        unknown = [n for n, key in enumerate(keys) if key not in self._memory]

        def results(each: Iterator[tuple[list[int], Work]]) -> Iterator[tuple[list[int], Work]]:
            for n in known:
                yield [n], self._memory[keys[n]]  # type: ignore[misc]
            for members, made in each:
                for row, member in enumerate(members):
                    self._memory[keys[unknown[member]]] = made[row : row + 1]  # type: ignore[assignment]
                yield [unknown[member] for member in members], made

        some = slices[unknown]
        where = [at[n] for n in unknown]
        with super().batches(some, work, places=where, any_number=any_number, progress=progress) as each:
            yield results(each)
