"""What the commands share: the application, its options, and opening a bundle with them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from klip_monai.cli.libraries import import_libraries
from klip_monai.cli.progress import progress_bar as progress_on
from klip_monai.errors import InputError
from klip_monai.operators import OPERATORS
from klip_monai.scan.overrides import bundle_overrides, check_measurement

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

    from klip_monai.bundle import BundleInfo
    from klip_monai.io.pacs.dicomweb import Pacs
    from klip_monai.scan import Scorer

app = typer.Typer(
    name="klip-monai",
    help="Out-of-distribution overlays for CT from a diffusion prior (KLIP). Research use only; not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)


Operator = Enum("Operator", [(name, name) for name in OPERATORS], type=str)  # type: ignore[misc]
"""Measurement operators."""

_OPTIONS_OF_THEIR_OWN = {"views": "--views", "angle_range": "--angle-range"}


class Estimator(str, Enum):
    """Estimators of the KL density."""

    renoised = "renoised"
    trajectory = "trajectory"


class Null(str, Enum):
    """What says how much healthy tissue scores."""

    contrast = "contrast"
    context = "context"
    none = "none"


class Precision(str, Enum):
    """Arithmetic of the network."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Repair(str, Enum):
    """Repairs that resample the scan, and so are made only when asked for."""

    gaps = "gaps"


