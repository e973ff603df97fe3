"""A report as a DICOM object of the source study: Encapsulated PDF (PS3.3 A.45.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
from pydicom import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from klip_monai.errors import InputError
from klip_monai.io.write.dicom_overlay import Algorithm, dcm_path, identity, named_refusal

_TITLE = "KLIP report (research use only)"


def write_dicom_pdf(
    path: str | Path, pdf: bytes, *, source: Sequence[Dataset], algorithm: Algorithm, identifies: bool = False
) -> Path:
    """File a PDF with the source study.

    Patient and study modules are those of the source images, their texts in UTF-8, and each of these is referred to.

    Args:
        path: file to write, ending in `.dcm`.
        pdf: the document.
        source: headers of the source images, see :func:`klip_monai.io.dicom.source.source_headers`.
        algorithm: what made the report.
        identifies: whether the document shows who the patient is, which the object then says (BurnedInAnnotation).

    Returns:
        The path written.

    Raises:
        InputError: a wrong suffix, bytes that are no PDF, or headers that no valid object can be made from.
    """
    path = dcm_path(path)
    if not pdf.startswith(b"%PDF-"):
        raise InputError(f"pdf: got {pdf[:5]!r} at the start, expected %PDF-; give the bytes of a PDF file")
    first = source[0]
    with named_refusal("dicom-pdf"):
        document = hd.SOPClass(
            study_instance_uid=first.StudyInstanceUID,
            sop_class_uid=EncapsulatedPDFStorage,
            modality="DOC",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            specific_character_set=first.get("SpecificCharacterSet"),
            **identity("DOC", algorithm),
        )
        document.copy_patient_and_study_information(first)
        document.AcquisitionDateTime = ""
        document.ConversionType = "WSD"
        document.BurnedInAnnotation = "YES" if identifies else "NO"
        document.DocumentTitle = _TITLE
        document.ConceptNameCodeSequence = []
        document.SourceInstanceSequence = [_reference(header) for header in source]
        document.MIMETypeOfEncapsulatedDocument = "application/pdf"
        document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
        document.EncapsulatedDocumentLength = len(pdf)
        document.save_as(path)
    return path


def _reference(header: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return reference
