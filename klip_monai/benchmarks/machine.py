"""The machine that is measured, as far as it matters for the figures."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from klip_monai import __version__
from klip_monai.errors import InputError

_CPUINFO = Path("/proc/cpuinfo")
_NAMES, _FLAGS = ("model name", "cpu model", "hardware"), ("flags", "features")
_TELLING = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "sve", "sve2", "bf16", "i8mm", "sme"),  # ARM
)
_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


@dataclass(frozen=True)
class Cpu:
    """A processor: its ``name``, and which of the ``flags`` that speed up a network it has; None where unknown."""

    name: str
    flags: tuple[str, ...] | None


@dataclass(frozen=True)
class Machine:
    """What figures depend on.

    Attributes:
        cpu: the processor.
        threads: torch's.
        torch: its version.
        onednn_isa: limit that the environment sets to the instructions of oneDNN; None if it does not.
        gpu: name of the first one; None if there is none.
        klip_monai: version.
    """

    cpu: Cpu
    threads: int
    torch: str
    onednn_isa: str | None
    gpu: str | None
    klip_monai: str


def this_machine() -> Machine:
    """The machine that this process is on."""
    return Machine(
        cpu=read_cpu(_CPUINFO.read_text() if _CPUINFO.is_file() else ""),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        onednn_isa=next((os.environ[name] for name in _ISA_LIMITS if name in os.environ), None),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        klip_monai=__version__,
    )


def read_cpu(cpuinfo: str) -> Cpu:
    """The first processor of a text like /proc/cpuinfo."""
    first: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        first.setdefault(key.strip().lower(), value.strip())
    name = next((first[key] for key in _NAMES if first.get(key)), platform.processor() or platform.machine())
    having = next((set(first[key].split()) for key in _FLAGS if key in first), None)
    return Cpu(name or "unknown", None if having is None else tuple(flag for flag in _TELLING if flag in having))


def devices_of(wanted: str) -> list[torch.device]:
    """What to measure on: the CPU and, if there is one, CUDA for "auto"; else what is wanted.

    Raises:
        InputError: "cuda" where there is none.
    """
    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        raise InputError("--device: got cuda, but torch finds no CUDA device; leave it out")
    names = ["cpu", *["cuda"] * cuda] if wanted == "auto" else [wanted]
    return [torch.device(name) for name in names]
