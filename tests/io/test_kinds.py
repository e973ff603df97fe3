"""What files are that hold no image, and which series may miss them."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import nibabel as nib
import numpy as np
import pytest

from klip_monai.io.kinds import (
    DAMAGED,
    DICOM,
    EMPTY,
    GZIP,
    INNER_ARCHIVE,
    NOT_DICOM,
    VOLUME,
    ZEROS,
    Neighbours,
    begins_like_archive,
    kind_of,
)

_ELEMENT = b"\x08\x00\x05\x00"


@pytest.mark.parametrize(
    ("start", "name", "kind"),
    [
        (b"", "IM1", EMPTY),
        (bytes(512), "IM1", ZEROS),
        (bytes(128) + b"DICM", "IM1", DICOM),
        (_ELEMENT + b"CS\x0a\x00ISO_IR 100", "IM1", DICOM),
        (_ELEMENT + b"\x0a\x00\x00\x00ISO_IR 100", "IM1", DICOM),
        (b"\x00\x08\x00\x05CS\x00\x0aISO_IR 100", "IM1", DICOM),
        (b"\x02\x00\x00\x00UL\x04\x00", "IM1", DICOM),
        (_ELEMENT + b"\xff\xff\xff\x7f", "IM1", NOT_DICOM),
        (b"hello", "IM1", NOT_DICOM),
        (b"hello", "IM1.mha", VOLUME),
        (b"NRRD0004\n", "scan", VOLUME),
        (b"ObjectType = Image\n", "scan", VOLUME),
        (bytes(nib.Nifti1Image(np.zeros((3, 3, 3)), np.eye(4)).to_bytes()[:512]), "scan", VOLUME),
        (bytes(nib.Nifti2Image(np.zeros((3, 3, 3)), np.eye(4)).to_bytes()[:512]), "scan", VOLUME),
        (gzip.compress(b"x", mtime=0), "IM1.dcm.gz", GZIP),
        (gzip.compress(b"x", mtime=0), "IM1.nii.gz", VOLUME),
        (b"PK\3\4", "in.zip", INNER_ARCHIVE),
        (b"7z\xbc\xaf\x27\x1c", "in.7z", "7z archive"),
        (b"Rar!\x1a\x07", "in.rar", "RAR archive"),
        (b"\0\5\x16\7" + bytes(500), "._a.nii.gz", "companion file of macOS (._)"),
    ],
)
def test_files_are_told_by_their_beginning(start: bytes, name: str, kind: str) -> None:
    assert kind_of(start, name) == kind


def test_archives_are_told_by_their_beginning() -> None:
    packed, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", b"a")
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    assert begins_like_archive(packed.getvalue())
    assert begins_like_archive(tarred.getvalue())
    assert not begins_like_archive(bytes(128) + b"DICM")


COUNTED = {f"IM{k:03d}": "first" if k < 6 else "second" for k in range(12)}


@pytest.mark.parametrize(
    ("name", "what", "series"),
    [
        ("IM012", EMPTY, {"second"}),
        ("IM006.gz", GZIP, {"second"}),
        ("IM0055", EMPTY, {"second"}),
        ("im002", ZEROS, {"first"}),
        ("README", NOT_DICOM, set()),
        ("IM003.txt", NOT_DICOM, set()),
        ("._IM003", NOT_DICOM, set()),
        ("other", DAMAGED, {"first", "second"}),
    ],
)
def test_a_file_named_like_its_neighbours_may_be_one_of_them(name: str, what: str, series: set[str]) -> None:
    assert Neighbours(COUNTED).owners(name, what) == series


def test_names_that_are_uids_or_hashes_do_not_tell_which_series_is_next() -> None:
    uids = Neighbours({f"1.2.840.113619.{k}": "ab"[k // 3] for k in range(6)})
    assert uids.owners("1.2.840.1136191234567.12", EMPTY) == {"a", "b"}
    hashes = Neighbours({f"{k:016x}": "ab"[k // 3] for k in range(6)})
    assert hashes.owners("fedcba9876543210", EMPTY) == {"a", "b"}
    assert hashes.owners("notes", EMPTY) == set()


def test_a_file_that_is_called_dicom_may_be_a_slice_whatever_its_name() -> None:
    near = Neighbours({"front.dcm": "a", "back.dcm": "a"})
    assert near.owners("left.DCM", EMPTY) == {"a"}
    assert near.owners("._front.dcm", NOT_DICOM) == set()
    assert near.owners("left.txt", EMPTY) == set()
