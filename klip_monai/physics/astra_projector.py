"""The one file that imports astra: projection matrices for the CPU, and projections inside CUDA memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import astra
import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch

from klip_monai.errors import InputError
from klip_monai.physics.geometry import FanBeam, ParallelBeam


def projection_matrix(geometry: ParallelBeam | FanBeam, *, kernel: str) -> scipy.sparse.csr_matrix:
    """Build the projector of a geometry as a sparse matrix.

    Args:
        geometry: the acquisition.
        kernel: "line" (length of each ray in each pixel), "linear" (Joseph: linear interpolation along each ray,
            parallel beams only) or "strip" (area overlap of pixel and strip; not of fan beams with an offset).

    Returns:
        CSR matrix, float32, int32 sorted indices, shape (views * detectors, H * W), entries in mm: it takes an image in
        units u, rows first, to line integrals in u * mm, views first.
    """
    with _projector(geometry, kernel=kernel) as projector:
        matrix_id = astra.projector.matrix(projector)
        try:
            matrix = astra.matrix.get(matrix_id)
        finally:
            astra.matrix.delete(matrix_id)
    matrix = scipy.sparse.csr_matrix(matrix, dtype=np.float32)
    matrix.sum_duplicates()
    return matrix


class SliceProjector:
    """ASTRA's own CPU projector, one call a slice: the reference for tests and the benchmark. Use in a `with` block.

    Args:
        geometry: the acquisition.
        kernel: as in :func:`projection_matrix`.
    """

    def __init__(self, geometry: ParallelBeam | FanBeam, *, kernel: str) -> None:
        self._context = _projector(geometry, kernel=kernel)

    def __enter__(self) -> SliceProjector:
        self._id = self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    def forward(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Project an image, shape (H, W), to line integrals in image units times mm, shape (views, detectors)."""
        data, sinogram = astra.create_sino(image, self._id)
        astra.data2d.delete(data)
        return sinogram

    def adjoint(self, sinogram: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Back-project a sinogram, shape (views, detectors), to an image, shape (H, W)."""
        data, image = astra.create_backprojection(sinogram, self._id)
        astra.data2d.delete(data)
        return image


def cuda_forward(geometry: ParallelBeam, images: torch.Tensor) -> torch.Tensor:
    """Project a batch with ASTRA's CUDA code, in place on torch memory: no copy through the host.

    The batch is the z axis of a 3D parallel beam whose rays stay in one slice, so one call serves it.

    Args:
        geometry: the acquisition.
        images: shape (B, H, W), float32, on a CUDA device.

    Returns:
        Line integrals in image units times mm, shape (B, views, detectors), float32, on the same device.

    Raises:
        InputError: not on CUDA, or astra finds no CUDA device.
    """
    _check_cuda(images)
    images = images.detach().contiguous()
    sinograms = images.new_zeros((images.shape[0], *geometry.sinogram_shape))
    with _cuda_projector(geometry, images) as projector:
        astra.projector3d.direct_FP(projector, images, out=sinograms)
    return sinograms.mul_(geometry.pixel_mm)


def cuda_adjoint(geometry: ParallelBeam, sinograms: torch.Tensor) -> torch.Tensor:
    """Back-project a batch with ASTRA's CUDA code, in place on torch memory.

    ASTRA's CUDA back-projection is voxel-driven and its projection ray-driven, so this is the adjoint of `cuda_forward`
    only up to interpolation (about a percent of the inner product on smooth images, more on noise).

    Args:
        geometry: the acquisition.
        sinograms: shape (B, views, detectors), float32, on a CUDA device.

    Returns:
        Images, shape (B, H, W), float32, on the same device.

    Raises:
        InputError: not on CUDA, or astra finds no CUDA device.
    """
    _check_cuda(sinograms)
    sinograms = sinograms.detach().contiguous()
    images = sinograms.new_zeros((sinograms.shape[0], *geometry.image_shape))
    with _cuda_projector(geometry, sinograms) as projector:
        astra.projector3d.direct_BP(projector, sinograms, out=images)
    return images.mul_(geometry.pixel_mm)


@contextmanager
def _projector(geometry: ParallelBeam | FanBeam, *, kernel: str) -> Iterator[int]:
    """An ASTRA 2D CPU projector that is deleted again."""
    (height, width), pixel = geometry.image_shape, geometry.pixel_mm
    half = (width * pixel / 2, height * pixel / 2)
    volume = astra.create_vol_geom(height, width, -half[0], half[0], -half[1], half[1])
    row = (geometry.pitch_mm, geometry.detectors, np.deg2rad(geometry.angles))
    if isinstance(geometry, FanBeam):
        views = astra.create_proj_geom("fanflat", *row, geometry.source_mm, geometry.detector_mm)
        kernel = f"{kernel}_fanflat"
    else:
        views = astra.create_proj_geom("parallel", *row)
    if geometry.detector_offset_mm:
        views = astra.geom_postalignment(views, geometry.detector_offset_mm / geometry.pitch_mm)
    projector = astra.create_projector(kernel, views, volume)
    try:
        yield projector
    finally:
        astra.projector.delete(projector)


@contextmanager
def _cuda_projector(geometry: ParallelBeam, data: torch.Tensor) -> Iterator[int]:
    """An ASTRA 3D projector for the batch in `data`, on its device, in step with torch's stream."""
    batch, (height, width) = data.shape[0], geometry.image_shape
    volume = astra.create_vol_geom(height, width, batch)
    views = astra.create_proj_geom("parallel3d_vec", batch, geometry.detectors, batch_vectors(geometry))
    with torch.cuda.device(data.device):
        astra.set_gpu_index(torch.cuda.current_device())
        projector = astra.create_projector("cuda3d", views, volume)
        try:
            # ASTRA works on streams of its own and knows nothing of torch's.
            torch.cuda.current_stream().synchronize()
            yield projector
            torch.cuda.synchronize()
        finally:
            astra.projector3d.delete(projector)


def batch_vectors(geometry: ParallelBeam) -> npt.NDArray[np.float64]:
    """ASTRA's `parallel3d_vec` vectors in units of pixels, shape (views, 12): ray, detector centre, u and v steps.

    Unit voxels keep the batch axis free of millimetres. ASTRA's 2D volumes have their first row at the largest y, its
    3D volumes at the smallest, hence the reversed sign of y against the 2D convention (ray (sin, -cos), u (cos, sin)).
    """
    angles = np.deg2rad(geometry.angles)
    pitch = geometry.pitch_mm / geometry.pixel_mm
    vectors = np.zeros((geometry.views, 12))
    offset = geometry.detector_offset_mm / geometry.pixel_mm
    vectors[:, 0], vectors[:, 1] = np.sin(angles), np.cos(angles)
    vectors[:, 3], vectors[:, 4] = offset * np.cos(angles), -offset * np.sin(angles)
    vectors[:, 6], vectors[:, 7] = pitch * np.cos(angles), -pitch * np.sin(angles)
    vectors[:, 11] = 1.0
    return vectors


def _check_cuda(data: torch.Tensor) -> None:
    """Refuse what ASTRA would fail on without saying why."""
    if data.device.type != "cuda":
        raise InputError(f"backend='astra_cuda': got a tensor on {data.device}, expected CUDA; use backend='matrix'")
    if not astra.use_cuda():
        raise InputError("backend='astra_cuda': astra finds no CUDA device; use backend='matrix'")