class Device(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


# The panels of a command's help.
scoring_option = partial(typer.Option, rich_help_panel="Scoring")
series_option = partial(typer.Option, rich_help_panel="Series")
writing_option = partial(typer.Option, rich_help_panel="Writing")
running_option = partial(typer.Option, rich_help_panel="Running")

BundleOption = Annotated[
    str | None,
    scoring_option(
        help="Name of a shipped bundle, or a bundle's folder, whose configuration is run as code: one that you trust.  "
        "\\[default: klip_ct_abdomen]"
    ),
]
TrainingBundleOption = Annotated[
    str, typer.Option(help="Bundle whose slice format, settings and weights to start from.")
]
OperatorOption = Annotated[
    Operator | None,
    scoring_option(
        metavar="NAME",
        help=f"How each slice is measured: {', '.join(OPERATORS)}.  \\[default: the bundle's]",
    ),
]
ViewsOption = Annotated[int | None, scoring_option(min=1, help="Number of views.  \\[default: the bundle's]")]
AngleOption = Annotated[
    float | None,
    scoring_option(
        help="Range of the views in degrees.  \\[default: 180; limited_angle 120, fan_beam 360]",
    ),
]
OperatorSettingOption = Annotated[
    list[str] | None,
    scoring_option(
        "--operator-option",
        metavar="KEY=VALUE",
        help="Another setting of the measurement, again for each: detectors, pitch_mm (all with views); source_mm, "
        "detector_mm (fan_beam); blur_mm (blur); measured, missing=random or square (inpainting).",
    ),
]
EstimatorOption = Annotated[
    Estimator | None,
    scoring_option(help="How the expectation is taken.  \\[default: the bundle's]"),
]
TwinsOption = Annotated[
    int | None,
    scoring_option(
        min=0,
        help="Look-alikes that each slice is measured against; each costs a run.  \\[default: 0]",
    ),
]
SharpOption = Annotated[
    bool | None,
    scoring_option(
        "--sharp/--no-sharp",
        help="Let fine detail count, too, where it stands out more: finds bright things with sharp edges better, faint "
        "lesions less well.  \\[default: the bundle's]",
    ),
]
NullOption = Annotated[
    Null | None,
    scoring_option(
        "--null",
        help="What a place is measured by: contrast, healthy tissue of its local contrast; context, of its "
        "surroundings too; none, nothing.  \\[default: the bundle's]",
    ),
]
RepairOption = Annotated[
    list[Repair] | None,
    series_option(
        metavar="NAME",
        help="gaps: interpolate missing or unevenly spaced slices, over at most 10 mm.",
    ),
]
RoiOption = Annotated[
    str | None,
    series_option(
        metavar="FILE[:LABELS]",
        help="Look at this region alone: a mask in the patient's space, on any grid (NIfTI, NRRD, .seg.nrrd, MetaImage "
        "or DICOM SEG), and which of its labels, as in liver.nii.gz:5 or organs.seg.nrrd:Liver,Spleen.",
    ),
]
RoiFolderOption = Annotated[
    str | None,
    series_option(
        metavar="FOLDER[:LABELS]",
        help="Look at a region of each scan: a folder of masks named by series UID or case name, as in "
        "ct-12bfefbe.nii.gz. Scans without one are refused. See `score`.",
    ),
]
HUWindowOption = Annotated[
    str | None,
    series_option(
        metavar="LOW,HIGH",
        help="HU that a NIfTI, NRRD or MetaImage file shows as an 8-bit picture: mapped back.",
    ),
]
PushOption = Annotated[
    str | None,
    writing_option(
        metavar="URL",
        help="Then file dicom-seg and dicom-pm on this DICOMweb server: https://host/dicom-web.",
    ),
]
PresetOption = Annotated[
    str | None,
    scoring_option(
        metavar="NAME",
        help="How many passes a slice gets, where the bundle has presets: fast, default or thorough.  "
        "\\[default: the bundle's]",
    ),
]
PrecisionOption = Annotated[
    Precision,
    running_option(help="Arithmetic of the network; auto takes what this device is faster in."),
]
DeviceOption = Annotated[Device, running_option(help="auto takes CUDA where there is one.")]
SeedOption = Annotated[int, scoring_option(help="Same seed, weights, preset, precision and device: same overlay.")]


def overrides_of(
    operator: Operator | str | None = None,
    views: int | None = None,
    angle_range: float | None = None,
    settings: Sequence[str] | None = None,
    estimator: Estimator | None = None,
    twins: int | None = None,
    device: Device = Device.auto,
    sharp: bool | None = None,
    preset: str | None = None,
    precision: Precision = Precision.auto,
    null: Null | None = None,
) -> dict[str, Any]:
    """Command line options as overrides of the bundle's configuration."""
    if twins and sharp:
        raise InputError("--twins, --sharp: got both, expected one; look-alikes are compared in coarse structure only")
    named = {
        "operator": getattr(operator, "value", operator),
        "views": views,
        "angle_range": angle_range,
        **_operator_settings(settings or ()),
        "estimator": estimator and estimator.value,
        "twins": twins,
        "sharp": sharp,
        "null": null and null.value,
    }
    return bundle_overrides(named, device=device.value, precision=precision.value, preset=preset)


def _operator_settings(texts: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE of --operator-option as arguments of an operator."""
    if not texts:
        return {}
    kinds = {key: kind for takes in OPERATORS.values() for key, kind in takes.items()}
    kinds = {key: kind for key, kind in kinds.items() if key not in _OPTIONS_OF_THEIR_OWN}
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if key in _OPTIONS_OF_THEIR_OWN:
            raise InputError(f"--operator-option: got {text!r}, which has an option of its own: use {_flag(key)}")
        if not equals or key not in kinds:
            raise InputError(f"--operator-option: got {text!r}, expected KEY=VALUE with a KEY of {', '.join(kinds)}")
        if key in settings:
            raise InputError(f"--operator-option: got {key} twice, expected one value; leave one out")
        settings[key] = _value_of(value, kinds[key], f"--operator-option {key}")
    return settings


def _value_of(text: str, kind: Any, option: str) -> Any:
    """Text as a number of a type, or as one of some words."""
    if isinstance(kind, tuple):
        if text not in kind:
            raise InputError(f"{option}: got {text!r}, expected {' or '.join(kind)}")
        return text
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise InputError(f"{option}: got {text!r}, expected {expected}") from None


def _flag(key: str) -> str:
    """How the command line gives this argument of an operator."""
    return "--operator" if key == "operator" else _OPTIONS_OF_THEIR_OWN.get(key, f"--operator-option {key}")


def numbers_of(text: str, option: str) -> list[float]:
    """Numbers of an option, separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option}: got {text!r}, expected numbers with a comma between them") from None


def open_bundle(info: BundleInfo, **overrides: Any) -> ConfigParser:
    """A bundle's inference configuration; settings that its measurement does not have are refused."""
    import_libraries()
    from klip_monai.bundle import open_workflow

    parser = open_workflow(info, "inference.json", kind="inference", **overrides).parser
    check_measurement(parser, overrides, called=_flag)
    return parser


def open_scorer(info: BundleInfo, *, calibrated: bool = True, **overrides: Any) -> Scorer:
    """A bundle, ready to score."""
    parser = open_bundle(info, **overrides)
    from klip_monai.scan import Scorer

    return Scorer.of(parser, calibrated=calibrated)


def push_target(url: str, outputs: Sequence[str]) -> Pacs:
    """The server to push to, refused before any work where there is nothing to push, or it does not let us in."""
    from klip_monai.io.pacs.dicomweb import Pacs

    if not {"dicom-seg", "dicom-pm"} & set(outputs):
        raise InputError("--push: got no DICOM output to file, expected some; add --outputs dicom-seg,dicom-pm")
    pacs = Pacs(url)
    pacs.check()
    return pacs


def progress_bar() -> Progress:
    """Progress on standard error."""
    return progress_on(err)
