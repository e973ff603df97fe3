"""Operators by their names, see :mod:`klip_monai.operators`."""

from __future__ import annotations

import math
from typing import Any

import torch

from klip_monai.errors import InputError
from klip_monai.operators import MISSING, OPERATORS
from klip_monai.physics.geometry import FanBeam, ParallelBeam
from klip_monai.physics.image_space import GaussianBlur, Inpainting
from klip_monai.physics.operator import Identity, LinearOperator
from klip_monai.physics.tomography import Tomography

_DEFAULTS: dict[str, Any] = {
    "views": 24,
    "angle_range": 180.0,
    "source_mm": 570.0,
    "detector_mm": 500.0,
    "detectors": None,
    "pitch_mm": None,
    "blur_mm": 3.0,
    "measured": 0.5,
    "missing": "random",
}


def make_operator(name: str, *, image_shape: tuple[int, int], pixel_mm: float, **settings: Any) -> LinearOperator:
    """Build an operator by name.

    Args:
        name: "sparse_view" (parallel beam over 180 degrees or more), "limited_angle" (over less than 180 degrees),
            "fan_beam" (flat detector, any range), or one without views: "blur" (Gaussian), "inpainting" (pixels are
            missing) or "identity" (denoising).
        image_shape: (H, W) in pixels.
        pixel_mm: side of a pixel in mm.
        **settings: of :data:`klip_monai.operators.OPERATORS`; those of other operators are passed over, as a bundle's
            configuration has some for whichever is asked for. ``views`` (24): number of angles, evenly spaced, endpoint
            excluded. ``angle_range`` (180): range of the angles in degrees. ``detectors``: number of detector elements;
            None covers the image. ``pitch_mm``: distance of neighbouring detector elements, mm; None is one element a
            pixel (at the axis, for "fan_beam"). ``source_mm`` (570) and ``detector_mm`` (500), for "fan_beam": source
            and detector to rotation axis, mm, those of a clinical scanner. ``blur_mm`` (3): standard deviation, mm.
            ``measured`` (0.5), for "inpainting": share of the pixels that are measured, above 0 and at most 1, and
            ``missing``, which are not: "random" (the same ones each time) or "square" (one in the middle).

    Returns:
        The operator, scaled to unit spectral norm.

    Raises:
        InputError: an unknown name, an `angle_range` that contradicts it, or a value outside its range.
    """
    if name not in OPERATORS:
        raise InputError(f"operator: got {name!r}, expected one of {', '.join(OPERATORS)}")
    if unknown := [key for key in settings if key not in _DEFAULTS]:
        raise InputError(f"operator: got {', '.join(unknown)}, expected any of {', '.join(_DEFAULTS)}")
    given = _DEFAULTS | settings
    if name == "identity":
        return Identity(image_shape)
    if name == "blur":
        return GaussianBlur(image_shape, sigma_px=given["blur_mm"] / pixel_mm)
    if name == "inpainting":
        return Inpainting(_mask(image_shape, measured=given["measured"], missing=given["missing"]))
    scan: dict[str, Any] = {
        "image_shape": image_shape,
        "pixel_mm": pixel_mm,
        "views": given["views"],
        "angle_range": given["angle_range"],
        "detectors": given["detectors"],
        "detector_pitch_mm": given["pitch_mm"],
    }
    if name == "fan_beam":
        return Tomography(FanBeam(**scan, source_mm=given["source_mm"], detector_mm=given["detector_mm"]))
    geometry = ParallelBeam(**scan)
    if name == "limited_angle" and geometry.angle_range >= 180:
        raise InputError(f"angle_range: got {geometry.angle_range:g} degrees for limited_angle, expected less than 180")
    if name == "sparse_view" and geometry.angle_range < 180:
        raise InputError(
            f"angle_range: got {geometry.angle_range:g} degrees for sparse_view, expected 180 or more; use "
            "limited_angle"
        )
    return Tomography(geometry)


def _mask(shape: tuple[int, int], *, measured: float, missing: str) -> torch.Tensor:
    """Bool (H, W), True for this share of the pixels, at least one of them."""
    if not 0 < measured <= 1:
        raise InputError(f"measured: got {measured}, expected a share of the pixels above 0 and at most 1")
    if missing not in MISSING:
        raise InputError(f"missing: got {missing!r}, expected one of {', '.join(MISSING)}")
    pixels = math.prod(shape)
    if missing == "random":
        order = torch.randperm(pixels, generator=torch.Generator().manual_seed(0))
        return (order < max(1, round(measured * pixels))).reshape(shape)
    side = round(math.sqrt((1 - measured) * pixels))
    if side > min(shape) or side * side == pixels:
        raise InputError(
            f"measured: got {measured:g}, expected more: a square of {side} x {side} missing pixels leaves none around "
            f"it in {shape[0]} x {shape[1]}"
        )
    mask = torch.ones(shape, dtype=torch.bool)
    top, left = ((n - side) // 2 for n in shape)
    mask[top : top + side, left : left + side] = False
    return mask
