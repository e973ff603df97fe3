"""Reasons tell what is wrong, and nothing about the patient."""

from __future__ import annotations

import pytest

from klip_monai.screening.reasons import group_of, group_of_skipped, without_names


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("path: got '/data/Smith John/scan.nii', which does not exist, expected a folder; check", "does not exist"),
        ("/data/Smith John/x.nii: got a file that is cut off or no NIfTI, expected a complete one", "cut off"),
        ("series 1.2.840.113619.2: got 2 CT series, expected one; choose one with --series-uid: 1.2.3.4.5.6", "2 CT"),
        ("ct-1: got no usable RescaleSlope in 'Smith_1.dcm', expected 1 number(s); export", "RescaleSlope"),
        ("folder: got other files at /mnt/Smith/a, expected DICOM; found SMITH, ABDOMEN", "expected DICOM"),
    ],
)
def test_names_paths_and_uids_are_left_out_and_the_fault_is_kept(message, kept):
    reason = without_names(message)
    assert kept in reason
    for private in ("Smith", "SMITH", "/data", "/mnt", "1.2.840", "1.2.3.4"):
        assert private not in reason


def test_decimals_and_shapes_stay():
    text = "got shape (3, 4, 5) and 2.50 mm at 1.2.3, expected 1 / 2"
    assert without_names(text) == text


@pytest.mark.parametrize(
    ("reason", "group"),
    [
        ("got values from 0 to 255, which are not HU: expected air below", "not Hounsfield units"),
        ("got pixels that are cut off or cannot be decoded (JPEG)", "damaged files"),
        ("got 2 slice(s), expected at least 3 of one volume", "too few slices"),
        ("got 1 x empty file among its files, first ..., expected complete DICOM files", "damaged files"),
        ("got a scan of 4500 x 38 x 38 cm, expected at most 300 cm, as no body is larger", "geometry"),
        ("got lengths in ..., expected mm", "geometry"),
        ("got slices of several patients, expected one PatientID", "mixed slices"),
        (
            "got images without a valid X (0020,0052), which dicom-pm cannot refer to, expected UIDs; "
            "leave out dicom-pm",
            "no DICOM output possible",
        ),
        ("got something new", "other"),
    ],
)
def test_reasons_have_groups(reason, group):
    assert group_of(reason) == group


@pytest.mark.parametrize(
    ("reason", "group"),
    [
        ("2 slice(s), expected at least 3", "too few slices"),
        ("modality MR, expected CT", "modality MR"),
        ("the same images as ct-12345678", "duplicates"),
        ("older than 2020-01-03", "older"),
    ],
)
def test_what_filters_leave_out_has_groups(reason, group):
    assert group_of_skipped(reason) == group
