"""The one road from a series to its overlays: open a bundle with :class:`Scorer`, score scans, save their cases."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klip_monai.scan.case import Case
    from klip_monai.scan.opened import OpenedScan
    from klip_monai.scan.save import save_case
    from klip_monai.scan.scorer import Scorer

_HOMES = {"Case": "case", "OpenedScan": "opened", "Scorer": "scorer", "save_case": "save"}

__all__ = ["Case", "OpenedScan", "Scorer", "save_case"]


def __getattr__(name: str) -> Any:
    """Import a part when it is asked for: a command that is refused imports none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
