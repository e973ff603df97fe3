"""A pass of the network in float32 and bfloat16, in batches, on whole slices and in the box around a body."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import torch

from klip_monai.benchmarks.cost import Row
from klip_monai.benchmarks.subject import Subject
from klip_monai.benchmarks.timing import as_in_a_pass, least_costs
from klip_monai.errors import BundleError
from klip_monai.prior import Denoiser
from klip_monai.prior.precision import precision_of
from klip_monai.prior.within_body import Box, InBoxes, boxes_of

BATCHES = (1, 4, 8)
"""States of slices that pass the network together; a core is given up to 8."""

_SIGMA = 1.0


def measure(subject: Subject) -> list[Row]:
    """A row for each precision, batch and part of a slice, in turn within each try; one thread."""
    image = subject.standard.images[len(subject.standard.images) // 2][None].to(subject.device)
    whole = Box(0, 0, *image.shape[-2:])
    (box,) = boxes_of(image, subject.network, margin_px=subject.margin_px)
    parts = {"whole": whole} | ({"box": box} if box != whole else {})
    batches = BATCHES if subject.device.type == "cpu" else (*BATCHES, subject.inferer.batch_size)
    cases = {
        f"{name}, {rows} x {box.height} x {box.width}, {part}": (name, rows, partial(_pass, network, image, box, rows))
        for rows in batches
        for part, box in parts.items()
        for name, network in _networks(subject).items()
    }
    with as_in_a_pass():
        tasks = {what: task for what, (*_, task) in cases.items()}
        costs = least_costs(tasks, tries=subject.tries, device=subject.device)
    auto = precision_of(subject.network, subject.device)
    return [
        Row(what, costs[what] / rows, "pass", "taken by auto" if name == auto else "", {"rows": rows})
        for what, (name, rows, _) in cases.items()
    ]


def _networks(subject: Subject) -> dict[str, Denoiser]:
    """The network by its precision; float32 only where it has no other."""
    networks: dict[str, Denoiser] = {"float32": subject.parser(precision="float32").get_parsed_content("network")}
    with suppress(BundleError):
        networks["bfloat16"] = subject.parser(precision="bfloat16").get_parsed_content("network")
    return networks


def _pass(network: Denoiser, image: torch.Tensor, box: Box, rows: int) -> torch.Tensor:
    return InBoxes(network, [box] * rows, rows=rows)(image.expand(rows, -1, -1, -1), _SIGMA)
