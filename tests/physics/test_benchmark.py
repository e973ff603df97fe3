from __future__ import annotations

from klip_monai.physics.benchmark import compare


def test_benchmark_times_both_ways_of_both_directions():
    times = compare(32, views=6, batch=2, kernel="linear", rounds=1)
    ways = ("matrix_forward_ms", "astra_forward_ms", "matrix_adjoint_ms", "astra_adjoint_ms")
    assert all(times[way] > 0 for way in ways)
