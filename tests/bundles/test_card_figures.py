"""What READMEs and cards say was measured is what the studies' own tables say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBER = r"(?<![\d.])([01]?\.\d{2,3})"
WITH_INTERVAL = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")
TOLD = [
    "README.md",
    "bundles/klip_ct_abdomen/docs/README.md",
    "bundles/klip_ct_abdomen/docs/what_it_finds.md",
    "bundles/klip_ct_phantom/docs/README.md",
    "bundles/klip_ct_phantom/docs/methods.md",
]
STORED = [*ROOT.glob("bundles/*/docs/*_study*.md"), *ROOT.glob("bundles/*/docs/*/study.md")]


def figures(text: str) -> Iterator[tuple[str, ...]]:
    """Values with their intervals."""
    return (match.groups() for match in WITH_INTERVAL.finditer(text))


def agree(told: tuple[str, ...], stored: tuple[str, ...]) -> bool:
    """Whether one is the other, rounded to its digits."""
    return all(
        abs(float(a) - float(b)) <= 0.5001 * 10.0 ** -len(a.partition(".")[2])
        for a, b in zip(told, stored, strict=True)
    )


@pytest.fixture(scope="module")
def stored() -> set[tuple[str, ...]]:
    found = {figure for path in STORED for figure in figures(path.read_text(encoding="utf-8"))}
    assert len(found) > 200
    return found


@pytest.mark.parametrize("name", TOLD)
def test_every_figure_with_an_interval_is_in_a_study_s_table(name: str, stored: set[tuple[str, ...]]) -> None:
    told = list(figures((ROOT / name).read_text(encoding="utf-8")))
    assert len(told) > 3
    assert [figure for figure in told if not any(agree(figure, one) for one in stored)] == []


def test_a_figure_that_was_made_up_is_noticed(stored: set[tuple[str, ...]]) -> None:
    (made_up,) = figures("AUROC 0.993 [0.111, 1.000]")
    assert not any(agree(made_up, one) for one in stored)
    assert agree(("0.31", "0.16", "0.59"), ("0.306", "0.161", "0.594"))
