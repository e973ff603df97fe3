"""What it saves that the network sees the body only."""

from __future__ import annotations

from functools import partial

from klip_monai.benchmarks.cost import Row
from klip_monai.benchmarks.subject import Subject
from klip_monai.benchmarks.timing import least_costs
from klip_monai.prior.within_body import boxes_of


def measure(subject: Subject) -> list[Row]:
    """Two rows: the bundle's inferer with boxes and without; all threads."""
    images, network = subject.images, subject.network
    pixels = images.shape[-2] * images.shape[-1]
    tasks, shares = {}, {}
    for what, margin in (("in boxes", subject.margin_px), ("whole slices", None)):
        inferer = subject.inferer.changed(body_margin_px=margin)
        inferer(images, network)  # what is built once
        tasks[what] = partial(inferer, images, network)
        boxes = boxes_of(images, network, margin_px=margin)
        shares[what] = sum(box.height * box.width for box in boxes) / (pixels * len(boxes))
    costs = least_costs(tasks, tries=subject.repeats, device=subject.device)
    return [
        Row(what, costs[what] / len(images), "slice", f"{100 * share:.0f} % of pixels", {"pixel_share": share})
        for what, share in shares.items()
    ]
