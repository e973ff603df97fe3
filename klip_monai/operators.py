"""Measurement operators by the names that bundles and the command line use, and what each takes; imports no library."""

from __future__ import annotations

from typing import Any

MISSING = ("random", "square")
_SCAN: dict[str, Any] = {"views": int, "angle_range": float, "detectors": int, "pitch_mm": float}
OPERATORS: dict[str, dict[str, Any]] = {
    "sparse_view": _SCAN,
    "limited_angle": _SCAN,
    "fan_beam": {**_SCAN, "source_mm": float, "detector_mm": float},
    "blur": {"blur_mm": float},
    "inpainting": {"measured": float, "missing": MISSING},
    "identity": {},
}
"""Arguments of :func:`klip_monai.physics.make_operator` that each operator heeds, by its name, with their types or
choices."""

ANGLE_RANGES = {"limited_angle": 120.0, "fan_beam": 360.0}
"""Range of the views in degrees, where none is given."""
