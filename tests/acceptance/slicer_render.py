"""Load a CT and its overlays the way 3D Slicer does, print what it understood as JSON, and take pictures.

Run with the Python of an environment that holds slicer-core and trame-slicer, not of the tests:

    python slicer_render.py --ct ct.nii.gz --heatmap heatmap.nii.gz --segmentation labels.seg.nrrd --out pictures \
        [--lesion mask.nii.gz] [--range LOW HIGH] [--center R A S]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import slicer
from trame_slicer.core import SlicerApp
from trame_slicer.views import SliceView
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonCore import reference
from vtkmodules.vtkCommonMath import vtkMatrix4x4
from vtkmodules.vtkIOImage import vtkPNGWriter
from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

SIZE = 700
ORIENTATIONS = ("Axial", "Coronal", "Sagittal")
LESION_RGB = (0.2, 0.9, 1.0)
HEATMAP_OPACITY = 0.6


def main() -> int:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    app = SlicerApp()
    ct = load_volume(app, arguments.ct)
    heatmap = load_volume(app, arguments.heatmap)
    segmentation = app.io_manager.load_segmentation(arguments.segmentation.as_posix())
    if segmentation is None:
        raise SystemExit(f"{arguments.segmentation}: 3D Slicer could not load it as a segmentation")
    lesion = load_lesion(app, arguments.lesion) if arguments.lesion else None

    low, high = arguments.range or scalar_range(heatmap)
    report: dict[str, Any] = {
        "ct": volume_report(ct),
        "heatmap": {**volume_report(heatmap), "display_range": [low, high]},
        "segmentation": {"ijk_to_ras": labelmap_geometry(segmentation).tolist()},
        "segments": segment_reports(app, segmentation),
    }
    if lesion is not None:
        report["lesion"] = {"bounds": segment_bounds(lesion, segment_ids(lesion)[0])}
    report["center"] = center = list(arguments.center or picture_center(report))
    style_ct(ct)
    style_heatmap(app, heatmap, low, high)
    style_segmentation(segmentation)
    report["pictures"] = [
        take_pictures(app, orientation, ct, heatmap, segmentation, center=center, out=arguments.out)
        for orientation in ORIENTATIONS
    ]
    print(json.dumps(report, indent=2))
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=Path, required=True, help="CT volume (NIfTI, NRRD or one DICOM folder)")
    parser.add_argument("--heatmap", type=Path, required=True)
    parser.add_argument("--segmentation", type=Path, required=True)
    parser.add_argument("--lesion", type=Path, help="mask of the true lesion, drawn as an outline")
    parser.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="heat map colour scale")
    parser.add_argument("--center", type=float, nargs=3, metavar=("R", "A", "S"), help="point in RAS mm to cut through")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    return parser.parse_args()


def load_volume(app: SlicerApp, path: Path) -> Any:
    """First volume of a file or of a DICOM folder."""
    files = sorted(file.as_posix() for file in path.rglob("*.dcm")) if path.is_dir() else path.as_posix()
    nodes = app.io_manager.load_volumes(files)
    if not nodes:
        raise SystemExit(f"{path}: 3D Slicer could not load it as a volume")
    return nodes[0]


def load_lesion(app: SlicerApp, path: Path) -> Any:
    node = app.io_manager.load_segmentation(path.as_posix())
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetSliceIntersectionThickness(2)
    for identifier in segment_ids(node):
        node.GetSegmentation().GetSegment(identifier).SetColor(*LESION_RGB)
    return node


def ijk_to_ras(node: Any) -> np.ndarray:
    matrix = vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return as_array(matrix)


def as_array(matrix: vtkMatrix4x4) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def scalar_range(node: Any) -> tuple[float, float]:
    return tuple(float(value) for value in node.GetImageData().GetScalarRange())  # type: ignore[return-value]


def volume_report(node: Any) -> dict[str, Any]:
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return {
        "dimensions": list(node.GetImageData().GetDimensions()),
        "bounds": bounds,
        "ijk_to_ras": ijk_to_ras(node).tolist(),
        "range": list(scalar_range(node)),
    }


def segment_ids(node: Any) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]


def segment_reports(app: SlicerApp, node: Any) -> list[dict[str, Any]]:
    reports = []
    for identifier in segment_ids(node):
        segment = node.GetSegmentation().GetSegment(identifier)
        reports.append(
            {
                "id": identifier,
                "name": segment.GetName(),
                "rgb": list(segment.GetColor()),
                "label_value": segment.GetLabelValue(),
                "voxels": int(segment_indices(node, identifier).shape[0]),
                "bounds": segment_bounds(node, identifier),
                "terminology": terminology_report(app, segment),
            }
        )
    return reports


def terminology_report(app: SlicerApp, segment: Any) -> list[str]:
    """Codes of category and type as Slicer's own terminology logic reads them from the tag."""
    text, entry = reference(""), slicer.vtkSlicerTerminologyEntry()
    if not segment.GetTag("TerminologyEntry", text):
        return []
    if not app.terminologies_logic.DeserializeTerminologyEntry(str(text), entry):
        return []
    return [entry.GetCategoryObject().GetCodeValue(), entry.GetTypeObject().GetCodeValue()]


