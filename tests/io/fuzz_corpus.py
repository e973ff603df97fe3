"""Tiny scans and sinograms in every encoding: what `fuzz_reading.py` mutates. The same bytes on every run."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from unittest import mock

import ct_files
import h5py
import nibabel as nib
import numpy as np
import pydicom
import scipy.io
import SimpleITK as sitk  # noqa: N813
from ct_files import sample_hu, write_enhanced, write_series
from pydicom.fileset import FileSet
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

_GEOMETRY = {"kind": "parallel", "angles": [0, 10, 25, 40, 90], "pitch_mm": 1.5, "views": 5, "hu_window": [-160, 240]}
_FAN = {
    **{"kind": "fan", "angles": {"start": 3, "step": -2}, "views": 5, "detectors": 8, "pitch_mm": 1.5},
    **{"source_mm": 300, "detector_mm": 150, "image_shape": [16, 16], "pixel_mm": 2, "photons": 1e5},
}


@dataclass(frozen=True)
class Specimen:
    """A sound input.

    Attributes:
        name: of the encoding.
        kind: "dicom", "archive", "volume" or "sinogram": what reads it.
        files: content by name below a folder of its own.
        target: name of what is read; "" for the folder.
    """

    name: str
    kind: str
    files: dict[str, bytes]
    target: str = ""


def specimens() -> list[Specimen]:
    """One of each encoding."""
    with tempfile.TemporaryDirectory() as made, mock.patch.object(ct_files, "generate_uid", _numbered().__next__):
        root = Path(made)
        found = [*_dicom(root), *_archives(root), *_volumes(root), *_sinograms(root)]
    return sorted(found, key=lambda specimen: specimen.name)


def _numbered() -> Iterator[str]:
    return (f"1.2.826.0.1.3680043.8.498.1{number:05d}" for number in count(1))


def _taken(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def _big_endian(ds: pydicom.Dataset) -> None:
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian


def _implicit(ds: pydicom.Dataset) -> None:
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def _padded(_: int, ds: pydicom.Dataset) -> None:
    ds.PixelPaddingValue, ds.PixelPaddingRangeLimit, ds.ConvolutionKernel = 0, 20, "B30f"


def _dicom(root: Path) -> Iterator[Specimen]:
    finishes: dict[str, Callable[[pydicom.Dataset], None] | None] = {
        "explicit": None,
        "implicit": _implicit,
        "big-endian": _big_endian,
        "rle": lambda ds: ds.compress(RLELossless, generate_instance_uid=False),
        "jpeg-2000": lambda ds: ds.compress(JPEG2000Lossless, generate_instance_uid=False),
        "jpeg-ls": lambda ds: ds.compress(JPEGLSLossless, generate_instance_uid=False),
    }
    for name, finish in finishes.items():
        write_series(root / name, sample_hu(4, 32, 32), edit=_padded, finish=finish)
        yield Specimen(name, "dicom", _taken(root / name))
    if shutil.which("dcmcjpeg"):
        for file in (root / "explicit").iterdir():
            subprocess.run(["dcmcjpeg", "+e1", str(file), str(file)], check=True)
        yield Specimen("jpeg", "dicom", _taken(root / "explicit"))
    write_enhanced(root / "enhanced.dcm", sample_hu(4))
    yield Specimen("enhanced", "dicom", {"enhanced.dcm": (root / "enhanced.dcm").read_bytes()}, "enhanced.dcm")
    write_series(root / "phases", sample_hu(4))
    for shift, file in enumerate(sorted((root / "phases").iterdir())):
        ds = pydicom.dcmread(file)
        ds.AcquisitionNumber, ds.SOPInstanceUID = 2, f"1.2.3.{shift}"
        ds.save_as(root / "phases" / f"J{shift}")
    yield Specimen("phases", "dicom", _taken(root / "phases"))


def _archives(root: Path) -> Iterator[Specimen]:
    write_series(root / "packed", sample_hu(4))
    files = _taken(root / "packed")
    yield Specimen("zip", "archive", {"scan.zip": zipped(files)}, "scan.zip")
    tar = tarred(files)
    yield Specimen("tar", "archive", {"scan.tar": tar}, "scan.tar")
    yield Specimen("tar-gzip", "archive", {"scan.tar.gz": gzip.compress(tar, mtime=0)}, "scan.tar.gz")
    disc = FileSet()
    disc.UID = "1.2.3"
    for name in files:
        ds = pydicom.dcmread(root / "packed" / name)
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "20200101", "1200", "1", 1, 1
        disc.add(ds)
    disc.write(root / "disc")
    yield Specimen("dicomdir", "archive", _taken(root / "disc"), "DICOMDIR")


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip of these files; one date for all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (name, content) in enumerate(files.items()):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    """A tar of these files; one date for all."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _volumes(root: Path) -> Iterator[Specimen]:
    values = sample_hu(6, 5, 4)
    folder = root / "volumes"
    folder.mkdir()
    nifti = nib.Nifti1Image(values.transpose(2, 1, 0), None)
    for form in (nifti.set_sform, nifti.set_qform):
        form(np.diag([0.7, 0.8, 2.5, 1.0]), code=1)
    nifti.header.set_xyzt_units("mm")
    nib.save(nifti, folder / "a.nii")
    plain = (folder / "a.nii").read_bytes()
    yield Specimen("nifti", "volume", {"a.nii": plain}, "a.nii")
    yield Specimen("nifti-gzip", "volume", {"a.nii.gz": gzip.compress(plain, mtime=0)}, "a.nii.gz")
    image = sitk.GetImageFromArray(values)
    image.SetSpacing([0.7, 0.8, 2.5])
    for name, suffix, compress in (
        ("nrrd", ".nrrd", False),
        ("nrrd-gzip", ".nrrd", True),
        ("nrrd-detached", ".nhdr", True),
        ("metaimage", ".mha", False),
        ("metaimage-zlib", ".mha", True),
        ("metaimage-detached", ".mhd", False),
    ):
        (folder / name).mkdir()
        sitk.WriteImage(image, folder / name / f"a{suffix}", useCompression=compress)
        yield Specimen(name, "volume", _taken(folder / name), f"a{suffix}")


def _sinograms(root: Path) -> Iterator[Specimen]:
    folder = root / "sinograms"
    folder.mkdir()
    values = np.random.default_rng(0).random((5, 8)).astype(np.float32)
    np.save(folder / "a.npy", values)
    np.savez(folder / "a.npz", sinogram=values, other=np.arange(3))
    np.savez_compressed(folder / "b.npz", sinogram=values)
    scipy.io.savemat(folder / "a.mat", {"sinogram": values, "note": "text", "other": 3.0})
    scipy.io.savemat(folder / "b.mat", {"scan": {"sinogram": values}}, do_compression=True)
    for file in folder.glob("*.mat"):
        file.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + file.read_bytes()[116:])  # has the time of day
    with h5py.File(folder / "a.h5", "w") as file:
        file["scan/sinogram"] = values
    with h5py.File(folder / "b.hdf5", "w") as file:
        file.create_dataset("sinogram", data=values, chunks=(5, 4), compression="gzip")
    for number, path in enumerate(sorted(folder.iterdir())):
        geometry = json.dumps(_FAN if number % 2 else _GEOMETRY).encode()
        yield Specimen(
            f"sinogram-{path.stem}{path.suffix}",
            "sinogram",
            {path.name: path.read_bytes(), "geometry.json": geometry},
            path.name,
        )
