"""The command line: parses, composes and prints. Exit codes: 0 done, 1 a fault of ours, 2 bad input."""

from __future__ import annotations

import logging
import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from klip_monai import __version__
from klip_monai.errors import InputError, KlipError

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

    from klip_monai.bundle import BundleInfo

app = typer.Typer(
    name="klip-monai",
    help="Out-of-distribution overlays for CT from a diffusion prior (KLIP). Research use only; not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)


class Operator(str, Enum):
    """Measurement operators."""

    sparse_view = "sparse_view"
    limited_angle = "limited_angle"
    fan_beam = "fan_beam"
    blur = "blur"
    identity = "identity"


_ANGLE_RANGES = {Operator.limited_angle: 120.0, Operator.fan_beam: 360.0}  # degrees, where none is given


_WITHOUT_VIEWS = (Operator.identity, Operator.blur)


class Estimator(str, Enum):
    """Estimators of the KL density."""

    renoised = "renoised"
    trajectory = "trajectory"


class Repair(str, Enum):
    """Repairs that resample the scan, and so are made only when asked for."""

    gaps = "gaps"


class Device(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


BundleOption = Annotated[
    str | None, typer.Option(help="Name of a shipped bundle, or a bundle's folder.  \\[default: klip_ct_abdomen]")
]
TrainingBundleOption = Annotated[
    str, typer.Option(help="Bundle whose slice format, settings and weights to start from.")
]
OperatorOption = Annotated[
    Operator | None,
    typer.Option(
        metavar="NAME",
        help=f"How each slice is measured: {', '.join(Operator)}.  \\[default: the bundle's]",
    ),
]
ViewsOption = Annotated[int | None, typer.Option(min=1, help="Number of views.  \\[default: the bundle's]")]
AngleOption = Annotated[
    float | None, typer.Option(help="Range of the views in degrees.  \\[default: 180; limited_angle 120, fan_beam 360]")
]
EstimatorOption = Annotated[
    Estimator | None, typer.Option(help="How the expectation is taken.  \\[default: the bundle's]")
]
TwinsOption = Annotated[
    int | None,
    typer.Option(min=0, help="Look-alikes that each slice is measured against; each costs a run.  \\[default: 0]"),
]
RepairOption = Annotated[
    list[Repair] | None,
    typer.Option(metavar="NAME", help="gaps: interpolate missing or unevenly spaced slices, over at most 10 mm."),
]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA where there is one.")]
SeedOption = Annotated[int, typer.Option(help="Same seed, weights and device: same overlay.")]


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        out.print(f"klip-monai {__version__}")
        raise typer.Exit


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
    device: DeviceOption = Device.auto,
    seed: SeedOption = 0,
) -> None:
    """Score one CT series and write overlays on its own voxel grid; or score one raw sinogram."""
    if (path is None) == (sinogram is None) or (geometry is not None and sinogram is None):
        raise InputError("score: give a scan, INPUT, or --sinogram FILE (with --geometry FILE if it needs one)")
    if sinogram is not None and (series_uid or operator or views or angle_range):
        raise InputError(
            "--sinogram: its geometry says how it was measured; leave out --operator, --views, --angle-range and "
            "--series-uid"
        )
    from klip_monai.bundle import DEFAULT_BUNDLE, find_bundle

    info = find_bundle(bundle or DEFAULT_BUNDLE)
    if sinogram is not None:
        overrides = _overrides(Operator.sparse_view, estimator=estimator, twins=twins, device=device)
        _score_sinogram(info, sinogram, geometry, output, seed=seed, **overrides)
        return
    assert path is not None
    overrides = _overrides(operator, views, angle_range, estimator, twins, device)
    if repair:
        overrides["repair"] = [kind.value for kind in repair]
    with _progress() as bar:
        task = bar.add_task("reading", total=None)
        workflow = _open(
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
def inspect(
    path: Annotated[Path, typer.Argument(help="Folder, DICOMDIR, zip or tar archive with DICOM files.")],
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table as JSON, too.")] = None,
    repair: RepairOption = None,
) -> None:
    """List the series under a path and say which can be scored; shows no names or IDs of patients."""
    from klip_monai.io import index_series
    from klip_monai.io.summary import write_summary

    index = index_series(path, fill_gaps=Repair.gaps in (repair or []))
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("series", "", "description", "slices", "mm", "orientation", "kernel", "contrast", "verdict"):
        table.add_column(title, overflow="fold")
    colours = {"usable": "green", "usable after repair": "yellow", "refused": "red"}
    for info in index.series:
        mm = " x ".join("?" if value is None else f"{value:.3g}" for value in info.spacing_mm)
        words = (info.description, str(info.n_slices), mm, info.orientation, info.kernel, info.contrast)
        colour, reason = colours[info.verdict], f": {info.reason}" if info.reason else ""
        verdict = f"[{colour}]{info.verdict}[/{colour}]{escape(reason)}"
        table.add_row(info.name, escape(info.modality), *map(escape, words), verdict)
    out.print(table)
    left = dict(index.passed_over) | ({"damaged": index.damaged} if index.damaged else {})
    if left:
        out.print("passed over: " + ", ".join(f"{count} x {escape(what)}" for what, count in left.items()))
    if json is not None:
        write_summary(json, index.describe())


@app.command()
def bundles() -> None:
    """List the bundles that came with klip-monai."""
    from klip_monai.bundle import shipped_bundles

    table = Table("bundle", "version", "what it is", box=None, header_style="bold")
    for info in shipped_bundles():
        table.add_row(info.name, info.version, info.description)
    out.print(table)


@app.command()
def calibrate(
    bundle: BundleOption = None,
    healthy: Annotated[Path | None, typer.Option(help="Folder of healthy scans: a sub-folder or file each.")] = None,
    slice_set: Annotated[Path | None, typer.Option(help="Or a slice set, from `klip-monai prepare`.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Split of the slice set.  \\[default: reference]")] = None,
    phantoms: Annotated[int | None, typer.Option(min=19, help="Or so many phantoms.")] = None,
    slices: Annotated[int, typer.Option(min=3, help="Slices of each phantom, or run of the slice set.")] = 24,
    operator: OperatorOption = None,
    views: ViewsOption = None,
    angle_range: AngleOption = None,
    estimator: EstimatorOption = None,
    twins: TwinsOption = None,
    device: DeviceOption = Device.auto,
    output: Annotated[Path | None, typer.Option(help="JSON file.  \\[default: among the bundle's references]")] = None,
    seed: SeedOption = 0,
) -> None:
    """Make an ID reference: thresholds and p-values for a bundle under given options, from healthy scans."""
    from klip_monai.bundle import DEFAULT_BUNDLE, find_bundle
    from klip_monai.calibration import calibrate as make_reference
    from klip_monai.calibration import healthy_scans, phantom_scans, set_scans, standardized
    from klip_monai.training import SliceSet
    from klip_monai.transforms import KLIPScore

    if sum(source is not None for source in (healthy, slice_set, phantoms)) != 1:
        raise InputError("calibrate: give one of --healthy FOLDER, --slice-set FOLDER and --phantoms N (at least 19)")
    info = find_bundle(bundle or DEFAULT_BUNDLE)
    workflow = _open(info, seed=seed, **_overrides(operator, views, angle_range, estimator, twins, device))
    parts = {
        name: workflow.parser.get_parsed_content(name) for name in ("network", "inferer", "grid", "settings", "device")
    }
    if healthy is not None:
        if not healthy.is_dir():
            raise InputError(f"--healthy: got {str(healthy)!r}, expected a folder with a healthy scan in each entry")
        scans, total = standardized(healthy_scans(healthy), parts["grid"]), len(list(healthy.iterdir()))
        what = "healthy scans"
    elif slice_set is not None:
        data = SliceSet(slice_set, split=split or ["reference"], grid=parts["grid"], clipped=False)
        scans, total = set_scans(data, slices=slices), sum(group.slices // slices for group in data.groups)
        patients = sum(group.slices >= slices for group in data.groups)
        what = f"runs of {slices} healthy slices of {patients} patients or ranges of slices"
    else:
        assert phantoms is not None
        scans, total = standardized(phantom_scans(phantoms, slices=slices), parts["grid"]), phantoms
        what = "healthy phantoms of klip_monai.phantom"
    with _progress() as bar:
        reference = make_reference(
            KLIPScore(parts["network"], parts["inferer"], grid=parts["grid"], device=parts["device"]),
            bar.track(scans, total=total, description="healthy scans"),
            settings=parts["settings"],
            description=what,
        )
    target = output or info.root / "models" / "id_reference" / f"{reference.key}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    reference.save(target)
    out.print(
        f"{target}: {len(reference.scan_scores)} scans, suspicious from {reference.suspicious:.3g}, "
        f"strongly from {reference.strong:.3g}"
    )


@app.command()
def prepare(
    archive: Annotated[
        Path,
        typer.Argument(help="Folder of healthy scans, one entry a patient; or of 8-bit slices with a manifest.csv."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the slice set.")],
    bundle: TrainingBundleOption = "klip_ct_abdomen",
    held_out: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the scans kept for validation (a manifest says itself).")
    ] = 0.1,
    clipped: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=HU", help="A source that kept nothing below HU.")
    ] = None,
    pixel_mm: Annotated[float, typer.Option(help="Pixel size of 8-bit slices whose manifest has none.")] = 1.5,
    splits: Annotated[
        Path | None, typer.Option(help="CSV (file, group, split) that counts instead of the manifest's columns.")
    ] = None,
) -> None:
    """Make a training set: standard slices of healthy scans, in a bundle's slice format."""
    from klip_monai.bundle import find_bundle
    from klip_monai.training import picture_groups, scan_groups, write_slice_set

    if not archive.is_dir():
        raise InputError(f"archive: got {str(archive)!r}, expected a folder of healthy scans")
    workflow = _open(find_bundle(bundle))
    manifest = archive / "manifest.csv"
    if manifest.exists():
        limits = dict(map(_source_and_hu, clipped or []))
        groups = picture_groups(manifest, clipped=limits, pixel_mm=pixel_mm, splits=splits)
    else:
        groups = scan_groups(archive, held_out=held_out)
    with _progress() as bar:
        tracked = bar.track(groups, description="groups")
        refused = write_slice_set(tracked, output, grid=workflow.parser.get_parsed_content("grid"))
    for reason in refused:
        err.print(f"[yellow]left out[/yellow] {escape(reason)}", soft_wrap=True, highlight=False)
    out.print(f"{output}: {len(groups) - len(refused)} of {len(groups)} groups; train with `klip-monai train {output}`")


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Slice set, from `klip-monai prepare`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle, or of one to go on with.")],
    bundle: TrainingBundleOption = "klip_ct_abdomen",
    minutes: Annotated[float, typer.Option(min=0.01, help="Time to train, all parts of a resumed run together.")] = 180,
    from_scratch: Annotated[bool, typer.Option(help="Start from random weights.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Slices a step.  \\[default: the bundle's]")] = None,
    device: DeviceOption = Device.auto,
    seed: SeedOption = 0,
) -> None:
    """Train a prior on healthy slices of your own; the same command again goes on where it stopped."""
    from klip_monai.bundle import bundle_info, find_bundle, open_workflow
    from klip_monai.training import new_bundle

    base = find_bundle(bundle)
    weights = base.root / "models" / "model.safetensors"
    new_bundle(base.root, output)
    overrides = _overrides(device=device) | {"dataset_dir": str(data), "minutes": minutes}
    if batch_size is not None:
        overrides["batch_size"] = batch_size
    if not from_scratch:
        overrides["initial_weights"] = str(weights)
    workflow = open_workflow(bundle_info(output), "train.json", kind="train", seed=seed, **overrides)
    workflow.initialize()
    workflow.run()
    out.print(
        f"{output}: trained for {workflow.trainer.state.iteration} iterations. It has no thresholds yet: make them "
        f"with `klip-monai calibrate --bundle {output} --healthy FOLDER` from healthy scans that did not train it"
    )


@app.command()
def import_weights(
    source: Annotated[
        Path, typer.Argument(help="Folder that Hugging Face diffusers saved, or .pkl snapshot of EDM or PaDIS.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle.")],
    hu_window: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="HU that were its lowest and highest value.")
    ],
    pixel_mm: Annotated[float, typer.Option(help="Pixel size of the slices it was trained on.")],
    image_size: Annotated[
        int | None, typer.Option(min=8, help="Side of the slices, in pixels.  \\[default: the checkpoint's]")
    ] = None,
    value_range: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="Values it was trained on; PaDIS: 0 1.")
    ] = (-1.0, 1.0),
    bundle: Annotated[str, typer.Option(help="Bundle whose scoring settings to take.")] = "klip_ct_abdomen",
) -> None:
    """Make a bundle from a diffusion model of gray slices that another program trained."""
    from klip_monai.bundle import find_bundle
    from klip_monai.training import import_weights as make_bundle

    make_bundle(
        source,
        output,
        base=find_bundle(bundle).root,
        hu_window=hu_window,
        pixel_mm=pixel_mm,
        image_shape=None if image_size is None else (image_size, image_size),
        value_range=value_range,
    )
    out.print(
        f"{output}: imported. It has no thresholds yet: make them with `klip-monai calibrate --bundle {output} "
        "--healthy FOLDER` from healthy scans that did not train it"
    )


StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file; see the README.")]


@app.command()
def evaluate(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for tables and pictures.")],
    device: DeviceOption = Device.auto,
) -> None:
    """Compare methods on slices with synthetic anomalies; the same command again goes on where it stopped."""
    from klip_monai import evaluation
    from klip_monai.io.atomic import check_writable

    check_writable(output)
    read = evaluation.read_study(study, device=None if device is Device.auto else device.value)
    result = evaluation.run_comparison(read, keep=output / "scores")
    evaluation.save_comparison(result, output, provenance=read.provenance)
    for kind, part in result.studies.items():
        table = Table(kind, "image-level", "slice-level", "NFE", "s a slice", box=None, header_style="bold")
        for row in part.rows:
            image_level = "none" if row.image_level is None else f"{row.image_level.value:.3f}"
            levels = (image_level, f"{row.slice_level.value:.3f}")
            table.add_row(evaluation.row_title(row), *levels, str(row.passes), f"{row.seconds:.2g}")
        out.print(table)
    out.print(f"{output / 'study.md'}")


@app.command()
def tune(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the table and the best setting.")],
    device: DeviceOption = Device.auto,
) -> None:
    """Choose window, low-pass and smoothing on healthy slices and synthetic anomalies, from one sampling pass."""
    from klip_monai import evaluation
    from klip_monai.io.atomic import check_writable

    check_writable(output)
    read = evaluation.read_study(study, device=None if device is Device.auto else device.value)
    settings = evaluation.tune(read, keep=output / "scores")
    evaluation.save_tuning(settings, output, title=read.title, provenance=read.provenance)
    best = settings[0]
    high, low = best.window
    out.print(
        f"best of {len(settings)}: window {high:.3g} to {low:.3g}, low-pass {best.lowpass_px:g} px, smoothing "
        f"{best.smoothing_px:g} px, {'calibrated' if best.calibrated else 'plain'} (mean AUROC {best.mean:.3f}); "
        f"all in {output / 'tuning.md'}",
        soft_wrap=True,
    )