def segment_indices(node: Any, identifier: str) -> np.ndarray:
    """Voxel indices (N, 3) of a segment in the labelmap that it shares with the other segments of its layer."""
    segment = node.GetSegmentation().GetSegment(identifier)
    image = segment.GetRepresentation("Binary labelmap")
    if image is None or image.GetNumberOfPoints() == 0:
        return np.zeros((0, 3), dtype=int)
    x, y, z = image.GetDimensions()
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z, y, x).transpose(2, 1, 0)
    extent = image.GetExtent()
    return np.argwhere(voxels == segment.GetLabelValue()) + np.array(extent[::2])


def segment_bounds(node: Any, identifier: str) -> list[float] | None:
    """Bounds of the voxel centres of a segment in RAS mm, or None when it is empty."""
    indices = segment_indices(node, identifier)
    if not len(indices):
        return None
    points = (labelmap_geometry(node) @ np.c_[indices, np.ones(len(indices))].T)[:3]
    return [float(value) for low, high in zip(points.min(1), points.max(1), strict=True) for value in (low, high)]


def labelmap_geometry(node: Any) -> np.ndarray:
    """IJK to RAS matrix of the first labelmap, whose origin does not move with its extent."""
    matrix = vtkMatrix4x4()
    segment = node.GetSegmentation().GetSegment(segment_ids(node)[0])
    segment.GetRepresentation("Binary labelmap").GetImageToWorldMatrix(matrix)
    return as_array(matrix)


def picture_center(report: dict[str, Any]) -> list[float]:
    """Centre of the most suspicious segment that is not empty, else of the CT."""
    bounds = next((s["bounds"] for s in reversed(report["segments"]) if s["bounds"]), report["ct"]["bounds"])
    return [(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)]


def style_ct(node: Any) -> None:
    display = node.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevel(400, 40)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")


def style_heatmap(app: SlicerApp, node: Any, low: float, high: float) -> None:
    """Colour the heat map as the preview does, over a fixed range, and hide its low quarter."""
    colours = app.scene.AddNewNodeByClass("vtkMRMLColorTableNode", "Viridis")
    colours.SetTypeToUser()
    colours.SetNumberOfColors(256)
    for index, rgba in enumerate(matplotlib.colormaps["viridis"](np.linspace(0.0, 1.0, 256))):
        colours.SetColor(index, str(index), *(float(channel) for channel in rgba))
    display = node.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(low, high)
    display.SetAndObserveColorNodeID(colours.GetID())
    display.SetLowerThreshold(low + 0.25 * (high - low))
    display.SetUpperThreshold(max(high, scalar_range(node)[1]) + 1.0)
    display.ApplyThresholdOn()


def style_segmentation(node: Any) -> None:
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    display.SetOpacity2DOutline(1.0)
    display.SetSliceIntersectionThickness(2)


def take_pictures(
    app: SlicerApp, orientation: str, ct: Any, heatmap: Any, segmentation: Any, *, center: list[float], out: Path
) -> dict[str, Any]:
    """Two pictures of one orientation through a point: without and with the overlays."""
    view = SliceView(app.scene, app.app_logic, orientation)
    view.set_orientation(orientation)
    view.set_background_volume_id(ct.GetID())
    view.render_window().SetSize(SIZE, SIZE)
    view.fit_view_to_content()
    view.get_view_node().JumpSliceByOffsetting(*center)
    pictures = {}
    for name, visible in (("plain", False), ("overlay", True)):
        view.set_foreground_volume_id(heatmap.GetID() if visible else None)
        view.set_foreground_opacity(HEATMAP_OPACITY if visible else 0.0)
        segmentation.GetDisplayNode().SetVisibility(visible)
        view.render()
        pictures[name] = save(view, out / f"{orientation.lower()}_{name}.png")
    ras_to_xy = np.linalg.inv(as_array(view.get_view_node().GetXYToRAS()))
    close_view(view)
    return {
        "orientation": orientation,
        "offset_mm": view.get_slice_value(),
        "ras_to_xy": ras_to_xy.tolist(),
        **pictures,
    }


def close_view(view: SliceView) -> None:
    """Empty a view; else its logic complains about a missing colour table while the scene is taken down."""
    view.set_render_blocked(True)
    view.set_foreground_volume_id(None)
    view.set_background_volume_id(None)


def save(view: SliceView, path: Path) -> str:
    grabber = vtkWindowToImageFilter()
    grabber.SetInput(view.render_window())
    grabber.ReadFrontBufferOff()
    grabber.Update()
    writer = vtkPNGWriter()
    writer.SetFileName(path.as_posix())
    writer.SetInputConnection(grabber.GetOutputPort())
    writer.Write()
    return path.as_posix()


if __name__ == "__main__":
    sys.exit(main())
