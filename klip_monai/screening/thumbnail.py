"""Small pictures of the worst slice, cut from the previews of scored scans."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from klip_monai.report.preview import WORST_SLICE

WIDTH, HEIGHT = 192, 178
"""Pixels of a thumbnail; twice what the report shows it at, for sharp screens."""


def thumbnail(preview: Path) -> str:
    """The worst slice of a preview with its overlay, as a ``data:`` URL of a WebP picture of 4 to 7 kB.

    Args:
        preview: PNG file of :func:`klip_monai.report.preview.write_preview`.

    Returns:
        The URL; empty where the file is missing or no picture.
    """
    try:
        with Image.open(preview) as picture:
            left, bottom, width, height = WORST_SLICE
            box = (left, 1 - bottom - height, left + width, 1 - bottom)
            sides = (picture.width, picture.height) * 2
            cut = picture.crop(tuple(round(share * side) for share, side in zip(box, sides, strict=True)))
            small = cut.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, reducing_gap=2.0)
    except (OSError, Image.DecompressionBombError):
        return ""
    data = io.BytesIO()
    small.save(data, "WEBP", quality=72)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")
