"""Tables of the ledger, read by other libraries."""

from __future__ import annotations

import csv

import pytest

from klip_monai.screening.entry import Entry, State
from klip_monai.screening.exports import _cell, q_values, write_tables
from klip_monai.screening.ledger import Ledger


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for name, p in (("ct-c", 0.5), ("ct-a", 0.01), ("ct-b", 0.02)):
            ledger.claim(name)
            volumes = {"Suspicious": 2.0, "Strongly suspicious": 1.0}
            ledger.finish(
                Entry(
                    name,
                    State.scored,
                    n_slices=5,
                    scan_score=1.0,
                    p_value=p,
                    volume_ml=volumes,
                    top_slices=(2, 1),
                    n_candidates=2,
                    first_ras_mm=(9.5, -3.0, 7.0),
                    first_ml=1.5,
                )
            )
        ledger.claim("ct-d")
        ledger.finish(Entry("ct-d", State.refused, 'got "a, b"', "other"))
        yield ledger


def test_q_values_are_benjamini_and_hochbergs():
    q = q_values([0.01, 0.02, 0.5, 0.5])
    assert q == pytest.approx({0.01: 0.04, 0.02: 0.04, 0.5: 0.5})
    assert q_values([]) == {}


def test_csv_has_every_series_by_name_with_q_values(ledger, tmp_path):
    write_tables(ledger, tmp_path)
    with (tmp_path / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["ct-a", "ct-b", "ct-c", "ct-d"]
    assert [row["q_value"] for row in rows] == ["0.03", "0.03", "0.5", ""]
    assert rows[0]["suspicious_ml"] == "2.0"
    assert rows[0]["top_slices"] == "2 | 1"
    assert (rows[0]["n_candidates"], rows[0]["first_ras_mm"], rows[0]["first_ml"]) == ("2", "9.5 | -3.0 | 7.0", "1.5")
    assert (rows[3]["n_candidates"], rows[3]["first_ras_mm"], rows[3]["first_ml"]) == ("", "", "")
    assert rows[3]["reason"] == 'got "a, b"'
    assert rows[3]["scan_score"] == ""


def test_parquet_keeps_types(ledger, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_tables(ledger, tmp_path)
    rows = parquet.read_table(tmp_path / "ledger.parquet").to_pylist()
    assert rows[0]["top_slices"] == [2, 1]
    assert (rows[0]["n_candidates"], rows[0]["first_ras_mm"], rows[0]["first_ml"]) == (2, [9.5, -3.0, 7.0], 1.5)
    assert rows[0]["q_value"] == pytest.approx(0.03)
    assert rows[3]["scan_score"] is None
    assert rows[3]["state"] == "refused"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+2", "'=1+2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-abdomen", "'-abdomen"),
        ("-3.5", "-3.5"),
        ((-12.0, 3.0), "-12.0 | 3.0"),
        (("+ remark",), "'+ remark"),
        ("plain", "plain"),
        (-1.5, -1.5),
    ],
)
def test_no_cell_of_the_table_is_a_formula(value, cell):
    assert _cell(value) == cell
