"""Which slices a preview shows, and where patient right, left, front and back lie in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

Plane = Literal["axial", "coronal", "sagittal"]

# Plane -> (horizontal, vertical, normal) axis of a volume whose axes run towards patient right, anterior and superior.
_AXES: dict[Plane, tuple[int, int, int]] = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
# Radiological convention: patient right, and in sagittal views anterior, at the left of the picture.
_EDGES: dict[Plane, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}
_DIRECTIONS = (("R", "L"), ("A", "P"), ("S", "I"))
_BODY_HU = -300.0
_MARGIN_MM = 10.0


@dataclass(frozen=True)
class SliceView:
    """One picture: rows run bottom to top and columns left to right as shown on the screen.

    Attributes:
        plane: closest anatomical plane.
        index: slice number along the plane's normal, counted towards patient right, anterior or superior.
        ct: (rows, columns) HU.
        heatmap: (rows, columns) nats per pixel.
        labels: (rows, columns) 0, 1 or 2.
        spacing: (row, column) distance in mm.
        edges: letters at the left, right, top and bottom of the picture.
        position: distance of the slice from the RAS origin along its normal with its direction, such as `S 12.5 mm`.
        region: (rows, columns) True where it was looked; None is everywhere.
    """

    plane: Plane
    index: int
    ct: npt.NDArray[Any]
    heatmap: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    spacing: tuple[float, float]
    edges: tuple[str, str, str, str]
    position: str
    region: npt.NDArray[Any] | None = None


class PreviewScan:
    """A scan, its heat map and labels, with axes flipped and permuted to run towards patient right, anterior, superior.

    Args:
        ct: (X, Y, Z) HU.
        heatmap: (X, Y, Z) nats per pixel.
        labels: (X, Y, Z) 0, 1 or 2.
        affine: (4, 4) voxel-to-RAS matrix in mm.
        region: bool (X, Y, Z), the part that was looked at; None is all of it.
        places: RAS mm of the labelled places that pictures number from 1.
    """

    def __init__(
        self,
        ct: npt.NDArray[Any],
        heatmap: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        affine: npt.NDArray[np.float64],
        region: npt.NDArray[Any] | None = None,
        *,
        places: Sequence[Sequence[float]] = (),
    ) -> None:
        orientation = nib.io_orientation(affine)
        self.ct, self.heatmap, self.labels = (
            nib.apply_orientation(array, orientation) for array in (ct, heatmap, labels)
        )
        self.region = None if region is None else nib.apply_orientation(region, orientation)
        self.affine: npt.NDArray[np.float64] = affine @ nib.orientations.inv_ornt_aff(orientation, ct.shape)
        self.spacing: npt.NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        self.places = places

    @property
    def tilt_degrees(self) -> float:
        """Largest angle in degrees between a voxel axis and its closest patient axis."""
        cosines = np.abs(np.diag(self.affine[:3, :3])) / self.spacing
        return float(np.degrees(np.arccos(np.clip(cosines.min(), -1.0, 1.0))))

    @cached_property
    def worst_voxel(self) -> tuple[int, int, int]:
        """Index of the largest heat map value; the centre where the heat map is flat."""
        if self.heatmap.max() <= self.heatmap.min():
            i, j, k = (size // 2 for size in self.heatmap.shape)
            return i, j, k
        return first_maximum(self.heatmap)

    def worst_axial_slices(self, count: int, *, separation_mm: float) -> list[int]:
        """Axial slice numbers by falling heat map maximum, each at least a distance from those before it.

        Args:
            count: number of slices wanted; fewer are given when the scan has fewer.
            separation_mm: least distance in mm, made smaller where the scan is too short for it.

        Returns:
            Slice numbers counted towards superior, the worst first.
        """
        maxima = self.heatmap.max(axis=(0, 1))
        chosen = [self.worst_voxel[2]]
        depth = maxima.size * float(self.spacing[2])
        gap = max(1.0, min(separation_mm, depth / (count + 1)) / float(self.spacing[2]))
        for index in (int(n) for n in np.argsort(-maxima, kind="stable")):
            if len(chosen) == min(count, maxima.size):
                break
            if all(abs(index - other) >= gap for other in chosen):
                chosen.append(index)
        return chosen

    def body_box(self) -> tuple[slice, slice, slice]:
        """Bounding box, with a margin, of the worst voxel and all denser than air; the whole scan when nothing is."""
        body = self.ct > _BODY_HU
        along_z, along_x = body.sum(axis=2, dtype=np.uint16), body.sum(axis=0, dtype=np.uint16)
        box = []
        for axis, counts in enumerate((along_z.sum(axis=1), along_z.sum(axis=0), along_x.sum(axis=0))):
            # Half a per cent of a slice is more than noise in air and less than any part of a patient.
            filled = np.flatnonzero(counts * counts.size / body.size > 0.005)
            margin = round(_MARGIN_MM / float(self.spacing[axis]))
            size, worst = self.ct.shape[axis], self.worst_voxel[axis]
            low, high = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, size)
            box.append(slice(max(0, min(low - margin, worst)), min(size, max(high + margin, worst + 1))))
        return box[0], box[1], box[2]

    def view(self, plane: Plane, index: int, *, box: tuple[slice, slice, slice]) -> SliceView:
        """Cut one slice, cropped to a box and turned the way radiologists look at it."""
        horizontal, vertical, normal = _AXES[plane]
        selection: list[slice | int] = [box[0], box[1], box[2]]
        selection[normal] = index

        def cut(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            # Both horizontal axes run towards what belongs at the left of the picture: right, or anterior.
            return array[tuple(selection)].T[:, ::-1]

        return SliceView(
            plane=plane,
            index=index,
            ct=cut(self.ct),
            heatmap=cut(self.heatmap),
            labels=cut(self.labels),
            spacing=(float(self.spacing[vertical]), float(self.spacing[horizontal])),
            edges=_EDGES[plane],
            position=self._position(normal, index),
            region=None if self.region is None else cut(self.region),
        )

    def picture_position(
        self, plane: Plane, voxel: tuple[int, int, int], *, box: tuple[slice, slice, slice]
    ) -> tuple[float, float]:
        """Place (x, y) in mm of a voxel in the picture of a plane, from the picture's lower left corner."""
        horizontal, vertical, _ = _AXES[plane]
        x = (box[horizontal].stop - voxel[horizontal] - 0.5) * float(self.spacing[horizontal])
        y = (voxel[vertical] - box[vertical].start + 0.5) * float(self.spacing[vertical])
        return x, y

    def numbers_in(
        self, plane: Plane, index: int, *, box: tuple[slice, slice, slice]
    ) -> list[tuple[int, tuple[float, float]]]:
        """Numbers of the places that a slice shows, each with where to write it, in mm from the lower left corner.

        A place is shown where all between it and the slice, along the slice's normal, is labelled: what surrounds it
        there is then the same connected part. Its number belongs at the upper right corner of that part's box.
        """
        view, normal = self.view(plane, index, box=box), _AXES[plane][2]
        parts, _ = ndimage.label(view.labels > 0, np.ones((3, 3)))
        found = []
        for number, place in enumerate(self.places, start=1):
            nearest = np.rint(np.linalg.solve(self.affine[:3, :3], place - self.affine[:3, 3])).astype(int)
            i, j, k = (int(np.clip(n, part.start, part.stop - 1)) for n, part in zip(nearest, box, strict=True))
            way: list[int | slice] = [i, j, k]
            way[normal] = slice(min((i, j, k)[normal], index), max((i, j, k)[normal], index) + 1)
            if self.labels[tuple(way)].all():
                x, y = self.picture_position(plane, (i, j, k), box=box)
                part = parts == parts[int(y / view.spacing[0]), int(x / view.spacing[1])]
                top, right = (int(at.max()) + 1 for at in np.nonzero(part))
                found.append((number, (right * view.spacing[1], top * view.spacing[0])))
        return found

    def ras(self, voxel: tuple[int, int, int]) -> str:
        """Position of a voxel's centre as viewers print it, such as `R 12.0  P 30.5  S 101.2 mm`."""
        place = self.affine[:3, :3] @ voxel + self.affine[:3, 3]
        return f"{ras_text(place)} mm"

    def _position(self, normal: int, index: int) -> str:
        """Offset of a slice along its normal; for a straight scan this is one RAS coordinate."""
        direction = self.affine[:3, normal] / self.spacing[normal]
        offset = float(direction @ (self.affine[:3, 3] + index * self.affine[:3, normal]))
        return f"{_directed(offset, normal)} mm"


