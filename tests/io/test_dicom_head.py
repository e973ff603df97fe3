"""The short way to a few tags gives what pydicom gives."""

from __future__ import annotations

import io
import struct

import pydicom
import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from klip_monai.io.dicom import head as dicom_head
from klip_monai.io.dicom.head import parse_head, read_head
from klip_monai.io.dicom.scan import sop_class, what_it_is
from klip_monai.io.dicom.volumes import n_frames, place, text

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
PLAIN = SYNTAXES[:2]


def dataset(*, private_bytes: int = 0, undefined_length: bool = True) -> Dataset:
    """An image with nested sequences, private tags and a description that is not ASCII."""
    ds = Dataset()
    ds.SpecificCharacterSet, ds.SeriesDescription = "ISO_IR 192", "Oberbauch venös"
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = CTImageStorage, generate_uid(), generate_uid()
    ds.Modality, ds.ImageType, ds.StudyDate, ds.BodyPartExamined = "CT", ["ORIGINAL", "PRIMARY"], "20200102", "ABDOMEN"
    # Nested copies of wanted tags must not be taken for the image's own.
    inner, outer = Dataset(), Dataset()
    inner.SOPInstanceUID, inner.Modality = "1.2.3", "MR"
    outer.ReferencedSOPSequence, outer.SeriesInstanceUID = Sequence([inner, inner]), "1.2.4"
    ds.ReferencedStudySequence = Sequence([outer, Dataset()])
    ds.add_new(0x00190010, "LO", "MAKER")
    ds.add_new(0x00191001, "OB", bytes(private_bytes))
    ds.ImagePositionPatient, ds.NumberOfFrames, ds.Rows, ds.Columns = [1.5, -2, "3e1"], 7, 300, 200
    for sequence in (ds["ReferencedStudySequence"], outer["ReferencedSOPSequence"]):
        sequence.is_undefined_length = undefined_length
        for item in sequence.value:
            item.is_undefined_length_sequence_item = undefined_length
    return ds


def saved(ds: Dataset, syntax: UID) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2.5"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def facts(header) -> tuple:
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "StudyDate", "BodyPartExamined")
    words = tuple(text(header, keyword) for keyword in keywords)
    size = (header.get("Rows"), header.get("Columns"))
    return words, size, n_frames(header), place(header), sop_class(header), what_it_is(header)


@pytest.mark.parametrize("undefined_length", [True, False])
@pytest.mark.parametrize("private_bytes", [0, 40_000, 3_000_000])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_tags_are_those_pydicom_reads(syntax: UID, private_bytes: int, undefined_length: bool) -> None:
    data = saved(dataset(private_bytes=private_bytes, undefined_length=undefined_length), syntax)
    expected = facts(pydicom.dcmread(io.BytesIO(data)))
    assert facts(read_head(io.BytesIO(data))) == expected
    assert expected[0][2] == "Oberbauch venös"


@pytest.mark.parametrize("syntax", PLAIN, ids=lambda syntax: syntax.name)
def test_plain_headers_need_no_pydicom(syntax: UID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_head, "dcmread", None)
    data = saved(dataset(private_bytes=40_000), syntax)
    assert text(read_head(io.BytesIO(data)), "Modality") == "CT"


@pytest.mark.parametrize("syntax", PLAIN, ids=lambda syntax: syntax.name)
def test_a_header_cut_off_anywhere_is_never_taken_for_whole(syntax: UID) -> None:
    data = saved(dataset(), syntax)
    whole = parse_head(data, complete=True)
    for end in range(132, len(data)):
        with pytest.raises((ValueError, struct.error, dicom_head._NotPlainError)):
            parse_head(data[:end], complete=False)
        try:
            part = parse_head(data[:end], complete=True)
        except (ValueError, struct.error, dicom_head._NotPlainError):
            continue
        assert part.items() < whole.items()


def test_other_files_are_told_apart() -> None:
    assert read_head(io.BytesIO(b"")) is None
    assert read_head(io.BytesIO(bytes(500))) is None


def test_sop_class_may_stand_in_the_meta_group_only() -> None:
    ds, buffer = dataset(), io.BytesIO()
    saved(ds, ExplicitVRLittleEndian)
    del ds.SOPClassUID
    ds.preamble = bytes(128)
    pydicom.dcmwrite(buffer, ds)
    assert read_head(io.BytesIO(buffer.getvalue()))["SOPClassUID"] == CTImageStorage
