"""The report of a screening: one HTML file that opens anywhere, with nothing to fetch."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from klip_monai import __version__
from klip_monai.io.write.atomic import publish
from klip_monai.report.summary import NOTICE, candidate_in_words
from klip_monai.scan.output_files import file_names
from klip_monai.scoring import Candidate, IDReference
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.report_figures import Histogram, Threshold
from klip_monai.screening.report_rows import Row, Rows, Work, script_json
from klip_monai.screening.thumbnail import thumbnail

_STATIC_ROWS = 50
_LISTED = 5  # reasons of each group that can be read without JavaScript
_CANDIDATES = 3  # listed of a scan


def write_report(
    entries: Iterable[Entry],
    path: str | Path,
    *,
    reference: IDReference,
    cases_dir: str | Path,
    provenance: Mapping[str, Any],
    false_alarm_rate: float = 0.05,
    unit: str = "nats per pixel",
    thumbnails: int = 200,
    made: datetime | None = None,
) -> Path:
    """Write what a screening found as one HTML file.

    It holds the counts by state, the scores against those of healthy scans, a table of all series that can be sorted
    and filtered, the reasons of those not scored, the throughput and the settings. It carries nothing that the entries
    do not, loads nothing, and shows the highest scans without JavaScript as well.

    Args:
        entries: of the screening, in any order; read once.
        path: HTML file to write.
        reference: ID reference that the scores are compared with.
        cases_dir: folder that the entries' ``case_dir`` are relative to; linked to, and searched for previews and
            summaries.
        provenance: bundle, version and settings, as :func:`klip_monai.bundle.provenance` gives them.
        false_alarm_rate: share of healthy scans that may be called; sets the threshold that is drawn.
        unit: of the scan scores.
        thumbnails: how many of the highest scans get a picture and a list of their candidates, about 6 kB each.
        made: time of the report; now if not given.

    Returns:
        The path written. With 10^5 entries it has about 15 MB.

    Raises:
        InputError: a rate that is not between 0 and 1.
        OutputError: if the file cannot be written.
    """
    path, cases_dir = Path(path), Path(cases_dir)
    threshold = Threshold.of(reference, false_alarm_rate)
    rows = Rows.of(entries)
    scored = rows.scored
    scores = [row.score for row in scored if row.score is not None]
    beyond = sum(score > threshold.score for score in scores)
    with ThreadPoolExecutor() as threads:
        pictures = list(threads.map(lambda row: thumbnail(_file(cases_dir, row, "preview")), scored[:thumbnails]))
        candidates = list(threads.map(lambda row: _candidates(_file(cases_dir, row, "summary")), scored[:thumbnails]))
    digits = {"score": _decimals(reference.scan_scores[-1]), "p": 3 if len(reference.scan_scores) < 1000 else 4}
    base = Path(os.path.relpath(cases_dir.absolute(), path.absolute().parent)).as_posix()
    links = "./" if base == "." else quote(base) + "/"
    data = rows.columns() | {
        "threshold": threshold.score if math.isfinite(threshold.score) else None,
        "digits": digits,
        "links": links,
        # The page takes the first pictures and lists from its static rows, so that the file holds each once.
        "pictures": pictures[_STATIC_ROWS:],
        "listed": candidates[_STATIC_ROWS:],
    }
    page = _environment().from_string(_text("page.html"))
    script, style = _text("table.js"), _text("style.css")
    html = page.render(
        notice=NOTICE,
        version=__version__,
        made=made or datetime.now(timezone.utc),
        provenance=provenance,
        settings=list(_flat(provenance)),
        reference=reference,
        unit=unit,
        rate=false_alarm_rate,
        threshold=threshold,
        beyond=beyond,
        expected=threshold.rate * len(scored),
        histogram=Histogram.of(scores, reference.scan_scores, threshold.score) if scores else None,
        total=len(rows.rows),
        counts={state.value: rows.states[state] for state in State},
        static_rows=list(
            zip_longest(scored[:_STATIC_ROWS], pictures[:_STATIC_ROWS], candidates[:_STATIC_ROWS], fillvalue="")
        ),
        scored=len(scored),
        groups=[(*key, count, rows.of_group(*key, _LISTED)) for key, count in rows.by_count()],
        work=rows.work,
        throughput=_throughput(rows.work, len(scored)),
        digits=digits,
        links=links,
        data=script_json(data),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        style=style,
    )
    with publish(path.parent, overwrite=True) as staging:
        (staging / path.name).write_text(html, encoding="utf-8", newline="\n")
    return path


def _file(cases_dir: Path, row: Row, kind: str) -> Path:
    return cases_dir / row.folder / file_names(row.name)[kind]


def _candidates(summary: Path) -> list[str]:
    """The first candidates of a scan in words; none where its summary cannot be read or tells none."""
    try:
        candidates = json.loads(summary.read_text(encoding="utf-8"))["candidates"]
        return [candidate_in_words(Candidate.from_json(told)) for told in candidates[:_CANDIDATES]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _environment() -> Environment:
    """Templates that escape whatever they are given."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["fixed"] = lambda number, digits: "\N{EN DASH}" if number is None else f"{number:.{digits}f}"
    environment.filters["percent"] = lambda share: f"{100 * share:.3g}\N{NO-BREAK SPACE}%"
    environment.filters["time"] = lambda when: when.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    environment.filters["moment"] = lambda seconds: environment.filters["time"](
        datetime.fromtimestamp(seconds, timezone.utc)
    )
    environment.filters["quote"] = quote
    return environment


def _text(name: str) -> str:
    """A file of the page."""
    return resources.files("klip_monai.screening").joinpath(f"report_page/{name}").read_text(encoding="utf-8")


def _throughput(work: Work, scored: int) -> list[tuple[str, str]]:
    """Figure and what it is."""
    spent = sum(work.seconds.values())
    figures = []
    if work.hours and scored:
        an_hour = scored / work.hours
        figures.append((f"{an_hour:,.0f}" if an_hour >= 100 else f"{an_hour:.3g}", "scans an hour"))
    if work.slices and spent:
        figures.append((f"{work.seconds['score'] / work.slices:.2g} s", "to score a slice"))
    if scored and spent:
        figures.append((f"{spent / scored:.3g} s", "a scan, on one worker"))
    if work.workers:
        figures.append((f"{work.workers:,}", "worker" if work.workers == 1 else "workers"))
    return figures


def _decimals(score: float) -> int:
    """Decimals that leave a score three digits."""
    return min(max(2 - math.floor(math.log10(abs(score))), 0), 6) if score else 2


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and values."""
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, item)) if isinstance(item, list | tuple) else str(item)
