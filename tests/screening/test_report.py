from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from datetime import datetime, timezone
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from screened import PROVENANCE, reference, screened

from klip_monai.errors import OutputError
from klip_monai.report.preview import write_preview
from klip_monai.report.shown import Shown
from klip_monai.scoring import Candidate
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.report import write_report
from klip_monai.screening.thumbnail import HEIGHT, WIDTH, thumbnail

ATTACK = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'"&<!--"""


def report(folder, entries, **kwargs) -> str:
    kwargs = {"reference": reference(), "cases_dir": folder, "provenance": PROVENANCE} | kwargs
    return write_report(entries, folder / "report.html", **kwargs).read_text(encoding="utf-8")


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def scored(name: str, score: float, **kwargs) -> Entry:
    healthy = reference()
    return Entry(name, State.scored, scan_score=score, p_value=healthy.p_value(score), case_dir=name, **kwargs)


def test_q_values_are_those_of_benjamini_and_hochberg(tmp_path):
    scores = [5.0, 0.22, 0.21, 0.19, 0.16]
    data = data_of(report(tmp_path, [scored(f"s{n}", score) for n, score in enumerate(scores)]))
    p = np.asarray(data["p"])
    ranked = p * len(p) / np.arange(1, len(p) + 1)
    np.testing.assert_allclose(data["q"], np.minimum.accumulate(ranked[::-1])[::-1], rtol=1e-5)


def test_entries_are_read_once_and_the_highest_come_first(tmp_path):
    html = report(tmp_path, screened(300, healthy=reference()))
    data = data_of(html)
    scores = [score for score in data["score"] if score is not None]
    assert scores == sorted(scores, reverse=True)
    assert len(data["name"]) == 300
    assert html.count('<td class="number score"') == 50


def test_reasons_are_counted_by_group_and_state(tmp_path):
    entries = [Entry(f"r{n}", State.refused, f"slice {n} is missing", "missing slices") for n in range(7)]
    entries += [Entry("f", State.failed, "ran out of memory", "out of memory"), Entry("p"), scored("s", 0.2)]
    html = report(tmp_path, entries)
    counts = re.findall(r'<span class="what">(.*?)</span>.*?<span class="number">(\d+)</span></summary>', html)
    assert counts == [("missing slices", "7"), ("out of memory", "1")]
    assert "slice 4 is missing</span>" in html
    assert "And 2 more." in html


