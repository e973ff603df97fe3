"""The map of a scan, read from the moves of its slices while they come."""

from __future__ import annotations

from dataclasses import replace

import torch
from monai.data import MetaTensor

from klip_monai.scoring import AlongScan, SliceMoves, smooth
from klip_monai.standard import slice_distance


class ScanReading:
    """Takes the moves of a scan's slices in whatever order, and makes each map once its neighbours are there.

    Args:
        slices: the scan's standard slices, float32 (Z, 1, H, W).
        slice_mm: their distance, mm; None reads each by itself.
        lowpass_z_mm: low-pass of the moves along the scan, mm.
        smoothing_z_mm: Gaussian smoothing of the map along the scan, mm.
        smoothing_px: that in the plane, pixels.
        twin_smoothing_px: Gaussian smoothing of the twins' mean density, pixels.
        sharp: whether the maps have the density of all spatial frequencies as a second channel.

    Attributes:
        maps: float32 (Z, 1, H, W), or (Z, 2, H, W) if ``sharp``; zero where a slice has not been made or shows air.
    """

    def __init__(
        self,
        slices: torch.Tensor,
        *,
        slice_mm: float | None,
        lowpass_z_mm: float,
        smoothing_z_mm: float,
        smoothing_px: float,
        twin_smoothing_px: float,
        sharp: bool,
    ) -> None:
        self.maps = slices.new_zeros(len(slices), 1 + sharp, *slices.shape[2:])
        self._smoothing_px, self._twin_smoothing_px, self._sharp = smoothing_px, twin_smoothing_px, sharp
        sigmas = (lowpass_z_mm, smoothing_z_mm) if slice_mm else (0.0, 0.0)
        self._moves, self._smoothed = (
            AlongScan(len(slices), slice_mm=slice_mm or 1.0, sigma_mm=sigma) for sigma in sigmas
        )

    def take(self, z: int, kept: SliceMoves | None) -> None:
        """Take the moves of a slice, None for one of air, and make the maps that this was the last missing for."""
        if kept is not None and kept.sharp is not None:
            self.maps[z, 1:] = kept.sharp[0]
        for ready, mean in self._moves(z, None if kept is None else kept.values[0]):
            for done, smoothed in self._smoothed(ready, None if mean is None else self._read(ready, mean, kept)):
                if smoothed is not None:
                    self.maps[done] = smoothed

    def _read(self, z: int, mean: torch.Tensor, like: SliceMoves | None) -> torch.Tensor:
        """The map of a slice, smoothed in the plane, (1 or 2, H, W), from moves (R, N, C, h, w)."""
        assert like is not None  # the last slice to come had something in it
        near = replace(like, values=mean[None], sharp=self.maps[z, None, 1:] if self._sharp else None)
        return smooth(near.map(twin_smoothing_px=self._twin_smoothing_px), sigma_px=self._smoothing_px)[0]


def distances_of(stacked: torch.Tensor, slice_mm: float | None) -> list[float | None]:
    """Distance in mm of the slices of each of (B, 1, H, W, Z): what is given, or what a MetaTensor's affine says."""
    if slice_mm is not None or not isinstance(stacked, MetaTensor):
        return [slice_mm] * len(stacked)
    affines = stacked.affine.reshape(-1, 4, 4)
    return [slice_distance(affine.cpu().numpy()) for affine in affines.expand(len(stacked), 4, 4)]
