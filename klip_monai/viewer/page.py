"""The page: a scene in three slice views and a 3D view, with the few controls that reading it takes.

A program of its own, for the Python of an environment with slicer-core and trame-slicer:

    python page.py case.mrb [--host 127.0.0.1] [--port 0] [--no-browser]
"""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slicer import vtkMRMLColorLegendDisplayNode
from trame.app import get_server
from trame.ui.vuetify3 import VAppLayout
from trame.widgets import client, html
from trame.widgets import vuetify3 as v3
from trame_slicer.app.logic.slice_view_logic import connect_slice_view_slider_to_state
from trame_slicer.app.ui.slider import Slider
from trame_slicer.core import LayoutManager, SlicerApp
from trame_slicer.rca_view import register_rca_factories
from trame_slicer.views import Layout, LayoutDirection, SliceView, ThreeDView, ViewLayoutDefinition
from vtkmodules.vtkCommonCore import vtkObject

WINDOWS = {"Soft tissue": (40, 400), "Liver": (90, 150), "Lung": (-600, 1500), "Bone": (400, 1800), "Brain": (40, 80)}
"""Level and width in HU by name."""

# Letters at the left, right, top and bottom of a slice view.
EDGES = {"Axial": "RLAP", "Coronal": "RLSI", "Sagittal": "APSI"}
PLACES = ("left:10px;top:50%", "right:10px;top:50%", "left:50%;top:6px", "left:50%;bottom:34px")
STYLE = """
html { overflow: hidden; background: #0d1014; }
.klip-view { position: absolute; inset: 0; pointer-events: none; font-size: 13px; color: #eceff1;
  text-shadow: 0 0 3px #000, 0 0 3px #000; }
.klip-view > * { position: absolute; }
.klip-edge { color: #b8e8fa; font-weight: 600; font-size: 15px; }
.klip-slider { left: 40px; right: 40px; bottom: 0; pointer-events: auto; opacity: .75; }
.klip-slider .v-input { margin: 0; }
.klip-swatch { width: 14px; height: 14px; margin: 0 12px 0 4px; }
.klip-panel { background: #141920 !important; }
.layout-grid-container > * { border: 1px solid #2a3038; }
.layout-grid-container > .layout-grid-container { border: none; }
"""


