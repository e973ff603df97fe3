"""How much work a device takes at once."""

from __future__ import annotations

import torch

from klip_monai.prior import Denoiser

_PROBES = (4, 12)  # slices
_USED = 0.5  # of the free memory: conjugate gradients, the measurement and other processes need theirs
_MOST = 128  # slices; more are hardly faster


def slices_per_batch(
    network: Denoiser, image_shape: tuple[int, int], device: torch.device | str, *, share: float = 1.0, default: int
) -> int:
    """Slices that a network should see together, by the free memory of a GPU.

    Args:
        network: the prior.
        image_shape: (H, W) of its slices.
        device: where it is.
        share: of the free memory that may be used, 0 to 1.
        default: the answer for a CPU, where larger batches gain nothing.

    Returns:
        A power of two from 1 to 128, so that a few MB more or less of free memory do not change results.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return default
    peaks = [_peak(network, (n, 1, *image_shape), device) for n in _PROBES]
    a_slice = max(1, (peaks[1] - peaks[0]) // (_PROBES[1] - _PROBES[0]))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return power_of_two(int(_USED * share * free / a_slice))


def power_of_two(most: int) -> int:
    """The largest power of two that is at most ``most``, within 1 to 128."""
    return 1 << (max(1, min(most, _MOST)).bit_length() - 1)


def _peak(network: Denoiser, shape: tuple[int, int, int, int], device: torch.device) -> int:
    """Bytes that a pass takes at its most."""
    torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        network(torch.zeros(shape, device=device), 1.0)
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device))
