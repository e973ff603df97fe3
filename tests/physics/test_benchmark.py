from __future__ import annotations

import torch

from klip_monai.physics.benchmark import compare


def test_one_matrix_product_for_a_batch_beats_one_astra_call_per_slice():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = compare(96, views=24, batch=16, kernel="linear", rounds=3)
    finally:
        torch.set_num_threads(threads)
    assert times["matrix_forward_ms"] < times["astra_forward_ms"]
    assert times["matrix_adjoint_ms"] < times["astra_adjoint_ms"]
