"""The ramp filter of filtered back-projection."""

from __future__ import annotations

import math

import torch

from klip_monai.errors import InputError

WINDOWS = ("ram-lak", "hann")


def ramp_filter(sinogram: torch.Tensor, *, pitch_mm: float, window: str = "ram-lak") -> torch.Tensor:
    """Convolve each view with the band-limited ramp.

    The kernel is sampled in space (Kak and Slaney, 1988, chapter 3) and padded to a linear convolution, which keeps the
    mean of the reconstruction right; a ramp sampled in frequency would lose it.

    Args:
        sinogram: line integrals, shape (..., detectors), float32 or float64.
        pitch_mm: detector pitch in mm.
        window: "ram-lak" (none) or "hann" (damps high frequencies, to zero at the Nyquist frequency).

    Returns:
        Filtered sinogram, same shape, in the unit of the input per mm.

    Raises:
        InputError: unknown window.
    """
    if window not in WINDOWS:
        raise InputError(f"window: got {window!r}, expected one of {', '.join(WINDOWS)}")
    if not sinogram.numel():
        return sinogram  # of an empty batch, which not every FFT takes
    detectors = sinogram.shape[-1]
    length = 2 ** math.ceil(math.log2(2 * detectors))
    n = torch.fft.fftfreq(length, d=1.0 / length, device=sinogram.device, dtype=torch.float64).round()
    odd = n.remainder(2) == 1
    kernel = torch.where(odd, -1.0 / (math.pi * pitch_mm * torch.where(odd, n, 1.0)) ** 2, 0.0)
    kernel[0] = 1.0 / (4.0 * pitch_mm**2)
    response = torch.fft.rfft(kernel).real * pitch_mm
    if window == "hann":
        response = (
            response
            * torch.hann_window(length, dtype=torch.float64, device=sinogram.device).roll(length // 2)[
                : response.shape[0]
            ]
        )
    spectrum = torch.fft.rfft(sinogram, n=length) * response.to(sinogram.dtype)
    return torch.fft.irfft(spectrum, n=length)[..., :detectors]
