"""Keeping freed memory in the process, so that a network on a CPU is not given new pages for every layer."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT = 256 << 20  # bytes; several layers of a batch
_LAYER = 64 << 20  # bytes; whole volumes are larger and go back to the system at once


@cache
def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, up to 256 MB, and hand it out again; once a process.

    By default glibc returns blocks above some size to the system and asks for new ones, each page of which costs a
    fault: a fifth of the time of a pass. Dask makes it worse, as it starts its workers with MALLOC_TRIM_THRESHOLD_ at
    64 KB, which also fixes that size at 128 KB: half of the time. See mallopt(3).

    Returns:
        Whether it could be set; other C libraries than glibc stay as they are.
    """
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_TRIM_THRESHOLD, _KEPT), mallopt(_MMAP_THRESHOLD, _LAYER)])
