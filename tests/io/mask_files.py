"""Boxes drawn on grids of any kind and written as masks by other people's libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import nibabel as nib
import nibabel.orientations as nio
import nrrd
import numpy as np
import SimpleITK as sitk  # noqa: N813
from ct_files import write_series
from pydicom import dcmread
from pydicom.sr.codedict import codes

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
BOX = ((-20.0, 25.0), (-15.0, 20.0), (-10.0, 30.0))
"""Edges in mm, along the axes of the frame that it is drawn in."""


@dataclass(frozen=True)
class Drawn:
    """A mask (X, Y, Z) of whole numbers on its own grid: (4, 4) affine to RAS mm."""

    values: np.ndarray
    affine: np.ndarray


def draw(
    spacing: Sequence[float],
    *,
    axes: str = "RAS",
    frame: np.ndarray | None = None,
    margin: int = 2,
    value: int = 1,
    box: Sequence[tuple[float, float]] = BOX,
) -> Drawn:
    """A box whose sides lie on borders of voxels, with some around it; ``axes`` names where the voxel axes run to."""
    sizes = [round((high - low) / step) for (low, high), step in zip(box, spacing, strict=True)]
    values = np.pad(np.full(sizes, value, dtype=np.int16), margin)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [low + (0.5 - margin) * step for (low, _), step in zip(box, spacing, strict=True)]
    turn = nio.ornt_transform(nio.axcodes2ornt("RAS"), nio.axcodes2ornt(axes))
    affine = affine @ nio.inv_ornt_aff(turn, values.shape)
    values = np.ascontiguousarray(nio.apply_orientation(values, turn))
    return Drawn(values, affine if frame is None else frame @ affine)


def in_box(affine: np.ndarray, shape: Sequence[int], *, frame: np.ndarray | None = None, box=BOX) -> np.ndarray:
    """Which voxels of a grid have their centre in the box, by arithmetic alone."""
    to_frame = np.linalg.inv(np.eye(4) if frame is None else frame) @ affine
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(tuple(shape))])
    places = np.tensordot(to_frame, index, axes=1)[:3]
    return np.logical_and.reduce([(low < p) & (p < high) for p, (low, high) in zip(places, box, strict=True)])


def assert_in_box(region: np.ndarray, affine: np.ndarray, *, frame: np.ndarray | None = None, box=BOX) -> None:
    """A region is the box, but that centres within 0.02 mm of a side may fall on either: headers round."""
    smaller, larger = (in_box(affine, region.shape, frame=frame, box=np.add(box, (-by, by))) for by in (-0.02, 0.02))
    assert 0 < smaller.sum() < smaller.size
    assert not (smaller & ~region).any()
    assert not (region & ~larger).any()


def write_nifti(path: Path, drawn: Drawn, *, codes: tuple[int, int] = (1, 1), dtype: type = np.uint8) -> Path:
    image = nib.Nifti1Image(drawn.values.astype(dtype), None, dtype=dtype)
    image.set_sform(drawn.affine, codes[0])
    if codes[1]:
        image.set_qform(drawn.affine, codes[1])
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def write_sitk(path: Path, drawn: Drawn) -> Path:
    image = sitk.GetImageFromArray(np.ascontiguousarray(drawn.values.transpose(2, 1, 0)))
    affine = TO_LPS @ drawn.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetDirection((affine[:3, :3] / spacing).ravel())
    image.SetOrigin(affine[:3, 3])
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def write_seg_nrrd(
    path: Path,
    layers: Sequence[np.ndarray],
    affine: np.ndarray,
    segments: Sequence[tuple[str, int, int]],
    *,
    space: str | None = "left-posterior-superior",
    numbered: bool = True,
) -> Path:
    """As 3D Slicer does: several layers as a fourth axis, the first one; segments are (name, number, layer)."""
    placed = affine if space == "right-anterior-superior" else TO_LPS @ affine
    header: dict[str, object] = {
        "kinds": ["domain"] * 3,
        "space directions": placed[:3, :3].T,
        "space origin": placed[:3, 3],
        "encoding": "gzip",
    }
    if space is None:
        del header["space directions"], header["space origin"]
    else:
        header["space"] = space
    values = layers[0]
    if len(layers) > 1:
        values = np.stack(layers)
        header["kinds"] = ["list", *["domain"] * 3]
        header["space directions"] = np.vstack([np.full(3, np.nan), placed[:3, :3].T])
    for n, (name, number, layer) in enumerate(segments):
        header |= {f"Segment{n}_ID": f"Segment_{n + 1}", f"Segment{n}_Name": name}
        if numbered:
            header |= {f"Segment{n}_LabelValue": str(number), f"Segment{n}_Layer": str(layer)}
    nrrd.write(str(path), values.astype(np.uint8), header)
    return path


def write_dicom_seg(
    path: Path,
    drawn: Drawn,
    names: Sequence[str] = ("Liver",),
    *,
    frame_uid: str | None = None,
    kind: str = "BINARY",
    values: np.ndarray | None = None,
) -> Path:
    """As highdicom does, segment n is where the mask is n; of a series of its own that only lends patient and study."""
    write_series(path.parent / f"{path.stem}_source", np.zeros((3, 8, 8), dtype=np.int16))
    source = [dcmread(file) for file in sorted((path.parent / f"{path.stem}_source").iterdir())]
    frame = hd.UID(frame_uid) if frame_uid else hd.UID()
    for dataset in source:
        dataset.FrameOfReferenceUID, dataset.SliceThickness = frame, 2.0
        for tag in ("StudyID", "AccessionNumber", "StudyDate", "StudyTime", "PatientBirthDate", "PatientSex"):
            setattr(dataset, tag, "")
    what = codes.SCT.Liver
    descriptions = [
        hd.seg.SegmentDescription(number, name, codes.SCT.Organ, what, "MANUAL") for number, name in enumerate(names, 1)
    ]
    stored = drawn.values if values is None else values
    array = stored.transpose(2, 1, 0) if kind == "FRACTIONAL" else stored.transpose(2, 1, 0).astype(np.uint8)
    volume = hd.Volume(
        array,
        (TO_LPS @ drawn.affine)[:, [2, 1, 0, 3]],
        coordinate_system="PATIENT",
        frame_of_reference_uid=frame,
    )
    hd.seg.Segmentation(
        source_images=source,
        pixel_array=volume,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="tests",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)
    return path
