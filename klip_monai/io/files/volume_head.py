"""How many slices the first bytes of a NIfTI, NRRD or MetaImage file claim, for lists and estimates; reading checks."""

from __future__ import annotations

import re
import zlib

from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

_NIFTI_BYTES = 540  # of the longer header
_SIZES = re.compile(rb"^(?:sizes:|DimSize\s*=)([\s\d]+)$", re.MULTILINE)
_MOST = 100_000


def claimed_slices(start: bytes) -> int:
    """Size of the third axis by the header.

    Args:
        start: first bytes of the file, packed by gzip or not; some hundred are enough for NIfTI.

    Returns:
        The number of slices; 0 if there is none to be read, or it makes no sense.
    """
    if start.startswith(b"\x1f\x8b"):
        try:
            start = zlib.decompressobj(wbits=31).decompress(start, _NIFTI_BYTES)
        except zlib.error:
            return 0
    if start.startswith((b"NRRD", b"ObjectType", b"NDims")):
        found = _SIZES.search(start.replace(b"\r", b""))
        sizes = [int(size) for size in found[1].split()] if found else []
    else:
        sizes = _nifti_sizes(start)
    return sizes[2] if len(sizes) > 2 and 0 < sizes[2] < _MOST else 0


def _nifti_sizes(start: bytes) -> list[int]:
    for kind in (Nifti1Header, Nifti2Header):
        block = start[: kind.sizeof_hdr]
        if len(block) == kind.sizeof_hdr and kind.sizeof_hdr.to_bytes(4, "little") in (block[:4], block[3::-1]):
            return [int(size) for size in kind(block, check=False)["dim"][1:]]
    return []
