from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.prior import GaussianDenoiser, PatchDenoiser, precision
from klip_monai.prior.precision import fastest_precision, precision_of, settled_precision

ASK = "from klip_monai.prior.precision import fastest_precision as f; print(f('cpu'))"


def asked_in_a_process(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=os.environ | environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@pytest.mark.skipif("avx2" not in cpu_flags(), reason="oneDNN's limit is one of x86")
def test_a_cpu_whose_bfloat16_is_emulated_computes_in_float32():
    assert asked_in_a_process(ONEDNN_MAX_CPU_ISA="AVX2") == "float32"


@pytest.mark.skipif(not cpu_flags() & {"avx512_bf16", "amx_bf16"}, reason="no bfloat16 hardware")
def test_a_cpu_with_bfloat16_hardware_computes_in_it():
    assert asked_in_a_process() == "bfloat16"


@pytest.mark.parametrize(
    ("float32", "bfloat16", "faster"), [(2.0, 1.0, "bfloat16"), (1.0, 2.6, "float32"), (1.0, 0.99, "float32")]
)
def test_the_faster_one_is_taken_and_bfloat16_only_where_it_is_worth_its_rounding(
    monkeypatch, float32, bfloat16, faster
):
    monkeypatch.setattr(precision, "_convolution_seconds", lambda: {torch.float32: float32, torch.bfloat16: bfloat16})
    fastest_precision.cache_clear()
    try:
        assert fastest_precision("cpu") == settled_precision("auto", "cpu") == faster
    finally:
        fastest_precision.cache_clear()


def test_the_answer_is_found_once_in_one_thread_however_many_ask(monkeypatch):
    asked = []

    def seconds() -> dict[torch.dtype, float]:
        asked.append(torch.get_num_threads())
        time.sleep(0.2)
        return {torch.float32: 2.0, torch.bfloat16: 1.0}

    monkeypatch.setattr(precision, "_convolution_seconds", seconds)
    fastest_precision.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda _: settled_precision("auto", "cpu"), range(4)))
    finally:
        torch.set_num_threads(before)
        fastest_precision.cache_clear()
    assert found == ["bfloat16"] * 4
    assert asked == [1]


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_what_is_asked_for_is_taken(wanted, tiny_denoiser):
    assert settled_precision(wanted, "cpu") == wanted
    assert precision_of(tiny_denoiser(precision=wanted), "cpu") == wanted
    assert precision_of(PatchDenoiser(tiny_denoiser(precision=wanted)), "cpu") == wanted


def test_networks_without_a_choice_compute_in_float32():
    assert precision_of(GaussianDenoiser(), "cpu") == precision_of(None, "cpu") == "float32"


def test_another_word_is_refused():
    with pytest.raises(InputError, match="precision: got 'half', expected auto, float32 or bfloat16"):
        settled_precision("half", "cpu")


def test_an_automatic_network_is_to_the_bit_the_faster_one(tiny_denoiser):
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    automatic, settled = (tiny_denoiser(precision=p).eval() for p in ("auto", settled_precision("auto", "cpu")))
    with torch.inference_mode():
        assert torch.equal(automatic(x, 0.5), settled(x, 0.5))


def test_an_automatic_network_compiles_as_one_graph(tiny_denoiser):
    network, x = tiny_denoiser(precision="auto").eval(), torch.randn(2, 1, 16, 16)
    levels = torch.tensor([0.5, 1.0])
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, levels), network(x, levels))
