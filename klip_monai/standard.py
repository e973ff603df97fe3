"""Standard slices: what a prior sees of a scan, and the exact way back to the scan's own voxel grid.

A prior is trained on slices of one size, pixel spacing, orientation and HU window, with everything outside the body
set to air. :func:`standard_slices` brings any volume there and :func:`to_source_grid` brings maps back. Slices are
resampled in their own plane only, by separable linear interpolation (widened to an anti-aliasing triangle when pixels
get larger); the slice axis is never interpolated, so each slice of a heat map belongs to exactly one slice of the scan.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import nibabel.orientations as nio
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from klip_monai.errors import InputError

AIR_HU = -1000.0
_FAT_HU = -100.0
_ASIDE = 0.02
_SUPERIOR = 2  # in nibabel's numbers of the patient's axes


@dataclass(frozen=True)
class PriorGrid:
    """The slice format of a prior.

    Attributes:
        image_shape: (H, W) pixels; H runs anterior to posterior, W from the patient's right to left.
        pixel_mm: pixel spacing in mm, both ways.
        hu_window: HU mapped to -1 and +1; values beyond are clipped.
        body_hu: HU above which a pixel can belong to the body; between air and fat. If it lies in the window, scans
            are clipped to the window before they are resampled, as slices that were stored in it (8-bit pictures) have
            been, so that both are outlined alike.
    """

    image_shape: tuple[int, int] = (128, 128)
    pixel_mm: float = 3.0
    hu_window: tuple[float, float] = (-160.0, 240.0)
    body_hu: float = -300.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", tuple(int(n) for n in self.image_shape))
        object.__setattr__(self, "hu_window", tuple(float(v) for v in self.hu_window))
        if len(self.image_shape) != 2 or min(self.image_shape) < 8:
            raise ValueError(f"image_shape: got {self.image_shape}, expected two sizes of at least 8 pixels")
        if not self.pixel_mm > 0:
            raise ValueError(f"pixel_mm: got {self.pixel_mm}, expected a positive number of mm")
        if not self.hu_window[0] < self.hu_window[1]:
            raise ValueError(f"hu_window: got {self.hu_window}, expected (low, high) in HU")
        if not AIR_HU < self.body_hu < _FAT_HU:
            raise ValueError(f"body_hu: got {self.body_hu}, expected HU between air ({AIR_HU:g}) and fat ({_FAT_HU:g})")

    def describe(self) -> dict[str, Any]:
        """JSON-able description."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Placement:
    """Where standard slices lie in their scan: what :func:`to_source_grid` needs.

    Attributes:
        grid: the prior's slice format.
        source_shape: (X, Y, Z) voxels of the scan.
        source_affine: (4, 4) of the scan, voxel index to RAS mm.
        centre: index (along rows, along columns) of the oriented scan that the grid is centred on, in voxels.
    """

    grid: PriorGrid
    source_shape: tuple[int, int, int]
    source_affine: NDArray[np.float64]
    centre: tuple[float, float]

    @property
    def orientation(self) -> NDArray[np.float64]:
        """Orientation transform (nibabel) from the scan's axes to (posterior, left, superior)."""
        return nio.ornt_transform(nio.io_orientation(self.source_affine), nio.axcodes2ornt(("P", "L", "S")))

    @property
    def oriented_affine(self) -> NDArray[np.float64]:
        """(4, 4) affine, RAS mm, of the scan with axes turned to (posterior, left, superior)."""
        inverse = nio.inv_ornt_aff(self.orientation, self.source_shape)
        return np.asarray(self.source_affine @ inverse)

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) affine, RAS mm, of the standard slices stacked as (H, W, Z)."""
        spacing = np.linalg.norm(self.oriented_affine[:3, :2], axis=0)
        step = self.grid.pixel_mm / spacing
        first = np.asarray(self.centre) - step * (np.asarray(self.grid.image_shape) - 1) / 2
        index = np.diag([step[0], step[1], 1.0, 1.0])
        index[:2, 3] = first
        return np.asarray(self.oriented_affine @ index)


@dataclass(frozen=True)
class StandardSlices:
    """Standard slices of one scan.

    Attributes:
        images: float32 (Z, 1, H, W) in [-1, 1].
        body: bool (Z, 1, H, W), True inside the body.
        placement: the way back.
    """

    images: torch.Tensor
    body: torch.Tensor
    placement: Placement


def slice_axis(affine: NDArray[np.float64]) -> int:
    """Voxel axis of a scan, given its (4, 4) affine to RAS mm, along which its standard slices follow each other."""
    return int(np.flatnonzero(nio.io_orientation(affine)[:, 0] == _SUPERIOR)[0])


def distance_of_standard_slices(affine: NDArray[np.float64]) -> float | None:
    """:func:`slice_distance` of the standard slices of a scan, given its own (4, 4) affine, whatever its axes are."""
    along = slice_axis(affine)
    return slice_distance(affine[:, [*(axis for axis in range(3) if axis != along), along, 3]])


def slice_distance(affine: NDArray[np.float64]) -> float | None:
    """Distance of neighbouring slices in mm, if each lies straight above the next.

    Args:
        affine: (4, 4) of slices stacked along their last axis, to RAS mm.

    Returns:
        None for slices of a tilted gantry, which lie aside of each other by more than 2 % of their distance; what is in
        one place of one is elsewhere in the next.
    """
    rows, columns, step = affine[:3, :3].T
    distance = float(np.linalg.norm(step))
    aside = [abs(float(step @ axis)) / float(np.linalg.norm(axis)) for axis in (rows, columns)]
    return distance if max(aside) <= _ASIDE * distance else None


def _resampling_matrix(n_in: int, n_out: int, *, step: float, start: float) -> torch.Tensor:
    """(n_out, n_in) linear interpolation at input indices start + step * j; rows sum below 1 where the input ends."""
    width = max(1.0, step)
    at = start + step * np.arange(n_out)
    lo, hi = int(np.floor(min(at.min() - width, 0))), int(np.ceil(max(at.max() + width, n_in - 1))) + 1
    weights = np.maximum(0, 1 - np.abs(np.arange(lo, hi)[None] - at[:, None]) / width)
    weights /= weights.sum(axis=1, keepdims=True)
    return torch.from_numpy(weights[:, -lo : -lo + n_in].astype(np.float32))


def _oriented(volume: torch.Tensor, orientation: NDArray[np.float64]) -> NDArray[Any]:
    """View of (X, Y, Z) with axes turned to (posterior, left, superior)."""
    return np.asarray(nio.apply_orientation(volume.numpy(), orientation))


def _tissue_centre(oriented: NDArray[np.float32], *, body_hu: float) -> tuple[float, float]:
    """Centre of mass (row, column) of everything denser than air; the middle of the image if there is nothing."""
    rows, columns = np.zeros(oriented.shape[0]), np.zeros(oriented.shape[1])
    for z in range(oriented.shape[2]):
        tissue = oriented[:, :, z] > body_hu
        rows += tissue.sum(axis=1)
        columns += tissue.sum(axis=0)
    return tuple(  # type: ignore[return-value]
        float((p * np.arange(p.size)).sum() / p.sum()) if p.sum() else (p.size - 1) / 2 for p in (rows, columns)
    )


def body_mask(images_hu: torch.Tensor, *, body_hu: float) -> torch.Tensor:
    """The body: largest part denser than air in each slice, without the table, with lungs and bowel gas filled in.

    Args:
        images_hu: float (Z, 1, H, W), HU.
        body_hu: HU above which a pixel can belong to the body.

    Returns:
        bool (Z, 1, H, W).
    """
    # In a margin of air, all that is not body and reaches the border is one part: the first that is labelled.
    tissue = np.pad(images_hu.numpy()[:, 0] > body_hu, ((0, 0), (1, 1), (1, 1)))
    mask = np.zeros_like(tissue)
    for z, plane in enumerate(tissue):
        parts, n = ndimage.label(_grown(_shrunk(plane, 1.0), 1.0))
        if n:
            largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
            # One pixel around gives back the edge that the opening took, and no more.
            outside, _ = ndimage.label(~(plane & _grown(largest, 1.0)))
            mask[z] = outside != 1
    return torch.from_numpy(mask[:, 1:-1, 1:-1].copy())[:, None]


def beneath_skin(body: torch.Tensor, *, skin_px: float) -> torch.Tensor:
    """The body without its rim: pixels farther than ``skin_px`` pixels from all that is not body, in their slice.

    Args:
        body: bool (Z, 1, H, W).
        skin_px: thickness of the rim in pixels; 0 leaves the body as it is. Beyond the image there is no body.

    Returns:
        bool (Z, 1, H, W).
    """
    if skin_px == 0:
        return body
    inner = np.stack([_shrunk(plane, skin_px) for plane in body.cpu().numpy()[:, 0]])
    return torch.from_numpy(inner)[:, None].to(body.device)


def body_of(images: torch.Tensor, grid: PriorGrid) -> torch.Tensor:
    """Body mask of standard slices, float (Z, 1, H, W) in [-1, 1]; the format's ``body_hu`` must lie in its window."""
    low, high = grid.hu_window
    return body_mask((images + 1) / 2 * (high - low) + low, body_hu=grid.body_hu)


