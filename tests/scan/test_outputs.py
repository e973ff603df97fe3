"""What is written of a case: the report as a page and as a PDF, names that tell nothing, nothing replaced unasked."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from klip_monai.errors import InputError, OutputError
from klip_monai.report.case_report_pdf import pdf_report
from klip_monai.report.summary import NOTICE, Provenance
from klip_monai.scan import Case, save_case
from klip_monai.scan.output_files import OUTPUTS, case_files, file_names
from klip_monai.scan.outputs import WRITERS, Writing
from klip_monai.scan.save import PartialCaseError
from klip_monai.scan.summary import summarize
from klip_monai.scoring import ExpectedDensity, IDReference, threshold_heatmap

CHROMIUM = "/usr/bin/chromium"
SHAPE = (60, 50, 40)
AFFINE = np.array([[-6.0, 0.3, 0, 177], [-0.3, -6.0, 0, 147], [0, 0, 6.0, -120], [0, 0, 0, 1.0]])
EVIL = "<script>alert('$x_1$')</script>&\"" + "long" * 30


@pytest.fixture(scope="module")
def case() -> Case:
    """A made-up scan with more candidates than fit into a table, a remark, and markup in its texts."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    ct = np.where((((grid[..., :2] - [30, 25]) / [25, 19]) ** 2).sum(-1) < 1, 40.0, -1000.0)
    heatmap = np.full(SHAPE, 0.05)
    for n in range(14):
        centre = [14 + 10 * (n % 4), 14 + 7 * (n // 4), 5 + 2 * n]
        heatmap += (0.25 + 0.1 * n) * np.exp(-((grid - centre) ** 2).sum(-1) / 3.0)
    expected = ExpectedDensity(1.5, (0.02, 0.5), (0.1, 0.4), 0.2)
    scores = tuple(np.geomspace(0.08, 0.7, 29))
    peaks = tuple((score,) if score > 0.2 else () for score in scores)
    reference = IDReference("key", expected, scores, 0.2, 0.65, 24, EVIL, peaks=peaks)
    labels = threshold_heatmap(heatmap, suspicious=0.2, strong=0.65, voxel_ml=0.216)
    meta = {"name": "ct-0a1b2c3d", "format": "nifti", "series_uid": "1.2.3"}
    meta["filename_or_obj"] = "/data/Doe^Jane.nii.gz"
    affine = torch.from_numpy(AFFINE)
    volume, density, label_map = (
        MetaTensor(torch.from_numpy(values)[None], affine=affine, meta=dict(meta))
        for values in (ct.astype(np.float32), heatmap.astype(np.float32), labels)
    )
    settings: dict[str, Any] = {"weights_sha256": "ab" * 32, "estimator": "renoised", "window": {"high": 1, "low": 0.1}}
    provenance = Provenance(EVIL, "0.0.0", "Tests only. " * 8, settings=settings)
    made = Case(volume, density, label_map, float(heatmap.max()), reference, provenance)
    return made.timed(read=1.0, score=2.0)


@pytest.fixture(scope="module")
def page(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    save_case(case, folder, outputs=("report",))
    return folder / file_names("ct-0a1b2c3d", ("report",))["report"]


class Content(HTMLParser):
    """Tags, text, and whatever could make a browser ask for something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.text, self.links = set[str](), "", list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def test_report_says_what_was_found_and_how(case: Case, page: Path) -> None:
    text = Content(page.read_text()).text
    summary = json.loads(page.with_name(file_names("ct-0a1b2c3d")["summary"]).read_text())
    expected = [NOTICE, "above all of 29 healthy scans", f"{summary['p_value']:.3f}", f"{summary['scan_score']:.3g}"]
    expected += [f"{summary['volume_ml'][name]:.1f} ml" for name in ("Suspicious", "Strongly suspicious")]
    for row in summary["candidates"][:10]:
        expected += [f"{row['volume_ml']:.1f}", f"{row['peak']:#.3g}", f"{row['p']:.3f}", f"{row['q']:.2g}"]
    expected += ["Candidates, the highest 10 of 14", "q: the share of false findings"]
    expected += [
        *summary["remarks"],
        "SHA-256 abababababababab",
        "renoised, noise levels 1 to 0.1",
        "read 1.0 s",
        "UTC",
    ]
    expected += [f"{name} {version}" for name, version in summary["versions"].items()]
    assert len(summary["candidates"]) == summary["candidate_count"] == 14
    assert len(summary["remarks"]) == 1
    for words in expected:
        assert words in text, words


def test_report_needs_nothing_else_and_runs_nothing(page: Path) -> None:
    html = page.read_text()
    content = Content(html)
    assert not content.tags & {"script", "link", "iframe", "object", "embed", "form"}
    assert len([link for link in content.links if link.startswith("data:image/png")]) >= 8
    assert all(link.startswith(("data:", "#")) for link in content.links)
    assert EVIL not in html
    assert EVIL in content.text
    assert "url(http" not in html
    assert "@import" not in html


def test_report_is_drawn_at_every_width_in_light_and_dark_and_printed_on_one_page(page: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"Chromium is not at {CHROMIUM}")
    pictures = Path(os.environ.get("KLIP_ACCEPTANCE_PICTURES", tmp_path))
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        asked, said = list[str](), list[str]()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.goto(page.as_uri())
        brightness = {}
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            for width in (1280, 390):
                tab.set_viewport_size({"width": width, "height": 900})
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                tab.screenshot(path=pictures / f"report_{scheme}_{width}.png", full_page=True)
            colours = tab.evaluate(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
            brightness[scheme] = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in colours]
        printed = tab.pdf(prefer_css_page_size=True, print_background=True)
        assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        browser.close()
    (pictures / "report.pdf").write_bytes(printed)
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert said == []
    assert brightness["light"][0] > 0.9 > 0.3 > brightness["light"][1]
    assert brightness["dark"][0] < 0.1 < 0.7 < brightness["dark"][1]
    assert pages(printed) == 1


def pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_report_as_pdf_is_one_a4_page(case: Case, page: Path) -> None:
    pdf = pdf_report(Writing(case, summarize(case), page.parent, {}).report)
    assert pages(pdf) == 1
    (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", pdf)
    np.testing.assert_allclose([float(side) for side in box], [595.28, 841.89], atol=0.1)


def test_scene_marks_the_first_ten_candidates_at_their_peaks(case: Case, tmp_path: Path) -> None:
    saved = save_case(case, tmp_path, outputs=("scene",))
    with ZipFile(saved.files["scene"]) as archive:
        (markup,) = json.loads(archive.read("scene/Data/candidates.mrk.json"))["markups"]
    marked = [(point["label"], np.array([-1, -1, 1]) * point["position"]) for point in markup["controlPoints"]]
    assert [label for label, _ in marked] == [str(n) for n in range(1, 11)]
    for (_, ras), candidate in zip(marked, saved.summary.candidates, strict=False):
        np.testing.assert_allclose(ras, candidate.peak_ras_mm)


def test_nothing_tells_whose_scan_it_is_unless_asked(case: Case, tmp_path: Path) -> None:
    anonymous = save_case(case, tmp_path / "a", outputs=("seg-nrrd", "report")).summary
    kept = save_case(replace(case, keep_names=True), tmp_path / "b", outputs=()).summary
    assert anonymous.source.series_uid is None
    assert kept.source.series_uid == "1.2.3"
    for file in (tmp_path / "a").iterdir():
        content = file.read_bytes()
        assert not any(secret in content for secret in (b"Jane", b"/data", b'1.2.3"', str(tmp_path).encode())), file


@pytest.fixture
def written(page: Path, tmp_path: Path) -> Path:
    """A folder with a case: its report, preview and summary."""
    return Path(shutil.copytree(page.parent, tmp_path / "out"))


def test_a_second_run_is_refused_and_changes_nothing(case: Case, written: Path) -> None:
    before = {path.name: path.read_bytes() for path in written.iterdir()}
    for outputs in (("report",), ("nifti",)):
        with pytest.raises(OutputError, match=r"ct-0a1b2c3d_\w+\.\S+: already there.*--overwrite"):
            save_case(case, written, outputs=outputs)
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before


def test_overwriting_leaves_no_file_of_the_earlier_run(case: Case, written: Path) -> None:
    (written / "ct-99999999_heatmap.nii.gz").write_text("another case")
    save_case(case, written, outputs=("seg-nrrd",), overwrite=True)
    names = file_names("ct-0a1b2c3d", ("seg-nrrd",)).values()
    assert sorted(p.name for p in written.iterdir()) == sorted([*names, "ct-99999999_heatmap.nii.gz"])


def test_a_refused_output_leaves_the_earlier_run(case: Case, written: Path) -> None:
    before = sorted(path.name for path in written.iterdir())
    with pytest.raises(InputError, match=r"got nifti without a DICOM series.*dicom-pdf"):
        save_case(case, written, outputs=("seg-nrrd", "dicom-pdf"), overwrite=True)
    assert sorted(path.name for path in written.iterdir()) == before


def test_an_output_that_fails_costs_no_other(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(writing: Writing) -> None:
        writing.path("report").write_text("half")
        raise RuntimeError("Doe^Jane")

    monkeypatch.setitem(WRITERS, "report", half)
    with pytest.raises(PartialCaseError, match=r"report: stopped by an unexpected RuntimeError.*All else") as caught:
        save_case(case, tmp_path, outputs=("report", "seg-nrrd"))
    assert "Jane" not in str(caught.value)
    saved, names = caught.value.saved, file_names("ct-0a1b2c3d", ("seg-nrrd",))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names.values())
    assert sorted(saved.files) == sorted(names)
    assert saved.summary.remarks[-1] == "report: could not be written."
    assert json.loads(saved.files["summary"].read_text())["remarks"][-1] == saved.summary.remarks[-1]


def test_dicom_files_that_are_gone_cost_the_dicom_outputs(case: Case, tmp_path: Path) -> None:
    volume = case.volume.clone()
    volume.meta |= {"format": "dicom", "files": "gone", "filename_or_obj": str(tmp_path / "gone")}
    with pytest.raises(PartialCaseError, match=r"gone or have changed.*All else is written"):
        save_case(replace(case, volume=volume), tmp_path / "out", outputs=("seg-nrrd", "dicom-seg", "dicom-pdf"))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted(file_names("ct-0a1b2c3d", ("seg-nrrd",)).values())
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in (tmp_path / "out").iterdir())


def test_a_disk_that_is_full_leaves_nothing(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Writing) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(WRITERS, "report", full)
    with pytest.raises(OutputError, match="No space"):
        save_case(case, tmp_path, outputs=("seg-nrrd", "report"))
    assert list(tmp_path.iterdir()) == []


def test_every_output_has_files_of_its_own() -> None:
    assert list(WRITERS) == list(OUTPUTS)
    assert len(case_files("n")) == len(set(case_files("n"))) == sum(len(o.files) for o in OUTPUTS.values()) + 2
    with pytest.raises(InputError, match=r"outputs: got scene3, expected some of nifti, seg-nrrd, scene, report"):
        file_names("n", ("scene3",))
