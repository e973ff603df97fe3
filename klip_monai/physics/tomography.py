"""Parallel-beam and fan-beam tomography of slices."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch

from klip_monai.errors import InputError
from klip_monai.physics.filtered_back_projection import fan_beam_fbp, ramp_filter
from klip_monai.physics.geometry import FanBeam, ParallelBeam
from klip_monai.physics.operator import LinearOperator
from klip_monai.physics.solvers import spectral_norm

if TYPE_CHECKING:
    import scipy.sparse

BACKENDS = ("auto", "matrix", "astra_cuda")
KERNELS = {ParallelBeam: ("linear", "line", "strip"), FanBeam: ("strip", "line")}
"""ASTRA's kernels for each geometry, the default first; a fan beam with a detector offset has "line" only."""


class Tomography(LinearOperator):
    """Line integrals of slices along the rays of a parallel or fan beam, scaled to unit spectral norm.

    A = scale * A_raw, with A_raw in image units times mm. `range_shape` is (1, views, detectors).

    Backends:
        "matrix": ASTRA's projector as a sparse matrix, built once; one product serves the whole batch, on the CPU and
            on CUDA alike. The adjoint is the same matrix transposed, so the pair is exactly matched. Memory: 24 bytes
            (three copies) for each of about 1.8 * H * W * views * pixel_mm / detector_pitch_mm non-zero entries, 68 MB
            at 256 x 256 and 24 views in float32.
        "astra_cuda": ASTRA's CUDA projector on torch CUDA memory, nothing stored; for sizes whose matrix does not fit.
            CUDA tensors only, computed in float32 (float64 is converted and back), parallel beams with the kernel
            "linear" only, and the adjoint is matched only up to interpolation. Needs a CUDA device when built, for the
            scale.
        "auto": "matrix", for every device: results then do not depend on where they were computed.

    Args:
        geometry: the acquisition.
        backend: "auto", "matrix" or "astra_cuda".
        kernel: "linear" (Joseph interpolation; parallel beams only), "line" (length of the ray in each pixel) or
            "strip" (area overlap). None: "linear" for parallel beams, "strip" for fan beams, "line" for those with a
            detector offset, of which ASTRA has no other.

    Attributes:
        geometry: the acquisition.
        backend: "matrix" or "astra_cuda", "auto" resolved.
        kernel: the kernel.

    Raises:
        InputError: an unknown backend or kernel, "astra_cuda" without a CUDA device or with another kernel, or a
            geometry whose rays all miss the image.
    """

    def __init__(self, geometry: ParallelBeam | FanBeam, *, backend: str = "auto", kernel: str | None = None) -> None:
        if type(geometry) not in KERNELS:
            raise InputError(f"geometry: got {type(geometry).__name__}, expected a ParallelBeam or a FanBeam")
        if backend not in BACKENDS:
            raise InputError(f"backend: got {backend!r}, expected one of {', '.join(BACKENDS)}")
        offset_fan = isinstance(geometry, FanBeam) and geometry.detector_offset_mm != 0
        kernels = ("line",) if offset_fan else KERNELS[type(geometry)]
        kernel = kernels[0] if kernel is None else kernel
        if kernel not in kernels:
            raise InputError(
                f"kernel: got {kernel!r}, expected one of {', '.join(kernels)} for a {type(geometry).__name__}"
                + (" with a detector offset" if offset_fan else "")
            )
        self.geometry = geometry
        self.backend = "matrix" if backend == "auto" else backend
        self.kernel = kernel
        super().__init__(geometry.image_shape, range_shape=(1, *geometry.sinogram_shape), scale=1.0)
        self._matrices: dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}
        if self.backend == "matrix":
            from klip_monai.physics.astra_projector import projection_matrix

            self._raw = projection_matrix(geometry, kernel=kernel)
            if not self._raw.nnz:
                raise InputError(
                    f"geometry: no ray meets the image, expected a finer detector_pitch_mm; got {geometry!r}"
                )
            device, dtype = torch.device("cpu"), torch.float64
        else:
            if kernel != "linear":
                raise InputError(
                    f"kernel: got {kernel!r}, expected 'linear' and a ParallelBeam with backend='astra_cuda'"
                )
            if not torch.cuda.is_available():
                raise InputError("backend: got 'astra_cuda', but torch finds no CUDA device; use backend='matrix'")
            device, dtype = torch.device("cuda"), torch.float32
        norm = spectral_norm(
            lambda x: self._adjoint(self._forward(x)), (1, 1, *self.image_shape), dtype=dtype, device=device
        )
        self.scale = 1.0 / norm
        # These were built with scale 1, and float64 is rarely asked for again.
        self._matrices.clear()

    def __getstate__(self) -> dict[str, Any]:
        # torch cannot deep-copy sparse CSR tensors; a copy builds its own when first used.
        return {**self.__dict__, "_matrices": {}}

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.backend == "astra_cuda":
            from klip_monai.physics.astra_projector import cuda_forward

            assert isinstance(self.geometry, ParallelBeam)  # no other has this backend
            return cuda_forward(self.geometry, x[:, 0].float()).mul_(self.scale)[:, None].to(x.dtype)
        forward, _ = self._sparse(x.device, x.dtype)
        return (forward @ x.flatten(1).t()).t().reshape(-1, *self.range_shape)

    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        if self.backend == "astra_cuda":
            from klip_monai.physics.astra_projector import cuda_adjoint

            assert isinstance(self.geometry, ParallelBeam)
            return cuda_adjoint(self.geometry, y[:, 0].float()).mul_(self.scale)[:, None].to(y.dtype)
        _, adjoint = self._sparse(y.device, y.dtype)
        return (adjoint @ y.flatten(1).t()).t().reshape(-1, 1, *self.image_shape)

    def _sparse(self, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled A_raw and its transpose as CSR tensors, kept for each device and dtype in use."""
        key = (device, dtype)
        if key not in self._matrices:
            self._matrices[key] = (
                _csr_tensor(self._raw, self.scale, dtype).to(device),
                _csr_tensor(self._raw.T.tocsr(), self.scale, dtype).to(device),
            )
        return self._matrices[key]

    def A_dagger(
        self,
        y: torch.Tensor,
        *,
        method: str = "cg",
        regularization: float = 0.0,
        iterations: int = 50,
        tolerance: float = 0.0,
        window: str = "ram-lak",
    ) -> torch.Tensor:
        """Reconstruct images by regularised least squares or by filtered back-projection.

        Filtered back-projection needs evenly spaced views (no `view_angles`) and a detector that the slice's shadow
        falls on, and takes each line through the slice once. Of a parallel beam values are right from 180 degrees up;
        with a limited angle what lies in the missing wedge is missing. A fan beam (see :func:`fan_beam_fbp`) needs 180
        degrees and the angle of its fan. Both are differentiable, a fan beam's once.

        Args:
            y: measurements, shape (B, 1, views, detectors), float32 or float64.
            method: "cg" (see `LinearOperator.A_dagger`) or "fbp".
            regularization: for "cg": weight of ||x||², 0 or more.
            iterations: for "cg": number of iterations.
            tolerance: for "cg": relative residual at which a sample stops; 0 runs all iterations.
            window: for "fbp": "ram-lak" or "hann".

        Returns:
            Images, shape (B, 1, H, W), dtype and device of `y`.

        Raises:
            InputError: a wrong shape or dtype, an unknown method or window, a negative option, or "fbp" of views that
                are not evenly spaced or, of a fan beam, do not cover the slice.
        """
        if method == "cg":
            return super().A_dagger(y, regularization=regularization, iterations=iterations, tolerance=tolerance)
        if method != "fbp":
            raise InputError(f"method: got {method!r}, expected 'cg' or 'fbp'")
        if self.geometry.view_angles is not None:
            raise InputError("method: got 'fbp', expected 'cg' for a geometry with a list of view_angles")
        y = self._check("y", y, self.range_shape)
        with torch.autocast(y.device.type, enabled=False):
            if isinstance(self.geometry, FanBeam):
                return fan_beam_fbp(y / self.scale, self.geometry, window=window)
            filtered = ramp_filter(y, pitch_mm=self.geometry.pitch_mm, window=window)
            weights = torch.as_tensor(self._view_weights(), dtype=y.dtype, device=y.device)
            filtered = filtered * weights[:, None]
        # Aᵀ holds the scale once more than wanted on each side, and spreads a ray over pixel area / pitch.
        factor = self.geometry.pitch_mm / (self.geometry.pixel_mm * self.scale) ** 2
        return self.A_adjoint(filtered) * factor

    def _view_weights(self) -> list[float]:
        """Arc of each view in radians, shared among the views that look along the same lines."""
        span, arc = self.geometry.angle_range, math.radians(self.geometry.angle_range / self.geometry.views)
        offsets = [i * span / self.geometry.views for i in range(self.geometry.views)]
        return [arc / (1 + (offset + 180 < span) + (offset >= 180)) for offset in offsets]

    def describe(self) -> dict[str, Any]:
        """Return {"type", "backend", "kernel", "normalization", "geometry"}."""
        return {
            "type": "Tomography",
            "backend": self.backend,
            "kernel": self.kernel,
            "normalization": "unit spectral norm",
            "geometry": self.geometry.describe(),
        }

    def __repr__(self) -> str:
        return f"Tomography({self.geometry!r}, backend={self.backend!r}, kernel={self.kernel!r})"


def _csr_tensor(matrix: scipy.sparse.csr_matrix, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Scaled matrix as a CSR tensor on the CPU with the int32 indices that torch multiplies fastest."""
    matrix.sort_indices()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr),
            torch.from_numpy(matrix.indices),
            torch.from_numpy(matrix.data).to(torch.float64).mul_(scale).to(dtype),
            size=matrix.shape,
            check_invariants=True,
        )
