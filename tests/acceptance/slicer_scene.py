"""Open a scene the way 3D Slicer does, print what it holds as JSON, and take pictures of its three slice views.

Run with the Python of an environment that holds slicer-core and trame-slicer, not of the tests:

    python slicer_scene.py case.mrb pictures
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from slicer import vtkMRMLColorLegendDisplayNode
from slicer_render import (
    SIZE,
    as_array,
    close_view,
    labelmap_geometry,
    save,
    segment_ids,
    segment_reports,
    volume_report,
)
from trame_slicer.core import SlicerApp
from trame_slicer.views import SliceView, ThreeDView
from vtkmodules.vtkCommonCore import vtkCommand

WIDTH = 900  # other than the height, as on most screens
VIEWS = {"Red": "axial", "Green": "coronal", "Yellow": "sagittal"}


def main() -> int:
    scene_path, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    app = SlicerApp()
    # In Slicer, its Colors module makes this class known.
    app.scene.RegisterNodeClass(vtkMRMLColorLegendDisplayNode())
    # As in Slicer, the views are there before the scene, which then says what they show.
    views = {name: SliceView(app.scene, app.app_logic, name) for name in VIEWS}
    for view in views.values():
        view.update_size(WIDTH, SIZE)
        view.interactor().InvokeEvent(vtkCommand.WindowResizeEvent)
    volumetric = ThreeDView(app.scene, app.app_logic, "1")
    volumetric.render_window().SetSize(WIDTH // 2, SIZE // 2)
    if not app.io_manager.load_scene(scene_path):
        raise SystemExit(f"{scene_path}: 3D Slicer could not load it as a scene")
    print(json.dumps(describe(app) | {"pictures": take_pictures(views, volumetric, out)}, indent=2))
    return 0


def describe(app: SlicerApp) -> dict[str, Any]:
    scene = app.scene
    (ct, heatmap), segmentation, legend, text, crosshair, points = (
        [scene.GetNodeByID(f"vtkMRMLScalarVolumeNode{n}") for n in (1, 2)],
        *(
            scene.GetFirstNodeByClass(f"vtkMRML{name}Node")
            for name in ("Segmentation", "ColorLegendDisplay", "Text", "Crosshair", "MarkupsFiducial")
        ),
    )
    return {
        "ct": volume_report(ct) | display_report(ct) | {"name": ct.GetName()},
        "heatmap": volume_report(heatmap) | display_report(heatmap) | {"name": heatmap.GetName()},
        "segmentation": {"ijk_to_ras": labelmap_geometry(segmentation).tolist()},
        "segments": segment_reports(app, segmentation),
        "surfaces": [
            segmentation.GetClosedSurfaceInternalRepresentation(name) is not None for name in segment_ids(segmentation)
        ],
        "legend": {
            "title": legend.GetTitleText(),
            "visible": bool(legend.GetVisibility()),
            "of": legend.GetPrimaryDisplayNode().GetID(),
        },
        "text": text.GetText(),
        "points": [
            {"label": points.GetNthControlPointLabel(n), "ras": list(points.GetNthControlPointPositionWorld(n))}
            for n in range(points.GetNumberOfControlPoints())
        ],
        "points_locked": bool(points.GetLocked()),
        "worst_ras": list(crosshair.GetCrosshairRAS()),
    }


def display_report(volume: Any) -> dict[str, Any]:
    display = volume.GetDisplayNode()
    colours = display.GetColorNode().GetLookupTable()
    return {
        "window": display.GetWindow(),
        "level": display.GetLevel(),
        "threshold": display.GetLowerThreshold() if display.GetApplyThreshold() else None,
        "first_and_last_colour": [list(colours.GetTableValue(n)) for n in (0, colours.GetNumberOfTableValues() - 1)],
    }


def take_pictures(views: dict[str, SliceView], volumetric: ThreeDView, out: Path) -> list[dict[str, Any]]:
    """Each slice view as the scene shows it, and without the heat map and the segments."""
    pictures = []
    for name, view in views.items():
        composite = view.get_view_node().GetScene().GetNodeByID(f"vtkMRMLSliceCompositeNode{name}")
        opacity = composite.GetForegroundOpacity()
        picture = {
            "orientation": VIEWS[name],
            "background": composite.GetBackgroundVolumeID(),
            "foreground": composite.GetForegroundVolumeID(),
            "opacity": opacity,
            "linked": bool(composite.GetLinkedControl()),
            "slice_to_ras": as_array(view.get_view_node().GetSliceToRAS()).tolist(),
        }
        for kind, shown in (("overlay", opacity), ("plain", 0.0)):
            view.set_foreground_opacity(shown)
            view.render()
            picture[kind] = save(view, out / f"{VIEWS[name]}_{kind}.png")
        view.set_foreground_opacity(opacity)
        picture["ras_to_xy"] = np.linalg.inv(as_array(view.get_view_node().GetXYToRAS())).tolist()
        pictures.append(picture)
    volumetric.render()
    save(volumetric, out / "3d.png")
    for view in views.values():
        close_view(view)
    return pictures


if __name__ == "__main__":
    sys.exit(main())
