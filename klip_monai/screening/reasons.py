"""Why a series was not scored, in words that tell nothing about the patient."""

from __future__ import annotations

import re

_GROUPS = (  # first match counts; words of the readers' messages
    (r"leave out dicom-", "no DICOM output possible"),
    (r"^--roi: got (no mask|several masks)", "no mask of the region"),
    (r"^--roi", "mask of the region"),
    (r"got no access|unreadable file among", "no access"),
    (r"among its files", "damaged files"),
    (r"no body is larger|lengths in", "geometry"),
    (r"several patients|CT series, expected one", "mixed slices"),
    (r"missing slice|unevenly spaced|not evenly|irregular", "missing or uneven slices"),
    (r"occupied position|repeated", "repeated slices"),
    (r"damaged|cut off|cut-off|cannot be decoded|cannot read|incomplete", "damaged files"),
    (r"tilt|sheared", "gantry tilt"),
    (r"ImageOrientation|ImagePosition|PixelSpacing|qform|sform|spacing|full place in space|shifted", "geometry"),
    (r"Rescale|look-up table|not HU|PaddingValue|NaN", "not Hounsfield units"),
    (r"only CT|CT series, expected|no modality", "not CT"),
    (r"slice\(s\), expected at least|expected at least \d+ voxels|no slices", "too few slices"),
    (r"mixed|differ in|different slices", "mixed slices"),
    (r"body|empty", "no body"),
    (r"does not exist|no such series|no known format|expected the DICOM files", "not found"),
    (r"grey|frame", "not one grey volume"),
)

NOT_NOW = ("no access", "not found")
"""Groups of what is no verdict on a series: its files could not be read this time."""

_SKIPPED = (
    (r"slice\(s\), expected at least", "too few slices"),
    (r"the same images", "duplicates"),
    (r"description does not match", "other description"),
    (r"older than", "older"),
)


def group_of(reason: str) -> str:
    """What a refusal has in common with others: a few words without numbers."""
    return next((group for pattern, group in _GROUPS if re.search(pattern, reason)), "other")


def group_of_skipped(reason: str) -> str:
    """The same for a series that was left out unread: by which filter, and what it had instead."""
    return next((group for pattern, group in _SKIPPED if re.search(pattern, reason)), reason.split(",")[0])


def without_names(message: str) -> str:
    """A reader's message as one sentence without paths, file names, UIDs and lists of series.

    Args:
        message: of an :class:`klip_monai.errors.InputError`: "WHERE: got ..., expected ...; way out".
    """
    text = message[message.find("got ") :] if "got " in message else message
    text = f"--roi: {text}" if message.startswith("--roi: ") else text  # the mask is at fault, not the scan
    text = re.split(r"(?:[;,:] found |: choose one | --series-uid)", text)[0]
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "...", text)
    text = re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\][^\s,;:]+", "...", text)
    text = re.sub(r"\b\d+(?:\.\d+){4,}\b", "...", text)
    return " ".join(text.split())[:400]
