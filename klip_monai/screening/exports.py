"""The ledger as tables: `ledger.csv` and, with pyarrow, `ledger.parquet`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from scipy import stats

from klip_monai.io.write.atomic import publish
from klip_monai.scoring import LABEL_NAMES
from klip_monai.screening.entry import Entry, State
from klip_monai.screening.ledger import Ledger

_ROWS = 10_000  # written at a time
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_VOLUMES = {name: f"{name.lower().replace(' ', '_')}_ml" for n, name in LABEL_NAMES.items() if n}


def write_tables(ledger: Ledger, folder: str | Path) -> list[Path]:
    """Write all series, by name, with Benjamini-Hochberg q-values over the scored ones.

    Columns are those of :class:`Entry`, with a column for each volume and ``q_value``, the share of false discoveries
    that comes with flagging all scans up to this p (Benjamini and Hochberg, J. R. Stat. Soc. B 57, 1995).

    Args:
        ledger: what to write; one row at a time is in memory.
        folder: where to, replacing earlier ones.

    Returns:
        The files: `ledger.csv`, and `ledger.parquet` if pyarrow is installed.
    """
    q_of = q_values([entry.p_value for entry in ledger.entries() if entry.p_value is not None])
    with publish(folder, overwrite=True) as staging:
        _write_csv(staging / "ledger.csv", _rows(ledger, q_of))
        if find_spec("pyarrow") is not None:
            _write_parquet(staging / "ledger.parquet", _rows(ledger, q_of))
        names = sorted(path.name for path in staging.iterdir())
    return [Path(folder) / name for name in names]


def q_values(p_values: list[float]) -> dict[float, float]:
    """Benjamini-Hochberg q by p; equal p-values share theirs."""
    if not p_values:
        return {}
    adjusted = stats.false_discovery_control(p_values, method="bh")
    return dict(zip(p_values, map(float, adjusted), strict=True))


def _rows(ledger: Ledger, q_of: dict[float, float]) -> Iterator[dict[str, Any]]:
    for entry in ledger.entries():
        row = {field.name: getattr(entry, field.name) for field in fields(Entry) if field.name != "volume_ml"}
        row["state"] = entry.state.value
        row |= {column: entry.volume_ml.get(name) for name, column in _VOLUMES.items()}
        scored = entry.state is State.scored and entry.p_value is not None
        yield row | {"q_value": q_of[entry.p_value] if scored else None}  # type: ignore[index]


def _write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    names = [*_columns()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})


def _cell(value: Any) -> Any:
    """A value of a table; text that a spreadsheet would take for a formula begins with an apostrophe."""
    text = " | ".join(map(str, value)) if isinstance(value, tuple) else value
    is_formula = isinstance(value, str | tuple) and str(text).startswith(_FORMULA) and not _is_number(text)
    return f"'{text}" if is_formula else text


def _is_number(text: str) -> bool:
    try:
        float(text.partition(" | ")[0])
    except ValueError:
        return False
    return True


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow_type(pa, kind)) for name, kind in _columns().items()])
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema))


def _columns() -> dict[str, str]:
    """Name and annotation of each column."""
    kinds = {field.name: str(field.type) for field in fields(Entry) if field.name != "volume_ml"}
    return kinds | dict.fromkeys([*_VOLUMES.values(), "q_value"], "float | None")


def _arrow_type(pa: Any, kind: str) -> Any:
    """Arrow's name for an annotation of :class:`Entry`."""
    numbers = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "State": pa.string()}
    if kind.startswith("tuple["):
        return pa.list_(numbers[kind.removeprefix("tuple[").split(",")[0]])
    return numbers[kind.removesuffix(" | None")]