def test_nothing_in_an_entry_becomes_markup(tmp_path):
    entries = [scored("s", 0.3, description=ATTACK, remarks=(ATTACK,)), Entry("r", State.refused, ATTACK, ATTACK)]
    html = report(tmp_path, entries, provenance=PROVENANCE | {"bundle": ATTACK, "settings": {ATTACK: ATTACK}})
    tags: list[tuple[str, dict]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append((tag, dict(attributes)))

    Tags().feed(html)
    assert [tag for tag, _ in tags].count("script") == 2
    assert not [tag for tag in tags if tag[0] == "img" or any(name.startswith("on") for name in tag[1])]
    assert ATTACK in data_of(html)["words"]


def test_only_the_page_s_own_script_may_run(tmp_path):
    html = report(tmp_path, [scored("s", 0.3)])
    script = re.search(r"<script>(.*?)</script>", html, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "default-src 'none'" in html
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html)


def test_links_lead_from_the_report_to_the_case(tmp_path):
    place = tmp_path / "out" / "reports"
    path = write_report(
        [scored("a b", 0.3)],
        place / "report.html",
        reference=reference(),
        cases_dir=tmp_path / "out" / "cases",
        provenance=PROVENANCE,
    )
    assert '<td class="name"><a href="../cases/a%20b/">a b</a>' in path.read_text()


@pytest.mark.parametrize("entries", [[], [Entry("p")], [Entry("r", State.refused, "no", "")]])
def test_a_screening_without_scores_has_a_report(tmp_path, entries):
    assert f"<dd>{len(entries)}</dd>" in report(tmp_path, entries)


def test_scores_and_p_values_that_are_missing_or_not_finite_are_shown_as_unknown(tmp_path):
    entries = [Entry("a", State.scored, scan_score=float("nan"), p_value=None), scored("b", 0.2)]
    assert data_of(report(tmp_path, entries))["score"] == [0.2, None]


def test_too_few_healthy_scans_are_said_to_give_no_threshold(tmp_path):
    html = report(tmp_path, [scored("s", 9.0)], reference=reference(10))
    assert "No threshold for a false-alarm rate" in html
    assert data_of(html)["threshold"] is None


def test_the_same_screening_gives_the_same_bytes(tmp_path):
    made = datetime(2026, 1, 2, tzinfo=timezone.utc)
    first = report(tmp_path, screened(60, healthy=reference()), made=made)
    assert report(tmp_path, reversed(list(screened(60, healthy=reference()))), made=made) == first
    assert "2026-01-02 00:00 UTC" in first


def test_a_series_takes_less_than_150_bytes_of_the_file(tmp_path):
    few, many = (len(report(tmp_path, screened(count, healthy=reference())).encode()) for count in (1000, 6000))
    assert many - few < 150 * 5000


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report([], tmp_path / "file" / "r.html", reference=reference(), cases_dir=tmp_path, provenance=PROVENANCE)


def test_a_thumbnail_is_the_worst_slice_of_the_preview(tmp_path):
    shape = (40, 40, 3)
    heat, labels = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    heat[5:20, 12:28, 1], labels[5:20, 12:28, 1] = 1.0, 2
    preview = tmp_path / "s_preview.png"
    scan = np.full(shape, 40.0, np.float32)
    affine = np.diag([5.0, 5.0, 60.0, 1.0])
    write_preview(preview, Shown(scan, heat, labels, affine, (0.1, 0.9)), title="s", thresholds=(0.5, 0.9))
    url = thumbnail(preview)
    picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/webp;base64,"))))
    assert picture.size == (WIDTH, HEIGHT)
    yellow = np.asarray(picture.convert("RGB")).astype(int)
    lit = (yellow[..., 0] > 150) & (yellow[..., 1] > 150) & (yellow[..., 2] < 110)
    # The lesion lies at low x: patient left, at the right of the picture.
    assert lit.mean() > 0.05
    assert np.nonzero(lit)[1].mean() > WIDTH / 2


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_a_preview_that_cannot_be_read_gives_no_thumbnail(tmp_path, content):
    if content is not None:
        (tmp_path / "p.png").write_bytes(content)
    assert thumbnail(tmp_path / "p.png") == ""


def test_only_the_highest_scans_have_pictures(tmp_path):
    for n in range(4):
        (tmp_path / f"s{n}").mkdir()
        Image.new("RGB", (192, 127)).save(tmp_path / f"s{n}" / f"s{n}_preview.png")
    html = report(tmp_path, [scored(f"s{n}", n + 1.0) for n in range(4)], thumbnails=2)
    assert re.findall(r'<img src="data:image/webp', html) == ['<img src="data:image/webp'] * 2
    assert '<a href="./s3/s3_preview.png"' in html


def test_the_first_candidates_of_the_highest_scans_are_listed(tmp_path):
    def found(n: int, *, q: float | None) -> dict:
        place = (-9.6, 20.2, float(n))
        return Candidate(n, (1, 2, n), place, place, n / 2, place, 1.0, 1.0, 1, 0.02 * n, q).to_json()

    for name, candidates in (("s3", [found(n, q=0.1) for n in range(1, 6)]), ("s2", [found(7, q=None)]), ("s0", [])):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}_summary.json").write_text(json.dumps({"candidates": candidates}))
    entries = [scored(f"s{n}", n + 1.0, n_candidates=5 if n == 3 else None) for n in range(4)]
    html = report(tmp_path, entries, thumbnails=3)
    assert re.findall(r"<li>(.*?)</li>", html) == [
        "slice 1, L 10 A 20 S 1 mm, 0.5 ml, p 0.020, q 0.1",
        "slice 2, L 10 A 20 S 2 mm, 1.0 ml, p 0.040, q 0.1",
        "slice 3, L 10 A 20 S 3 mm, 1.5 ml, p 0.060, q 0.1",
        "slice 7, L 10 A 20 S 7 mm, 3.5 ml, p 0.140",
    ]
    assert data_of(html)["candidates"] == [5, None, None, None]


@pytest.mark.parametrize(
    "content", ["no json", "[]", '{"islands": []}', '{"candidates": [{"slice": 3}]}', '{"candidates": 3}']
)
def test_a_summary_that_tells_no_candidates_lists_none(tmp_path, content):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "s_summary.json").write_text(content)
    assert "<li>" not in report(tmp_path, [scored("s", 1.0)])
