"""Random phantom scans, and their standard slices as a dataset for training a prior."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import repeat
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch.utils.data import Dataset

from klip_monai.phantom.anatomy import add_lesions, random_anatomy, random_rotation
from klip_monai.phantom.render import PhantomScan, render
from klip_monai.standard import PriorGrid, standard_slices


def axial_affine(
    shape: tuple[int, int, int],
    *,
    spacing: tuple[float, float, float],
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    rotation: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """RAS affine of a grid whose axes run left, posterior and superior (as axial DICOM does), turned by ``rotation``.

    Args:
        shape: (X, Y, Z) voxels.
        spacing: mm along each axis.
        centre: RAS mm of the middle of the grid.
        rotation: (3, 3) applied to the axes; None is none.

    Returns:
        (4, 4) float64.
    """
    affine = np.eye(4)
    turn = np.eye(3) if rotation is None else np.asarray(rotation, np.float64)
    affine[:3, :3] = turn @ np.diag([-1.0, -1.0, 1.0]) @ np.diag(spacing)
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def random_scan(
    seed: int,
    *,
    slices: int = 12,
    slice_mm: tuple[float, float] = (9.0, 13.0),
    lesion: bool = False,
    radius_mm: tuple[float, float] = (4.0, 20.0),
    contrast_hu: tuple[float, float] = (20.0, 80.0),
) -> PhantomScan:
    """A patient in a random scanner: pose within 5 degrees, pixels of 1.6 to 2.6 mm, anywhere in the abdomen.

    Args:
        seed: of patient, scanner and lesion.
        slices: Z.
        slice_mm: range of the distance between slices.
        lesion: put one lesion into the liver, within the scanned range; a small one can lie between two thick slices,
            and the lesion mask is empty then.
        radius_mm: see :func:`add_lesions`.
        contrast_hu: see :func:`add_lesions`.
    """
    rng = np.random.default_rng([seed, 4])
    pixel, thick = rng.uniform(1.6, 2.6), rng.uniform(*slice_mm)
    n = int(np.ceil(400 / pixel / 8) * 8)
    anatomy = random_anatomy(seed)
    z = rng.uniform(-25, 45)
    if lesion:
        reach = max(thick * (slices - 1) / 2 - 15, 1)
        z_mm = (max(z - reach, -40.0), min(z + reach, 95.0))
        anatomy = add_lesions(anatomy, seed=seed, radius_mm=radius_mm, contrast_hu=contrast_hu, z_mm=z_mm)
    centre = (rng.uniform(-10, 10), rng.uniform(-10, 10), z)
    shape = (n, n, slices)
    spacing = (pixel, pixel, thick)
    return render(
        anatomy, axial_affine(shape, spacing=spacing, centre=centre, rotation=random_rotation(rng, 5)), shape=shape
    )


def _standard_images(seed: int, slices: int, grid: PriorGrid) -> torch.Tensor:
    return standard_slices(random_scan(seed, slices=slices).image, grid).images


class PhantomSlices(Dataset[dict[str, torch.Tensor]]):
    """Standard slices of healthy phantoms, rendered once when built, for training a prior.

    Args:
        patients: number of anatomies.
        slices: slices of each, spread over the abdomen.
        seed: first patient; patients ``seed`` to ``seed + patients - 1`` are used, so disjoint ranges share no patient.
        image_shape, pixel_mm, hu_window: see :class:`~klip_monai.standard.PriorGrid`.
        workers: processes that render; 0 renders in this one.

    Items are ``{"image": float32 (1, H, W) in [-1, 1]}``.
    """

    def __init__(
        self,
        patients: int,
        slices: int = 12,
        *,
        seed: int = 0,
        image_shape: tuple[int, int] = (128, 128),
        pixel_mm: float = 3.0,
        hu_window: tuple[float, float] = (-160.0, 240.0),
        workers: int = 0,
    ) -> None:
        grid = PriorGrid(image_shape, pixel_mm, hu_window)
        jobs = (range(seed, seed + patients), repeat(slices), repeat(grid))
        with ExitStack() as stack:
            if workers:
                context = get_context("forkserver")
                pool = ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,))
                rendered = stack.enter_context(pool).map(_standard_images, *jobs, chunksize=4)
            else:
                rendered = map(_standard_images, *jobs)
            parts = list(track(rendered, total=patients, description="rendering phantoms"))
        self.images = torch.cat([part.half() for part in parts])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": self.images[index].float()}
