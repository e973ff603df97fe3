"""The report in a real browser; skipped where there is none."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from screened import PROVENANCE, reference, screened

from klip_monai.screening.entry import Entry, State
from klip_monai.screening.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path(os.environ.get("KLIP_CHROMIUM", "/usr/bin/chromium"))

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no Chromium at {CHROMIUM}; set KLIP_CHROMIUM"),
]

ATTACK = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("screening")
    healthy = reference()
    entries = [
        *screened(10_000, healthy=healthy),
        Entry("attack", State.scored, "", "", ATTACK, 5, 99.0, 0.01, (ATTACK,), case_dir="attack"),
        Entry("attack-refused", State.refused, ATTACK, ATTACK),
    ]
    return write_report(
        entries, folder / "report.html", reference=healthy, cases_dir=folder, provenance=PROVENANCE
    ).as_uri()


@pytest.fixture(scope="module")
def opened(browser, address):
    """The report; checks in the end that it asked for nothing and complained about nothing."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    start = time.perf_counter()
    page.goto(address)
    page.seconds = time.perf_counter() - start
    yield page
    assert [url for url in requests if url != address and not url.startswith("data:")] == []
    assert complaints == []


@pytest.fixture
def page(opened):
    """The report as it opens."""
    opened.set_viewport_size({"width": 1400, "height": 900})
    opened.get_by_role("button", name="Clear").click()
    playwright.expect(opened.locator("tbody tr td.name a").first).to_have_text("attack")
    return opened


def column(page, selector: str) -> list[str]:
    return page.locator(f"tbody {selector}").all_text_contents()


def scores(page) -> list[float]:
    return [float(text) for text in column(page, "td.score")]


def test_ten_thousand_rows_open_quickly_the_highest_first(page):
    assert page.seconds < 5
    assert scores(page) == sorted(scores(page), reverse=True)
    assert len(scores(page)) == 50


def test_a_click_on_a_heading_sorts_all_rows_and_another_turns_them_round(page):
    highest = scores(page)[0]
    page.get_by_role("button", name="Score", exact=True).click()
    assert scores(page) == sorted(scores(page))
    assert scores(page)[0] < 0.15
    page.get_by_role("button", name="Score", exact=True).press("Enter")
    assert scores(page)[0] == highest
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("Score")
    page.get_by_role("button", name="Slices", exact=True).click()
    assert {int(text) for text in column(page, "td.slices")} == {89}
    page.get_by_role("button", name="Scan", exact=True).click()
    names = column(page, "td.name a")
    assert names == sorted(names)


def test_filters_narrow_the_rows_and_clear_brings_them_back(page):
    everything = page.locator("#found").inner_text()
    page.get_by_label("Search").fill("liver LATE")
    assert all("Liver late phase" in text for text in column(page, "td.name"))
    page.get_by_label("Score from").fill("1,5")
    assert min(scores(page)) >= 1.5
    page.get_by_label("p up to").fill("none")
    assert page.get_by_label("p up to").get_attribute("aria-invalid") == "true"
    page.get_by_role("button", name="Clear").click()
    playwright.expect(page.locator("#found")).to_have_text(everything)
    page.get_by_label("q up to").fill("0.2")
    assert all(float(text) <= 0.2 for text in column(page, "td.q"))
    page.get_by_label("Show").select_option("refused")
    assert page.locator("#found").inner_text() == "0 series"
    page.get_by_label("q up to").fill("")
    assert set(column(page, "td.state")) == {"refused"}


def test_pages_lead_through_all_rows(page):
    lowest = scores(page)[-1]
    page.get_by_role("button", name="Next").click()
    assert scores(page)[0] <= lowest
    assert page.locator("#page").inner_text().startswith("Page 2 of")


def test_a_group_shows_its_reasons_when_it_is_opened(page):
    group = page.locator("details[data-group='missing slices']")
    count = int(group.locator(".number").inner_text())
    group.locator("summary").press("Enter")
    group.locator("li").nth(199).wait_for()
    assert "are missing; send the whole series" in group.locator("li").nth(150).inner_text()
    while group.locator("button").is_visible():
        group.locator("button").click()
    assert group.locator("li").count() == count


def test_what_an_entry_says_is_text_and_never_runs(page):
    page.get_by_label("Show").select_option("")
    page.get_by_label("Search").fill("attack")
    assert ATTACK in page.locator("tbody").inner_text()
    page.locator("details[data-state=refused] summary").last.click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("width", [1400, 420, 320])
def test_the_page_is_never_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_highest_scans_are_there_without_javascript(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("tbody tr").count() == 50
    assert not page.locator("#filters").is_visible()
    assert "The 50 highest of" in page.locator("#found").inner_text()
    context.close()
