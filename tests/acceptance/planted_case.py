"""A scan with a blob planted off its centre, for 3D Slicer to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from klip_monai.io.write.overlay import write_heatmap, write_segmentation

SHAPE, SPACING = (96, 80, 40), (2.0, 2.0, 4.0)
BLOB_VOXEL, BLOB_SIGMA_MM, BLOB_PEAK = (30, 36, 18), 9.0, 0.1
MARKED_VOXELS = (BLOB_VOXEL, (60, 40, 18))


@dataclass(frozen=True)
class Case:
    """Arrays (X, Y, Z), their place in space, and the files that hold them."""

    ct_hu: np.ndarray
    nats: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    ct: Path
    heatmap: Path
    segmentation: Path


def write_case(folder: Path) -> Case:
    """An elliptic body with a spine and a planted blob off its centre, on a grid turned about two axes."""
    c, s = np.cos(np.deg2rad(12)), np.sin(np.deg2rad(12))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-SPACING[0], -SPACING[1], SPACING[2]])
    middle = (np.array(SHAPE) - 1) / 2
    affine[:3, 3] = np.array([15.0, -20.0, 300.0]) - affine[:3, :3] @ middle
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    body = (((grid - middle) / (np.array(SHAPE) * [0.42, 0.4, 9.0])) ** 2).sum(-1) < 1
    spine = (((grid - [48, 62, 20]) / [6, 6, 99]) ** 2).sum(-1) < 1
    ct = np.where(spine, 500.0, np.where(body, 40.0, -1000.0)).astype(np.float32)
    distance2 = (((grid - BLOB_VOXEL) * SPACING) ** 2).sum(-1)
    heatmap = (BLOB_PEAK * np.exp(-distance2 / (2 * BLOB_SIGMA_MM**2))).astype(np.float32)
    labels = (heatmap > 0.03).astype(np.uint8) + (heatmap > 0.06)
    ct_path = folder / "ct.nii.gz"
    nib.save(nib.Nifti1Image(ct, affine), ct_path)
    return Case(
        ct_hu=ct,
        nats=heatmap,
        labels=labels,
        affine=affine,
        ct=ct_path,
        heatmap=write_heatmap(folder / "heatmap.nii.gz", heatmap, affine),
        segmentation=write_segmentation(folder / "labels.seg.nrrd", labels, affine),
    )
