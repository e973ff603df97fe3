"""The report of a case as a PDF of one A4 page."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from klip_monai.io.write.segments import SEGMENTS
from klip_monai.report.case_report import CandidateRow, CaseReport, Picture
from klip_monai.report.pictures import WINDOW_LEVEL_HU, WINDOW_WIDTH_HU, panel

_WIDTH, _HEIGHT = 210.0, 297.0  # mm
_LEFT, _RIGHT, _TOP, _GAP = 11.0, 199.0, 10.0, 2.5
_INK, _MUTED, _CARD, _LINE = "#1b2129", "#5b6672", "#f4f6f8", "#d9dee4"
_NOTICE, _NOTICE_CARD = "#8a4b00", "#fff3e0"
_PICTURE_DPI = 200
_FONT = 5.5  # points, of the graphs
_ROW = 3.7  # mm from line to line of small print
_MAX_LINES = 4
_SPLIT = 116.0  # mm, between candidates and provenance
# Of candidates: rank, slice, place, ml, box, peak, mean, p, q; mm from the left, and what stands there.
_COLUMNS = tuple(
    zip(
        (6.0, 13.0, 15.0, 45.5, 48.0, 73.5, 82.0, 91.5, 101.5),
        ("right", "right", "left", "right", "left", "right", "right", "right", "right"),
        strict=True,
    )
)
_MM_PER_LETTER = 1.34  # of small print, on the safe side


class _Page:
    """An A4 page that is filled from top to bottom; places are in mm from the upper left corner."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(_WIDTH / 25.4, _HEIGHT / 25.4), dpi=_PICTURE_DPI, facecolor="white")

    def place(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        return left / _WIDTH, 1 - (top + height) / _HEIGHT, width / _WIDTH, height / _HEIGHT

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        return self.figure.add_axes(self.place(left, top, width, height))

    def box(self, left: float, top: float, width: float, height: float, colour: str) -> None:
        x, y, w, h = self.place(left, top, width, height)
        self.figure.add_artist(Rectangle((x, y), w, h, facecolor=colour, edgecolor="none", zorder=-1))

    def text(
        self,
        left: float,
        top: float,
        text: str,
        *,
        size: float,
        colour: str = _INK,
        bold: bool = False,
        ha: str = "left",
    ) -> None:
        weight = "bold" if bold else "normal"
        place = (left / _WIDTH, 1 - top / _HEIGHT)
        # Text of data is no mathematics, so that a dollar sign in it is one.
        self.figure.text(*place, text, fontsize=size, color=colour, weight=weight, ha=ha, va="top", parse_math=False)

    def rule(self, left: float, top: float, width: float) -> None:
        self.box(left, top, width, 0.2, _LINE)


def pdf_report(report: CaseReport) -> bytes:
    """Draw a report on one A4 page.

    Args:
        report: its content.

    Returns:
        The PDF file.
    """
    page = _Page()
    top = _heading(page, report)
    top = _pictures(page, report, top)
    top = _graphs(page, report, top)
    _candidates(page, report, top)
    _provenance(page, report, top, left=_SPLIT + _GAP)
    stream = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        title = f"{report.summary.name}, KLIP report"
        about = {"Title": title, "Creator": "klip_monai", "Producer": None, "CreationDate": report.written}
        FigureCanvasPdf(page.figure).print_pdf(stream, metadata=about)
    return stream.getvalue()


def _heading(page: _Page, report: CaseReport) -> float:
    """Name, time, notice with remarks, and the numbers to see first; gives where it ends."""
    page.text(_LEFT, _TOP, textwrap.shorten(report.summary.name, 60), size=15, bold=True)
    page.text(
        _RIGHT, _TOP + 1.5, f"KLIP report, {report.written:%Y-%m-%d %H:%M} UTC", size=8, colour=_MUTED, ha="right"
    )
    lines = [line for remark in report.summary.remarks for line in textwrap.wrap(remark, 140)]
    top, height = _TOP + 9.0, 5.6 + _ROW * len(lines)
    page.box(_LEFT, top, _RIGHT - _LEFT, height, _NOTICE_CARD)
    page.text(_LEFT + 2, top + 1.4, report.summary.notice, size=8, colour=_NOTICE, bold=True)
    for number, line in enumerate(lines):
        page.text(_LEFT + 2, top + 5.4 + _ROW * number, line, size=6.5, colour=_NOTICE)
    top += height + _GAP
    width = (_RIGHT - _LEFT + _GAP) / len(report.figures) - _GAP
    for number, (name, value, note) in enumerate(report.figures):
        left = _LEFT + number * (width + _GAP)
        page.box(left, top, width, 16.5, _CARD)
        page.text(left + 2, top + 1.5, name, size=7, colour=_MUTED, bold=True)
        page.text(left + 2, top + 4.6, value, size=12, bold=True)
        for row, line in enumerate(_wrapped(note, width - 4)[:2]):
            page.text(left + 2, top + 10.2 + 2.9 * row, line, size=6, colour=_MUTED)
    return top + 16.5 + _GAP


def _pictures(page: _Page, report: CaseReport, top: float) -> float:
    page.text(_LEFT, top, f"Worst voxel, {report.worst_place}", size=7, colour=_MUTED, bold=True)
    top = _row(page, report, report.planes, top + 4, columns=3, height=52.0, size=0.6)
    report.draw_colours(page.axes(_LEFT + 6, top + 2.4, _RIGHT - _LEFT - 12, 2.4), ink=_INK, fontsize=_FONT)
    left, below = _LEFT, top + 9.8
    for segment in SEGMENTS:
        page.box(left, below + 0.3, 2, 2, to_hex(segment.rgb))
        page.text(left + 3, below, segment.name.lower(), size=6, colour=_MUTED)
        left += 5 + 1.25 * len(segment.name)
    convention = f"Heat map: KL density, {report.unit}. W {WINDOW_WIDTH_HU:.0f}, L {WINDOW_LEVEL_HU:.0f} HU. "
    convention += "Patient right at picture left."
    convention += " Oblique scan: planes and letters are the closest." if report.is_oblique else ""
    page.text(_RIGHT, below, convention, size=6, colour=_MUTED, ha="right")
    top = below + 5
    if report.next_slices:
        page.text(_LEFT, top, "Next worst slices", size=7, colour=_MUTED, bold=True)
        top = _row(page, report, report.next_slices, top + 4, columns=5, height=30.0, size=0.34)
    return top


def _row(
    page: _Page,
    report: CaseReport,
    pictures: Sequence[Picture],
    top: float,
    *,
    columns: int,
    height: float,
    size: float,
) -> float:
    width = (_RIGHT - _LEFT + 1.5) / columns - 1.5
    for column, picture in enumerate(pictures):
        place = page.place(_LEFT + column * (width + 1.5), top, width, height)
        report.draw_picture(panel(page.figure, place), picture, size=size)
    return top + height + _GAP


def _graphs(page: _Page, report: CaseReport, top: float) -> float:
    middle = (_LEFT + _RIGHT) / 2
    page.text(_LEFT, top, "Highest density of each slice; dashed: thresholds", size=7, colour=_MUTED, bold=True)
    report.draw_profile(page.axes(_LEFT + 8, top + 5, middle - _LEFT - _GAP - 9, 21), ink=_INK, fontsize=_FONT)
    page.text(
        middle + _GAP,
        top,
        "Among the healthy scans; dashed: strong threshold",
        size=7,
        colour=_MUTED,
        bold=True,
    )
    report.draw_standing(
        page.axes(middle + _GAP + 2, top + 5, _RIGHT - middle - _GAP - 4, 21), ink=_INK, fontsize=_FONT
    )
    return top + 35


def _candidates(page: _Page, report: CaseReport, top: float) -> None:
    width = _SPLIT - _LEFT - _GAP
    heading, meaning = report.candidates_in_words if report.candidates else ("Candidates", "No suspicious voxel.")
    page.text(_LEFT, top, heading, size=7, colour=_MUTED, bold=True)
    top += 4.2
    for row in (CandidateRow("", report.candidate_columns), *report.candidates) if report.candidates else ():
        if row.colour:
            page.box(_LEFT, top + 0.3, 1.8, 1.8, row.colour)
        for text, (left, align) in zip(row.texts, _COLUMNS, strict=False):
            colour = _INK if row.colour else _MUTED
            page.text(_LEFT + left, top, text, size=6.5, ha=align, bold=not row.colour, colour=colour)
        page.rule(_LEFT, top + 3.2, width)
        top += _ROW
    for line in _wrapped(meaning, width):
        page.text(_LEFT, top + 0.8, line, size=6.5, colour=_MUTED)
        top += 2.9


def _provenance(page: _Page, report: CaseReport, top: float, *, left: float) -> None:
    page.text(left, top, "Provenance", size=7, colour=_MUTED, bold=True)
    top += 4.2
    for name, value in report.provenance:
        page.text(left, top, name, size=6.5, bold=True)
        lines = _wrapped(value, _RIGHT - left - 22)
        for number, line in enumerate(lines):
            page.text(left + 22, top + 2.9 * number, line, size=6.5)
        top += _ROW + 2.9 * (len(lines) - 1)
        page.rule(left, top - 0.5, _RIGHT - left)


def _wrapped(text: str, width_mm: float) -> list[str]:
    """Lines of small print; a text of more than a few is cut, so that the page holds all others."""
    return textwrap.wrap(text, int(width_mm / _MM_PER_LETTER), max_lines=_MAX_LINES, placeholder=" ...")
