"""Sizes that a file claims, held against the bytes it has: before memory is set aside for them."""

from __future__ import annotations

from klip_monai.errors import InputError

MAX_RATIO = 200
"""Scans pack to a tenth at best; what unpacks to more than this is made to fill memory."""

MASK_RATIO = 1100
"""Masks are all runs of zeros and ones: zlib packs them to 1/1032 at best."""

RATIO_COUNTS_FROM = 2**30
"""Bytes; what takes less is unpacked whatever its ratio."""


def is_bomb(unpacked: int, packed: int, *, max_ratio: int = MAX_RATIO) -> bool:
    """Whether data of so many bytes is out of all proportion to the bytes that it is packed in."""
    return unpacked > RATIO_COUNTS_FROM and unpacked > max_ratio * max(1, packed)


def check_claim(claimed: int, held: int, label: str, *, packed: bool, max_ratio: int = MAX_RATIO) -> None:
    """Refuse data that cannot lie in the file that claims to hold it.

    Args:
        claimed: bytes of the data as its header says.
        held: bytes on disk.
        label: what the error message calls the file.
        packed: whether the data is compressed.
        max_ratio: how many times as much it may then unpack to.

    Raises:
        InputError: more than there is, or over 1 GiB and so many times as much where it is compressed.
    """
    if is_bomb(claimed, held, max_ratio=max_ratio) if packed else claimed > held:
        raise InputError(
            f"{label}: got a header that claims {claimed} bytes of data in a file of {held}, expected as much as it "
            "says; it is cut off or damaged, so copy it again"
        )
