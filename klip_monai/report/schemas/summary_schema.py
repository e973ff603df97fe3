"""The published JSON Schemas of summaries, in ``klip_monai/report/schemas``; run as a module it writes them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

from klip_monai.io.strict_json import write_json
from klip_monai.report.schemas.json_schema import json_schema
from klip_monai.report.summary import SinogramSummary, Summary

FOLDER = Path(__file__).parent
KINDS = {"summary.schema.json": Summary, "sinogram_summary.schema.json": SinogramSummary}
"""Types of summaries by the file of their schema."""


def schema_of(kind: type) -> dict[str, Any]:
    """The schema of a kind of summary, named like the ``schema`` that each of its files carries."""
    (name,) = get_args(get_type_hints(kind)["schema"])
    return json_schema(kind, identifier=f"urn:{name.replace('/', ':')}")


if __name__ == "__main__":
    for name, kind in KINDS.items():
        write_json(FOLDER / name, schema_of(kind))
