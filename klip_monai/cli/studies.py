"""Studies: `evaluate`, `tune` and `readers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from klip_monai.cli.options import Device, DeviceOption, app, out

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file; see klip_monai/evaluation/README.md.")]


@app.command()
def evaluate(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for tables and pictures.")],
    device: DeviceOption = Device.auto,
) -> None:
    """Compare methods on slices with synthetic anomalies; the same command again goes on where it stopped."""
    from klip_monai import evaluation
    from klip_monai.io.write.atomic import check_writable

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
    from klip_monai.io.write.atomic import check_writable

    check_writable(output)
    read = evaluation.read_study(study, device=None if device is Device.auto else device.value)
    settings = evaluation.tune(read, keep=output / "scores")
    evaluation.save_tuning(settings, output, title=read.title, provenance=read.provenance)
    best = settings[0]
    high, low = best.window
    out.print(
        f"best of {len(settings)}: window {high:.3g} to {low:.3g}, low-pass {best.lowpass_px:g} px, smoothing "
        f"{best.smoothing_px:g} px, calibration {best.calibration:g}{', sharp' if best.sharp else ''} "
        f"(mean AUROC {best.mean:.3f}); all in {output / 'tuning.md'}",
        soft_wrap=True,
    )


@app.command()
def readers(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Markdown file for the table.")],
    cases: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Real cases, each a folder or archive of DICOM files.")
    ] = None,
) -> None:
    """Compare DICOM readers on awkward CT series; the extra `readers` installs all of them."""
    from klip_monai.evaluation.reader_study import reader_table

    output.write_text(reader_table(cases), encoding="utf-8")
    out.print(f"{output}")
