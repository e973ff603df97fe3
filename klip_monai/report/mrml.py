"""The MRML file of a scene: what 3D Slicer shows, and how."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, indent, tostring

import numpy as np
import numpy.typing as npt

from klip_monai.report.display import WINDOW_LEVEL_HU, WINDOW_WIDTH_HU
from klip_monai.report.preview_geometry import PreviewScan

_HEATMAP_OPACITY = 0.5
_ABOVE_ALL = 1e6  # upper threshold
_FRAME = 1.08  # side of a view over that of the body
_VIEW_PIXELS = 512  # side of a slice view in the file; Slicer adapts it to its window
_CT, _HEATMAP, _COLOURS = "vtkMRMLScalarVolumeNode1", "vtkMRMLScalarVolumeNode2", "vtkMRMLColorTableNode1"
_CT_DISPLAY, _HEATMAP_DISPLAY = "vtkMRMLScalarVolumeDisplayNode1", "vtkMRMLScalarVolumeDisplayNode2"
_LEGEND, _SEGMENTS_DISPLAY = "vtkMRMLColorLegendDisplayNode1", "vtkMRMLSegmentationDisplayNode1"
_POINTS = "0.7 0.92 1"  # rgb
_MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_FONT = (
    "font-family:Arial;font-size:12px;font-style:normal;font-weight:normal;color:rgba(255,255,255,1);"
    "background-color:rgba(0,0,0,0);text-shadow:1px -1px 2px rgba(0,0,0,1.0);"
)

# Layout name, letter and colour of a slice view; then sign and patient axis (0 right, 1 anterior, 2 superior) along its
# horizontal, its vertical and its normal, as in Slicer's own orientation presets.
_VIEWS = {
    "Axial": ("Red", "R", "0.952941 0.290196 0.2", ((-1, 0), (1, 1), (1, 2))),
    "Sagittal": ("Yellow", "Y", "0.929412 0.835294 0.298039", ((-1, 1), (1, 2), (-1, 0))),
    "Coronal": ("Green", "G", "0.431373 0.690196 0.294118", ((-1, 0), (1, 2), (1, 1))),
}
_FOUR_UP_LAYOUT = "3"


def scene_mrml(scan: PreviewScan, *, title: str, scale: tuple[float, float], lines: Iterable[str], unit: str) -> bytes:
    """Describe a scene, as Slicer 5 saves it, of the files `ct.nii.gz`, `heatmap.nii.gz` and the like in `Data`.

    Args:
        scan: the scan, for its geometry, its worst voxel and whether it has places that are numbered.
        title: what the nodes are called after.
        scale: heat map values shown as transparent and as the last colour.
        lines: short statements, kept as a text node.
        unit: of the heat map and `scale`.

    Returns:
        An XML file. Attributes that are left out have Slicer's defaults.
    """
    worst = scan.affine[:3, :3] @ scan.worst_voxel + scan.affine[:3, 3]
    root = Element("MRML", version="Slicer 5.0.0", userTags="")
    root.extend(
        [
            _node(
                "Crosshair",
                "vtkMRMLCrosshairNodedefault",
                singletonTag="default",
                crosshairMode="ShowSmallBasic",
                crosshairBehavior="OffsetJumpSlice",
                crosshairThickness="Fine",
                crosshairRAS=_numbers(worst),
            ),
            _node(
                "Layout",
                "vtkMRMLLayoutNodevtkMRMLLayoutNode",
                singletonTag="vtkMRMLLayoutNode",
                currentViewArrangement=_FOUR_UP_LAYOUT,
            ),
            _node(
                "Text",
                "vtkMRMLTextNode1",
                f"{title} summary",
                hideFromEditors="false",
                text="\n".join(lines),
                encoding="3",
            ),
            *_colours(),
            *_ct(title),
            *_heatmap(title, scale, unit),
            *_segments(title),
            *(_candidates(title) if scan.places else ()),
            *(node for plane in _VIEWS for node in _view(plane, scan, worst)),
            *_volume_view(scan),
        ]
    )
    indent(root)
    return tostring(root, encoding="UTF-8", xml_declaration=True)


def _node(tag: str, identifier: str, name: str | None = None, /, **attributes: str) -> Element:
    """One node, not listed for the user unless the attributes say so."""
    return Element(tag, {"id": identifier, "name": name or tag, "hideFromEditors": "true"} | attributes)


def _numbers(values: npt.ArrayLike) -> str:
    """Numbers as MRML has them, matrices row by row."""
    return " ".join(f"{value + 0.0:.10g}" for value in np.ravel(np.asarray(values, dtype=np.float64)))


def _storage(tag: str, file: str, **attributes: str) -> Element:
    return _node(tag, _storage_id(tag, file), fileName=f"Data/{file}", useCompression="1", **attributes)


def _storage_id(tag: str, file: str) -> str:
    return f"vtkMRML{tag}Node_{file.split('.')[0]}"


def _colours() -> list[Element]:
    file, tag = "colours.ctbl", "ColorTableStorage"
    return [
        _storage(tag, file),
        _node(
            "ColorTable",
            _COLOURS,
            "KL density colours",
            hideFromEditors="false",
            references=f"storage:{_storage_id(tag, file)};",
            type="14",  # from a file
        ),
    ]


def _ct(title: str) -> list[Element]:
    display = _node(
        "VolumeDisplay",
        _CT_DISPLAY,
        colorNodeID="vtkMRMLColorTableNodeGrey",
        window=f"{WINDOW_WIDTH_HU:g}",
        level=f"{WINDOW_LEVEL_HU:g}",
        autoWindowLevel="0",
        interpolate="1",
    )
    return [display, *_volume(_CT, f"{title} CT", "ct.nii.gz", displays=(_CT_DISPLAY,))]


def _heatmap(title: str, scale: tuple[float, float], unit: str) -> list[Element]:
    """The heat map: see-through below its scale, with a legend."""
    low, high = scale
    display = _node(
        "VolumeDisplay",
        _HEATMAP_DISPLAY,
        colorNodeID=_COLOURS,
        window=_numbers([high - low]),
        level=_numbers([(low + high) / 2]),
        autoWindowLevel="0",
        interpolate="1",
        lowerThreshold=_numbers([low]),
        upperThreshold=_numbers([_ABOVE_ALL]),
        applyThreshold="1",
        autoThreshold="0",
    )
    legend = _node(
        "ColorLegendDisplay",
        _LEGEND,
        references=f"primaryDisplay:{_HEATMAP_DISPLAY};",
        visibility="true",
        visibility2D="true",
        visibility3D="false",
        orientation="Vertical",
        position="0.98 0.5",
        size="0.08 0.32",
        titleText=f"KL density\n{unit}",
        titleTextProperty=_FONT,
        labelTextProperty=_FONT,
        labelFormat="%.3g",
        numberOfLabels="5",
    )
    displays = (_HEATMAP_DISPLAY, _LEGEND)
    return [display, legend, *_volume(_HEATMAP, f"{title} KL density", "heatmap.nii.gz", displays=displays)]


def _volume(identifier: str, name: str, file: str, *, displays: Sequence[str]) -> list[Element]:
    """A volume and where its voxels are; the file holds its place in space."""
    tag = "VolumeArchetypeStorage"
    references = f"display:{' '.join(displays)};storage:{_storage_id(tag, file)};"
    return [
        _storage(tag, file, centerImage="0", UseOrientationFromFile="1"),
        _node("Volume", identifier, name, hideFromEditors="false", references=references),
    ]


def _segments(title: str) -> list[Element]:
    """Outlines, so that the heat map inside stays visible; names and colours are in the file."""
    file, tag = "segments.seg.nrrd", "SegmentationStorage"
    return [
        _storage(tag, file),
        _node(
            "SegmentationDisplay",
            _SEGMENTS_DISPLAY,
            visibility="true",
            visibility2D="true",
            visibility3D="true",
            sliceIntersectionThickness="2",
            Visibility2DFill="false",
            Visibility2DOutline="true",
            Opacity2DOutline="1",
            Opacity3D="1",
            PreferredDisplayRepresentationName2D="Binary labelmap",
            PreferredDisplayRepresentationName3D="Closed surface",
        ),
        _node(
            "Segmentation",
            "vtkMRMLSegmentationNode1",
            f"{title} segments",
            hideFromEditors="false",
            references=f"display:{_SEGMENTS_DISPLAY};storage:{_storage_id(tag, file)};",
            SourceRepresentationName="Binary labelmap",
        ),
    ]


def _candidates(title: str) -> list[Element]:
    """Numbered points that no click moves; a row of Slicer's list of points leads to each."""
    file, tag, display = "candidates.mrk.json", "MarkupsJsonStorage", "vtkMRMLMarkupsFiducialDisplayNode1"
    colours = {"color": _POINTS, "selectedColor": _POINTS}
    return [
        _storage(tag, file),
        _node(
            "MarkupsFiducialDisplay",
            display,
            **colours,
            visibility="true",
            pointLabelsVisibility="true",
            propertiesLabelVisibility="false",
            textScale="3.5",
            glyphType="CrossDot2D",
            glyphScale="2",
            useGlyphScale="true",
        ),
        _node(
            "MarkupsFiducial",
            "vtkMRMLMarkupsFiducialNode1",
            f"{title} candidates",
            hideFromEditors="false",
            references=f"display:{display};storage:{_storage_id(tag, file)};",
            locked="true",
        ),
    ]


