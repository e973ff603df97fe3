"""Which values of a source image a new DICOM object can take over: what de-identification leaves is often none."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, validate_value

_LISTED = {
    "PatientSex": ("M", "F", "O"),
    "PatientSexNeutered": ("ALTERED", "UNALTERED"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "QualityControlSubject": ("YES", "NO"),
    "SmokingStatus": ("YES", "NO", "UNKNOWN"),
    "LossyImageCompression": ("00", "01"),
}
_NEVER_EMPTY = (Tag("LossyImageCompression"),)  # type 1, where it lacks highdicom puts 00
_ASCII_ONLY = ("", "ISO_IR 6", "ISO 2022 IR 6")
# Components that begin with a zero break PS3.5 9.1, but scanners have given them and archives file by them.
_UID = re.compile(r"\d+(\.\d+)*")
_LONGEST_UID = 64
_LINES = "\t\n\f\r"  # PS3.5 6.2: control characters that texts of several lines may hold
_TEXTS_OF_LINES = ("ST", "LT", "UT")
_LOST = "\N{REPLACEMENT CHARACTER}"  # what pydicom puts for bytes that are not of the character set


def named(keyword: str) -> str:
    """A tag as messages name it: `PatientSex (0010,0040)`."""
    tag = BaseTag(tag_for_keyword(keyword) or 0)
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"


def is_uid(value: Any) -> bool:
    """Whether a value can identify something: up to 64 digits and dots."""
    text = str(value or "")
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None


def transcode(header: Dataset, copied: Iterable[BaseTag]) -> list[str]:
    """Bring what is copied from a header into a form that any DICOM object may hold, its texts in UTF-8.

    A value that DICOM does not allow in its place is made empty, a sequence with one is left out whole.

    Args:
        header: as it was read; changed in place.
        copied: tags of it that are copied.

    Returns:
        Keywords of what was made empty or left out, in the order of their tags.
    """
    is_decoded, unfit = _is_decoded(header.get("SpecificCharacterSet")), list[str]()
    for tag in sorted(copied):
        if _is_allowed(header, tag, is_decoded):
            continue
        unfit.append(keyword_for_tag(tag))
        if dictionary_VR(tag) == "SQ" or tag in _NEVER_EMPTY:
            del header[tag]
        else:
            header[tag] = DataElement(tag, dictionary_VR(tag), None)
    header.SpecificCharacterSet = "ISO_IR 192"
    return unfit


def _is_decoded(character_set: Any) -> bool:
    """Whether letters beyond ASCII are sure to be what was meant.

    pydicom takes terms that it does not know for Latin-1, and so do bytes where no term allows any.
    """
    terms = [character_set or ""] if isinstance(character_set, str | None) else [str(term) for term in character_set]
    beyond = [convert_encodings(term)[0] for term in terms if term not in _ASCII_ONLY]
    return bool(beyond) and default_encoding not in beyond


def _is_allowed(header: Dataset, tag: BaseTag, is_decoded: bool) -> bool:
    """Whether the value of a tag is one of its type, number and list, all items of a sequence included."""
    try:
        element, keyword = header[tag], keyword_for_tag(tag)
        values = [] if element.is_empty else element.value if element.VM > 1 else [element.value]
        if keyword and element.VR not in dictionary_VR(tag).split(" or "):
            return False
        if element.VR == "SQ":
            return all(_is_allowed(item, inner, is_decoded) for item in element.value for inner in sorted(item.keys()))
        if keyword and len(values) > 1 and dictionary_VM(tag) == "1":
            return False
        return all(_fits(element.VR, value, is_decoded) and value in _LISTED.get(keyword, [value]) for value in values)
    except Exception:  # pydicom raises many types on bytes that are no value of their type
        return False


def _fits(vr: str, value: Any, is_decoded: bool) -> bool:
    """Whether one value is of its type (PS3.5, 6.2)."""
    if vr in ("DS", "IS"):  # however many digits: they are shortened when written
        return math.isfinite(float(value))
    if vr == "UI":
        return is_uid(value)
    if isinstance(value, bytes | int | float):
        return True
    text = str(value)
    validate_value(vr, text, config.RAISE)
    if vr in ("DA", "TM") and "-" in text:
        return False  # a range, for queries only
    if vr == "DA":
        datetime.strptime(text, "%Y%m%d")  # no 30 February
    if vr in CUSTOMIZABLE_CHARSET_VR and (not (is_decoded or text.isascii()) or _LOST in text):
        return False
    lines = _LINES if vr in _TEXTS_OF_LINES else ""
    return not any(unicodedata.category(letter) == "Cc" and letter not in lines for letter in text)
