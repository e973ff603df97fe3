"""The texts that a reader meets first: short, with links that lead somewhere and an example that runs as it stands."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
LESION_RAS_MM, LESION_RADIUS_MM = (97.6, -7.8, 35.2), 13.4  # of sample_data/lesion
LEFT_OUT = {"node_modules", "build", "dist", "out"}


def texts() -> list[Path]:
    """Every Markdown file of the project: those that git knows, or, without git, those that lie there."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        folders = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
        found = [ROOT / path for path in folders if not any(p.startswith(".") or p in LEFT_OUT for p in path.parts)]
    return [path for path in found if path.is_file()]


def prose(path: Path) -> str:
    """A text without its blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "``", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE))


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a text."""
    blocks = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", blocks, flags=re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def dead_links(path: Path) -> list[str]:
    """Relative links of a text that lead to no file, or to no heading of it."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, heading = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (heading and heading not in anchors(target)):
            dead.append(link)
    return dead


def test_the_readme_is_read_in_one_go():
    lines = README.read_text().splitlines()
    assert len(lines) <= 150, f"README.md: {len(lines)} lines; what is longer belongs into the README of its room"


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_a_file_or_heading_that_is_there(path):
    assert dead_links(path) == []


def test_a_link_that_leads_nowhere_is_noticed(tmp_path):
    text = tmp_path / "text.md"
    text.write_text(
        "# One `two`, three\n[a](#one-two-three) [b](#four) [c](there.md) [d](text.md#one-two-three)\n"
        "[e](https://example.org/) `[f](g)`\n```\n# Four\n[h](i)\n```\n"
    )
    assert dead_links(text) == ["#four", "there.md"]


def test_the_python_of_the_readme_runs_as_it_stands_and_finds_the_lesion(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) <= 10
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["case"].candidates[0].peak_ras_mm == pytest.approx(LESION_RAS_MM, abs=LESION_RADIUS_MM)
    assert "\n1 (" in "\n" + capsys.readouterr().out
    written = {path.name.partition("ct-12bfefbe")[2] for path in (tmp_path / "out" / "python").iterdir()}
    assert written == {"_heatmap.nii.gz", "_labels.nii.gz", ".mrb", "_preview.png", "_summary.json"}
