"""The report of a case as one HTML page: no script, nothing from the network, one A4 page when printed."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from klip_monai.io.write.segments import SEGMENTS
from klip_monai.report.case_report import CaseReport, Picture
from klip_monai.report.pictures import WINDOW_LEVEL_HU, WINDOW_WIDTH_HU, panel, write_png

_DPI = 140
_LARGE, _SMALL = (4.0, 3.4), (2.4, 2.04)  # inches
_FONT = 7.5  # points
_INK = "#010203"  # stands for the page's own colour of text, light or dark

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --card: #f4f6f8; --text: #1b2129; --muted: #5b6672; --line: #d9dee4;
  --notice: #8a4b00; --notice-card: #fff3e0; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #0d1014; --card: #171c22; --text: #e9edf1;
  --muted: #9aa5b1; --line: #2a3038; --notice: #ffb74d; --notice-card: #2b2013; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 14px/1.4 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 20px 24px; }
header { display: flex; justify-content: space-between; align-items: baseline; gap: 16px; flex-wrap: wrap; }
h1 { font-size: 24px; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 13px; margin: 0 0 4px; color: var(--muted); font-weight: 600; }
.muted, figcaption { color: var(--muted); }
.notice { background: var(--notice-card); color: var(--notice); border-radius: 6px; padding: 5px 12px;
  margin: 8px 0 10px; font-weight: 600; }
.remark { font-weight: 400; margin: 2px 0 0; }
.row { display: grid; gap: 10px; margin-bottom: 10px; }
.figures { grid-template-columns: repeat(4, minmax(0, 1fr)); }
.planes { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.next { grid-template-columns: repeat(5, minmax(0, 1fr)); }
.halves { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 20px; }
.tables { grid-template-columns: minmax(0, 11fr) minmax(0, 9fr); gap: 20px; }
.tables section { min-width: 0; }
.card { background: var(--card); border-radius: 6px; padding: 8px 12px; min-width: 0; }
.card strong { display: block; font-size: 22px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { display: block; font-size: 12px; color: var(--muted); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 12px; }
img, svg { display: block; width: 100%; height: auto; border-radius: 4px; }
i { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .35em; }
table { border-collapse: collapse; width: 100%; font-size: 12px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 2px 8px 2px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
thead th { color: var(--muted); font-weight: 600; overflow-wrap: normal; }
tbody th { font-weight: 600; width: 23%; overflow-wrap: normal; }
.number { text-align: right; white-space: nowrap; }
.place { white-space: nowrap; }
.note { color: var(--muted); font-size: 12px; margin: 5px 0 0; }
.wide { overflow-x: auto; }
@media screen and (max-width: 760px) { .figures, .halves { grid-template-columns: 1fr 1fr; }
  .planes, .next, .halves, .tables { grid-template-columns: 1fr; } }
@page { size: A4; margin: 9mm 10mm; }
@media print { * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10px; line-height: 1.3; } main { max-width: none; padding: 0; }
  h1 { font-size: 17px; } h2 { font-size: 10px; } .row { gap: 6px; margin-bottom: 7px; } .halves, .tables { gap: 14px; }
  .card strong { font-size: 15px; } .card { padding: 4px 8px; }
  .card span, figcaption, table, .note { font-size: 8.5px; }
  .notice { padding: 3px 8px; margin: 4px 0 6px; } th, td { padding: 1px 6px 1px 0; }
  .row { break-inside: avoid; } }
"""


def write_html_report(path: str | Path, report: CaseReport) -> Path:
    """Write a report as one HTML file that needs nothing else.

    Args:
        path: file to write.
        report: its content. All text of it is escaped.

    Returns:
        The path written.
    """
    path = Path(path)
    path.write_text(_page(report), encoding="utf-8")
    return path


def _page(report: CaseReport) -> str:
    name, notice = escape(report.summary.name), escape(report.summary.notice)
    remarks = "".join(f'<p class="remark">{escape(remark)}</p>' for remark in report.summary.remarks)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{name} - KLIP report</title>
<style>{_STYLE}</style>
</head>
<body><main>
<header><h1>{name}</h1><div class="muted">KLIP report, {report.written:%Y-%m-%d %H:%M} UTC</div></header>
<div class="notice" role="note">{notice}{remarks}</div>
{_figures(report)}
{_pictures(report)}
<div class="row halves">
{
        _plot(
            report.draw_profile,
            "Highest density of each slice",
            "on the grid of the scan; dashed: thresholds",
            size=(5.2, 1.75),
        )
    }
{
        _plot(
            report.draw_standing,
            "Among the healthy scans of the ID reference",
            "on the grid of the prior; strokes: healthy scans; dashed: threshold of strongly suspicious",
            size=(5.2, 1.75),
        )
    }
