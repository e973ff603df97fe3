"""Acquisition geometries as frozen values: validated when built, with a repr that pastes back."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
class _Acquisition:
    """What the geometries have in common: the slice, its views and a row of detector elements."""

    image_shape: tuple[int, int]
    pixel_mm: float
    views: int = 0
    angle_range: float
    start_angle: float = 0.0
    detectors: int | None = None
    detector_pitch_mm: float | None = None
    view_angles: tuple[float, ...] | None = None
    detector_offset_mm: float = 0.0

    def _resolve(self, *, default_pitch_mm: float, **checked: Any) -> None:
        """Put checked values and defaults in place of what was given."""
        height, width = check_image_shape(self.image_shape)
        if self.view_angles is not None:
            checked |= _listed_views(self.view_angles, views=self.views)
        pixel = _number("pixel_mm", self.pixel_mm, low=0.0)
        pitch = default_pitch_mm if self.detector_pitch_mm is None else self.detector_pitch_mm
        pitch = _number("detector_pitch_mm", pitch, low=0.0)
        if self.view_angles is None:
            checked |= {
                "views": _count("views", self.views),
                "angle_range": _number("angle_range", self.angle_range, low=0.0, high=360.0),
                "start_angle": _number("start_angle", self.start_angle),
            }
        values = {
            **checked,
            "image_shape": (height, width),
            "pixel_mm": pixel,
            "detector_pitch_mm": pitch,
            "detector_offset_mm": _number("detector_offset_mm", self.detector_offset_mm),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        detectors = self.detectors
        if detectors is None:
            # The margin keeps a width that is a whole number of elements from being rounded up by its last bit.
            detectors = math.ceil((self._shadow_mm() + 2 * abs(self.detector_offset_mm)) / pitch - 1e-9)
            detectors += (detectors - width) % 2
        object.__setattr__(self, "detectors", _count("detectors", detectors))

    def _shadow_mm(self) -> float:
        """Width of detector that the image can throw its shadow on."""
        raise NotImplementedError

    @property
    def angles(self) -> npt.NDArray[np.float64]:
        """Angles of the views in degrees, shape (views,)."""
        if self.view_angles is not None:
            return np.asarray(self.view_angles, dtype=np.float64)
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
        """Return the geometry as a JSON-able dictionary with every default resolved.

        A list of angles and a detector offset are in it only where there are any: the description is hashed, and
        what has neither keeps the hash it always had.
        """
        values = {"type": type(self).__name__, **asdict(self), "image_shape": list(self.image_shape)}
        angles, offset = values.pop("view_angles"), values.pop("detector_offset_mm")
        values |= {"view_angles": list(angles)} if angles is not None else {}
        return values | ({"detector_offset_mm": offset} if offset else {})


@dataclass(frozen=True, kw_only=True)
class ParallelBeam(_Acquisition):
    """A parallel-beam acquisition of one slice.

    The slice lies centred on the rotation axis with its columns along +x and its rows along -y. At angle theta the
    detector coordinate of a point is u = x cos(theta) + y sin(theta), detector 0 at the most negative u.

    View i is taken at `start_angle + i * angle_range / views`: the endpoint is left out for every range. At 180 degrees
    the endpoint would repeat the first view. Below 180 degrees the same rule keeps one meaning of the spacing: each
    view stands for an arc of angle_range / views, the arcs tile the range, and the limited-angle views are the first
    views of the full scan with the same spacing. The last angle is therefore one spacing short of the range.
    Views at any other angles are given as a list, `view_angles`, and take the place of all three.

    Attributes:
        image_shape: (H, W) in pixels.
        pixel_mm: side of a (square) pixel in mm.
        views: number of angles.
        angle_range: range of the angles in degrees, in (0, 360]; below 180 is a limited-angle scan.
        start_angle: first angle in degrees.
        detectors: number of detector elements. None: enough to cover the image diagonal, rounded up to the parity of W
            so that axis-aligned rays run through pixel centres when the pitch is the pixel size.
        detector_pitch_mm: distance of neighbouring detector elements in mm. None: `pixel_mm`.
        view_angles: angle of each view in degrees, in any order. `views`, `start_angle` and `angle_range` then are
            their number, the smallest, and the distance from it to the largest. None: evenly spaced views.
        detector_offset_mm: how far the detector's centre lies from the rotation axis' shadow, mm along +u.

    Raises:
        InputError: a value outside its range.
    """

    angle_range: float = 180.0

    def __post_init__(self) -> None:
        self._resolve(default_pitch_mm=self.pixel_mm)

    def _shadow_mm(self) -> float:
        return math.hypot(*self.image_shape) * self.pixel_mm


@dataclass(frozen=True, kw_only=True)
class FanBeam(_Acquisition):
    """A fan-beam acquisition of one slice with a flat detector.

    Axes, order of the views and of the detector elements are those of :class:`ParallelBeam`, to which this tends as the
    source moves away: at angle theta the source lies at source_mm * (sin(theta), -cos(theta)), the detector's centre on
    the other side of the rotation axis, its elements along (cos(theta), sin(theta)).

    Attributes:
        image_shape: (H, W) in pixels.
        pixel_mm: side of a (square) pixel in mm.
        views: number of angles.
        source_mm: distance from the source to the rotation axis, mm; the whole image must lie closer.
        detector_mm: distance from the rotation axis to the detector, mm; 0 is a detector scaled to the axis.
        angle_range: range of the angles in degrees, in (0, 360]; below 180 plus the fan's angle part of the
            slice is seen from too few sides.
        start_angle: first angle in degrees.
        detectors: number of detector elements. None: enough to cover the image, rounded up to the parity of W.
        detector_pitch_mm: distance of neighbouring elements on the detector in mm. None: that of a pixel at the
            axis, magnified.
        view_angles: as for :class:`ParallelBeam`.
        detector_offset_mm: as for :class:`ParallelBeam`, on the detector.

    Raises:
        InputError: a value outside its range.
    """

    source_mm: float
    detector_mm: float
    angle_range: float = 360.0

    def __post_init__(self) -> None:
        source = _number("source_mm", self.source_mm, low=0.0)
        detector = _number("detector_mm", self.detector_mm)
        if detector < 0:
            raise InputError(f"detector_mm: got {detector:g}, expected 0 or more")
        radius = math.hypot(*check_image_shape(self.image_shape)) / 2 * _number("pixel_mm", self.pixel_mm, low=0.0)
        if source <= radius:
            raise InputError(f"source_mm: got {source:g}, expected more than half the image's diagonal, {radius:g} mm")
        magnification = (source + detector) / source
        self._resolve(default_pitch_mm=self.pixel_mm * magnification, source_mm=source, detector_mm=detector)

    @property
    def fan_angle(self) -> float:
        """Angle between the outermost rays in degrees."""
        half = self.sinogram_shape[1] * self.pitch_mm / 2
        return 2 * math.degrees(math.atan(half / (self.source_mm + self.detector_mm)))

    def _shadow_mm(self) -> float:
        radius = math.hypot(*self.image_shape) / 2 * self.pixel_mm
        return 2 * (self.source_mm + self.detector_mm) * math.tan(math.asin(radius / self.source_mm))


def _listed_views(view_angles: Sequence[float], *, views: int) -> dict[str, Any]:
    """Checked angles, and the number, start and range that follow from them."""
    if isinstance(view_angles, str) or not isinstance(view_angles, Sequence | np.ndarray) or not len(view_angles):
        raise InputError(f"view_angles: got {view_angles!r}, expected a list of at least one angle in degrees")
    angles = tuple(_number(f"view_angles[{i}]", angle) for i, angle in enumerate(view_angles))
    if views not in (0, len(angles)):
        raise InputError(f"views: got {views} with {len(angles)} view_angles, expected as many; leave views out")
    first, last = min(angles), max(angles)
    return {"view_angles": angles, "views": len(angles), "start_angle": first, "angle_range": last - first}


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
