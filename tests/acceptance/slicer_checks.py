"""What must hold of every case that 3D Slicer has opened."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from klip_monai.io.write.segments import SEGMENTS


def check_overlays(report: dict[str, Any]) -> None:
    """What holds for every run: the CT and its overlays fill the same box, and the pictures show CT and overlay."""
    check_segments(report)
    np.testing.assert_allclose(report["heatmap"]["bounds"], report["ct"]["bounds"], atol=1e-2)
    np.testing.assert_allclose(report["segmentation"]["ijk_to_ras"], report["heatmap"]["ijk_to_ras"], atol=1e-4)
    ct_box = np.reshape(report["ct"]["bounds"], (3, 2))
    for segment in report["segments"]:
        if segment["bounds"]:
            box = np.reshape(segment["bounds"], (3, 2))
            assert (box[:, 0] >= ct_box[:, 0] - 1e-2).all()
            assert (box[:, 1] <= ct_box[:, 1] + 1e-2).all()
    found = any(segment["voxels"] for segment in report["segments"])
    for picture in report["pictures"]:
        plain, overlay = imread(picture["plain"])[..., :3], imread(picture["overlay"])[..., :3]
        assert plain.std() > 0.02, f"{picture['plain']} is blank"
        assert not found or changed_pixels(plain, overlay).any(), f"{picture['overlay']} shows no overlay"


def check_segments(report: dict[str, Any]) -> None:
    assert [segment["id"] for segment in report["segments"]] == [segment.identifier for segment in SEGMENTS]
    for found, expected in zip(report["segments"], SEGMENTS, strict=True):
        assert found["name"] == expected.name
        assert found["rgb"] == pytest.approx(expected.rgb, abs=1e-6)
        assert found["terminology"] == ["49755003", "49755003"]


def changed_pixels(plain: np.ndarray, overlay: np.ndarray) -> np.ndarray:
    return np.abs(overlay - plain).max(-1) > 0.05
