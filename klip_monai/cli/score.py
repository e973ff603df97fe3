"""Scoring: `score` and `bundles`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from klip_monai.cli.options import (
    AngleOption,
    BundleOption,
    Device,
    DeviceOption,
    EstimatorOption,
    Operator,
    OperatorOption,
    RepairOption,
    SeedOption,
    TwinsOption,
    ViewsOption,
    app,
    open_bundle,
    out,
    overrides_of,
    progress_bar,
)
from klip_monai.errors import InputError

if TYPE_CHECKING:
    from klip_monai.bundle import BundleInfo


@app.command()
def score(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    path: Annotated[
        Path | None, typer.Argument(metavar="INPUT", help="DICOM folder or archive, or NIfTI, NRRD or MetaImage file.")
    ] = None,
    sinogram: Annotated[
        Path | None, typer.Option(help="Instead of INPUT: raw line integrals, .npy, .npz, .mat, .h5 or .hdf5.")
    ] = None,
    geometry: Annotated[
        Path | None, typer.Option(help="JSON that says how the sinogram was measured, unless its file does.")
    ] = None,
    bundle: BundleOption = None,
    operator: OperatorOption = None,
    views: ViewsOption = None,
    angle_range: AngleOption = None,
    estimator: EstimatorOption = None,
    twins: TwinsOption = None,
    series_uid: Annotated[str | None, typer.Option(help="Which series, where there are several (see inspect).")] = None,
    repair: RepairOption = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="What to write, with commas: nifti (NAME_heatmap.nii.gz, NAME_labels.nii.gz), seg-nrrd "
            "(NAME_overlay.seg.nrrd), and for DICOM scans dicom-seg (NAME_seg.dcm) and dicom-pm (NAME_pm.dcm), which "
            "carry the patient's name and study.  \\[default: nifti,seg-nrrd]",
        ),
    ] = None,
    device: DeviceOption = Device.auto,
    seed: SeedOption = 0,
) -> None:
    """Score one CT series and write overlays on its own voxel grid; or score one raw sinogram."""
    if (path is None) == (sinogram is None) or (geometry is not None and sinogram is None):
        raise InputError("score: give a scan, INPUT, or --sinogram FILE (with --geometry FILE if it needs one)")
    if sinogram is not None and (series_uid or operator or views or angle_range or outputs):
        raise InputError(
            "--sinogram: its geometry says how it was measured; leave out --operator, --views, --angle-range, "
            "--series-uid and --outputs"
        )
    from klip_monai.bundle import DEFAULT_BUNDLE, find_bundle

    info = find_bundle(bundle or DEFAULT_BUNDLE)
    if sinogram is not None:
        overrides = overrides_of(Operator.sparse_view, estimator=estimator, twins=twins, device=device)
        _score_sinogram(info, sinogram, geometry, output, seed=seed, **overrides)
        return
    assert path is not None
    overrides = overrides_of(operator, views, angle_range, estimator, twins, device)
    if repair:
        overrides["repair"] = [kind.value for kind in repair]
    if outputs is not None:
        overrides["outputs"] = _outputs(outputs, path)
    with progress_bar() as bar:
        task = bar.add_task("reading", total=None)
        workflow = open_bundle(
            info, dataset_dir=str(path), output_dir=str(output), series_uid=series_uid, seed=seed, **overrides
        )

        def show(done: int, total: int) -> None:
            name = "scoring" if done < total else "writing"
            bar.update(task, completed=done, total=total, description=name)

        workflow.inferer.progress = show
        workflow.run()
        bar.update(task, description="done")
    _print_result(workflow.evaluator.state.output[0]["summary"], path)


@app.command()
def bundles() -> None:
    """List the bundles that came with klip-monai."""
    from klip_monai.bundle import shipped_bundles

    table = Table("bundle", "version", "what it is", box=None, header_style="bold")
    for info in shipped_bundles():
        table.add_row(info.name, info.version, info.description)
    out.print(table)


def _outputs(text: str, path: Path) -> list[str]:
    """Names of outputs, refused before any work where the scan cannot have them."""
    from klip_monai.case import file_names

    names = [name.strip() for name in text.split(",") if name.strip()]
    file_names("", names)
    if path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")):
        dicom = [name for name in names if name.startswith("dicom")]
        if dicom:
            raise InputError(f"--outputs: got {', '.join(dicom)} for {path.name}, expected a DICOM scan; leave it out")
    return names


def _score_sinogram(
    info: BundleInfo, sinogram: Path, geometry: Path | None, output: Path, *, seed: int, **overrides: Any
) -> None:
    from klip_monai.bundle import provenance, scoring_settings
    from klip_monai.io.atomic import check_writable
    from klip_monai.io.sinogram import read_sinogram
    from klip_monai.sinogram_case import CG_ITERATIONS, SinogramCase, measured_slice, save_sinogram_case, score_sinogram

    check_writable(output)
    raw = read_sinogram(sinogram, geometry)
    with progress_bar() as bar:
        task = bar.add_task("reading", total=None)
        parser = open_bundle(info, seed=seed, **overrides).parser
        grid, inferer, network, device, weights = (
            parser.get_parsed_content(name) for name in ("grid", "inferer", "network", "device", "weights")
        )
        measured = measured_slice(raw, grid)
        inferer = inferer.with_operator(measured.operator, noise=measured.noise, cg_iterations=CG_ITERATIONS)
        bar.update(task, description="scoring")
        maps = score_sinogram(measured, network, inferer, device=device)
        settings = scoring_settings(weights, grid, inferer)
        origin = provenance(info.root, settings, seed=seed, device=device)
        summary = save_sinogram_case(SinogramCase(measured, *maps, origin), output)
    rows = Table.grid(padding=(0, 2))
    rows.add_row("prior", f"{origin['bundle']} {origin['bundle_version']}. {origin['intended_use']}")
    rows.add_row("slice score", f"{summary['slice_score']:.3g} {summary['unit']}")
    for remark in summary["remarks"]:
        rows.add_row("", f"[yellow]{escape(remark)}[/yellow]")
    for kind, file in summary["files"].items():
        rows.add_row(kind, escape(str(file)))
    out.print(Panel(rows, title=escape(summary["name"]), subtitle=summary["notice"], expand=False))


def _print_result(summary: dict[str, Any], source: Path) -> None:
    thresholds, files, volumes = summary["thresholds"], summary["files"], summary["volume_ml"]
    provenance = summary["provenance"]
    position = ", ".join(f"{v:.0f}" for v in summary["worst"]["ras_mm"])
    rows = Table.grid(padding=(0, 2))
    rows.add_row("prior", f"{provenance['bundle']} {provenance['bundle_version']}. {provenance['intended_use']}")
    rows.add_row("scan score", f"{summary['scan_score']:.3g} {summary['unit'].split(',')[0]}")
    rows.add_row("p-value", f"{summary['p_value']:.3f} against {thresholds['healthy_scans']} healthy scans")
    for remark in summary["remarks"]:
        rows.add_row("", f"[yellow]{remark}[/yellow]")
    for name, volume in volumes.items():
        rows.add_row(name.lower(), f"{volume:.1f} ml")
    rows.add_row("worst voxel", f"slice {summary['worst']['voxel'][2]}, RAS {position} mm")
    for kind, file in files.items():
        rows.add_row(kind, escape(str(file)))
    if {"segmentation", "heatmap"} <= files.keys():
        rows.add_row("", "")
        rows.add_row("in 3D Slicer", escape(f"File > Add Data: {source}, then {Path(files['segmentation']).name}"))
        rows.add_row("", escape(f"and, as the foreground volume with a colour map, {Path(files['heatmap']).name}"))
    out.print(Panel(rows, title=escape(summary["name"]), subtitle=summary["notice"], expand=False))
