"""Read the mask of a region from a DICOM Segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from highdicom.seg import Segmentation, SegmentationTypeValues
from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage

from klip_monai.errors import InputError
from klip_monai.io.dicom.geometry import LPS_TO_RAS, POSITION_TOLERANCE_MM
from klip_monai.io.dicom.pixels import quiet_pydicom
from klip_monai.io.masks.mask import Mask, Segment, choose, of_segments, whole
from klip_monai.io.masks.roi import Roi

_CLASSES = (SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")  # the second, of label maps, is new to pydicom
_LEANING = 0.2  # 1 - cosine: of a gantry's tilt, at most 36 degrees
_HALF = 0.5
_QUOTED = 200


@quiet_pydicom()
def read_dicom_seg(roi: Roi) -> Mask:
    """Read segments of a DICOM Segmentation (binary, fractional or label map), by name (SegmentLabel) or number.

    Args:
        roi: the file and its labels.

    Returns:
        The mask; its third axis is that of the frames, which leans where those of a tilted gantry do. Frames that were
        left out, as they are empty, are empty.

    Raises:
        InputError: another object, damaged or irregular frames, unknown labels, or none with a voxel.
    """
    try:
        dataset = dcmread(roi.path)
    except Exception as error:  # pydicom raises many types on damaged files
        raise _unreadable(roi, error) from error
    if dataset.get("SOPClassUID") not in _CLASSES:
        raise InputError(
            f"--roi: got {roi.path.name!r} of modality {dataset.get('Modality') or 'unknown'}, expected a DICOM "
            "Segmentation (SEG); convert it, as 3D Slicer does contours (RTSTRUCT)"
        )
    try:
        segmentation = Segmentation.from_dataset(dataset, copy=False)
        segments = [
            Segment(str(part.segment_label), int(part.segment_number), layer)
            for layer, part in enumerate(map(segmentation.get_segment_description, segmentation.segment_numbers))
            if part.segment_number  # of a label map, 0 is background
        ]
        chosen = choose(segments, roi) if roi.labels else segments
        parts, affine = _voxels(segmentation, chosen)
    except InputError:
        raise
    except Exception as error:  # highdicom raises many types on objects that are not as the standard says
        raise _unreadable(roi, error) from error
    frame, values = str(dataset.get("FrameOfReferenceUID", "")), np.logical_or.reduce(parts)
    if not roi.labels:
        return whole(values, affine, roi, frame)
    return of_segments(values, affine, chosen, [bool(part.any()) for part in parts], frame)


def _voxels(
    segmentation: Segmentation, chosen: Sequence[Segment]
) -> tuple[list[npt.NDArray[np.bool_]], npt.NDArray[np.float64]]:
    """Which voxels belong to each segment, bool (X, Y, Z), and their affine to RAS mm."""
    fractional = segmentation.segmentation_type == SegmentationTypeValues.FRACTIONAL
    parts = []
    for segment in chosen:
        volume = segmentation.get_volume(segment_numbers=[segment.value], perpendicular_tol=_LEANING)
        values = volume.array[..., 0]
        parts.append((values >= _HALF if fractional else values != 0).transpose(2, 1, 0))
    affine = np.array(volume.affine, dtype=np.float64)  # of (slice, row, column)
    affine[:3, 0] = _step(segmentation, affine)
    return parts, LPS_TO_RAS @ affine[:, [2, 1, 0, 3]]


def _step(segmentation: Segmentation, affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Way from slice to slice, mm: highdicom takes it along the normal, which it is not where the gantry was tilted."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    frames = segmentation.PerFrameFunctionalGroupsSequence
    positions = np.array([_position(frame, shared) for frame in frames]) - affine[:3, 3]
    spacing = float(np.linalg.norm(affine[:3, 0]))
    places = np.rint(positions @ affine[:3, 0] / spacing**2)
    if not places.any():  # a single slice: as thick as it says
        measures = (frames[0] if "PixelMeasuresSequence" in frames[0] else shared).PixelMeasuresSequence[0]
        thickness = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or spacing)
        return affine[:3, 0] * (thickness / spacing)
    step: npt.NDArray[np.float64] = places @ positions / (places @ places)
    astray = float(np.linalg.norm(positions - np.outer(places, step), axis=1).max())
    if astray > POSITION_TOLERANCE_MM:
        raise ValueError(f"frames lie up to {astray:.2f} mm off a regular grid")
    return step


def _position(frame: Dataset, shared: Dataset) -> npt.NDArray[np.float64]:
    plane = (frame if "PlanePositionSequence" in frame else shared).PlanePositionSequence[0]
    return np.array(plane.ImagePositionPatient, dtype=np.float64)


def _unreadable(roi: Roi, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:_QUOTED]
    return InputError(
        f"--roi: got {roi.path.name!r}, which cannot be read ({reason}), expected a complete DICOM Segmentation of "
        "parallel, evenly spaced frames; export it again"
    )
