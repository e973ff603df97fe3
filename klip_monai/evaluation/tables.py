"""Markdown tables, and writing a study as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from klip_monai.io.strict_json import write_json
from klip_monai.io.write.atomic import publish


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]


def cell(value: float | None, digits: int = 2) -> str:
    """A figure rounded to ``digits``; what there is none of as "none"."""
    return "none" if value is None else f"{value:.{digits}f}"


def save_report(
    output_dir: str | Path,
    name: str,
    text: str,
    content: Mapping[str, Any],
    *,
    provenance: Mapping[str, Any],
    pictures: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write ``name.md``, ``name.json`` and the pictures, or nothing.

    Args:
        output_dir: folder; made if missing.
        name: of the study.
        text: Markdown.
        content: the study's figures, JSON-able.
        provenance: which bundle and weights were studied, JSON-able.
        pictures: what draws each picture, by file name; names may lie in sub-folders.

    Raises:
        OutputError: if the folder cannot be written to.
    """
    with publish(output_dir, overwrite=True) as staging:
        (staging / f"{name}.md").write_text(text, encoding="utf-8")
        write_json(staging / f"{name}.json", dict(content) | {"provenance": dict(provenance)})
        for file, draw in (pictures or {}).items():
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            draw(staging / file)
