"""A 3D Slicer scene (.mrb): CT, heat map and segments in one file that opens ready to read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import matplotlib
import numpy as np
import numpy.typing as npt
import torch

from klip_monai.errors import InputError
from klip_monai.io.display import COLOUR_MAP
from klip_monai.io.mrml import markups_json, scene_mrml
from klip_monai.io.overlay import write_ct, write_heatmap, write_segmentation
from klip_monai.io.preview_geometry import PreviewScan
from klip_monai.io.source_grid import as_affine, as_finite_volume, as_labels


def write_scene(
    path: str | Path,
    volume_hu: npt.ArrayLike | torch.Tensor,
    heatmap: npt.ArrayLike | torch.Tensor,
    labels: npt.ArrayLike | torch.Tensor,
    affine: npt.ArrayLike | torch.Tensor,
    *,
    title: str,
    scale: tuple[float, float],
    lines: Sequence[str] = (),
    places: Sequence[Sequence[float]] = (),
    unit: str = "nats per pixel",
) -> Path:
    """Write a scene that opens in 3D Slicer without a further step.

    The CT has a soft tissue window. The heat map lies over it in the three slice views, see-through below the scale,
    with a colour legend. The slices run along the voxel axes and through the worst voxel, which the cross hair marks.
    The segments are outlines in the slices and surfaces in the 3D view, the places a list of points.

    Args:
        path: file to write, ending in `.mrb`: a ZIP archive of one MRML file and the files that it shows.
        volume_hu: (X, Y, Z) HU. Its pixels are in the file; nothing else of the source is.
        heatmap: (X, Y, Z), nats per pixel.
        labels: (X, Y, Z), 0 background, 1 suspicious, 2 strongly suspicious.
        affine: (4, 4) voxel-to-RAS matrix in mm, with perpendicular axes.
        title: what the scene's nodes are called after; must not identify the patient.
        scale: heat map values shown as transparent and as the last colour; the same for every scan of a bundle.
        lines: short statements, kept as a text in the scene.
        places: RAS mm of points to show, numbered from 1.
        unit: of the heat map and `scale`.

    Returns:
        The path written. The same input gives the same bytes.

    Raises:
        InputError: another ending, arrays of different shapes, values that are not finite, a scale that does not rise,
            or sheared axes (a tilted gantry), which no Slicer volume can hold.
    """
    path = Path(path)
    arrays = as_finite_volume("volume_hu", volume_hu), as_finite_volume("heatmap", heatmap), as_labels(labels)
    matrix = as_affine(affine)
    if path.suffix != ".mrb":
        raise InputError(f"path: got {path.name!r}, expected a name ending in .mrb")
    if len({array.shape for array in arrays}) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise InputError(f"volume_hu, heatmap, labels: got shapes {shapes}, expected one (X, Y, Z) for all three")
    if not np.isfinite(scale).all() or scale[0] >= scale[1]:
        raise InputError(f"scale: got {scale}, expected (low, high) in {unit} with low below high")
    with tempfile.TemporaryDirectory() as name, ZipFile(path, "w") as archive:
        folder, scan = Path(name), PreviewScan(*arrays, matrix, places=places)
        files = (
            write_ct(folder / "ct.nii.gz", arrays[0], matrix),
            write_heatmap(folder / "heatmap.nii.gz", arrays[1], matrix, description=f"KL density, {unit}"),
            write_segmentation(folder / "segments.seg.nrrd", arrays[2], matrix, surface=True),
        )
        mrml = scene_mrml(scan, title=title, scale=scale, lines=lines, unit=unit)
        archive.writestr(_entry("scene.mrml", ZIP_DEFLATED), mrml)
        archive.writestr(_entry("Data/colours.ctbl", ZIP_DEFLATED), _colour_table())
        if places:
            archive.writestr(_entry("Data/candidates.mrk.json", ZIP_DEFLATED), markups_json(places))
        for file in files:
            archive.writestr(_entry(f"Data/{file.name}", ZIP_STORED), file.read_bytes())
    return path


def _entry(name: str, compression: int) -> ZipInfo:
    """A file of the archive, without the time of writing."""
    entry = ZipInfo(f"scene/{name}")
    entry.compress_type = compression
    entry.external_attr = 0o644 << 16
    return entry


def _colour_table() -> str:
    """The heat map's colours as every 3D Slicer reads them: number, name, red, green, blue and alpha up to 255."""
    rgb = np.rint(matplotlib.colormaps[COLOUR_MAP](np.arange(256))[:, :3] * 255).astype(int)
    return "# KL density\n" + "".join(f"{n} {n} {r} {g} {b} 255\n" for n, (r, g, b) in enumerate(rgb))
