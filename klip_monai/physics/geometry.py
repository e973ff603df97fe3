"""Acquisition geometries as frozen values: validated when built, with a repr that pastes back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from klip_monai.errors import InputError


def check_image_shape(image_shape: Any) -> tuple[int, int]:
    """Return `image_shape` as a pair of positive ints.

    Args:
        image_shape: (H, W) in pixels.

    Raises:
        InputError: not two positive integers.
    """
    try:
        height, width = (int(n) for n in image_shape)
        valid = height > 0 and width > 0 and (height, width) == tuple(image_shape)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise InputError(f"image_shape: got {image_shape!r}, expected (H, W) as two positive integers")
    return height, width


@dataclass(frozen=True, kw_only=True)
class ParallelBeam:
    """A parallel-beam acquisition of one slice.

    The slice lies centred on the rotation axis with its columns along +x and its rows along -y. At angle theta the
    detector coordinate of a point is u = x cos(theta) + y sin(theta), detector 0 at the most negative u.

    View i is taken at `start_angle + i * angle_range / views`: the endpoint is left out for every range. At 180 degrees
    the endpoint would repeat the first view. Below 180 degrees the same rule keeps one meaning of the spacing: each
    view stands for an arc of angle_range / views, the arcs tile the range, and the limited-angle views are the first
    views of the full scan with the same spacing. The last angle is therefore one spacing short of the range.

    Attributes:
        image_shape: (H, W) in pixels.
        pixel_mm: side of a (square) pixel in mm.
        views: number of angles.
        angle_range: range of the angles in degrees, in (0, 360]; below 180 is a limited-angle scan.
        start_angle: first angle in degrees.
        detectors: number of detector elements. None: enough to cover the image diagonal, rounded up to the parity of W
            so that axis-aligned rays run through pixel centres when the pitch is the pixel size.
        detector_pitch_mm: distance of neighbouring detector elements in mm. None: `pixel_mm`.

    Raises:
        InputError: a value outside its range.
    """

    image_shape: tuple[int, int]
    pixel_mm: float
    views: int
    angle_range: float = 180.0
    start_angle: float = 0.0
    detectors: int | None = None
    detector_pitch_mm: float | None = None

    def __post_init__(self) -> None:
        height, width = check_image_shape(self.image_shape)
        pixel = _number("pixel_mm", self.pixel_mm, low=0.0)
        pitch = pixel if self.detector_pitch_mm is None else self.detector_pitch_mm
        pitch = _number("detector_pitch_mm", pitch, low=0.0)
        detectors = self.detectors
        if detectors is None:
            # The margin keeps a diagonal that is a whole number of elements from being rounded up by its last bit.
            detectors = math.ceil(math.hypot(height, width) * pixel / pitch - 1e-9)
            detectors += (detectors - width) % 2
        values = {
            "image_shape": (height, width),
            "pixel_mm": pixel,
            "views": _count("views", self.views),
            "angle_range": _number("angle_range", self.angle_range, low=0.0, high=360.0),
            "start_angle": _number("start_angle", self.start_angle),
            "detectors": _count("detectors", detectors),
            "detector_pitch_mm": pitch,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def angles(self) -> npt.NDArray[np.float64]:
        """Angles of the views in degrees, shape (views,), endpoint excluded."""
        offsets: npt.NDArray[np.float64] = np.arange(self.views, dtype=np.float64) * (self.angle_range / self.views)
        return np.asarray(self.start_angle + offsets, dtype=np.float64)

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """(views, detectors) of one sinogram."""
        assert self.detectors is not None  # resolved in __post_init__
        return self.views, self.detectors

    @property
    def pitch_mm(self) -> float:
        """Detector pitch in mm, never None."""
        assert self.detector_pitch_mm is not None  # resolved in __post_init__
        return self.detector_pitch_mm

    def describe(self) -> dict[str, Any]:
        """Return the geometry as a JSON-able dictionary with every default resolved."""
        return {"type": "ParallelBeam", **asdict(self), "image_shape": list(self.image_shape)}


def _number(name: str, value: Any, *, low: float | None = None, high: float | None = None) -> float:
    """Return `value` as a finite float in (low, high]."""
    ends = (f" above {low:g}" if low is not None else "") + (f" and at most {high:g}" if high is not None else "")
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (low is not None and number <= low) or (high is not None and number > high):
        raise InputError(f"{name}: got {value!r}, expected a finite number{ends}")
    return number


def _count(name: str, value: Any) -> int:
    """Return `value` as a positive int."""
    try:
        number = int(value)
        valid = number > 0 and number == value
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise InputError(f"{name}: got {value!r}, expected a positive integer")
    return number
