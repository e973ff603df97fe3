"""The whole inferer at each of the bundle's presets, where the slice itself is measured and where little is."""

from __future__ import annotations

from functools import partial

from klip_monai.benchmarks.cost import Row
from klip_monai.benchmarks.subject import Subject
from klip_monai.benchmarks.timing import least_costs
from klip_monai.inferer import KLIPInferer


def measure(subject: Subject) -> list[Row]:
    """A row for each measurement and preset; all threads."""
    inferers = _inferers(subject)
    fewest = min(inferers.values(), key=lambda inferer: inferer.passes)
    fewest(subject.images, subject.network)  # what is built once
    tasks = {what: partial(inferer, subject.images, subject.network) for what, inferer in inferers.items()}
    costs = least_costs(tasks, tries=subject.repeats, device=subject.device)
    return [
        Row(
            what,
            costs[what] / len(subject.images),
            "slice",
            f"{inferer.passes} passes",
            {"passes": inferer.passes, "slices": len(subject.images)},
        )
        for what, inferer in inferers.items()
    ]


def _inferers(subject: Subject) -> dict[str, KLIPInferer]:
    """An inferer for each measurement and preset; those of one measurement share its operator, which may be large."""
    inferers: dict[str, KLIPInferer] = {}
    for measurement, settings in reversed(subject.measurements.items()):
        operator = None
        for preset in subject.presets:
            chosen = settings if preset is None else {"preset": preset, **settings}
            inferer: KLIPInferer = subject.parser(**chosen).get_parsed_content("inferer")
            operator = operator or inferer.measured.operator
            what = measurement if preset is None else f"{preset}, {measurement}"
            inferers[what] = inferer.changed(operator=operator)
    return inferers
