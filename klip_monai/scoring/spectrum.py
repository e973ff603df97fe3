"""The KL density by noise level: one sampling pass, from which every window can be read afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from klip_monai.scoring.density import Window, squared_move

if TYPE_CHECKING:
    from klip_monai.sampling import Step


class DensitySpectrum:
    """Sums the KL density of the steps it is called with by bins of noise level, under each of several low-passes.

    What a `KLAccumulator` sums for one window is here kept apart by bins whose sums are those of
    any window that begins and ends at their edges. Memory grows with bins and low-passes, not with steps.

    Args:
        edges: descending noise levels, at least two; K + 1 edges make K bins. Steps outside are left out, and steps
            that straddle an edge count in each bin with the part inside.
        lowpass_px: standard deviations of the low-pass, in pixels; 0 counts all spatial frequencies.

        noise_px: see `KLAccumulator`.

    Raises:
        ValueError: unless there are two edges or more, descending, and a low-pass.
    """

    def __init__(self, edges: Sequence[float], *, lowpass_px: Sequence[float] = (0.0,), noise_px: float = 0.0) -> None:
        if len(edges) < 2 or any(high <= low for high, low in pairwise(edges)) or not lowpass_px:
            raise ValueError(
                f"edges, lowpass_px: got {list(edges)} and {list(lowpass_px)}, expected two descending noise levels or "
                "more, and a low-pass or more"
            )
        self.edges, self.lowpass_px = tuple(map(float, edges)), tuple(map(float, lowpass_px))
        self.noise_px = noise_px
        self._bins = [Window(high, low) for high, low in pairwise(self.edges)]
        self._sum: torch.Tensor | None = None

    def __call__(self, step: Step) -> None:
        """Add one step."""
        weights = [window.weight(step.sigma, step.sigma_next) for window in self._bins]
        if not any(weights):
            return
        if self._sum is None:
            batch, _, *shape = step.denoised_prior.shape
            self._sum = step.denoised_prior.new_zeros(batch, len(self.lowpass_px), len(self._bins), *shape)
        for row, lowpass in enumerate(self.lowpass_px):
            moved = squared_move(step, lowpass_px=lowpass, noise_px=self.noise_px)[:, 0]
            for column, weight in enumerate(weights):
                if weight > 0:
                    self._sum[:, row, column].add_(moved, alpha=weight)

    def densities(self, *, samples: int = 1, draws: int = 1) -> torch.Tensor:
        """The sums.

        Args:
            samples: posterior samples of each slice, which lie next to each other in the batch; averaged.
            draws: number of passes over the levels that were accumulated; averaged.

        Returns:
            float32 (B, L, K, H, W), nats per pixel, for L low-passes and K bins.

        Raises:
            ValueError: if no step fell into a bin.
        """
        if self._sum is None:
            raise ValueError(f"edges: no step had a noise level within {self.edges[0]:g} to {self.edges[-1]:g}")
        return self._sum.unflatten(0, (-1, samples)).mean(dim=1) / draws

    def bins(self, window: Window) -> slice:
        """The bins that make up a window, which may exceed the edges at either end.

        Raises:
            ValueError: if the window begins or ends between two edges, or holds no bin.
        """
        high, low = min(window.high, self.edges[0]), max(window.low, self.edges[-1])
        at = [min(range(len(self.edges)), key=lambda i: abs(self.edges[i] - level)) for level in (high, low)]
        exact = all(abs(self.edges[i] - level) <= 1e-6 * level for i, level in zip(at, (high, low), strict=True))
        if not exact or at[0] >= at[1]:
            raise ValueError(
                f"window: got {window.high:g} to {window.low:g}, expected two of the edges "
                + ", ".join(f"{edge:g}" for edge in self.edges)
            )
        return slice(at[0], at[1])
