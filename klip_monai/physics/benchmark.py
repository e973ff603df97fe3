"""Time the projection matrix against one ASTRA call a slice, side by side: `python -m klip_monai.physics.benchmark`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from klip_monai.physics.astra_projector import SliceProjector
from klip_monai.physics.geometry import ParallelBeam
from klip_monai.physics.tomography import Tomography


def compare(side: int, *, views: int, batch: int, kernel: str, rounds: int) -> dict[str, float]:
    """Time one geometry on the CPU, the two ways in turn within each round.

    Args:
        side: image side in pixels.
        views: number of angles over 180 degrees.
        batch: slices in a batch.
        kernel: "linear" or "strip".
        rounds: repetitions; the median is reported.

    Returns:
        Seconds to build the operator, and milliseconds a slice of `matrix` and `astra`, forward and adjoint.
    """
    geometry = ParallelBeam(image_shape=(side, side), pixel_mm=1.0, views=views)
    start = time.perf_counter()
    operator = Tomography(geometry, backend="matrix", kernel=kernel)
    times = {"build_s": time.perf_counter() - start}
    x = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(0))
    y = operator.A(x)
    images, sinograms = x[:, 0].numpy(), np.ascontiguousarray(y[:, 0].numpy())
    with SliceProjector(geometry, kernel=kernel) as projector:
        tasks: dict[str, Callable[[], object]] = {
            "matrix_forward_ms": lambda: operator.A(x),
            "astra_forward_ms": lambda: [projector.forward(image) for image in images],
            "matrix_adjoint_ms": lambda: operator.A_adjoint(y),
            "astra_adjoint_ms": lambda: [projector.adjoint(sinogram) for sinogram in sinograms],
        }
        taken: dict[str, list[float]] = {name: [] for name in tasks}
        for _ in range(rounds + 1):
            for name, task in tasks.items():
                start = time.perf_counter()
                task()
                taken[name].append(1e3 * (time.perf_counter() - start) / batch)
    # The first round builds what is kept for later ones.
    return times | {name: statistics.median(values[1:]) for name, values in taken.items()}


def main() -> None:
    """Print a table of milliseconds a slice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256], help="image sides in pixels")
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; ASTRA's CPU projector uses one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"ms a slice, {args.views} views, batch {args.batch}, {args.threads} torch thread(s), median of {args.rounds}"
    )
    print("side  kernel   build s   forward: matrix   astra  ratio   adjoint: matrix   astra  ratio")
    for side in args.sides:
        for kernel in ("linear", "strip"):
            t = compare(side, views=args.views, batch=args.batch, kernel=kernel, rounds=args.rounds)
            forward, adjoint = (t[f"astra_{way}_ms"] / t[f"matrix_{way}_ms"] for way in ("forward", "adjoint"))
            print(
                f"{side:4d}  {kernel:6s}  {t['build_s']:8.2f}"
                f"  {t['matrix_forward_ms']:16.3f}{t['astra_forward_ms']:8.2f}{forward:6.1f}x"
                f"  {t['matrix_adjoint_ms']:16.3f}{t['astra_adjoint_ms']:8.2f}{adjoint:6.1f}x"
            )


if __name__ == "__main__":
    main()