def _source_and_hu(text: str) -> tuple[str, float]:
    source, _, hu = text.partition("=")
    try:
        return source, float(hu)
    except ValueError:
        raise InputError(f"--clipped: got {text!r}, expected SOURCE=HU, such as pancreas=0") from None


def _overrides(
    operator: Operator | None = None,
    views: int | None = None,
    angle_range: float | None = None,
    estimator: Estimator | None = None,
    twins: int | None = None,
    device: Device = Device.auto,
) -> dict[str, Any]:
    """Command line options as overrides of the bundle's configuration."""
    if angle_range is None and operator is not None:
        angle_range = _ANGLE_RANGES.get(operator)
    values = {
        "operator#name": operator and operator.value,
        "operator#views": views,
        "operator#angle_range": angle_range,
        "inferer#estimator": estimator and estimator.value,
        "inferer#twins": twins,
        "device": None if device is Device.auto else f"$torch.device('{device.value}')",
    }
    return {key: value for key, value in values.items() if value is not None}


def _open(info: BundleInfo, **overrides: Any) -> ConfigWorkflow:
    from klip_monai.bundle import open_workflow

    workflow = open_workflow(info, "inference.json", kind="inference", **overrides)
    measurement = workflow.parser["operator#name"]
    if measurement in _WITHOUT_VIEWS and {"operator#views", "operator#angle_range"} & overrides.keys():
        raise InputError(
            f"--views, --angle-range: got them with the measurement {measurement}, which has no views; add --operator "
            "sparse_view, limited_angle or fan_beam"
        )
    workflow.initialize()
    return workflow


