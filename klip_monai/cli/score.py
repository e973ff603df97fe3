"""Scoring: `score` and `bundles`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from klip_monai.cli.libraries import import_libraries
from klip_monai.cli.options import (
    AngleOption,
    BundleOption,
    Device,
    DeviceOption,
    EstimatorOption,
    HUWindowOption,
    NullOption,
    OperatorOption,
    OperatorSettingOption,
    Precision,
    PrecisionOption,
    PresetOption,
    PushOption,
    RepairOption,
    RoiOption,
    SeedOption,
    SharpOption,
    TwinsOption,
    ViewsOption,
    app,
    numbers_of,
    open_scorer,
    out,
    overrides_of,
    progress_bar,
    push_target,
    series_option,
    writing_option,
)
from klip_monai.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from klip_monai.bundle import BundleInfo
    from klip_monai.report.summary import Provenance, Summary
    from klip_monai.scan.save import SavedCase

_OUTPUTS_HELP = """\b
nifti       heat map and labels
seg-nrrd    3D Slicer segmentation
scene       3D Slicer scene, also for `klip-monai view`
report      one page, HTML
dicom-seg   labels *
dicom-pm    heat map *
dicom-pdf   report *"""

_SHOWN = 3  # candidates in the closing panel


@app.command()
def score(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="DICOM folder or archive, NIfTI, NRRD or MetaImage file, or a series of a DICOMweb server: "
            "https://host/dicom-web/studies/STUDY/series/SERIES.",
        ),
    ] = None,
    sinogram: Annotated[
        Path | None, series_option(help="Instead of INPUT: raw line integrals, .npy, .npz, .mat, .h5 or .hdf5.")
    ] = None,
    geometry: Annotated[
        Path | None, series_option(help="JSON that says how the sinogram was measured, unless its file does.")
    ] = None,
    bundle: BundleOption = None,
    operator: OperatorOption = None,
    views: ViewsOption = None,
    angle_range: AngleOption = None,
    operator_option: OperatorSettingOption = None,
    estimator: EstimatorOption = None,
    twins: TwinsOption = None,
    sharp: SharpOption = None,
    null: NullOption = None,
    preset: PresetOption = None,
    series_uid: Annotated[str | None, series_option(help="Which series where there are several (see inspect).")] = None,
    repair: RepairOption = None,
    hu_window: HUWindowOption = None,
    roi: RoiOption = None,
    outputs: Annotated[
        str | None,
        writing_option(
            metavar="NAMES",
            help=f"What to write, with commas, or all:\n\n{_OUTPUTS_HELP}\n\n* DICOM scans only; carries the patient's "
            "name, to be filed with the study\n\n\\[default: nifti,seg-nrrd]",
        ),
    ] = None,
    push: PushOption = None,
    overwrite: Annotated[
        bool, writing_option("--overwrite", help="Replace the files of a scan that was scored before.")
    ] = False,
    keep_names: Annotated[
        bool,
        writing_option(
            "--keep-names",
            help="Name files after INPUT, which may name the patient, and note the series UID; else pseudonyms.",
        ),
    ] = False,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    seed: SeedOption = 0,
) -> None:
    """Score one CT series and write overlays on its own voxel grid; or score one raw sinogram."""
    if (path is None) == (sinogram is None) or (geometry is not None and sinogram is None):
        raise InputError("score: give a scan, INPUT, or --sinogram FILE (with --geometry FILE if it needs one)")
    refused = (series_uid, repair, hu_window, roi, operator, views, angle_range, operator_option, outputs, push)
    chosen = [value for value in (*refused, sharp, null) if value not in (None, [])]
    if sinogram is not None and chosen:
        raise InputError(
            "--sinogram: its geometry says how it was measured; leave out --operator, --views, --angle-range, "
            "--operator-option, --series-uid, --repair, --hu-window, --roi, --outputs, --push, --sharp and --null"
        )
    from klip_monai.bundle import DEFAULT_BUNDLE, find_bundle
    from klip_monai.io.masks.roi import Roi
    from klip_monai.scan.output_files import DEFAULT_OUTPUTS

    info = find_bundle(bundle or DEFAULT_BUNDLE)
    if sinogram is not None:
        overrides = overrides_of(
            "sparse_view", estimator=estimator, twins=twins, device=device, preset=preset, precision=precision
        )
        files = {"overwrite": overwrite, "keep_names": keep_names}
        _score_sinogram(info, sinogram, geometry, output, seed=seed, **files, **overrides)
        return
    assert path is not None
    overrides = overrides_of(
        operator, views, angle_range, operator_option, estimator, twins, device, sharp, preset, precision, null
    )
    window = None if hu_window is None else numbers_of(hu_window, "--hu-window")
    region = None if roi is None else Roi.parse(roi)
    names = DEFAULT_OUTPUTS if outputs is None else _outputs(outputs, path)
    pacs = None if push is None else push_target(push, names)
    with progress_bar() as bar, _opened(path, series_uid, output, bar) as files_of_scan:
        task = bar.add_task("reading", total=None)
        scorer = open_scorer(info, seed=seed, **overrides)
        from klip_monai.io.write.atomic import check_free
        from klip_monai.scan.opened import Reading
        from klip_monai.scan.output_files import case_files
        from klip_monai.scan.outputs import check_outputs
        from klip_monai.scan.save import PartialCaseError, save_case

        def show(done: int, total: int) -> None:
            name = "scoring" if done < total else "writing"
            bar.update(task, completed=done, total=total, description=name)

        how = Reading(series_uid, tuple(kind.value for kind in repair or ()), window, keep_names)
        scan = scorer.read(files_of_scan, roi=region, reading=how)
        if not overwrite:
            check_free(output, case_files(scan.name))
        check_outputs(scan.volume, names)
        case, lost = scorer.score(scan, progress=show), None
        try:
            saved = save_case(case, output, outputs=names, overwrite=overwrite)
        except PartialCaseError as error:
            saved, lost = error.saved, error
        bar.update(task, description="done")
    _print_result(saved, path)
    if pacs is not None:
        n_stored = pacs.store(saved.files[kind] for kind in ("dicom_seg", "dicom_pm") if kind in saved.files)
        out.print(f"{n_stored} objects filed with the study on {escape(pacs.url)}", soft_wrap=True)
    if lost is not None:
        raise lost


@app.command()
def bundles() -> None:
    """List the bundles that came with klip-monai."""
    from klip_monai.bundle import shipped_bundles

    table = Table("bundle", "version", "what it is", box=None, header_style="bold")
    for info in shipped_bundles():
        table.add_row(info.name, info.version, info.description)
    out.print(table)


@contextmanager
def _opened(path: str, series_uid: str | None, output: Path, bar: Progress) -> Iterator[Path]:
    """A scan where it lies, or fetched from a server for as long as it is needed."""
    from klip_monai.io.formats import format_of
    from klip_monai.io.pacs.dicomweb import is_url, series_at
    from klip_monai.io.write.atomic import check_writable

    check_writable(output)
    if not is_url(path):
        format_of(Path(path), series_uid=series_uid)  # refuses what is none
        yield Path(path)
        return
    task = bar.add_task("fetching", total=None)
    remote = series_at(path, series_uid)
    with remote.open(progress=lambda done, total: bar.update(task, completed=done, total=total)) as folder:
        bar.remove_task(task)
        yield folder


def _outputs(text: str, path: str) -> list[str]:
    """Names of outputs, refused before any work where the scan cannot have them."""
    from klip_monai.io.formats import FILE_FORMATS, suffix_of
    from klip_monai.scan.output_files import OUTPUTS, file_names

    file = Path(path).name
    of_files = [name for name, output in OUTPUTS.items() if not output.of_dicom]
    is_file = suffix_of(Path(path)) in FILE_FORMATS
    if text.strip() == "all":
        return of_files if is_file else list(OUTPUTS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    file_names("", names)
    refused = [name for name in names if is_file and name not in of_files]
    if refused:
        raise InputError(f"--outputs: got {', '.join(refused)} for {file}, expected a DICOM scan; leave it out")
    return names


def _score_sinogram(
    info: BundleInfo,
    sinogram: Path,
    geometry: Path | None,
    output: Path,
    *,
    seed: int,
    overwrite: bool,
    keep_names: bool,
    **overrides: Any,
) -> None:
    from klip_monai.io.files.arrays import reader_of
    from klip_monai.io.write.atomic import check_free, check_writable

    check_writable(output)
    reader_of(sinogram)
    import_libraries()
    from klip_monai.io.files.sinogram import read_sinogram
    from klip_monai.io.names import sinogram_name
    from klip_monai.scan.sinogram_case import save_sinogram_case, score_sinogram, sinogram_files

    raw = read_sinogram(sinogram, geometry)
    if not keep_names:
        raw = replace(raw, name=sinogram_name(raw.line_integrals))
    if not overwrite:
        check_free(output, sinogram_files(raw.name).values())
    with progress_bar() as bar:
        task = bar.add_task("reading", total=None)
        scorer = open_scorer(info, seed=seed, calibrated=False, **overrides)
        bar.update(task, description="scoring")
        case = score_sinogram(raw, scorer)
        saved = save_sinogram_case(case, output, overwrite=overwrite)
    summary, origin = saved.summary, case.provenance
    rows = Table.grid(padding=(0, 2))
    rows.add_row("input", escape(str(sinogram)))
    rows.add_row("prior", f"{origin.bundle} {origin.bundle_version}. {origin.intended_use}")
    rows.add_row("computed", computed(origin))
    rows.add_row("slice score", f"{summary.slice_score:.3g} {summary.unit}")
    for remark in summary.remarks:
        rows.add_row("", f"[yellow]{escape(remark)}[/yellow]")
    for kind, file in saved.files.items():
        rows.add_row(kind, escape(str(file)))
    out.print(Panel(rows, title=escape(summary.name), subtitle=summary.notice, expand=False))


def computed(provenance: Provenance) -> str:
    """How a result was computed, in a few words."""
    preset = f"preset {provenance.preset}, " if provenance.preset else ""
    return f"{preset}{provenance.precision} on {provenance.device}"


def _print_result(saved: SavedCase, source: str) -> None:
    from klip_monai.io.pacs.dicomweb import is_url

    summary, files = saved.summary, saved.files
    thresholds, provenance = summary.thresholds, summary.provenance
    rows = Table.grid(padding=(0, 2))
    rows.add_row("input", escape(str(source)))
    rows.add_row("prior", f"{provenance.bundle} {provenance.bundle_version}. {provenance.intended_use}")
    rows.add_row("computed", computed(provenance))
    rows.add_row("scan score", f"{summary.scan_score:.3g} {summary.unit.split(',')[0]}")
    least = ", the smallest that so many allow" if summary.p_value <= thresholds.least_p else ""
    rows.add_row("p-value", f"{summary.p_value:.3f} against {thresholds.healthy}{least}")
    for remark in summary.remarks:
        rows.add_row("", f"[yellow]{escape(remark)}[/yellow]")
    if summary.region:
        rows.add_row("region", f"{summary.region.volume_ml:.1f} ml")
    for name, volume in summary.volume_ml.items():
        rows.add_row(name.lower(), f"{volume:.1f} ml")
    _add_candidates(rows, summary)
    for kind, file in files.items():
        rows.add_row(kind, escape(str(file)))
    if "scene" in files:
        rows.add_row("", "")
        rows.add_row("in 3D Slicer", escape(f"File > Add Data: {files['scene'].name}"))
        rows.add_row("in the browser", escape(f"klip-monai view {files['scene']}"))
    elif {"segmentation", "heatmap"} <= files.keys():
        rows.add_row("", "")
        scan = "the series" if is_url(source) else source
        rows.add_row("in 3D Slicer", escape(f"File > Add Data: {scan}, then {files['segmentation'].name}"))
        rows.add_row("", escape(f"and, as the foreground volume with a colour map, {files['heatmap'].name}"))
    out.print(Panel(rows, title=escape(summary.name), subtitle=summary.notice, expand=False))


def _add_candidates(rows: Table, summary: Summary) -> None:
    """The first candidates, a line each, and what their p and q mean; the highest voxel where there is none."""
    from klip_monai.report.preview_geometry import short_ras_text

    listed, count = summary.candidates[:_SHOWN], summary.candidate_count
    if not listed:
        worst = summary.worst
        highest = f"slice {worst.voxel[2]}, {short_ras_text(worst.ras_mm)} mm"
        rows.add_row("candidates", f"none; the highest voxel is in {highest}")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    has_q = listed[0].q is not None
    for head in ("", "slice", "place, mm", "ml", "peak", "p", *(["q"] if has_q else [])):
        table.add_column(head, justify="left" if head == "place, mm" else "right", no_wrap=True)
    for candidate in listed:
        table.add_row(
            str(candidate.rank),
            str(candidate.slice),
            short_ras_text(candidate.peak_ras_mm),
            f"{candidate.volume_ml:.1f}",
            f"{candidate.peak:#.3g}",
            f"{candidate.p:.3f}",
            *([f"{candidate.q:.2g}"] if candidate.q is not None else []),
        )
    rows.add_row("", "")
    rows.add_row("candidates", table)
    rest = f"The first {len(listed)} of {count}. " if count > len(listed) else ""
    rows.add_row("", f"[dim]{rest}{summary.p_and_q}[/dim]")
    rows.add_row("", "")
