"""What may be filed in a PACS (STOW-RS, DICOM PS3.18 10.5), and what the server said to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klip_monai.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset
    from requests import Response

_OK = 200
_DICOM_ANSWERS = ("application/dicom+json", "application/json", "application/dicom+xml", "application/xml", "text/xml")
# PS3.18 table I.2-2, as far as an operator can do something about them.
_STORE_FAILURES = {
    0x0110: "it could not process the object",
    0x0122: "it does not take objects of this SOP class",
    0x0124: "it does not allow it",
    0xA700: "it is out of resources",
    0xA900: "the object does not match its SOP class",
    0xC000: "it does not understand the object",
    0xC122: "it does not take the transfer syntax",
}


def derived(item: Dataset | str | os.PathLike[str]) -> Dataset:
    """A dataset that may be sent."""
    from pydicom import Dataset, dcmread
    from pydicom.errors import InvalidDicomError

    try:
        dataset = item if isinstance(item, Dataset) else dcmread(item)
    except (OSError, InvalidDicomError) as error:
        raise InputError(f"objects: got {Path(str(item)).name!r}, expected a DICOM file ({error})") from error
    if (dataset.get("ImageType") or [""])[0] != "DERIVED":
        raise InputError(
            "objects: got an original image, expected derived objects only, such as dicom-seg and dicom-pm; nothing "
            "else is ever sent to a server"
        )
    if not getattr(dataset, "preamble", None):  # what makes it a file; datasets made in memory have none
        dataset.preamble = bytes(128)
    return dataset


def outcome_of(response: Response) -> Dataset:
    """What an answer in DICOM JSON says about an object, whatever its status; empty if it says nothing."""
    from pydicom import Dataset

    try:
        answer: Any = response.json()
        return Dataset.from_json(answer[0] if isinstance(answer, list) else answer)
    except (ValueError, LookupError, AttributeError, TypeError):
        return Dataset()


def refusal_in(outcome: Dataset) -> str:
    """Why an object was not stored; empty if nothing is said against it."""
    for failure in outcome.get("FailedSOPSequence") or ():
        code = int(failure.get("FailureReason") or 0)
        return f"{_STORE_FAILURES.get(code, 'it does not say why')}, code {code:04X}"
    return ""


def doubt_in(outcome: Dataset, answer: Response, sent: Dataset) -> str:
    """Why an answer without a refusal does not say that an object was stored; empty if it does (PS3.18, 10.5.3)."""
    named = [str(item.get("ReferencedSOPInstanceUID", "")) for item in outcome.get("ReferencedSOPSequence") or ()]
    if named:
        return "" if str(sent.SOPInstanceUID) in named else "it names another object as stored"
    if answer.status_code != _OK:
        return f"it answered {answer.status_code} {answer.reason}"
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if answer.content and kind not in _DICOM_ANSWERS:
        return f"it answered with {kind or 'something'} instead of a DICOM result"
    return ""