def first_maximum(values: npt.NDArray[Any]) -> tuple[int, int, int]:
    """Index of the largest value of (X, Y, Z), the first one by X, then Y, then Z, as ``argmax`` finds it.

    NumPy's own copies a volume that is not in this order in memory, in a hundred times the time.
    """
    maxima = values.max(axis=(0, 1))
    found = []
    for k in np.flatnonzero(~(maxima < maxima.max())).tolist():  # all, where there is a NaN
        i, j = np.unravel_index(int(values[:, :, k].argmax()), values.shape[:2])
        found.append((int(i), int(j), k))
    return min(found)


def ras_text(place: Sequence[float] | npt.NDArray[np.float64]) -> str:
    """A RAS position in mm with the letters of its sides, such as `R 12.0  P 30.5  S 101.2`."""
    return "  ".join(_directed(float(value), axis) for axis, value in enumerate(place))


def short_ras_text(place: Sequence[float]) -> str:
    """A RAS position in whole mm with the letters of its sides, such as `R 12 P 31 S 101`."""
    return " ".join(_directed(value, axis, decimals=0) for axis, value in enumerate(place))


def _directed(value: float, axis: int, *, decimals: int = 1) -> str:
    """A coordinate with the letter of its side instead of its sign."""
    return f"{_DIRECTIONS[axis][0 if value >= 0 else 1]} {abs(value):.{decimals}f}"