class Page:
    """The server of one scene.

    Args:
        scene: the `.mrb` file.
    """

    def __init__(self, scene: Path) -> None:
        self.server = get_server(str(scene), client_type="vue3")
        self.app = SlicerApp()
        # In Slicer, its Colors module makes this class known.
        self.app.scene.RegisterNodeClass(vtkMRMLColorLegendDisplayNode())
        register_rca_factories(
            self.app.view_manager, self.server, slice_view_ui_f=slice_marks, three_d_view_ui_f=volume_marks
        )
        layouts = LayoutManager(self.app.scene, self.app.view_manager, self.server)
        layouts.register_layout("quad", quad_layout())
        layouts.set_layout("quad")
        if not self.app.io_manager.load_scene(scene):
            raise SystemExit(f"{scene.name}: 3D Slicer could not load it as a scene")
        nodes = {
            name: self.app.scene.GetFirstNodeByClass(f"vtkMRML{name}Node")
            for name in ("Text", "Crosshair", "ColorLegendDisplay")
        }
        if None in nodes.values():
            raise SystemExit(f"{scene.name}: got another scene, expected one that klip-monai score made")
        self.heat_display = nodes["ColorLegendDisplay"].GetPrimaryDisplayNode()
        self.ct_display = self._background().GetDisplayNode()
        self._aim_camera()
        self.worst = nodes["Crosshair"].GetCrosshairRAS()
        self.title = nodes["Text"].GetName().removesuffix(" summary")
        lines: list[str] = nodes["Text"].GetText().splitlines() or [""]
        self.lines, self.notice = lines[:-1], lines[-1]
        # The panel has a legend of its own, which leaves the pictures free.
        nodes["ColorLegendDisplay"].SetVisibility(False)
        self.legend_title = nodes["ColorLegendDisplay"].GetTitleText().splitlines()
        self._set_state()
        self._build(layouts)

    def _background(self) -> Any:
        composite = self.app.scene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
        return self.app.scene.GetNodeByID(composite.GetBackgroundVolumeID())

    def _aim_camera(self) -> None:
        """Look at the body as the scene's own 3D view does; trame cannot name a view "1" as Slicer does."""
        saved = self.app.scene.GetNodeByID("vtkMRMLCameraNode1")
        for view in self.app.view_manager.get_views():
            if isinstance(view, ThreeDView):
                view.get_view_node().SetAxisLabelsVisible(False)
                camera = view.first_renderer().GetActiveCamera()
                camera.SetPosition(saved.GetPosition())
                camera.SetFocalPoint(saved.GetFocalPoint())
                camera.SetViewUp(saved.GetViewUp())
                view.first_renderer().ResetCameraClippingRange()

    def _slices(self) -> list[SliceView]:
        return list(self.app.view_manager.get_slice_views())

    def _set_state(self) -> None:
        state, display = self.server.state, self.heat_display
        top = display.GetWindowLevelMax()
        state.trame__title = f"{self.title} - klip_monai"
        state.update(
            {
                # Texts of the file go through the state, which the page shows as they are, never as markup.
                "title": self.title,
                "lines": self.lines,
                "notice": self.notice,
                "legend_title": ", ".join(self.legend_title),
                "segments": self._segments(),
                "opacity": self._slices()[0].get_foreground_opacity(),
                "threshold": display.GetLowerThreshold(),
                "highest": top,
                "step": top / 200,
                "window_name": next(iter(WINDOWS)),
                "outlines": True,
            }
        )
        state.change("opacity")(self.show_opacity)
        state.change("threshold")(self.show_threshold)
        state.change("window_name")(self.show_window)
        state.change("outlines")(self.show_outlines)

    def show_opacity(self, opacity: float, **_: Any) -> None:
        """Blend the heat map, 0 to 1."""
        for view in self._slices():
            view.set_foreground_opacity(opacity)
        self._render()

    def show_threshold(self, threshold: float, **_: Any) -> None:
        """Make the heat map see-through below a value in its unit."""
        self.heat_display.SetLowerThreshold(threshold)
        self._render()

    def show_window(self, window_name: str, **_: Any) -> None:
        """Show the CT in one of :data:`WINDOWS`."""
        level, width = WINDOWS[window_name]
        self.ct_display.SetWindowLevel(width, level)
        self._render()

    def show_outlines(self, outlines: bool, **_: Any) -> None:
        """Show or hide the segments."""
        self.app.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode").GetDisplayNode().SetVisibility(outlines)
        self._render()

    def show_worst(self) -> None:
        """Move all slices through the worst voxel."""
        for view in self._slices():
            view.get_view_node().JumpSliceByOffsetting(*self.worst)
        self._render()

    def _render(self) -> None:
        for view in self.app.view_manager.get_views():
            view.schedule_render()

    def _build(self, layouts: LayoutManager) -> None:
        with VAppLayout(self.server) as page:
            page.root.theme = "dark"
            client.Style(STYLE)
            with v3.VAppBar(density="comfortable", flat=True, classes="klip-panel px-4"):
                html.Div("{{ title }}", classes="text-h6 mr-6")
                with html.Div(classes="text-body-2"):
                    html.Div("{{ line }}", v_for="line in lines.slice(0, 2)", key="line")
                v3.VSpacer()
                html.Div("{{ notice }}", classes="text-body-2", style="color:#ffb74d")
            with v3.VNavigationDrawer(permanent=True, width=250, classes="klip-panel pa-4"):
                self._build_controls()
            with v3.VMain(style="height:100vh"), html.Div(style="height:100%;display:flex"):
                layouts.initialize_layout_grid(page)

    def _build_controls(self) -> None:
        v3.VBtn(
            "Worst voxel",
            click=self.show_worst,
            color="#5fd3f3",
            variant="tonal",
            block=True,
            classes="mb-6 klip-worst",
        )
        html.Div("CT window", classes="text-caption text-medium-emphasis mb-1")
        v3.VSelect(v_model=("window_name",), items=("windows", list(WINDOWS)), density="compact", variant="outlined")
        for name, label, value, largest, step in (
            ("opacity", "Heat map opacity", "opacity.toFixed(2)", "1", "0.01"),
            ("threshold", "Heat map from", "threshold.toPrecision(3)", "highest", "step"),
        ):
            with html.Div(classes="d-flex text-caption text-medium-emphasis"):
                html.Span(label)
                v3.VSpacer()
                html.Span(f"{{{{ {value} }}}}")
            v3.VSlider(
                v_model=(name,),
                min=0,
                max=(largest,),
                step=(step,),
                color="#5fd3f3",
                density="compact",
                hide_details=True,
                classes=f"mb-4 klip-{name}",
            )
        self._build_legend()
        v3.VSwitch(v_model=("outlines",), label="Segments", color="#5fd3f3", density="compact", hide_details=True)
        with html.Div(v_for="segment in segments", key="segment.name", classes="d-flex align-center text-body-2 mt-1"):
            html.Div(classes="klip-swatch", style=("`border: 2px solid ${segment.colour}`",))
            html.Div("{{ segment.name }}")
        v3.VDivider(classes="my-4")
        remark = "text-caption text-medium-emphasis mb-1"
        html.Div("{{ line }}", v_for="line in lines.slice(2)", key="line", classes=remark)

    def _build_legend(self) -> None:
        """Colour bar of the heat map."""
        display, table = self.heat_display, self.heat_display.GetColorNode().GetLookupTable()
        ends = display.GetWindowLevelMin(), display.GetWindowLevelMax()
        last = table.GetNumberOfTableValues() - 1
        colours = ", ".join(css_colour(table.GetTableValue(round(last * part / 16))) for part in range(17))
        html.Div("{{ legend_title }}", classes="text-caption text-medium-emphasis mb-1")
        html.Div(style=f"height:12px;border-radius:2px;background:linear-gradient(to right, {colours})")
        with html.Div(classes="d-flex justify-space-between text-caption mb-4"):
            for value in (ends[0], sum(ends) / 2, ends[1]):
                html.Span(f"{value:.3g}")

    def _segments(self) -> list[dict[str, str]]:
        """Names and colours of the segments."""
        segmentation = self.app.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode").GetSegmentation()
        segments = [segmentation.GetNthSegment(n) for n in range(segmentation.GetNumberOfSegments())]
        return [{"name": segment.GetName(), "colour": css_colour(segment.GetColor())} for segment in segments]

    def serve(self, *, host: str, port: int, browser: bool) -> None:
        """Serve until interrupted."""

        def say(**_: Any) -> None:
            address = f"http://{host}:{self.server.port}/"
            print(f"{self.title}: {address} (Ctrl+C ends it)", flush=True)
            if browser:
                webbrowser.open(address)

        self.server.controller.on_server_ready.add(say)
        self.server.start(
            host=host, port=port, open_browser=False, show_connection_info=False, disable_logging=True, timeout=0
        )


