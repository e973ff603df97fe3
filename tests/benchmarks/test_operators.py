from __future__ import annotations

from klip_monai.benchmarks.operators import compare


def test_both_ways_of_both_directions_are_timed(assert_measured):
    rows = compare(32, views=6, batch=2, kernel="linear", tries=1)
    assert_measured(rows)
    ways = {row.what.split(": ")[1] for row in rows}
    assert ways == {"build", "forward, matrix", "forward, ASTRA", "adjoint, matrix", "adjoint, ASTRA"}
