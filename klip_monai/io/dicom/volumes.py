"""Take a DICOM series apart into volumes, each of one thing: one reconstruction, one phase, one acquisition."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from klip_monai.errors import printable

Header = Dataset | Mapping[str, Any]
"""A dataset, or some of its tags by keyword."""

SAME_TAGS = ("KVP", "ConvolutionKernel", "SliceThickness", "ImageType", "FrameType")
"""Tags that have one value throughout a volume, wherever its slices lie."""

STACKED_TAGS = (
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase"),
    *("StackID", "AcquisitionNumber", "FrameAcquisitionNumber"),
)
"""Tags that may change within a volume from one stack of slices to the next, but not to and fro."""

PHASE_TAGS = (
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "TemporalPositionTimeOffset"),
    *("NominalPercentageOfCardiacPhase", "TriggerTime", *SAME_TAGS),
    *("StackID", "AcquisitionNumber", "FrameAcquisitionNumber", "AcquisitionTime", "FrameAcquisitionDateTime"),
)
"""Tags in which slices at one place do not differ unless they are of different volumes, the most telling first."""

FILE_TAGS = ("AcquisitionDateTime", "ContentTime", "SOPInstanceUID")
"""Tags that may tell volumes apart, too, and in which copies of a slice may differ; the last is for enhanced files."""

_DIGITS = 3  # of numbers that slices write in their own way: 5, 5.0, 4.9999


def split(headers: list[Dataset]) -> list[list[Dataset]]:
    """Take the slices of a series apart into its volumes.

    Slices that differ in one of :data:`SAME_TAGS` are of different volumes. Of the others those are that share places,
    or alternate, if one tag tells volumes apart that have one slice a place.

    Args:
        headers: one dataset a slice, of one series.

    Returns:
        The slices of each volume, in their order.
    """
    alike: dict[tuple[str, ...], list[Dataset]] = {}
    for header in headers:
        alike.setdefault(tuple(value_of(header, tag) for tag in SAME_TAGS), []).append(header)
    parts = [alike[values] for values in sorted(alike, key=lambda values: [_natural(value) for value in values])]
    return [volume for part in parts for volume in _phases(part)]


def phase_tag(headers: Sequence[Header]) -> str:
    """First tag in which headers of slices at one place differ, or "" if none does."""
    return _differing(headers, PHASE_TAGS)


def tag_between(headers: Sequence[Header]) -> str:
    """First tag in which the volumes of a series differ, from one header of each; "" if none does."""
    return _differing(headers, (*PHASE_TAGS, *FILE_TAGS))


def value_of(header: Header, tag: str) -> str:
    """Value of a tag in a form that is the same for the same thing: 5 and 5.0 mm are."""
    value = text(header, tag)
    try:
        return f"{round(float(value), _DIGITS):g}" if tag in ("KVP", "SliceThickness") else value
    except ValueError:
        return value


def text(header: Header, keyword: str) -> str:
    """Value of a tag on one line, without control characters that would act on a terminal."""
    value = header.get(keyword)
    # To print nested items would take minutes, and tell what they hold. Most values are text; to ask for that is fast.
    if not isinstance(value, str) and isinstance(value, Items):
        return ""
    return " ".join(printable(str(value or "")).split())


def n_frames(header: Header) -> int:
    """Number of frames of a file."""
    return int(header.get("NumberOfFrames") or 1)


def place(header: Header) -> tuple[float, ...] | None:
    """ImagePositionPatient to a hundredth of a mm, or None."""
    try:
        return tuple(round(float(value), 2) + 0.0 for value in header.get("ImagePositionPatient") or ()) or None
    except (TypeError, ValueError):
        return None


def distinct(headers: Sequence[Header]) -> set[Hashable]:
    """The slices, copies of a file counted once: those of one instance, frame and place."""
    return {
        (text(header, "SOPInstanceUID") or id(header), getattr(header, "frame", 0), place(header)) for header in headers
    }


def _differing(headers: Sequence[Header], tags: Sequence[str]) -> str:
    return next((tag for tag in tags if len({value_of(header, tag) for header in headers}) > 1), "")


def _phases(headers: list[Dataset]) -> list[list[Dataset]]:
    """Take apart slices that share places, or alternate along the stack."""
    places = [place(header) for header in headers]
    if None in places or len(set(map(len, filter(None, places)))) > 1:
        return [headers]
    sharing = len(set(places)) < len(distinct(headers))
    for tag in (*PHASE_TAGS, *FILE_TAGS) if sharing else STACKED_TAGS:
        parts: dict[str, list[Dataset]] = {}
        for header in headers:
            parts.setdefault(text(header, tag), []).append(header)
        if len(parts) < 2 or not all(map(_is_stack, parts.values())):
            continue
        if sharing or _alternates(headers, tag):
            return [parts[value] for value in sorted(parts, key=_natural)]
    return [headers]


def _is_stack(headers: Sequence[Dataset]) -> bool:
    """Whether there are several places, with one slice each."""
    return len({place(header) for header in headers}) == len(distinct(headers)) > 1


def _alternates(headers: Sequence[Dataset], tag: str) -> bool:
    """Whether a tag takes a value again after another one, from slice to slice along the stack."""
    points = np.array([place(header) for header in headers])
    longest = np.ptp(points, axis=0).argmax()
    values = [text(headers[index], tag) for index in np.argsort(points[:, longest], kind="stable")]
    changes = sum(one != other for one, other in pairwise(values))
    return changes >= len(set(values))


def _natural(value: str) -> tuple[float, str]:
    """Sorts numbers by value, and before all else."""
    try:
        return float(value), value
    except ValueError:
        return np.inf, value