def css_colour(rgb: Sequence[float]) -> str:
    """A colour of three or more channels in [0, 1], for a style sheet."""
    return "rgb({}, {}, {})".format(*(round(255 * channel) for channel in rgb[:3]))


def quad_layout() -> Layout:
    """Axial, sagittal, coronal and 3D view, as in Slicer's four-up layout; named as the scene names them."""
    rows = (
        [ViewLayoutDefinition.axial_view(), ViewLayoutDefinition.threed_view(background_color=("#0d1014", "#242c36"))],
        [ViewLayoutDefinition.coronal_view(), ViewLayoutDefinition.sagittal_view()],
    )
    return Layout(LayoutDirection.Vertical, [Layout(LayoutDirection.Horizontal, list(row)) for row in rows])


def slice_marks(server: Any, view_id: str, view: SliceView) -> None:
    """Name, letters of the patient's sides and slice slider over a slice view."""
    plane = view.get_orientation()
    with html.Div(classes="klip-view"):
        html.Div(plane, style="left:12px;top:6px;font-weight:600")
        for letter, place in zip(EDGES.get(plane, ""), PLACES, strict=False):
            html.Div(letter, classes="klip-edge", style=place)
        with html.Div(classes="klip-slider"):
            Slider(typed_state=connect_slice_view_slider_to_state(server, view), density="compact", color="#5fd3f3")


def volume_marks(server: Any, view_id: str, view: Any) -> None:
    """Name of the 3D view."""
    with html.Div(classes="klip-view"):
        html.Div("3D", style="left:12px;top:6px;font-weight:600")


def main() -> int:
    """Serve the scene named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scene", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--no-browser", action="store_true")
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # trame reads it too
    vtkObject.GlobalWarningDisplayOff()
    Page(arguments.scene).serve(host=arguments.host, port=arguments.port, browser=not arguments.no_browser)
    return 0


if __name__ == "__main__":
    sys.exit(main())
