"""The two segments of an overlay: values, names, colours and codes, for every format that shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OverlaySegment:
    """One label of the overlay.

    Attributes:
        value: voxel value in the label map.
        identifier: stable segment id, the same in every file.
        name: what the viewer lists.
        rgb: display colour, each channel in [0, 1].
    """

    value: int
    identifier: str
    name: str
    rgb: tuple[float, float, float]


SUSPICIOUS = OverlaySegment(value=1, identifier="suspicious", name="Suspicious", rgb=(1.0, 0.706, 0.0))
STRONGLY_SUSPICIOUS = OverlaySegment(
    value=2, identifier="strongly_suspicious", name="Strongly suspicious", rgb=(1.0, 0.231, 0.188)
)
SEGMENTS: tuple[OverlaySegment, ...] = (SUSPICIOUS, STRONGLY_SUSPICIOUS)

# SNOMED CT concept of DICOM CID 7150. It is its own type as well: anything finer (mass, cyst) would be a diagnosis.
SCT_MORPHOLOGICALLY_ABNORMAL: tuple[str, str, str] = ("SCT", "49755003", "Morphologically Abnormal Structure")