def markups_json(places: Sequence[Sequence[float]]) -> str:
    """Points in RAS mm, numbered from 1, as a file of Slicer's Markups: LPS mm, locked."""
    points = [
        {
            "id": str(n),
            "label": str(n),
            "position": [-x + 0.0, -y + 0.0, z],
            "locked": True,
            "positionStatus": "defined",
        }
        for n, (x, y, z) in enumerate(places, start=1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "locked": True}
    return json.dumps({"@schema": _MARKUPS_SCHEMA, "markups": [markup | {"controlPoints": points}]}, indent=1)


def _view(plane: str, scan: PreviewScan, worst: npt.NDArray[np.float64]) -> list[Element]:
    """A slice along the voxel axes through the worst voxel, with the body in its middle."""
    layout, letter, colour, axes = _VIEWS[plane]
    directions = scan.affine[:3, :3] / scan.spacing
    box = scan.body_box()
    middle = np.array([(part.start + part.stop - 1) / 2 for part in box])
    middle[axes[2][1]] = scan.worst_voxel[axes[2][1]]
    slice_to_ras = np.eye(4)
    slice_to_ras[:3, :3] = np.stack([sign * directions[:, axis] for sign, axis in axes], axis=1)
    slice_to_ras[:3, 3] = scan.affine[:3, :3] @ middle + scan.affine[:3, 3]
    size = [(box[axis].stop - box[axis].start) * scan.spacing[axis] for _, axis in axes]
    side = _FRAME * max(size[:2])
    presets = {
        f"orientationMatrix{name}": _numbers(np.stack([sign * np.eye(3)[:, axis] for sign, axis in preset], axis=1))
        for name, (*_, preset) in _VIEWS.items()
    }
    tag = f"vtkMRMLSliceNode{layout}"
    return [
        _node(
            "Slice",
            tag,
            layout,
            hideFromEditors="false",
            singletonTag=layout,
            layoutLabel=letter,
            layoutName=layout,
            layoutColor=colour,
            fieldOfView=_numbers([side, side, scan.spacing[axes[2][1]]]),
            dimensions=f"{_VIEW_PIXELS} {_VIEW_PIXELS} 1",
            sliceToRAS=_numbers(slice_to_ras),
            **presets,
            orientationReference=plane,
            jumpMode="1",
            sliceVisibility=str(plane == "Axial").lower(),  # in the 3D view
        ),
        _node(
            "SliceComposite",
            f"vtkMRMLSliceCompositeNode{layout}",
            singletonTag=layout,
            layoutName=layout,
            references=f"backgroundVolume:{_CT};foregroundVolume:{_HEATMAP};",
            compositing="0",
            foregroundOpacity=f"{_HEATMAP_OPACITY:g}",
            linkedControl="1",
            hotLinkedControl="1",
        ),
    ]


def _volume_view(scan: PreviewScan) -> list[Element]:
    """The 3D view, looked at from the front and above, with the body in its picture."""
    box = scan.body_box()
    middle = (scan.affine @ [*((part.start + part.stop - 1) / 2 for part in box), 1.0])[:3]
    size = max((part.stop - part.start) * spacing for part, spacing in zip(box, scan.spacing, strict=True))
    return [
        _node(
            "View",
            "vtkMRMLViewNode1",
            "View1",
            hideFromEditors="false",
            singletonTag="1",
            layoutLabel="1",
            layoutName="1",
            boxVisible="false",
            axisLabelsVisible="false",
            backgroundColor="0.05 0.06 0.08",
            backgroundColor2="0.14 0.17 0.21",
        ),
        _node(
            "Camera",
            "vtkMRMLCameraNode1",
            singletonTag="1",
            layoutName="1",
            position=_numbers(middle + np.array([0.0, 1.3 * size, 1.05 * size])),
            focalPoint=_numbers(middle),
            viewUp="0 0 1",
            viewAngle="30",
        ),
    ]
