"""Check the tags of a MATLAB 5 file before SciPy believes them: it looks types up in a table of fixed size.

Source: MAT-File Format (MathWorks), "Level 5 MAT-Files".
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from klip_monai.io.claims import MAX_RATIO, RATIO_COUNTS_FROM, is_bomb

_HEADER_BYTES = 128
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_FLAGS, _COMPLEX = 0x0E, 0x08
_OPAQUE = 17  # class of matrices that have no sizes
_TYPES = frozenset((1, 2, 3, 4, 5, 6, 7, 9, 12, 13, _MATRIX, _COMPRESSED, 16, 17, 18))
_MAX_DEPTH = 100


def check_mat_tags(path: Path) -> None:
    """Walk through all data elements of a MATLAB 5 file; files of other versions pass.

    Raises:
        ValueError, zlib.error, struct.error: an element of no known type, one that is longer than what holds it, or one
            that unpacks to over 200 times the size of the file.
    """
    content = path.read_bytes()
    endian = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER_BYTES])
    if endian is not None:
        _walk(memoryview(content)[_HEADER_BYTES:], endian, len(content))


def _walk(data: memoryview, endian: str, packed: int, depth: int = 0, *, matrix: bool = False) -> None:
    """Check the elements that follow one another in some bytes; those of a matrix begin with flags, sizes and name."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"more than {_MAX_DEPTH} elements in one another")
    at, found = 0, list[tuple[int, bytes]]()
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{endian}II", data, at)
        short = kind >> 16  # bytes of a small element, which lie within its tag
        if short:
            kind, size, start, end = kind & 0xFFFF, short, at + 4, at + 8
            if short > 4:
                raise ValueError(f"small element of {short} bytes")
        else:
            start = at + 8
            # Compressed elements are not padded to 8 bytes.
            end = start + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if kind not in _TYPES or start + size > len(data) or (kind == _COMPRESSED and depth):
            raise ValueError(f"element of type {kind} and {size} bytes")
        found.append((kind, bytes(data[start : start + size])))
        if kind == _MATRIX:
            _walk(data[start : start + size], endian, packed, depth + 1, matrix=True)
        elif kind == _COMPRESSED:
            limit = max(RATIO_COUNTS_FROM, MAX_RATIO * packed)
            inner = zlib.decompressobj().decompress(data[start : start + size], limit + 1)
            if is_bomb(len(inner), packed):
                raise ValueError(f"element that unpacks to over {limit} bytes")
            _walk(memoryview(inner), endian, packed, depth + 1)
        at = end
    if matrix and len(data):
        (flags_type, flags), (sizes_type, sizes), (name_type, _) = (*found, *[(0, b"")] * 3)[:3]
        if flags_type != _UINT32 or len(flags) != 8:
            raise ValueError("matrix without flags")
        bits = struct.unpack(f"{endian}I", flags[:4])[0]
        if bits >> 8 & ~_FLAGS or (bits >> 8 & _COMPLEX and len(found) < 5):
            raise ValueError("matrix with flags that it does not keep")
        opaque = bits & 0xFF == _OPAQUE
        if not opaque and (sizes_type != _INT32 or len(sizes) % 4 or len(sizes) < 8 or name_type != _INT8):
            raise ValueError("matrix without sizes and name")
