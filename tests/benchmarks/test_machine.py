from __future__ import annotations

import pytest
import torch

from klip_monai.benchmarks.machine import Cpu, devices_of, read_cpu, this_machine
from klip_monai.errors import InputError

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 avx f16c fma avx2 avx512f avx512_vnni amx_bf16 avx512_bf16 amx_tile
bogomips\t: 5400.00

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
GRAVITON = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve i8mm bf16\nCPU part\t: 0xd40\n"


def test_flags_that_matter_are_found_in_the_first_processor():
    flags = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
    assert read_cpu(XEON) == Cpu("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", flags)


def test_arm_has_features_and_no_name():
    cpu = read_cpu(GRAVITON)
    assert cpu.name
    assert cpu.flags == ("asimd", "sve", "bf16", "i8mm")


def test_a_system_without_cpuinfo_is_named_as_python_does():
    cpu = read_cpu("")
    assert cpu.name
    assert cpu.flags is None


def test_the_limit_of_onednn_is_told(monkeypatch):
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert this_machine().onednn_isa is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert this_machine().onednn_isa == "AVX2"


def test_devices_are_those_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices_of("auto") == devices_of("cpu") == [torch.device("cpu")]
    with pytest.raises(InputError, match="--device: got cuda"):
        devices_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device.type for device in devices_of("auto")] == ["cpu", "cuda"]
    assert [device.type for device in devices_of("cpu")] == ["cpu"]
