"""PyTorch and MONAI, for the commands that compute, once what was asked of them is known to be possible."""

from __future__ import annotations

import gc
import sys


def import_libraries() -> None:
    """Import PyTorch and MONAI without looking for garbage meanwhile, nor among what they made ever after.

    Their 400,000 objects stay until the program ends. Python would search them time and again while they become more,
    and once more on exit: two seconds of five.
    """
    if "klip_monai.transforms" in sys.modules:
        return
    gc.disable()
    try:
        import klip_monai.transforms  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def dask_setup(worker: object) -> None:
    """What Dask calls in a worker process that starts with this module as a preload: the same for its libraries."""
    import_libraries()
