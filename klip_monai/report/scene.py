"""A 3D Slicer scene (.mrb): CT, heat map and segments in one file that opens ready to read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import matplotlib
import numpy as np

from klip_monai.errors import InputError
from klip_monai.io.write.overlay import write_ct, write_heatmap, write_segmentation
from klip_monai.report.display import COLOUR_MAP
from klip_monai.report.mrml import markups_json, scene_mrml
from klip_monai.report.shown import Shown


def write_scene(path: str | Path, shown: Shown, *, title: str, lines: Sequence[str] = ()) -> Path:
    """Write a scene that opens in 3D Slicer without a further step.

    The CT has a soft tissue window. The heat map lies over it in the three slice views, see-through below the scale,
    with a colour legend. The slices run along the voxel axes and through the worst voxel, which the cross hair marks.
    The segments are outlines in the slices and surfaces in the 3D view, the places a list of points.

    Args:
        path: file to write, ending in `.mrb`: a ZIP archive of one MRML file and the files that it shows.
        shown: the scan. Its pixels are in the file; nothing else of the source is.
        title: what the scene's nodes are called after; must not identify the patient.
        lines: short statements, kept as a text in the scene.

    Returns:
        The path written. The same input gives the same bytes.

    Raises:
        InputError: another ending.
    """
    path = Path(path)
    if path.suffix != ".mrb":
        raise InputError(f"path: got {path.name!r}, expected a name ending in .mrb")
    with tempfile.TemporaryDirectory() as name, ZipFile(path, "w") as archive:
        folder, affine, density = Path(name), shown.affine, f"KL density, {shown.unit}"
        files = (
            write_ct(folder / "ct.nii.gz", shown.volume_hu, affine),
            write_heatmap(folder / "heatmap.nii.gz", shown.heatmap, affine, description=density),
            write_segmentation(folder / "segments.seg.nrrd", shown.labels, affine, surface=True),
        )
        mrml = scene_mrml(shown.scan, title=title, scale=shown.scale, lines=lines, unit=shown.unit)
        archive.writestr(_entry("scene.mrml", ZIP_DEFLATED), mrml)
        archive.writestr(_entry("Data/colours.ctbl", ZIP_DEFLATED), _colour_table())
        if shown.places:
            archive.writestr(_entry("Data/candidates.mrk.json", ZIP_DEFLATED), markups_json(shown.places))
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
