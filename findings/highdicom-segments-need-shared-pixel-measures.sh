#!/usr/bin/env bash
# highdicom 0.28.2, seg.Segmentation: an enhanced CT image whose frames state their Pixel Measures and Plane Orientation each for
# itself cannot be segmented, though all frames state the same.
#
# DICOM PS3.3 lets both functional groups of Enhanced CT Image Storage stand in the Shared or in the Per-frame Functional Groups
# Sequence. highdicom looks for them among the shared ones only when it makes a segmentation: the same image with them there gives
# an object of three frames; with them at each frame the constructor raises an AttributeError, 'Dataset' object has no attribute
# 'PixelMeasuresSequence', which names neither the image nor the way out. Copying the groups of the first frame to the shared ones,
# where all frames agree, lets it through.
#
# Seen with: Python 3.11, highdicom 0.28.2, pydicom 3.0.2, numpy 2.4.6. The script fails when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "highdicom==0.28.2" "pydicom==3.0.2" "numpy==2.4.6"
"$work/venv/bin/python" - <<'PY'
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

FRAMES, SIDE = 3, 4


def dataset(**elements):
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def geometry(group):
    """State what is the same for all frames."""
    group.PlaneOrientationSequence = [dataset(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    group.PixelMeasuresSequence = [dataset(PixelSpacing=[1, 1], SliceThickness=2)]


def enhanced_ct(*, shared):
    empty = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
    empty += ("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator")
    uids = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    ct = dataset(**dict.fromkeys(empty, ""), **{keyword: generate_uid() for keyword in uids})
    ct.SOPClassUID, ct.Modality, ct.SeriesNumber, ct.InstanceNumber = EnhancedCTImageStorage, "CT", 1, 1
    ct.file_meta = dataset(TransferSyntaxUID=ExplicitVRLittleEndian, MediaStorageSOPClassUID=ct.SOPClassUID)
    ct.file_meta.MediaStorageSOPInstanceUID = ct.SOPInstanceUID
    ct.Rows = ct.Columns = SIDE
    ct.NumberOfFrames, ct.SamplesPerPixel, ct.PhotometricInterpretation = FRAMES, 1, "MONOCHROME2"
    ct.BitsAllocated = ct.BitsStored = 16
    ct.HighBit, ct.PixelRepresentation = 15, 1
    ct.PixelData = np.zeros((FRAMES, SIDE, SIDE), np.int16).tobytes()
    organization = generate_uid()
    ct.DimensionOrganizationSequence = [dataset(DimensionOrganizationUID=organization)]
    index = {"DimensionIndexPointer": 0x00209057, "FunctionalGroupPointer": 0x00209111}  # place in the stack
    ct.DimensionIndexSequence = [dataset(DimensionOrganizationUID=organization, **index)]
    ct.SharedFunctionalGroupsSequence = [Dataset()]
    ct.PerFrameFunctionalGroupsSequence = [
        dataset(
            PlanePositionSequence=[dataset(ImagePositionPatient=[0, 0, 2 * number])],
            FrameContentSequence=[dataset(StackID="1", InStackPositionNumber=number, DimensionIndexValues=number)],
        )
        for number in range(1, FRAMES + 1)
    ]
    for group in ct.SharedFunctionalGroupsSequence if shared else ct.PerFrameFunctionalGroupsSequence:
        geometry(group)
    return ct


def segmentation(ct):
    liver = SegmentDescription(1, "liver", codes.SCT.Organ, codes.SCT.Liver, SegmentAlgorithmTypeValues.MANUAL)
    return Segmentation(
        source_images=[ct],
        pixel_array=np.ones((FRAMES, SIDE, SIDE), np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[liver],
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="maker",
        manufacturer_model_name="model",
        software_versions="1",
        device_serial_number="1",
    )


frames = segmentation(enhanced_ct(shared=True)).NumberOfFrames
print("shared by all frames:", frames, "frames of a segmentation")
assert frames == FRAMES
try:
    segmentation(enhanced_ct(shared=False))
except AttributeError as error:
    print("stated by each frame:", error)
    assert "PixelMeasuresSequence" in str(error)
else:
    raise SystemExit("segmentations of such images are made now")
PY
