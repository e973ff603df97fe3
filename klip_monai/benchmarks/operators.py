"""The projection matrix against ASTRA: a product for a batch, or a call for each slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from klip_monai.benchmarks.cost import Cost, Row
from klip_monai.benchmarks.subject import Subject
from klip_monai.benchmarks.timing import as_in_a_pass, cost_of, least_costs
from klip_monai.physics.astra_projector import SliceProjector
from klip_monai.physics.geometry import ParallelBeam
from klip_monai.physics.tomography import Tomography

SIDES = (128, 256)
VIEWS, BATCH = 24, 16

Task = Callable[[], object]


def measure(subject: Subject) -> list[Row]:
    """Rows for both kernels and sizes; one thread, as ASTRA's CPU projector has."""
    kernels = ("linear", "strip") if subject.device.type == "cpu" else ("linear",)
    settings: dict[str, Any] = {"views": VIEWS, "batch": BATCH, "tries": subject.tries, "device": subject.device}
    return [row for side in SIDES for kernel in kernels for row in compare(side, kernel=kernel, **settings)]


def compare(
    side: int, *, views: int, batch: int, kernel: str, tries: int, device: torch.device | str = "cpu"
) -> list[Row]:
    """Time one geometry, the two ways in turn.

    Args:
        side: image side in pixels.
        views: number of angles over 180 degrees.
        batch: slices in a batch.
        kernel: "linear" or "strip"; "linear" on CUDA.
        tries: the least counts.
        device: where.

    Returns:
        What it takes to build the operator, and what a slice takes by matrix and by ASTRA, forward and adjoint.
    """
    geometry = ParallelBeam(image_shape=(side, side), pixel_mm=1.0, views=views)
    operators: list[Tomography] = []
    with as_in_a_pass():
        built = cost_of(lambda: operators.append(Tomography(geometry, backend="matrix", kernel=kernel)))
        x = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(0)).to(device)
        on_cuda = torch.device(device).type == "cuda"
        compared = _in_cuda_memory if on_cuda else _slice_by_slice
        costs = compared(operators[0], x, operators[0].A(x), tries=tries)
    case = f"{side}, {kernel}"
    rows = [Row(f"{case}: build", built, "run")]
    for way in ("forward", "adjoint"):
        matrix, astra = (costs[f"{way}, {means}"] / batch for means in ("matrix", "ASTRA"))
        ratio = astra.wall_s / matrix.wall_s
        rows.append(Row(f"{case}: {way}, matrix", matrix, "slice"))
        rows.append(Row(f"{case}: {way}, ASTRA", astra, "slice", f"{ratio:.0f} x the matrix", {"ratio": ratio}))
    return rows


def _slice_by_slice(operator: Tomography, x: torch.Tensor, y: torch.Tensor, *, tries: int) -> dict[str, Cost]:
    """Costs of a batch on the CPU: images (B, 1, H, W) and measurements (B, 1, views, detectors)."""
    images, sinograms = x[:, 0].numpy(), np.ascontiguousarray(y[:, 0].numpy())
    with SliceProjector(operator.geometry, kernel=operator.kernel) as projector:
        tasks: dict[str, Task] = {
            "forward, matrix": lambda: operator.A(x),
            "forward, ASTRA": lambda: [projector.forward(image) for image in images],
            "adjoint, matrix": lambda: operator.A_adjoint(y),
            "adjoint, ASTRA": lambda: [projector.adjoint(sinogram) for sinogram in sinograms],
        }
        return least_costs(tasks, tries=tries)


def _in_cuda_memory(operator: Tomography, x: torch.Tensor, y: torch.Tensor, *, tries: int) -> dict[str, Cost]:
    """The same on CUDA, where ASTRA takes a batch at once."""
    astra = Tomography(operator.geometry, backend="astra_cuda")
    tasks: dict[str, Task] = {
        "forward, matrix": lambda: operator.A(x),
        "forward, ASTRA": lambda: astra.A(x),
        "adjoint, matrix": lambda: operator.A_adjoint(y),
        "adjoint, ASTRA": lambda: astra.A_adjoint(y),
    }
    return least_costs(tasks, tries=tries, device=x.device)
