"""What the commands share: the application, its options, and opening a bundle with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from klip_monai.errors import InputError

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

    from klip_monai.bundle import BundleInfo
    from klip_monai.io.dicomweb import Pacs

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
    inpainting = "inpainting"
    identity = "identity"


_ANGLE_RANGES = {Operator.limited_angle: 120.0, Operator.fan_beam: 360.0}  # degrees, where none is given


_WITHOUT_VIEWS = (Operator.identity, Operator.blur, Operator.inpainting)


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
HUWindowOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH", help="HU that a NIfTI, NRRD or MetaImage file shows as an 8-bit picture: mapped back."
    ),
]
PushOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Then file dicom-seg and dicom-pm on this DICOMweb server: https://host/dicom-web."
    ),
]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA where there is one.")]
SeedOption = Annotated[int, typer.Option(help="Same seed, weights and device: same overlay.")]


def overrides_of(
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


def numbers_of(text: str, option: str) -> list[float]:
    """Numbers of an option, separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option}: got {text!r}, expected numbers with a comma between them") from None


def open_bundle(info: BundleInfo, **overrides: Any) -> ConfigWorkflow:
    """A bundle's inference workflow, ready to run; views of a measurement that has none are refused."""
    from klip_monai.bundle import open_workflow

    workflow = open_workflow(info, "inference.json", kind="inference", **overrides)
    check_views(workflow, overrides)
    workflow.initialize()
    return workflow


def check_views(workflow: ConfigWorkflow, overrides: Mapping[str, Any]) -> None:
    """Refuse views of a measurement that has none."""
    measurement = workflow.parser["operator#name"]
    if measurement in _WITHOUT_VIEWS and {"operator#views", "operator#angle_range"} & overrides.keys():
        raise InputError(
            f"--views, --angle-range: got them with the measurement {measurement}, which has no views; add --operator "
            "sparse_view, limited_angle or fan_beam"
        )


def push_target(url: str, outputs: Sequence[str]) -> Pacs:
    """The server to push to, refused before any work where there is nothing to push, or it does not let us in."""
    from klip_monai.io.dicomweb import Pacs

    if not {"dicom-seg", "dicom-pm"} & set(outputs):
        raise InputError("--push: got no DICOM output to file, expected some; add --outputs dicom-seg,dicom-pm")
    pacs = Pacs(url)
    pacs.check()
    return pacs


def progress_bar() -> Progress:
    """Progress on standard error, gone when done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=err, transient=True)
