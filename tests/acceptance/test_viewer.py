"""`klip-monai view` in a real browser: what a user sees first, and that the controls do something."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

pytestmark = pytest.mark.acceptance

CHROMIUM = os.environ.get("KLIP_CHROMIUM") or shutil.which("chromium")


@pytest.fixture(scope="module")
def page(slicer_python: str, planted_scene: Path) -> Iterator[Any]:
    """The viewer's page, complete."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on the path")
    command = [sys.executable, "-m", "klip_monai.cli", "view", str(planted_scene), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        address = server.stdout.readline().split(" ")[1]
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.set_default_timeout(120_000)  # enough for a machine with other work
            page.goto(address)
            page.wait_for_function(
                "[...document.querySelectorAll('img')].filter(i => i.naturalWidth > 300).length == 4"
            )
            settled(page)
            yield page
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=20)


def picture(page: Any) -> np.ndarray:
    """The page (H, W, 3), from 0 to 1."""
    return imread(io.BytesIO(page.screenshot()))[..., :3]


def settled(page: Any, unlike: np.ndarray | None = None) -> np.ndarray:
    """A picture like the one before it, and unlike an earlier one."""
    before = picture(page)
    for _ in range(60):
        page.wait_for_timeout(400)
        now = picture(page)
        if np.array_equal(now, before) and (unlike is None or changed(now, unlike) > 200):
            return now
        before = now
    raise AssertionError("the picture did not change, or did not come to rest")


def changed(a: np.ndarray, b: np.ndarray) -> int:
    """Pixels of the four views that are not alike."""
    return int((np.abs(a - b).max(-1)[60:, 260:] > 0.1).sum())


def heat_pixels(image: np.ndarray) -> int:
    """Pixels of the axial and the coronal view in the yellow and green of a heat map."""
    _, green, blue = np.moveaxis(image[60:, 260:820], -1, 0)
    return int((green > blue + 0.1).sum())


def test_page_shows_score_notice_and_overlay_and_obeys_its_controls(page: Any) -> None:
    text = page.inner_text("body")
    assert "Scan score 0.1 nats per pixel, p = 0.032" in text
    assert "Not for diagnosis." in text
    assert "Strongly suspicious" in text
    first = picture(page)
    if folder := os.environ.get("KLIP_ACCEPTANCE_PICTURES"):
        page.screenshot(path=str(Path(folder) / "viewer.png"))

    page.get_by_label("Segments").click()
    plain = settled(page, unlike=first)
    assert 500 < heat_pixels(plain) < heat_pixels(first)

    opacity = page.locator(".klip-opacity [role=slider]")
    opacity.focus()
    page.keyboard.press("Home")
    without = settled(page, unlike=plain)
    assert heat_pixels(without) < 0.1 * heat_pixels(plain)

    page.keyboard.press("End")
    opaque = settled(page, unlike=without)
    slider = page.locator(".klip-slider [role=slider]").first
    slider.focus()
    page.keyboard.press("End")
    elsewhere = settled(page, unlike=opaque)
    assert heat_pixels(elsewhere) < 0.7 * heat_pixels(opaque)

    page.locator(".klip-worst").click()
    back = settled(page, unlike=elsewhere)
    assert heat_pixels(back) == pytest.approx(heat_pixels(opaque), rel=0.05)
