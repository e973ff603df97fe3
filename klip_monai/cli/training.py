"""Priors and their thresholds: `calibrate`, `prepare`, `train` and `import-weights`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from klip_monai.cli.options import (
    AngleOption,
    BundleOption,
    Device,
    DeviceOption,
    EstimatorOption,
    NullOption,
    OperatorOption,
    OperatorSettingOption,
    Precision,
    PrecisionOption,
    PresetOption,
    SeedOption,
    SharpOption,
    TrainingBundleOption,
    TwinsOption,
    ViewsOption,
    app,
    err,
    open_bundle,
    open_scorer,
    out,
    overrides_of,
    progress_bar,
)
from klip_monai.errors import InputError
from klip_monai.io.write.atomic import check_writable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from klip_monai.scan.calibration import Scan
    from klip_monai.standard import PriorGrid


@app.command()
def calibrate(
    bundle: BundleOption = None,
    healthy: Annotated[
        Path | None,
        typer.Option(
            help="Folder of healthy scans, a sub-folder or file each. Those with one PatientID are one person."
        ),
    ] = None,
    slice_set: Annotated[
        Path | None, typer.Option(help="A slice set, from `klip-monai prepare`; with --healthy: of other people.")
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Split of the slice set.  \\[default: reference]")] = None,
    phantoms: Annotated[int | None, typer.Option(min=19, help="Or so many phantoms.")] = None,
    slices: Annotated[
        int | None,
        typer.Option(
            min=3, help="Slices of each phantom, or run of the slice set.  \\[default: 24 of a phantom, all of a group]"
        ),
    ] = None,
    most_slices: Annotated[
        int | None,
        typer.Option(min=3, help="Take so many slices of a scan at most, from its middle.  \\[default: all]"),
    ] = None,
    clipped: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="A source of the slice set that clipped HU, to be taken too."),
    ] = None,
    null_split: Annotated[
        list[str] | None,
        typer.Option(help="Split of the slice set that --null context is fitted to.  \\[default: train]"),
    ] = None,
    null_scans: Annotated[
        Path | None, typer.Option(help="Or a folder of healthy scans of other people than --healthy has.")
    ] = None,
    operator: OperatorOption = None,
    views: ViewsOption = None,
    angle_range: AngleOption = None,
    operator_option: OperatorSettingOption = None,
    estimator: EstimatorOption = None,
    twins: TwinsOption = None,
    sharp: SharpOption = None,
    null: NullOption = None,
    preset: PresetOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    output: Annotated[Path | None, typer.Option(help="JSON file.  \\[default: among the bundle's references]")] = None,
    seed: SeedOption = 0,
) -> None:
    """Make an ID reference: thresholds and p-values for a bundle under given options, from healthy scans."""
    from klip_monai.bundle import DEFAULT_BUNDLE, find_bundle
    from klip_monai.scan.calibration import calibrate as make_reference
    from klip_monai.scan.calibration import (
        fit_null,
        healthy_scans,
        of_other_people,
        phantom_scans,
        set_scans,
        standardized,
    )
    from klip_monai.training import SliceSet

    if all(source is None for source in (healthy, slice_set, phantoms)):
        raise InputError("calibrate: give --healthy FOLDER, --slice-set FOLDER, both, or --phantoms N (at least 19)")
    if phantoms is not None and (healthy or slice_set):
        raise InputError("calibrate: got --phantoms and healthy people, expected one of the two")
    if slice_set is None and (split or clipped or null_split):
        raise InputError(
            "--split, --clipped, --null-split: got no --slice-set that they are of; add it or leave them out"
        )
    if healthy is not None and null_scans is not None and healthy.resolve() == null_scans.resolve():
        raise InputError("--null-scans: got the folder of --healthy, expected scans of other people")
    if both := set(split or ["reference"]) & set(null_split or []):
        raise InputError(
            f"--null-split: got {', '.join(sorted(both))}, which the reference is of; expected other people"
        )
    if output is not None:
        _check_json(output)
    info = find_bundle(bundle or DEFAULT_BUNDLE)
    overrides = overrides_of(
        operator, views, angle_range, operator_option, estimator, twins, device, sharp, preset, precision, null
    )
    score = open_scorer(info, seed=seed, calibrated=False, **overrides)
    by_context = score.inferer.reading.null == "context"
    if not by_context and (null_scans or null_split):
        raise InputError("--null-scans, --null-split: got them without a null by context; add --null context")
    sources, total, what = [], 0, []
    if healthy is not None:
        if not healthy.is_dir():
            raise InputError(f"--healthy: got {str(healthy)!r}, expected a folder with a healthy scan in each entry")
        sources.append(standardized(healthy_scans(healthy), score.grid))
        total += len(list(healthy.iterdir()))
        what.append("healthy scans")
    if slice_set is not None:
        data = SliceSet(slice_set, split=split or ["reference"], grid=score.grid, clipped=clipped or False)
        sources.append(set_scans(data, slices=slices))
        total += len(data.groups) if slices is None else sum(group.slices // slices for group in data.groups)
        patients = sum(group.slices >= (slices or 1) for group in data.groups)
        runs = "all healthy slices" if slices is None else f"runs of {slices} healthy slices"
        what.append(f"{runs} of {patients} patients or ranges of slices")
    if phantoms is not None:
        sources.append(standardized(phantom_scans(phantoms, slices=slices or 24), score.grid))
        total += phantoms
        what.append("healthy phantoms of klip_monai.phantom")
    with progress_bar() as bar:
        fitted = None
        if by_context:
            others, number = _null_scans(null_scans, slice_set, null_split or ["train"], score.grid, most_slices)
            fitted = fit_null(score, bar.track(others, total=number, description="scans for the null"))
        reference = make_reference(
            score,
            bar.track(_at_most(of_other_people(sources), most_slices), total=total, description="healthy scans"),
            settings=score.settings,
            description=_described(what, most_slices),
            null=fitted,
        )
    target = output or info.root / "models" / "id_reference" / f"{reference.key}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    reference.save(target)
    out.print(
        f"{target}: {len(reference.scan_scores)} scans of {reference.people} people (p is at least "
        f"{reference.least_p:.2g}), suspicious from {reference.suspicious:.3g}, strongly from {reference.strong:.3g}"
    )


def _check_json(path: Path) -> None:
    """Refuse what a reference cannot be written to, before it is made."""
    if path.suffix != ".json" or path.is_dir():
        raise InputError(f"--output: got {str(path)!r}, expected the name of a .json file")
    check_writable(path.parent)


def _null_scans(
    folder: Path | None, slice_set: Path | None, split: list[str], grid: PriorGrid, most_slices: int | None
) -> tuple[Iterator[Scan], int]:
    """What a null is fitted to, and how many scans that are."""
    from klip_monai.scan.calibration import NULL_SLICES, healthy_scans, set_scans, standardized
    from klip_monai.training import SliceSet

    if folder is not None:
        if not folder.is_dir():
            raise InputError(f"--null-scans: got {str(folder)!r}, expected a folder with a healthy scan in each entry")
        scans, number = standardized(healthy_scans(folder), grid), len(list(folder.iterdir()))
    elif slice_set is not None:
        data = SliceSet(slice_set, split=split, grid=grid, clipped=False)
        scans, number = set_scans(data), len(data.groups)
    else:
        raise InputError(
            "--null context: got nothing to fit it to; give --null-scans FOLDER with healthy scans of other people, or "
            "--null contrast"
        )
    return _at_most(scans, min(NULL_SLICES, most_slices or NULL_SLICES)), number


def _described(sources: list[str], most_slices: int | None) -> str:
    """What the healthy scans are."""
    said = " and ".join(sources)
    return said if most_slices is None else f"at most {most_slices} slices from the middle of {said}"


def _at_most(scans: Iterable[Scan], slices: int | None) -> Iterator[Scan]:
    """The scans, or so many slices from the middle of each."""
    from klip_monai.scan.calibration import middle_slices

    return (scan if slices is None else middle_slices(scan, slices) for scan in scans)


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
    grid = open_bundle(find_bundle(bundle)).get_parsed_content("grid")
    manifest = archive / "manifest.csv"
    if manifest.exists():
        limits = dict(map(_source_and_hu, clipped or []))
        groups = picture_groups(manifest, clipped=limits, pixel_mm=pixel_mm, splits=splits)
    else:
        groups = scan_groups(archive, held_out=held_out)
    with progress_bar() as bar:
        tracked = bar.track(groups, description="groups")
        refused = write_slice_set(tracked, output, grid=grid)
    for reason in refused:
        err.print(f"[yellow]left out[/yellow] {escape(reason)}", soft_wrap=True, highlight=False)
    out.print(f"{output}: {len(groups) - len(refused)} of {len(groups)} groups; next:", soft_wrap=True, highlight=False)
    out.print(f"  klip-monai train {escape(shlex.quote(str(output)))} --output FOLDER", soft_wrap=True, highlight=False)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Slice set, from `klip-monai prepare`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle, or of one to go on with.")],
    bundle: TrainingBundleOption = "klip_ct_abdomen",
    minutes: Annotated[float, typer.Option(min=0.01, help="Time to train, all parts of a resumed run together.")] = 180,
    from_scratch: Annotated[bool, typer.Option(help="Start from random weights.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Slices a step.  \\[default: the bundle's]")] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network first: takes a minute, then steps are faster.")
    ] = False,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    seed: SeedOption = 0,
) -> None:
    """Train a prior on healthy slices of your own; the same command again goes on where it stopped."""
    from klip_monai.bundle import bundle_info, find_bundle, open_workflow
    from klip_monai.training import new_bundle

    base = find_bundle(bundle)
    weights = base.root / "models" / "model.safetensors"
    new_bundle(base.root, output)
    overrides = overrides_of(device=device, precision=precision) | {
        "dataset_dir": str(data),
        "minutes": minutes,
        "compile": compiled,
    }
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
    patch: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Side of the patches it was trained on; PaDIS: 56. 0: whole slices, as for Patch Diffusion. Needed "
            "for networks that know positions, like these two.",
        ),
    ] = None,
    bundle: Annotated[str, typer.Option(help="Bundle whose scoring settings to take.")] = "klip_ct_abdomen",
) -> None:
    """Make a bundle from a diffusion model of gray slices, or of their patches, that another program trained."""
    from klip_monai.bundle import find_bundle
    from klip_monai.training import import_weights as make_bundle

    height, width = make_bundle(
        source,
        output,
        base=find_bundle(bundle).root,
        hu_window=hu_window,
        pixel_mm=pixel_mm,
        image_shape=None if image_size is None else (image_size, image_size),
        value_range=value_range,
        patch=patch,
    )
    out.print(
        f"{output}: imported, for slices of {height} x {width}. It has no thresholds yet: make them with "
        f"`klip-monai calibrate --bundle {output} --healthy FOLDER` from healthy scans that did not train it"
    )


def _source_and_hu(text: str) -> tuple[str, float]:
    source, _, hu = text.partition("=")
    try:
        return source, float(hu)
    except ValueError:
        raise InputError(f"--clipped: got {text!r}, expected SOURCE=HU, such as pancreas=0") from None