def _shrunk(part: NDArray[np.bool_], radius: float, *, beyond: bool = False) -> NDArray[np.bool_]:
    """Pixels of (H, W) farther than ``radius`` pixels from all that is not part; ``beyond`` the image all is or none.

    Erosion by a disc, one run of pixels for each of its rows: a tenth of the time that distances of all pixels take.
    """
    reach, (height, width) = int(radius), part.shape
    padded = np.pad(part, reach, constant_values=beyond)
    runs = [padded]  # pixels with none but part up to so many columns away
    for far in range(1, reach + 1):
        run = runs[-1].copy()
        run[:, far:] &= padded[:, :-far]
        run[:, :-far] &= padded[:, far:]
        runs.append(run)
    left = part.copy()
    for dy in range(-reach, reach + 1):
        half = np.count_nonzero(np.sqrt(np.arange(1, reach + 1) ** 2 + dy**2) <= radius)
        left &= runs[half][reach + dy : reach + dy + height, reach : reach + width]
    return left


def _grown(part: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Pixels of (H, W) at most ``radius`` pixels from a part."""
    return ~_shrunk(~part, radius, beyond=True)


def standard_slices(volume: MetaTensor, grid: PriorGrid) -> StandardSlices:
    """Bring a volume to the slice format of a prior.

    Args:
        volume: float32 HU, (1, X, Y, Z), affine to RAS mm; any orientation.
        grid: the prior's slice format.

    Returns:
        Slices from inferior to superior, body mask and placement. Outside of the body is -1; so is what the scan
        does not cover.

    Raises:
        InputError: if the volume is not (1, X, Y, Z) or nothing in it is denser than air.
    """
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise InputError(f"volume: got shape {tuple(volume.shape)}, expected (1, X, Y, Z) in HU")
    affine = np.asarray(volume.affine, dtype=np.float64)
    shape = (int(volume.shape[1]), int(volume.shape[2]), int(volume.shape[3]))
    unplaced = Placement(grid, shape, affine, (0.0, 0.0))
    source = _oriented(volume.as_tensor()[0].cpu().float(), unplaced.orientation)
    placement = Placement(grid, shape, affine, _tissue_centre(source, body_hu=grid.body_hu))
    rows, columns = _source_to_grid(placement, source.shape)
    images = torch.empty(source.shape[2], 1, *grid.image_shape)
    low, high = grid.hu_window
    clips = grid.body_hu > low
    outside = low if clips else AIR_HU
    for z in range(source.shape[2]):  # one at a time: in the processor's cache, and a long scan takes no more memory
        plane = torch.from_numpy(np.ascontiguousarray(source[:, :, z]))
        plane = plane.clamp(low, high).sub_(outside) if clips else plane - outside
        torch.mm(rows @ plane, columns.T, out=images[z, 0])
    images += outside
    body = body_mask(images, body_hu=grid.body_hu)
    if not bool(body.any()):
        raise InputError(
            f"volume: nothing denser than {grid.body_hu:g} HU was found (maximum {float(volume.max()):g}); "
            "expected a CT of the body in HU"
        )
    images.sub_(low).div_(high - low).mul_(2).sub_(1).clamp_(-1, 1)
    return StandardSlices(images.masked_fill_(~body, -1.0), body, placement)


def _source_to_grid(placement: Placement, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    spacing = np.linalg.norm(placement.oriented_affine[:3, :2], axis=0)
    matrices = []
    for axis in (0, 1):
        n, step = placement.grid.image_shape[axis], placement.grid.pixel_mm / spacing[axis]
        matrices.append(
            _resampling_matrix(shape[axis], n, step=step, start=placement.centre[axis] - step * (n - 1) / 2)
        )
    return matrices[0], matrices[1]


def resample_mask(mask: NDArray[np.bool_], placement: Placement) -> torch.Tensor:
    """A mask on the scan's grid, brought to the standard slices: True where at least half of a pixel is covered.

    Args:
        mask: bool (X, Y, Z) on the scan's grid.
        placement: from :func:`standard_slices`.

    Returns:
        bool (Z, 1, H, W).
    """
    source = _oriented(torch.from_numpy(mask.astype(np.float32)), placement.orientation)
    rows, columns = _source_to_grid(placement, source.shape)
    return (rows @ torch.from_numpy(np.ascontiguousarray(source.transpose(2, 0, 1))) @ columns.T >= 0.5)[:, None]


def to_source_grid(maps: torch.Tensor, placement: Placement) -> MetaTensor:
    """Bring maps on standard slices back to the scan's own voxel grid.

    Args:
        maps: float (Z, 1, H, W), zero meaning nothing.
        placement: from :func:`standard_slices`.

    Returns:
        float32 (1, X, Y, Z) on the scan's grid with its affine; zero where the standard slices do not reach.
        Values are interpolated, not rescaled: nats per pixel of the prior's grid stay so. X runs fastest in memory, as
        in DICOM and NIfTI files.
    """
    grid = placement.grid
    oriented_shape = [0, 0, 0]
    for axis, (to, _) in enumerate(placement.orientation):
        oriented_shape[int(to)] = placement.source_shape[axis]
    expected = (oriented_shape[2], 1, *grid.image_shape)
    if tuple(maps.shape) != expected:
        raise ValueError(f"maps: got shape {tuple(maps.shape)}, expected {expected}")
    spacing = np.linalg.norm(placement.oriented_affine[:3, :2], axis=0)
    matrices = []
    for axis in (0, 1):
        n, step = grid.image_shape[axis], spacing[axis] / grid.pixel_mm
        matrices.append(
            _resampling_matrix(n, oriented_shape[axis], step=step, start=(n - 1) / 2 - placement.centre[axis] * step)
        )
    out = torch.zeros(placement.source_shape[::-1]).permute(2, 1, 0)
    target = _oriented(out, placement.orientation)  # a view: writing to it fills ``out`` in the scan's own order
    # Only voxels that values reach are interpolated. Each from whole rows and columns, as shorter sums round otherwise.
    planes = maps[:, 0].float().cpu()
    filled = (planes != 0).any(dim=0)
    rows, columns = (_reached(m, filled.any(dim=1 - axis)) for axis, m in enumerate(matrices))
    for z, plane in enumerate(planes):
        target[rows, columns, z] = (matrices[0][rows] @ plane @ matrices[1][columns].T).numpy()
    return MetaTensor(out[None], affine=torch.from_numpy(placement.source_affine.copy()))


def _reached(matrix: torch.Tensor, filled: torch.Tensor) -> slice:
    """Rows of an (n_out, n_in) interpolation from the first to the last that takes from an input that is filled."""
    found = torch.nonzero(matrix[:, filled].any(dim=1))
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0)
