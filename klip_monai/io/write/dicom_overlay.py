"""Overlays as DICOM objects of the source study: labels as Segmentation, heat map as Parametric Map.

Both carry the patient and study modules of the source images, their texts in UTF-8: an archive files an object by them.
They and the report as a DICOM object are the only outputs that do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
import torch
from highdicom.color import CIELabColor
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from highdicom.seg import Segmentation as DicomSegmentation
from pydicom import DataElement, Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat

from klip_monai import __version__
from klip_monai.errors import InputError
from klip_monai.io.dicom.geometry import LPS_TO_RAS
from klip_monai.io.dicom.pixels import quiet_pydicom
from klip_monai.io.dicom.values import named
from klip_monai.io.source_grid import as_affine, as_finite_volume, as_labels
from klip_monai.io.write.segments import SCT_MORPHOLOGICALLY_ABNORMAL, SEGMENTS

NATS_PER_PIXEL = Code("{nats}/{pixel}", "UCUM", "nats per pixel")
"""UCUM has no symbol for the nat, which is a pure number; annotations in braces are how UCUM writes such units."""

TIMES_THE_TWINS = Code("{ratio}", "UCUM", "ratio to the twins")
"""Unit of a heat map that was measured against twins."""

_KL_DENSITY = Code("KLD", "99KLIP", "Kullback-Leibler divergence density")
_MANUFACTURER, _MODEL = "klip_monai authors", "klip_monai"
_RESEARCH = "Research use only"
# Free numbers far above those that scanners give their series.
_SERIES = {"SEG": (9101, "segments"), "PM": (9102, "heat map"), "DOC": (9103, "report")}


@dataclass(frozen=True)
class Algorithm:
    """What made an overlay, as the DICOM objects state it.

    Attributes:
        name: of the prior's bundle.
        version: of the bundle.
        key: of the settings; with the bundle it names a result exactly.
    """

    name: str
    version: str
    key: str


def write_dicom_seg(
    path: str | Path,
    labels: npt.ArrayLike | torch.Tensor,
    affine: npt.ArrayLike | torch.Tensor,
    *,
    source: Sequence[Dataset],
    algorithm: Algorithm,
) -> Path:
    """Write the label map as a DICOM Segmentation (binary, two segments) of the source study.

    The segments have the names, colours and SNOMED CT codes of :mod:`klip_monai.io.write.segments`, and tracking UIDs
    that are the same whenever the same series is scored with the same settings. Frames without a voxel are left out.
    Each frame refers to the source image in its plane and has that image's position.

    Args:
        path: file to write, ending in `.dcm`.
        labels: (X, Y, Z), 0 background, 1 suspicious, 2 strongly suspicious.
        affine: (4, 4) voxel-to-RAS matrix in mm of the source series.
        source: headers of the source images, see :func:`klip_monai.io.dicom.source.source_headers`.
        algorithm: what made the labels.

    Returns:
        The path written.

    Raises:
        InputError: a wrong suffix, shape, affine or label value, or headers that no valid object can be made from.
    """
    path = dcm_path(path)
    voxels = as_labels(labels)
    if not voxels.any():  # one empty frame says the same as one for each slice and segment
        voxels = voxels[..., :1]
    with named_refusal("dicom-seg"):
        segmentation = DicomSegmentation(
            source_images=source,
            **_frames(voxels, as_affine(affine, may_lean=True)),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(number, source, algorithm) for number in range(len(SEGMENTS))],
            content_label="KLIP",
            content_description=_RESEARCH,
            **identity("SEG", algorithm),
        )
        segmentation.ContentCreatorName = ""
        segmentation.walk(_shorten_decimals)
        segmentation.save_as(path)
    return path


def write_dicom_pm(
    path: str | Path,
    heatmap: npt.ArrayLike | torch.Tensor,
    affine: npt.ArrayLike | torch.Tensor,
    *,
    source: Sequence[Dataset],
    algorithm: Algorithm,
    scale: tuple[float, float],
    unit: Code = NATS_PER_PIXEL,
) -> Path:
    """Write the heat map as a DICOM Parametric Map of the source study, float32, one frame a slice.

    Args:
        path: file to write, ending in `.dcm`.
        heatmap: (X, Y, Z), finite everywhere.
        affine: (4, 4) voxel-to-RAS matrix in mm of the source series.
        source: headers of the source images, see :func:`klip_monai.io.dicom.source.source_headers`.
        algorithm: what made the heat map.
        scale: values that a viewer should show as its lowest and highest colour.
        unit: UCUM code of the values.

    Returns:
        The path written.

    Raises:
        InputError: a wrong suffix, shape or affine, a voxel that is not finite, or headers that no valid object can be
            made from.
    """
    path = dcm_path(path)
    voxels = as_finite_volume("heatmap", heatmap)
    mapping = RealWorldValueMapping(
        lut_label="KL density",
        lut_explanation="Kullback-Leibler divergence density",
        unit=unit,
        value_range=(float(voxels.min()), float(voxels.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=_KL_DENSITY,
    )
    low, high = scale
    with named_refusal("dicom-pm"):
        parametric_map = ParametricMap(
            source_images=source,
            **_frames(voxels, as_affine(affine, may_lean=True)),
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[
                hd.VOILUTTransformation((low + high) / 2, high - low, voi_lut_function="LINEAR_EXACT")
            ],
            content_label="KLIP",
            content_description=_RESEARCH,
            **identity("PM", algorithm),
        )
        parametric_map.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_anatomy()]
        parametric_map.ContentCreatorName = ""
        _sort_frames(parametric_map)
        parametric_map.walk(_shorten_decimals)
        parametric_map.save_as(path)
    return path


def _frames(voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> dict[str, Any]:
    """(X, Y, Z) on a RAS grid as frames (slice, row, column) and their planes; the slice axis may lean."""
    lps = LPS_TO_RAS @ affine
    column_mm, row_mm = np.linalg.norm(lps[:3, :2], axis=0)
    slice_mm = abs(np.linalg.det(lps[:3, :3])) / (column_mm * row_mm)
    places = [(lps[:3, 3] + k * lps[:3, 2]).tolist() for k in range(voxels.shape[2])]
    return {
        "pixel_array": voxels.transpose(2, 1, 0),
        "pixel_measures": hd.PixelMeasuresSequence((row_mm, column_mm), slice_mm, slice_mm),
        "plane_orientation": hd.PlaneOrientationSequence(
            "PATIENT", [*(lps[:3, 0] / column_mm), *(lps[:3, 1] / row_mm)]
        ),
        "plane_positions": [hd.PlanePositionSequence("PATIENT", place) for place in places],
    }


def _sort_frames(parametric_map: Dataset) -> None:
    """Store the frames along row direction x column direction: dcmqi 1.5.7 takes them as they come, wherever they lie.

    The numbers in the frames' dimension indices stay theirs.
    """
    groups = list(parametric_map.PerFrameFunctionalGroupsSequence)
    orientation = parametric_map.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    normal = np.cross(*np.reshape(np.asarray(orientation, dtype=np.float64), (2, 3)))
    places = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in groups]
    order = np.argsort(np.asarray(places, dtype=np.float64) @ normal, kind="stable")
    pixels = np.frombuffer(parametric_map.FloatPixelData, "<f4").reshape(len(groups), -1)
    parametric_map.FloatPixelData = pixels[order].tobytes()
    parametric_map.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]


def _shorten_decimals(_: Dataset, element: DataElement) -> None:
    """Write numbers with the 16 characters that DICOM allows: many a source, from which some are copied, has more."""
    if element.VR == "DS" and element.value is not None:
        values = element.value if element.VM > 1 else [element.value]
        short = [DSfloat(float(value), auto_format=True) for value in values]
        element.value = short if element.VM > 1 else short[0]


def _anatomy() -> Dataset:
    """Frame Anatomy: an unpaired part of the body. dcmqi cannot read a map without it."""
    anatomy = Dataset()
    anatomy.FrameLaterality = "U"
    anatomy.AnatomicRegionSequence = [hd.sr.CodedConcept("38266002", "SCT", "Entire body")]
    return anatomy


def _segment(number: int, source: Sequence[Dataset], algorithm: Algorithm) -> SegmentDescription:
    segment, (scheme, value, meaning) = SEGMENTS[number], SCT_MORPHOLOGICALLY_ABNORMAL
    abnormal = Code(value, scheme, meaning)
    origin = [str(source[0].SeriesInstanceUID), algorithm.name, algorithm.version, algorithm.key, segment.identifier]
    return SegmentDescription(
        segment_number=segment.value,
        segment_label=segment.name,
        segmented_property_category=abnormal,
        segmented_property_type=abnormal,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=f"KLIP, prior {algorithm.name}",
            family=codes.DCM.ArtificialIntelligence,
            version=f"{__version__}, prior {algorithm.version}",
            source=_MANUFACTURER,
            parameters={"settings": algorithm.key},
        ),
        tracking_uid=generate_uid(entropy_srcs=origin),
        tracking_id=f"KLIP {segment.identifier}",
        display_color=CIELabColor.from_rgb(*(round(255 * channel) for channel in segment.rgb)),
    )


def identity(kind: str, algorithm: Algorithm) -> dict[str, Any]:
    """Series, instance and equipment of a new object (SEG, PM or DOC); its UIDs are new in every run, as its dates."""
    number, what = _SERIES[kind]
    return {
        "series_instance_uid": hd.UID(),
        "series_number": number,
        "series_description": f"KLIP {what} (research use only)",
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": _MANUFACTURER,
        "manufacturer_model_name": _MODEL,
        "software_versions": __version__,
        "device_serial_number": f"{algorithm.name[:40]} {algorithm.key[:20]}",
    }


@contextmanager
def named_refusal(output: str) -> Iterator[None]:
    """Turn what highdicom says of headers that it cannot use into one line.

    It may quote their values, so only its kind is told, and the tags that it names.
    """
    try:
        with quiet_pydicom():
            yield
    except (OSError, MemoryError, InputError):
        raise
    except Exception as error:  # many types, as it takes headers for valid
        words = re.findall(r"\w+", str(error))
        tags = ", ".join(dict.fromkeys(named(word) for word in words if tag_for_keyword(word) is not None))
        why = f"{type(error).__name__}{': ' if tags else ''}{tags}"
        raise InputError(
            f"{output}: got source images whose headers ({why}) make no valid DICOM object, expected complete CT "
            f"headers; leave out {output}, or export the series again"
        ) from error


def dcm_path(path: str | Path) -> Path:
    """Refuse a name that does not end in `.dcm`."""
    path = Path(path)
    if path.suffix != ".dcm":
        raise InputError(f"path: got {path.name!r}, expected a name ending in .dcm")
    return path
