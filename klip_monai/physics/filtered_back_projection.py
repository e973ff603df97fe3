"""Filtered back-projection: the ramp filter, and fan beams with a flat detector."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import grid_sample

from klip_monai.errors import InputError
from klip_monai.physics.geometry import FanBeam

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


def fan_beam_fbp(sinogram: torch.Tensor, geometry: FanBeam, *, window: str = "ram-lak") -> torch.Tensor:
    """Reconstruct slices from the line integrals of a fan beam with a flat detector and evenly spaced views.

    Rays are weighted by the cosine of their angle in the fan and filtered on the detector scaled to the axis. Each
    pixel then sums what its rays show, interpolated between elements, over U squared, where U is its depth from the
    source in units of the axis' (Kak and Slaney, 1988, chapter 3.4.2). Every line counts once: see
    :func:`redundancy_weights`. Rays beside the detector count as zero. Linear, and differentiable once.

    Args:
        sinogram: line integrals, shape (B, 1, views, detectors), in image units times mm, float32 or float64.
        geometry: the acquisition, without a list of `view_angles`.
        window: "ram-lak" or "hann", see :func:`ramp_filter`.

    Returns:
        Images, shape (B, 1, H, W), in image units, dtype and device of `sinogram`.

    Raises:
        InputError: an unknown window, or a range of angles that leaves lines through the slice unseen.
    """
    (height, width), source = geometry.image_shape, geometry.source_mm
    magnification = (source + geometry.detector_mm) / source
    pitch, offset = geometry.pitch_mm / magnification, geometry.detector_offset_mm / magnification
    weights = (_fan_angles(geometry).cos() * redundancy_weights(geometry)).to(sinogram)
    filtered = ramp_filter(sinogram * weights, pitch_mm=pitch, window=window)[:, 0]

    x = _centred(width, geometry.pixel_mm).to(sinogram)
    y = -_centred(height, geometry.pixel_mm).to(sinogram)[:, None]
    image = sinogram.new_zeros((sinogram.shape[0], height, width))
    for view, theta in zip(filtered.unbind(1), map(math.radians, geometry.angles), strict=True):
        along, depth = x * math.cos(theta) + y * math.sin(theta), y * math.cos(theta) - x * math.sin(theta)
        u = 1 + depth / source
        # grid_sample's coordinates run from -1 to 1 between the detector's ends.
        place = (along / u - offset) / (pitch * sinogram.shape[-1] / 2)
        grid = torch.stack([place, torch.zeros_like(place)], dim=-1)
        seen = grid_sample(view[None, :, None], grid[None], mode="bilinear", align_corners=False)[0]
        image = image + seen / u.square()
    return image[:, None] * math.radians(geometry.angle_range / geometry.views)


def redundancy_weights(geometry: FanBeam) -> torch.Tensor:
    """Weights with which all sightings of a line through the slice sum to one.

    Over 360 degrees each line is seen twice and has weight 1/2. Over less, weights fade in and
    out at the ends of the range: those of Parker (1982), spread over all of a range beyond the least (Silver, 2000).

    Args:
        geometry: the acquisition, with evenly spaced views.

    Returns:
        Weights, shape (views, detectors), float64, on the CPU.

    Raises:
        InputError: a range below 180 degrees plus the angle of the fan through the slice: some lines are never seen.
    """
    fan = _fan_angles(geometry)
    if geometry.angle_range == 360:
        return torch.full((geometry.views, len(fan)), 0.5, dtype=torch.float64)
    slice_radius = math.hypot(*geometry.image_shape) / 2 * geometry.pixel_mm
    widest = min(math.asin(slice_radius / geometry.source_mm), float(fan.abs().max()))
    least = 180 + 2 * math.degrees(widest)
    if geometry.angle_range < least:
        raise InputError(
            f"method: got 'fbp' with an angle_range of {geometry.angle_range:g} degrees, expected at least {least:.4g} "
            "for this fan beam; use 'cg'"
        )
    # The line at (beta, fan) is seen again at (beta + pi - 2 fan, -fan).
    span = math.radians(geometry.angle_range)
    beta = torch.arange(geometry.views, dtype=torch.float64)[:, None] * (span / geometry.views)
    half = (span - math.pi) / 2
    fade_in, fade_out = (half + fan).clamp_min(1e-9), (half - fan).clamp_min(1e-9)
    starts, ends = (beta / fade_in).clamp_max(2), ((span - beta) / fade_out).clamp_max(2)
    return ((starts * math.pi / 4).sin() * (ends * math.pi / 4).sin()).square()


def _fan_angles(geometry: FanBeam) -> torch.Tensor:
    """Angle of the ray to each element against the ray through the axis, in radians, shape (detectors,), float64."""
    elements = _centred(geometry.sinogram_shape[1], geometry.pitch_mm) + geometry.detector_offset_mm
    return torch.atan(elements / (geometry.source_mm + geometry.detector_mm))


def _centred(n: int, spacing: float) -> torch.Tensor:
    """Places of n evenly spaced things around zero, float64."""
    return (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * spacing
