"""DICOM Segmentation and Parametric Map: from an awkward source, to its own voxels, valid and filed with its study."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from ct_files import sample_hu, tilted, write_enhanced, write_series, write_tilted
from monai.data import MetaTensor
from pydicom import DataElement, Dataset, config, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from klip_monai.errors import InputError
from klip_monai.io import read_volume
from klip_monai.io.dicom.geometry import LPS_TO_RAS
from klip_monai.io.dicom.source import source_headers
from klip_monai.io.straighten import straighten
from klip_monai.io.write.dicom_overlay import NATS_PER_PIXEL, Algorithm, write_dicom_pm, write_dicom_seg
from klip_monai.io.write.dicom_pdf import write_dicom_pdf
from klip_monai.io.write.overlay import write_heatmap, write_labels, write_segmentation
from klip_monai.io.write.segments import SEGMENTS
from klip_monai.scan.output_files import DICOM_OUTPUTS
from klip_monai.scan.outputs import check_outputs

ALGORITHM = Algorithm(name="klip_ct_phantom", version="0.1.0", key="0123456789abcdef")
SCALE = (0.01, 0.2)
OBLIQUE = tuple(Rotation.from_euler("zyx", [25, -14, 9], degrees=True).as_matrix()[:, :2].T.ravel())
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def big_endian(ds: Dataset) -> None:
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()


def packed(kind: str) -> Callable[[Path], object]:
    """Two series in an archive, of which the second is meant."""

    def write(folder: Path) -> str:
        write_series(folder / "other", sample_hu(4))
        uid = write_series(folder / "this", sample_hu(9))
        shutil.make_archive(str(folder / "ct"), kind, folder, "this")
        for name in ("this", "other"):
            shutil.rmtree(folder / name)
        return uid

    return write


def two_phases(folder: Path) -> str:
    """A series of two volumes at the same places, of which the second is meant."""
    uid, frame = generate_uid(), generate_uid()
    for number in (1, 2):

        def edit(_: int, ds: Dataset, number: int = number) -> None:
            ds.TemporalPositionIdentifier, ds.FrameOfReferenceUID = number, frame

        write_series(folder / str(number), sample_hu(9, seed=number), series_uid=uid, edit=edit)
    return f"{uid}#2"


def compressed(syntax: str) -> Callable[[Path], object]:
    return lambda folder: write_series(folder, sample_hu(9, 32, 33), finish=lambda ds: ds.compress(syntax))


SOURCES: dict[str, Callable[[Path], object]] = {
    "axial": lambda folder: write_series(folder, sample_hu(9)),
    "oblique": lambda folder: write_series(folder, sample_hu(9), orientation=OBLIQUE),
    "sagittal, feet first": lambda folder: write_series(folder, sample_hu(9), orientation=SAGITTAL, step=-2.0),
    "prone": lambda folder: write_series(folder, sample_hu(9), orientation=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)),
    "decubitus": lambda folder: write_series(folder, sample_hu(9), orientation=(0.0, -1.0, 0.0, 1.0, 0.0, 0.0)),
    "big-endian": lambda folder: write_series(folder, sample_hu(9), finish=big_endian),
    "RLE": compressed(RLELossless),
    "JPEG-LS": compressed(JPEGLSLossless),
    "JPEG 2000": compressed(JPEG2000Lossless),
    "enhanced": lambda folder: write_enhanced(folder / "ct", sample_hu(9)),
    "tilted": lambda folder: write_tilted(folder, sample_hu(9), 15.0),
    "tilted, enhanced": lambda folder: write_enhanced(folder / "ct", sample_hu(9), orientation=tilted(-24.0)),
    "packed": packed("zip"),
    "packed as a stream": packed("gztar"),
    "second phase": two_phases,
}
UPRIGHT = [name for name in SOURCES if "tilted" not in name]


def read_source(name: str, folder: Path) -> MetaTensor:
    """The volume of a source, which lies in a folder or in an archive in it."""
    folder.mkdir()
    chosen = SOURCES[name](folder)
    archives = list(folder.glob("ct.*"))
    path = archives[0] if archives else folder
    return read_volume(path, series_uid=chosen if name in ("packed", "second phase") else None)


@pytest.fixture(params=SOURCES)
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> MetaTensor:
    return read_source(request.param, tmp_path / "source")


@pytest.fixture
def axial(tmp_path: Path) -> MetaTensor:
    return read_source("axial", tmp_path / "source")


def headers(volume: MetaTensor) -> list[Dataset]:
    return source_headers(volume, DICOM_OUTPUTS).images


def affine_of(volume: MetaTensor) -> np.ndarray:
    return np.asarray(volume.affine, dtype=np.float64)


def heatmap_of(volume: MetaTensor) -> np.ndarray:
    noise = np.random.default_rng(3).standard_normal(volume.shape[1:])
    return np.abs(gaussian_filter(noise, 1.0)).astype(np.float32)


def labels_of(volume: MetaTensor) -> np.ndarray:
    """A lesion without any symmetry that touches neither the first nor the last slice."""
    nats = heatmap_of(volume)
    labels = (nats > 0.15).astype(np.uint8) + (nats > 0.3)
    labels[..., [0, -1]] = 0
    assert set(np.unique(labels)) == {0, 1, 2}
    return labels


def write_both(volume: MetaTensor, folder: Path) -> tuple[Path, Path]:
    source, affine = headers(volume), affine_of(volume)
    seg = write_dicom_seg(folder / "seg.dcm", labels_of(volume), affine, source=source, algorithm=ALGORITHM)
    pm = write_dicom_pm(folder / "pm.dcm", heatmap_of(volume), affine, source=source, algorithm=ALGORITHM, scale=SCALE)
    return seg, pm


def write_all(volume: MetaTensor, folder: Path) -> tuple[Path, ...]:
    pdf = write_dicom_pdf(folder / "report.dcm", PDF, source=headers(volume), algorithm=ALGORITHM)
    return *write_both(volume, folder), pdf


def on_grid(values: np.ndarray, affine: np.ndarray, *, like: MetaTensor) -> np.ndarray:
    """Values of a grid at the voxels of a volume, by the centres alone: 0 where the grid does not reach."""
    voxels = np.indices(like.shape[1:]).reshape(3, -1).T
    places = nib.affines.apply_affine(np.linalg.inv(affine) @ affine_of(like), voxels)
    index = places.round().astype(int)
    assert np.abs(places - index).max() < 0.5 - 1e-3, "a voxel lies half-way between two"
    inside = ((index >= 0) & (index < values.shape)).all(axis=1)
    found = np.zeros(len(index), dtype=values.dtype)
    found[inside] = values[tuple(index[inside].T)]
    return found.reshape(like.shape[1:])


def from_frames(file: Path, *, like: MetaTensor) -> np.ndarray:
    """Values of a DICOM object at the voxels of a volume: each frame goes where it says that it lies."""
    ds = hd.imread(file)
    shared = ds.SharedFunctionalGroupsSequence[0]
    found = np.zeros(like.shape[1:], dtype=np.float32)
    for frame, pixels in zip(ds.PerFrameFunctionalGroupsSequence, np.atleast_3d(ds.pixel_array), strict=True):
        measures = shared.PixelMeasuresSequence[0]
        to_patient = hd.spatial.PixelToReferenceTransformer(
            frame.PlanePositionSequence[0].ImagePositionPatient,
            shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            measures.PixelSpacing,
        )
        indices = np.indices((ds.Columns, ds.Rows)).reshape(2, -1).T
        ras = to_patient(indices) * [-1, -1, 1]
        i, j, k = nib.affines.apply_affine(np.linalg.inv(affine_of(like)), ras).T
        np.testing.assert_allclose([i, j, k], np.round([i, j, k]), atol=1e-3)
        value = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber if ds.Modality == "SEG" else 1
        place = tuple(np.round([i, j, k]).astype(int))
        found[place] += value * pixels[indices[:, 1], indices[:, 0]]
    return found


def from_highdicom(volume: hd.Volume) -> tuple[np.ndarray, np.ndarray]:
    return volume.array, LPS_TO_RAS @ volume.affine


def from_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine


def dice(found: np.ndarray, expected: np.ndarray) -> float:
    return float(2 * np.count_nonzero(found & expected) / (np.count_nonzero(found) + np.count_nonzero(expected)))


def test_lesion_comes_back_through_every_format_on_the_source_voxels(volume: MetaTensor, tmp_path: Path) -> None:
    seg, pm = write_both(volume, tmp_path)
    labels, straight = straighten(labels_of(volume), affine_of(volume), nearest=True)
    nrrd = from_itk(write_segmentation(tmp_path / "l.seg.nrrd", labels, straight))
    nifti = from_itk(write_labels(tmp_path / "l.nii.gz", labels, straight))
    read = {
        "dicom-seg": from_frames(seg, like=volume),
        "seg-nrrd": on_grid(*nrrd, like=volume),
        "nifti": on_grid(*nifti, like=volume),
    }
    for name, found in read.items():
        for segment in SEGMENTS:
            assert dice(found == segment.value, labels_of(volume) == segment.value) == 1.0, name
    assert nrrd[0].any(axis=(0, 1)).tolist() == labels_of(volume).any(axis=(0, 1)).tolist()
    np.testing.assert_array_equal(from_frames(pm, like=volume), heatmap_of(volume))
    nats, straight = straighten(heatmap_of(volume), affine_of(volume))
    values, where = from_itk(write_heatmap(tmp_path / "h.nii.gz", nats, straight))
    np.testing.assert_array_equal(values, nats)
    np.testing.assert_allclose(where, straight, atol=1e-3)


@pytest.mark.parametrize("name", ["axial", "oblique", "enhanced"])
def test_highdicom_reads_the_same_volume(name: str, tmp_path: Path) -> None:
    volume = read_source(name, tmp_path / "source")
    seg, pm = write_both(volume, tmp_path)
    labels = from_highdicom(hd.seg.segread(seg).get_volume(combine_segments=True))
    np.testing.assert_array_equal(on_grid(*labels, like=volume), labels_of(volume))
    nats = from_highdicom(hd.pm.ParametricMap.from_dataset(dcmread(pm)).get_volume(dtype=np.float32))
    np.testing.assert_array_equal(on_grid(*nats, like=volume), heatmap_of(volume))


@pytest.mark.skipif(shutil.which("segimage2itkimage") is None, reason="dcmqi (pip install dcmqi) is not on the path")
@pytest.mark.parametrize("name", UPRIGHT)
def test_dcmqi_reads_the_same_voxels(name: str, tmp_path: Path) -> None:
    volume = read_source(name, tmp_path / "source")
    seg, pm = write_both(volume, tmp_path)
    for tool, file, prefix in (("segimage2itkimage", seg, "-p"), ("paramap2itkimage", pm, "-n")):
        command = [tool, "--inputDICOM", str(file), "--outputDirectory", str(tmp_path), "-t", "nrrd", prefix, file.stem]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr).decode()
    for segment in SEGMENTS:
        values, where = from_itk(tmp_path / f"seg-{segment.value}.nrrd")
        assert dice(on_grid(values, where, like=volume) > 0, labels_of(volume) == segment.value) == 1.0
    values, where = from_itk(tmp_path / "pm-pmap.nrrd")
    np.testing.assert_array_equal(on_grid(values, where, like=volume), heatmap_of(volume))


# Lists that the standard leaves open: QUANTITY is a term of PS3.3 C.8.32.2 that dciodvfy does not list, and 99KLIP is a
# private coding scheme, as PS3.16 8 names them: no public one has a code for a KL density.
EXTENSIBLE = {
    "Unrecognized defined term <QUANTITY> for value 4 of attribute <Image Type>",
    "Unrecognized defined term <QUANTITY> for value 4 of attribute <Frame Type>",
    "Unrecognized defined term <99KLIP> for value 1 of attribute <Coding Scheme Designator>",
}
# Remarks of dciodvfy that are no mistakes of the writers, and why.
JUSTIFIED = {
    # Patient and study values are those of the source, and the test's source has none: they are not made up.
    "Missing attribute or value that would be needed to build DICOMDIR - Patient ID",
    "Missing attribute or value that would be needed to build DICOMDIR - Study Date",
    "Missing attribute or value that would be needed to build DICOMDIR - Study Time",
    "Missing attribute or value that would be needed to build DICOMDIR - Study ID",
    *EXTENSIBLE,
}


def remarks(file: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, timeout=60, check=False)
    report = (done.stdout + done.stderr).splitlines()
    assert report, "dciodvfy did not recognise the object"
    return {line for line in report if line.startswith(("Error", "Warning"))}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
def test_dciodvfy_finds_no_error_and_no_warning_without_a_reason(volume: MetaTensor, tmp_path: Path) -> None:
    for file in write_all(volume, tmp_path):
        assert {line.removeprefix("Warning - ") for line in remarks(file)} <= JUSTIFIED


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
def test_objects_of_a_complete_source_are_valid_without_further_remarks(tmp_path: Path) -> None:
    def complete(_: int, ds: Dataset) -> None:
        ds.StudyDate, ds.StudyTime, ds.StudyID = "20260102", "101112", "S7"

    write_series(tmp_path / "source", sample_hu(9), edit=complete)
    for file in write_all(read_volume(tmp_path / "source"), tmp_path):
        assert {line.removeprefix("Warning - ") for line in remarks(file)} <= EXTENSIBLE


PDF = b"%PDF-1.4\n%%EOF\n"  # of odd length, which DICOM has to pad


@pytest.mark.skipif(shutil.which("dcm2pdf") is None, reason="dcm2pdf (Debian package dcmtk) is not installed")
def test_dcmtk_takes_the_same_bytes_out_of_an_encapsulated_pdf(axial: MetaTensor, tmp_path: Path) -> None:
    file = write_dicom_pdf(tmp_path / "r.dcm", PDF, source=headers(axial), algorithm=ALGORITHM)
    subprocess.run(["dcm2pdf", str(file), str(tmp_path / "r.pdf")], check=True, capture_output=True, timeout=60)
    assert (tmp_path / "r.pdf").read_bytes() == PDF
    assert len(PDF) % 2 == 1


def test_encapsulated_pdf_is_filed_with_its_study_and_says_whether_it_identifies(tmp_path: Path) -> None:
    def umlaut(_: int, ds: Dataset) -> None:
        ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 100", "Müller^Jörg"

    write_series(tmp_path / "source", sample_hu(9), edit=umlaut)
    source = headers(read_volume(tmp_path / "source"))
    for identifies, said in ((False, "NO"), (True, "YES")):
        file = write_dicom_pdf(tmp_path / "r.dcm", PDF, source=source, algorithm=ALGORITHM, identifies=identifies)
        ds = dcmread(file)
        assert ds.PatientName == source[0].PatientName == "Müller^Jörg"
        assert (ds.PatientID, ds.StudyInstanceUID) == (source[0].PatientID, source[0].StudyInstanceUID)
        assert ds.SeriesInstanceUID != source[0].SeriesInstanceUID
        assert (ds.Modality, ds.MIMETypeOfEncapsulatedDocument) == ("DOC", "application/pdf")
        assert ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength] == PDF
        assert {item.ReferencedSOPInstanceUID for item in ds.SourceInstanceSequence} == {
            header.SOPInstanceUID for header in source
        }
        assert "research use only" in ds.DocumentTitle
        assert ds.BurnedInAnnotation == said
    with pytest.raises(InputError, match="%PDF-"):
        write_dicom_pdf(tmp_path / "r.dcm", b"<html>", source=source, algorithm=ALGORITHM)


def test_objects_are_filed_with_the_patient_and_study_of_the_source(axial: MetaTensor, tmp_path: Path) -> None:
    source = headers(axial)[0]
    for file in write_both(axial, tmp_path):
        ds = dcmread(file)
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert ds[keyword].value == source[keyword].value
        assert ds.PatientBirthDate == ""
        assert ds.SeriesInstanceUID != source.SeriesInstanceUID
        assert "research use only" in ds.SeriesDescription


def test_every_frame_refers_to_the_source_image_in_its_plane(axial: MetaTensor, tmp_path: Path) -> None:
    place = {str(header.SOPInstanceUID): header.ImagePositionPatient for header in headers(axial)}
    seg, pm = (dcmread(file) for file in write_both(axial, tmp_path))
    assert len(pm.PerFrameFunctionalGroupsSequence) == axial.shape[3]
    for frame in [*seg.PerFrameFunctionalGroupsSequence, *pm.PerFrameFunctionalGroupsSequence]:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert frame.PlanePositionSequence[0].ImagePositionPatient == place[image.ReferencedSOPInstanceUID]


def test_segments_are_named_coded_and_tracked_alike_in_every_run(axial: MetaTensor, tmp_path: Path) -> None:
    first, second = (dcmread(write_both(axial, tmp_path)[0]) for _ in range(2))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    for a, b, expected in zip(first.SegmentSequence, second.SegmentSequence, SEGMENTS, strict=True):
        assert (a.SegmentNumber, a.SegmentLabel, a.SegmentAlgorithmType) == (expected.value, expected.name, "AUTOMATIC")
        code = a.SegmentedPropertyTypeCodeSequence[0]
        assert (code.CodingSchemeDesignator, code.CodeValue) == ("SCT", "49755003")
        (made_by,) = a.SegmentationAlgorithmIdentificationSequence
        assert ALGORITHM.name in made_by.AlgorithmName
        assert ALGORITHM.key in made_by.AlgorithmParameters
        assert a.TrackingUID == b.TrackingUID
    assert len({item.TrackingUID for item in first.SegmentSequence}) == len(SEGMENTS)


def test_parametric_map_says_its_unit_in_ucum(axial: MetaTensor, tmp_path: Path) -> None:
    ds = dcmread(write_both(axial, tmp_path)[1])
    (mapping,) = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    (unit,) = mapping.MeasurementUnitsCodeSequence
    assert (unit.CodingSchemeDesignator, unit.CodeValue) == ("UCUM", NATS_PER_PIXEL.value)
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
    assert "FloatPixelData" in ds


def test_scan_without_a_suspicious_voxel_gives_a_small_valid_segmentation(axial: MetaTensor, tmp_path: Path) -> None:
    nothing = np.zeros(axial.shape[1:], np.uint8)
    seg = write_dicom_seg(tmp_path / "s.dcm", nothing, affine_of(axial), source=headers(axial), algorithm=ALGORITHM)
    read = hd.seg.segread(seg)
    assert [item.SegmentLabel for item in read.SegmentSequence] == [segment.name for segment in SEGMENTS]
    assert not read.pixel_array.any()
    assert read.NumberOfFrames == len(SEGMENTS)


def test_source_without_uids_or_moved_away_is_refused(tmp_path: Path) -> None:
    def anonymous(_: int, ds: Dataset) -> None:
        del ds.StudyInstanceUID

    write_series(tmp_path / "source", sample_hu(9), edit=anonymous)
    volume = read_volume(tmp_path / "source")
    with pytest.raises(InputError, match=r"valid StudyInstanceUID \(0020,000D\).*leave out dicom-seg"):
        headers(volume)
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(InputError, match="gone or have changed"):
        headers(volume)


CHARACTER_SETS = {
    "Kanji": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Katakana": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    "Hangul": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "Chinese": ("GB18030", "Wang^XiaoDong=王^小东="),
    "Latin and Greek": (["ISO 2022 IR 100", "ISO 2022 IR 126"], "Dé^Διονυσιος"),
    "private use": ("ISO_IR 192", "Doe^\ue000"),
}


@pytest.mark.parametrize("terms", CHARACTER_SETS)
def test_names_of_any_character_set_come_through_in_utf8(terms: str, tmp_path: Path) -> None:
    def edit(_: int, ds: Dataset) -> None:
        ds.SpecificCharacterSet, ds.PatientName = CHARACTER_SETS[terms]
        ds.InstitutionName = ds.PatientName.family_name

    write_series(tmp_path / "source", sample_hu(9), edit=edit)
    volume = read_volume(tmp_path / "source")
    assert source_headers(volume, DICOM_OUTPUTS).remarks == ()
    for file in write_all(volume, tmp_path):
        ds = dcmread(file)
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        assert ds.PatientName == CHARACTER_SETS[terms][1].rstrip("=")  # empty groups at the end may be left out
        if shutil.which("dciodvfy"):
            assert {line.removeprefix("Warning - ") for line in remarks(file)} <= JUSTIFIED


def put(ds: Dataset, keyword: str, vr: str, value: object) -> None:
    """Give a dataset a value that pydicom would not take."""
    ds[keyword] = DataElement(tag_for_keyword(keyword), vr, value, validation_mode=config.IGNORE)


NO_VALUES = [
    *[("PatientBirthDate", "DA", value) for value in ("ANONYM", "00000000", "19500230", "20260101-20260102")],
    *[("StudyTime", "TM", value) for value in ("xx", "12:00:00", "1200-1300")],
    *[("PatientSex", "CS", value) for value in ("U", "UNKNOWN", "m")],
    *[("AccessionNumber", "SH", value) for value in ("A" * 20, "A\0B", "A\\B")],
    *[("PatientName", "PN", "N" * 65), ("PatientID", "LO", "x" * 65), ("ReferringPhysicianName", "PN", "A\\B")],
    *[("PatientAge", "AS", "45"), ("PatientWeight", "LO", "heavy"), ("PatientSex", "LO", "M")],
    *[("LossyImageCompression", "CS", "NO"), ("InstitutionName", "LO", "I" * 80)],
]


@pytest.mark.parametrize(("keyword", "vr", "value"), NO_VALUES)
def test_values_that_are_none_are_left_empty_and_their_tag_is_named(
    keyword: str, vr: str, value: str, tmp_path: Path
) -> None:
    write_series(tmp_path / "source", sample_hu(9), edit=lambda _, ds: put(ds, keyword, vr, value))
    volume = read_volume(tmp_path / "source")
    (remark,) = source_headers(volume, DICOM_OUTPUTS).remarks
    assert f" in {keyword} (" in remark
    assert value not in remark.split()
    for file in write_all(volume, tmp_path):
        assert dcmread(file).get(keyword) in (None, "", "00")
        if shutil.which("dciodvfy"):
            assert not [line for line in remarks(file) if line.startswith("Error")]


@pytest.mark.parametrize("terms", ["", "ISO_IR 999", "ISO_IR 192"])
def test_a_name_whose_letters_are_not_sure_is_left_empty(terms: str, tmp_path: Path) -> None:
    def latin(_: int, ds: Dataset) -> None:
        ds.SpecificCharacterSet, ds.PatientName, ds.StudyDescription = "ISO_IR 100", "Müller", "Bauch"

    write_series(tmp_path / "source", sample_hu(9), edit=latin)
    for file in (tmp_path / "source").iterdir():
        file.write_bytes(file.read_bytes().replace(b"ISO_IR 100", terms.ljust(10).encode()))
    source = source_headers(read_volume(tmp_path / "source"), DICOM_OUTPUTS)
    assert source.emptied == ["PatientName"]
    assert source.images[0].StudyDescription == "Bauch"


def test_sequences_with_a_value_that_is_none_are_left_out_and_sound_ones_kept(tmp_path: Path) -> None:
    def edit(_: int, ds: Dataset) -> None:
        study, code = Dataset(), Dataset()
        put(study, "ReferencedSOPInstanceUID", "UI", "REMOVED")
        code.CodeValue, code.CodeMeaning = "1", "Bauch"
        code.add_new(0x00990010, "LO", "MAKER")
        ds.ReferencedStudySequence, ds.ProcedureCodeSequence = [study], [code]

    write_series(tmp_path / "source", sample_hu(9), edit=edit)
    source = source_headers(read_volume(tmp_path / "source"), DICOM_OUTPUTS)
    assert source.emptied == ["ReferencedStudySequence"]
    assert "ReferencedStudySequence" not in source.images[0]
    assert source.images[0].ProcedureCodeSequence[0].CodeMeaning == "Bauch"


def no_frame(_: int, ds: Dataset) -> None:
    del ds.FrameOfReferenceUID


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            no_frame,
            r"valid FrameOfReferenceUID \(0020,0052\), which dicom-seg, dicom-pm cannot.*dicom-pm, or",
        ),
        (lambda _, ds: put(ds, "StudyInstanceUID", "UI", "anonymized"), r"StudyInstanceUID \(0020,000D\).*dicom-pdf"),
        (lambda k, ds: put(ds, "StudyInstanceUID", "UI", f"1.2.{k}"), r"differ in StudyInstanceUID \(0020,000D\)"),
        (
            lambda _, ds: put(ds, "SOPInstanceUID", "UI", "1.2.3"),
            r"slices under one SOPInstanceUID \(0008,0018\)",
        ),
        (lambda _, ds: put(ds, "SOPClassUID", "UI", "1.2.3"), r"unknown SOPClassUID \(0008,0016\)"),
    ],
)
def test_what_cannot_be_referred_to_is_refused_before_scoring_with_the_way_out(
    edit: Callable[[int, Dataset], None], said: str, tmp_path: Path
) -> None:
    write_series(tmp_path / "source", sample_hu(9), edit=edit)
    volume = read_volume(tmp_path / "source")
    with pytest.raises(InputError, match=said):
        check_outputs(volume, ("nifti", "dicom-seg", "dicom-pm", "dicom-pdf"))
    check_outputs(volume, ("nifti",))
    if edit is no_frame:
        check_outputs(volume, ("dicom-pdf",))


def test_enhanced_images_that_state_their_orientation_frame_by_frame_have_outputs(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "ct", sample_hu(9))
    file = next(path for path in (tmp_path / "ct", *(tmp_path / "ct").glob("*")) if path.is_file())
    ds = dcmread(file)
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        for frame in ds.PerFrameFunctionalGroupsSequence:
            frame[keyword] = ds.SharedFunctionalGroupsSequence[0][keyword]
        del ds.SharedFunctionalGroupsSequence[0][keyword]
    ds.save_as(file)
    volume = read_volume(tmp_path / "ct")
    check_outputs(volume, DICOM_OUTPUTS)
    seg, _ = write_both(volume, tmp_path)
    np.testing.assert_array_equal(from_frames(seg, like=volume), labels_of(volume))


def test_other_series_and_localizers_in_the_folder_are_not_referred_to(tmp_path: Path) -> None:
    write_series(tmp_path / "source" / "other", sample_hu(4))
    uid = write_series(tmp_path / "source" / "this", sample_hu(9))
    volume = read_volume(tmp_path / "source", series_uid=uid)
    assert {header.SeriesInstanceUID for header in headers(volume)} == {uid}
    assert len(headers(volume)) == 9
