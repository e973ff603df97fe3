"""Small pictures of the worst slice, cut from the previews of scored scans."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from klip_monai.io.preview import WORST_SLICE

WIDTH, HEIGHT = 168, 156
"""Pixels of a thumbnail; twice what the report shows it at, for sharp screens."""


def thumbnail(preview: Path) -> str:
    """The worst slice of a preview with its overlay, as a ``data:`` URL of a WebP picture of 3 to 6 kB.

    Args:
        preview: PNG file of :func:`klip_monai.io.preview.write_preview`.

    Returns:
        The URL; empty where the file is missing or no picture.
    """
    try:
        with Image.open(preview) as picture:
            left, bottom, width, height = WORST_SLICE
            box = (left * picture.width, (1 - bottom - height) * picture.height)
            box += ((left + width) * picture.width, (1 - bottom) * picture.height)
            small = picture.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)
    except (OSError, Image.DecompressionBombError):
        return ""
    data = io.BytesIO()
    small.save(data, "WEBP", quality=72)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")
