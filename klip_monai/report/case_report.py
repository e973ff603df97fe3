"""What the report of a case says and shows, for every format that it is written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_hex
from matplotlib.ticker import LogLocator

from klip_monai.io.write.segments import SEGMENTS, STRONGLY_SUSPICIOUS
from klip_monai.report.pictures import OBLIQUE_DEGREES, draw_scale, draw_slice
from klip_monai.report.preview_geometry import Plane, PreviewScan, short_ras_text
from klip_monai.report.summary import Summary

_SEPARATION_MM = 15.0
_NEXT_SLICES = 5
_ROWS = 10  # of the table of candidates
_SCAN_COLOUR = "#1f9e89"


class Picture(NamedTuple):
    """One slice to show: its plane, its number along the plane's normal, and what it is in a word or two."""

    plane: Plane
    number: int
    rank: str


class KeyFigure(NamedTuple):
    """One number of the heading: its name, its value with unit, and what to compare it with."""

    name: str
    value: str
    note: str


class CandidateRow(NamedTuple):
    """One candidate: the colour of its label as #rrggbb, and its texts, one for each column."""

    colour: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class CaseReport:
    """Content of a report.

    Attributes:
        scan: CT, heat map and labels.
        summary: what was found, with timings.
        healthy_scores: scan scores of the ID reference, ascending, in the unit of the heat map.
        scale: heat map values shown as transparent and as the last colour.
        unit: of the heat map, in a few words.
        written: when, in UTC.
    """

    scan: PreviewScan
    summary: Summary
    healthy_scores: tuple[float, ...]
    scale: tuple[float, float]
    unit: str
    written: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def planes(self) -> list[Picture]:
        """The worst voxel in three planes."""
        i, j, k = self.scan.worst_voxel
        return [Picture("axial", k, "worst"), Picture("coronal", j, "worst"), Picture("sagittal", i, "worst")]

    @property
    def worst_place(self) -> str:
        """Where the worst voxel is, RAS mm with letters."""
        return self.scan.ras(self.scan.worst_voxel)

    @property
    def is_oblique(self) -> bool:
        """Whether planes and letters are only the closest ones."""
        return self.scan.tilt_degrees > OBLIQUE_DEGREES

    @property
    def next_slices(self) -> list[Picture]:
        """The next worst axial slices, at a distance from those before."""
        slices = self.scan.worst_axial_slices(1 + _NEXT_SLICES, separation_mm=_SEPARATION_MM)
        return [Picture("axial", k, f"no. {rank}") for rank, k in enumerate(slices[1:], start=2)]

    @property
    def standing(self) -> str:
        """Where the scan stands among the healthy ones, in words."""
        below = sum(score < self.summary.scan_score for score in self.healthy_scores)
        share = "all" if below == len(self.healthy_scores) else below
        return f"above {share} of {self.summary.thresholds.healthy}"

    @property
    def figures(self) -> list[KeyFigure]:
        """The numbers to see first."""
        summary = self.summary
        low, high = summary.thresholds.healthy_score_range
        volumes = [
            KeyFigure(segment.name, f"{summary.volume_ml[segment.name]:.1f} ml", f"from {threshold:.3g}")
            for segment, threshold in zip(SEGMENTS, self.thresholds, strict=True)
        ]
        return [
            KeyFigure("Scan score", f"{summary.scan_score:.3g}", f"{self.unit}; healthy scans {low:.3g} to {high:.3g}"),
            KeyFigure("p-value", f"{summary.p_value:.3f}", self.standing),
            *volumes,
        ]

    @property
    def thresholds(self) -> tuple[float, float]:
        """Heat map values from which a voxel is suspicious and strongly suspicious."""
        return self.summary.thresholds.suspicious, self.summary.thresholds.strong

    @property
    def candidates(self) -> list[CandidateRow]:
        """Rows of the table of candidates, the first ones, under :attr:`candidate_columns`."""
        colours = {segment.value: to_hex(segment.rgb) for segment in SEGMENTS}
        return [
            CandidateRow(
                colours[candidate.label],
                (
                    str(candidate.rank),
                    str(candidate.slice),
                    short_ras_text(candidate.peak_ras_mm),
                    f"{candidate.volume_ml:.1f}",
                    " x ".join(f"{side:.0f}" for side in candidate.extent_mm),
                    f"{candidate.peak:#.3g}",
                    f"{candidate.mean:#.3g}",
                    f"{candidate.p:.3f}",
                    *([] if candidate.q is None else [f"{candidate.q:.2g}"]),
                ),
            )
            for candidate in self.summary.candidates[:_ROWS]
        ]

    @property
    def candidate_columns(self) -> tuple[str, ...]:
        """Headings of the table of candidates; without q where the ID reference does not tell it."""
        known = self.summary.candidates[0].q is not None
        return ("", "slice", "place, mm", "ml", "R x A x S, mm", "peak", "mean", "p", *(["q"] if known else []))

    @property
    def candidates_in_words(self) -> tuple[str, str]:
        """How many candidates there are, for a heading, and what the numbers of their table mean."""
        count, shown = self.summary.candidate_count, len(self.candidates)
        heading = f"Candidates, the highest {f'{shown} of {count}' if count > shown else 'first'}"
        place = "Slices count from 0; place: of the peak; R x A x S: sides of the box around it."
        return heading, f"{place} Peak, mean: {self.unit}. {self.summary.p_and_q}"

    @property
    def provenance(self) -> list[tuple[str, str]]:
        """How the result came about: names and values."""
        summary, origin, region = self.summary, self.summary.provenance, self.summary.region
        source, reference, settings = summary.source, summary.thresholds, origin.settings
        rows = {
            "Prior": f"{origin.bundle} {origin.bundle_version}",
            "Intended use": origin.intended_use,
            "Weights": f"SHA-256 {settings['weights_sha256'][:16]}" if "weights_sha256" in settings else "",
            "Settings": f"key {origin.key}" if origin.key else "",
            "Measurement": _measurement(settings.get("operator", {})),
            "Estimator": _estimator(settings),
            "Preset": origin.preset or "",
            "Computed": f"{origin.device}, {origin.precision}, seed {origin.seed}",
            "ID reference": f"{reference.healthy_scans} scans of {reference.healthy_people} people, "
            f"{reference.slices_per_healthy_scan} slices in the median, "
            f"{reference.description}",
            "Scan": f"{source.format}, {' x '.join(map(str, source.shape))} voxels of "
            f"{' x '.join(f'{mm:.3g}' for mm in source.spacing_mm)} mm",
            "Region": ""
            if region is None
            else f"{region.volume_ml:.1f} ml, {region.voxels} voxels, mask SHA-256 {region.mask_sha256[:16]}",
            "Time": ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.timings_s.items()),
            "Software": ", ".join(f"{name} {version}" for name, version in summary.versions.items()),
            "Written": f"{self.written:%Y-%m-%d %H:%M:%S} UTC",
        }
        return [(name, value) for name, value in rows.items() if value]

    @cached_property
    def _box(self) -> tuple[slice, slice, slice]:
        return self.scan.body_box()

    @property
    def _colours(self) -> Normalize:
        return Normalize(*self.scale, clip=True)

    def draw_picture(self, axes: Axes, picture: Picture, *, size: float) -> None:
        """Draw a slice in a cell; `size` is that of its letters, see :func:`klip_monai.report.pictures.draw_slice`."""
        draw_slice(
            axes,
            self.scan,
            picture.plane,
            picture.number,
            self._colours,
            box=self._box,
            rank=picture.rank,
            size=size,
            guides=picture in self.planes,
        )

    def draw_colours(self, axes: Axes, *, ink: str, fontsize: float) -> None:
        """Draw the scale of colours, wide and low; `ink` is the colour of its numbers, `fontsize` in points."""
        draw_scale(axes, self._colours, thresholds=self.thresholds, ink=ink, fontsize=fontsize)

    def draw_profile(self, axes: Axes, *, ink: str, fontsize: float) -> None:
        """Draw the highest density of each slice, with the thresholds."""
        scores = np.asarray(self.summary.slice_scores)
        slices = np.arange(scores.size)
        worst = self.summary.worst.voxel[2]
        axes.fill_between(slices, scores, color=_SCAN_COLOUR, alpha=0.25, linewidth=0)
        axes.plot(slices, scores, color=_SCAN_COLOUR, linewidth=1.4)
        axes.plot([worst], [scores[worst]], "o", color=_SCAN_COLOUR, markersize=4)
        for segment, threshold in zip(SEGMENTS, self.thresholds, strict=True):
            axes.axhline(threshold, color=segment.rgb, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_xlim(0, max(scores.size - 1, 1))
        axes.set_ylim(0, 1.08 * max(float(scores.max()), self.thresholds[1]))
        axes.set_xlabel("slice", color=ink, fontsize=fontsize)
        axes.set_ylabel(self.unit, color=ink, fontsize=fontsize)
        _plain_axes(axes, ink, fontsize, hidden=("top", "right"))

    def draw_standing(self, axes: Axes, *, ink: str, fontsize: float) -> None:
        """Draw the scores of the healthy scans as strokes, and that of this scan, on one line."""
        score, healthy = self.summary.scan_score, np.asarray(self.healthy_scores)
        lowest, highest = min(score, healthy[0]), max(score, healthy[-1])
        if lowest > 0:
            margin = 1.02 * (highest / lowest) ** 0.06
            axes.set_xscale("log", subs=[])
            axes.set_xlim(lowest / margin, highest * margin)
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.axvspan(healthy[0], healthy[-1], color=ink, alpha=0.07, linewidth=0)
        axes.plot(healthy, np.zeros_like(healthy), "|", color=ink, markersize=16, markeredgewidth=1, alpha=0.6)
        axes.axvline(self.thresholds[1], color=STRONGLY_SUSPICIOUS.rgb, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.plot([score], [0.42], "v", color=_SCAN_COLOUR, markersize=8)
        axes.plot([score, score], [-0.5, 0.3], color=_SCAN_COLOUR, linewidth=1.6)
        to_the_right = axes.transLimits.transform(axes.transScale.transform((score, 0)))[0] < 0.5
        axes.annotate(
            f"this scan {score:.3g}",
            (score, 0.42),
            xytext=(7 if to_the_right else -7, 0),
            textcoords="offset points",
            color=ink,
            fontsize=1.1 * fontsize,
            weight="bold",
            va="center",
            ha="left" if to_the_right else "right",
        )
        axes.set_ylim(-0.5, 0.75)
        axes.set_yticks([])
        axes.set_xlabel(f"scan score, {self.unit}", color=ink, fontsize=fontsize)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        _plain_axes(axes, ink, fontsize, hidden=("top", "right", "left"))


def _plain_axes(axes: Axes, ink: str, fontsize: float, *, hidden: tuple[str, ...]) -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=ink, labelsize=fontsize, which="both")
    for side, spine in axes.spines.items():
        spine.set_visible(side not in hidden)
        spine.set_color(ink)
        spine.set_linewidth(0.6)


def _measurement(operator: Mapping[str, Any]) -> str:
    """An operator's description in a few words."""
    geometry = operator.get("geometry")
    if geometry is None:
        return str(operator.get("type", ""))
    return f"{geometry['type']}, {geometry['views']} views over {geometry['angle_range']:g} degrees"


def _estimator(settings: Mapping[str, Any]) -> str:
    if "window" not in settings:
        return ""
    window = settings["window"]
    twins = f", {settings['twins']} twins" if settings.get("twins") else ""
    return f"{settings['estimator']}{twins}, noise levels {window['high']:g} to {window['low']:g}"
