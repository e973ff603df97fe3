"""Reading CT series into volumes. Names are imported on first use, so that a light import stays light."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klip_monai.io.index import SeriesIndex, SeriesInfo, index_series, list_series
    from klip_monai.io.read import read_volume

__all__ = ["SeriesIndex", "SeriesInfo", "index_series", "list_series", "read_volume"]

_MODULES = {
    "SeriesIndex": "klip_monai.io.index",
    "SeriesInfo": "klip_monai.io.index",
    "index_series": "klip_monai.io.index",
    "list_series": "klip_monai.io.index",
    "read_volume": "klip_monai.io.read",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
