"""What a scan costs beside the network, and what a run costs beside its scan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from klip_monai.benchmarks.cost import Cost, Row
from klip_monai.benchmarks.processes import THIS, run_python
from klip_monai.benchmarks.subject import AT_A_TIME, Subject
from klip_monai.benchmarks.timing import as_in_a_pass, least_costs
from klip_monai.inferer import KLIPInferer
from klip_monai.io.write.overlay import write_heatmap, write_labels, write_segmentation
from klip_monai.report.preview import write_preview
from klip_monai.report.shown import Shown
from klip_monai.sampling import ConjugateGradientPosterior, Step
from klip_monai.scoring import smooth
from klip_monai.scoring.density import squared_move
from klip_monai.slice_generator import SliceGenerator
from klip_monai.standard import standard_slices, to_source_grid

Task = Callable[[], object]

_SIGMA = 1.0
_THRESHOLDS = (1.1, 1.3)  # of white noise whose square was smoothed: some islands
_START = """
import sys
from klip_monai.bundle import find_bundle, open_workflow
parser = open_workflow(find_bundle(sys.argv[1]), "inference.json", kind="inference").parser
for name in ("network", "inferer"):
    parser.get_parsed_content(name)
"""


def measure(subject: Subject) -> list[Row]:
    """A row for each stage, those of slices on one thread; what a GPU has no part in is measured with the CPU."""
    rows = _in_the_inferer(subject)
    return rows if subject.device.type == "cuda" else [*rows, *_around_it(subject), _start(subject)]


def _in_the_inferer(subject: Subject) -> list[Row]:
    inferer, x = subject.inferer, subject.standard.images[:AT_A_TIME].to(subject.device)
    generator = SliceGenerator(inferer.seed, range(len(x)))
    noise = generator.normal(x)
    step = Step(
        *(_SIGMA, 0.9 * _SIGMA),
        denoised_prior=x,
        denoised_posterior=x + 0.1 * noise,
        sample=x - 0.1 * noise if inferer.estimation.crossed else None,
        noise=noise,
    )
    moved = partial(squared_move, step, lowpass_px=inferer.reading.lowpass_px, noise_px=inferer.reading.noise_px)
    per_pass: dict[str, Task] = {"noise": partial(generator.normal, x), "low-pass, regression on noise": moved}
    per_slice: dict[str, Task] = {"smoothing": partial(smooth, x, sigma_px=inferer.reading.smoothing_px)}
    for measurement, settings in reversed(subject.measurements.items()):
        measured = subject.parser(**settings).get_parsed_content("inferer")
        per_slice[f"measure, {measurement}"] = partial(measured.measure, x, generator=generator)
        per_pass[f"posterior, {measurement}"] = _posterior_step(measured, x, x + _SIGMA * noise, generator)
    with as_in_a_pass():
        costs = least_costs(per_pass | per_slice, tries=subject.tries, device=subject.device)
    return [Row(what, cost / len(x), "pass" if what in per_pass else "slice") for what, cost in costs.items()]


def _posterior_step(inferer: KLIPInferer, x: torch.Tensor, noisy: torch.Tensor, generator: SliceGenerator) -> Task:
    """The posterior denoiser around a prior that costs nothing."""
    measurement = inferer.measure(x, generator=generator)
    posterior = ConjugateGradientPosterior(
        lambda x, sigma: x,
        inferer.measured.operator,
        measurement.y,
        noise_std=measurement.std,
        data_std=inferer.sampling.data_std,
        iterations=inferer.sampling.cg_iterations,
    )
    return partial(posterior, noisy, _SIGMA)


def _around_it(subject: Subject) -> list[Row]:
    volume, standard = subject.volume, subject.standard
    noise = SliceGenerator(0, range(len(standard.images))).normal(standard.images)
    maps = smooth(noise.square(), sigma_px=subject.inferer.reading.smoothing_px) * standard.body
    on_source = to_source_grid(maps, standard.placement)
    ct, heatmap, affine = volume[0].numpy(), on_source[0].numpy(), on_source.affine
    labels = sum((heatmap > threshold).astype("uint8") for threshold in _THRESHOLDS)
    with TemporaryDirectory() as name, as_in_a_pass():
        folder = Path(name)
        tasks: dict[str, Task] = {
            "to the prior's grid": partial(standard_slices, volume, standard.placement.grid),
            "to the scan's grid": partial(to_source_grid, maps, standard.placement),
            "write heat map": partial(write_heatmap, folder / "heatmap.nii.gz", heatmap, affine),
            "write labels": partial(write_labels, folder / "labels.nii.gz", labels, affine),
            "write segmentation": partial(write_segmentation, folder / "overlay.seg.nrrd", labels, affine),
        }
        costs = least_costs(tasks, tries=subject.tries)
        shown = Shown(ct, heatmap, labels, affine, _THRESHOLDS)
        picture = {"title": "benchmark", "thresholds": _THRESHOLDS}
        preview = partial(write_preview, folder / "preview.png", shown, **picture)  # type: ignore[arg-type]
        drawn = least_costs({"write preview": preview}, tries=subject.tries)
    rows = [Row(what, cost / len(maps), "slice") for what, cost in costs.items()]
    return rows + [Row(what, cost, "scan") for what, cost in drawn.items()]


def _start(subject: Subject) -> Row:
    arguments = ["-c", _START, str(subject.bundle.root)]
    runs = [run_python(THIS, arguments, threads=subject.threads) for _ in range(subject.repeats)]
    return Row("start: imports, bundle", reduce(Cost.least, (run.cost for run in runs)), "run")
