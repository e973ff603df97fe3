"""Time and memory of `klip-monai score` on a large series: `python -m klip_monai.evaluation.scan_benchmark`."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from klip_monai.bundle import DEFAULT_BUNDLE
from klip_monai.phantom import axial_affine, random_anatomy, render

SEED = 800_000
"""Patient of the series; used nowhere else."""


def write_series(path: Path, *, side: int, slices: int, slice_mm: float) -> None:
    """Write a healthy phantom as int16 NIfTI, ``side`` x ``side`` pixels over 400 mm, ``slices`` ``slice_mm`` apart."""
    shape, pixel = (side, side, slices), 400 / side
    scan = render(
        random_anatomy(SEED), axial_affine(shape, spacing=(pixel, pixel, slice_mm), centre=(0, 0, 20)), shape=shape
    )
    values = np.clip(np.round(scan.image[0].numpy()), -1024, 3071).astype(np.int16)
    nib.save(nib.Nifti1Image(values, scan.image.affine.numpy()), path)


def measure(path: Path, output: Path, *, bundle: str) -> dict[str, float]:
    """Score a series in a process of its own.

    Args:
        path: the series.
        output: folder for the overlays.
        bundle: name or folder.

    Returns:
        Wall time of the whole command in s, its peak memory in GB (resident set), and the parts that the summary gives.
    """
    command = [sys.executable, "-m", "klip_monai.cli", "score", str(path), "--output", str(output), "--bundle", bundle]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    wall = time.perf_counter() - start
    kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # Linux counts it in KiB
    (summary,) = (json.loads(file.read_text()) for file in output.glob("*_summary.json"))
    return {"wall_s": wall, "peak_gb": kilobytes * 1024 / 1e9} | summary["timings_s"]


def main() -> None:
    """Make the series, score it, print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="pixels along each side of a slice")
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--slice-mm", type=float, default=0.8, help="distance between slices, mm")
    parser.add_argument("--bundle", default=DEFAULT_BUNDLE)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "series.nii.gz"
        write_series(path, side=args.side, slices=args.slices, slice_mm=args.slice_mm)
        found = measure(path, Path(folder) / "out", bundle=args.bundle)
    print(
        f"{args.side} x {args.side} x {args.slices}: {found['wall_s']:.0f} s in all (read {found['read']:.0f}, score "
        f"{found['score']:.0f}, write {found['write']:.0f}), {found['peak_gb']:.1f} GB at the peak"
    )


if __name__ == "__main__":
    main()