</div>
<div class="row tables"><section>{_candidates(report)}</section><section>{_provenance(report)}</section></div>
</main></body>
</html>
"""


def _figures(report: CaseReport) -> str:
    cards = (
        f'<div class="card"><h2>{escape(name)}</h2><strong>{escape(value)}</strong><span>{escape(note)}</span></div>'
        for name, value, note in report.figures
    )
    return f'<div class="row figures">{"".join(cards)}</div>'


def _pictures(report: CaseReport) -> str:
    scale = _svg(
        lambda axes: report.draw_colours(axes, ink=_INK, fontsize=_FONT),
        size=(10.4, 0.42),
        place=(0.03, 0.42, 0.94, 0.34),
    )
    convention = f"W {WINDOW_WIDTH_HU:.0f}, L {WINDOW_LEVEL_HU:.0f} HU; patient right at picture left"
    if report.is_oblique:
        convention += "; oblique scan, planes and letters are the closest"
    planes = "".join(_png(report, picture, _LARGE, size=0.85) for picture in report.planes)
    following = "".join(_png(report, picture, _SMALL, size=0.6) for picture in report.next_slices)
    return f"""<section>
<h2>Worst voxel, {escape(report.worst_place)}</h2>
<div class="row planes">{planes}</div>
<figure class="row" role="img" aria-label="scale of colours">{scale}
<figcaption>Heat map: KL density, {escape(report.unit)}. Contours and marks: {_key()}. {convention}.</figcaption>
</figure>
{f'<h2>Next worst slices</h2><div class="row next">{following}</div>' if following else ""}
</section>"""


def _key() -> str:
    """Names of the segments with their colours."""
    return ", ".join(
        f'<i style="background:{to_hex(segment.rgb)}"></i>{escape(segment.name.lower())}' for segment in SEGMENTS
    )


def _png(report: CaseReport, picture: Picture, inches: tuple[float, float], *, size: float) -> str:
    """One slice as an image element."""
    figure = Figure(figsize=inches, dpi=_DPI)
    report.draw_picture(panel(figure, (0, 0, 1, 1)), picture, size=size)
    stream = io.BytesIO()
    write_png(figure, stream)
    data = base64.b64encode(stream.getvalue()).decode()
    width, height = (round(length * _DPI) for length in inches)
    text = escape(f"{picture.plane} slice, {picture.rank}", quote=True)
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{text}">'


def _plot(draw: Callable[..., None], title: str, note: str, *, size: tuple[float, float]) -> str:
    graph = _svg(lambda axes: draw(axes, ink=_INK, fontsize=_FONT), size=size, place=(0.085, 0.24, 0.895, 0.72))
    return (
        f'<figure role="img" aria-label="{escape(title, quote=True)}"><h2>{escape(title)}</h2>{graph}'
        f"<figcaption>{escape(note)}</figcaption></figure>"
    )


def _svg(draw: Callable[[Axes], None], *, size: tuple[float, float], place: tuple[float, float, float, float]) -> str:
    """A drawing as an SVG element whose ink is the page's colour of text."""
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "klip"}):
        figure = Figure(figsize=size)
        figure.patch.set_alpha(0)
        draw(figure.add_axes(place))
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(stream, metadata=nothing)
    text = stream.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def _candidates(report: CaseReport) -> str:
    if not report.candidates:
        return "<h2>Candidates</h2><p>No suspicious voxel.</p>"
    kinds = ["place" if "mm" in name else "number" for name in report.candidate_columns]
    head = _cells("th", report.candidate_columns, kinds)
    rows = "".join(
        f'<tr><td class="place"><i style="background:{colour}"></i>{texts[0]}</td>'
        f"{_cells('td', texts[1:], kinds[1:])}</tr>"
        for colour, texts in report.candidates
    )
    heading, meaning = report.candidates_in_words
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<h2>{heading}</h2><div class="wide">{table}</div><p class="note">{escape(meaning)}</p>'


def _cells(tag: str, texts: Sequence[str], kinds: Sequence[str]) -> str:
    return "".join(f'<{tag} class="{kind}">{escape(text)}</{tag}>' for text, kind in zip(texts, kinds, strict=True))


def _provenance(report: CaseReport) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in report.provenance)
    return f"<h2>Provenance</h2><table><tbody>{rows}</tbody></table>"