def _score_sinogram(
    info: BundleInfo, sinogram: Path, geometry: Path | None, output: Path, *, seed: int, **overrides: Any
) -> None:
    from klip_monai.bundle import provenance, scoring_settings
    from klip_monai.io.atomic import check_writable
    from klip_monai.io.sinogram import read_sinogram
    from klip_monai.sinogram_case import CG_ITERATIONS, SinogramCase, measured_slice, save_sinogram_case, score_sinogram

    check_writable(output)
    raw = read_sinogram(sinogram, geometry)
    with _progress() as bar:
        task = bar.add_task("reading", total=None)
        parser = _open(info, seed=seed, **overrides).parser
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


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=err, transient=True)


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
    rows.add_row("", "")
    rows.add_row("in 3D Slicer", escape(f"File > Add Data: {source}, then {Path(files['segmentation']).name}"))
    rows.add_row("", escape(f"and, as the foreground volume with a colour map, {Path(files['heatmap']).name}"))
    out.print(Panel(rows, title=escape(summary["name"]), subtitle=summary["notice"], expand=False))


def _user_error(error: BaseException) -> KlipError | None:
    """The KlipError behind an error that MONAI's transforms and engines wrapped, if there is one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KlipError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _quiet() -> None:
    """Silence libraries: what the user needs to know is said by us."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)


def main() -> None:
    """Entry point of ``klip-monai``."""
    _quiet()
    try:
        app()
    except KeyboardInterrupt:
        err.print("interrupted; nothing was written")
        sys.exit(130)
    except Exception as error:
        known = _user_error(error)
        if known is None:
            err.print(
                f"[red]internal error[/red] {type(error).__name__}: {escape(str(error))}",
                soft_wrap=True,
                highlight=False,
            )
            sys.exit(1)
        err.print(f"[red]error[/red] {escape(str(known))}", soft_wrap=True, highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
