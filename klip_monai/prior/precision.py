"""The arithmetic of a network: float32 or bfloat16, whichever the device at hand is faster in."""

from __future__ import annotations

import time
from functools import cache
from threading import Lock
from typing import Literal

import torch

from klip_monai.errors import InputError
from klip_monai.one_thread_each import one_thread_each

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "bfloat16")

_CHANNELS, _SIDE, _KERNEL = 64, 32, 3  # a convolution like those of a prior: some milliseconds
_TRIES = 5
_asking = Lock()
_CLEARLY = 1.2  # bfloat16 rounds more, so it has to be worth it; emulated it is some 0.4 times as fast, in hardware 2


def settled_precision(wanted: Precision, device: torch.device | str) -> Literal["float32", "bfloat16"]:
    """What "auto" comes to on a device; the others stay as they are.

    Args:
        wanted: one of :data:`PRECISIONS`.
        device: where the network is.

    Raises:
        InputError: for another word.
    """
    if wanted not in PRECISIONS:
        raise InputError(f"precision: got {wanted!r}, expected {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")
    if wanted != "auto":
        return wanted
    with _asking:  # threads that come meanwhile wait for the answer, instead of finding another
        return fastest_precision(torch.device(device).type)


# The mark of torch.compiler.assume_constant_result, which would import the compiler: a tenth of what a start takes.
settled_precision._dynamo_marked_constant = True  # type: ignore[attr-defined]


def precision_of(network: object, device: torch.device | str) -> Literal["float32", "bfloat16"]:
    """The arithmetic of a network on a device: float32, unless the network, or the one within it, says otherwise."""
    inner = getattr(network, "unet", network)
    return settled_precision(getattr(inner, "precision", "float32"), device)


@cache
def fastest_precision(device_type: str) -> Literal["float32", "bfloat16"]:
    """The faster of float32 and bfloat16 on a kind of device, asked once a process.

    A CPU without bfloat16 hardware emulates it, several times slower than float32, and says that it has it when asked
    through torch's public functions. So a CPU is timed: convolutions in either precision in turn, the best of each.

    Args:
        device_type: "cpu" or "cuda".
    """
    if device_type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device_type != "cpu":
        return "float32"
    with one_thread_each(lambda _: _convolution_seconds(), [None]) as each:  # as networks work on a CPU
        ((_, seconds),) = each
    return "bfloat16" if seconds[torch.float32] > _CLEARLY * seconds[torch.bfloat16] else "float32"


def _convolution_seconds() -> dict[torch.dtype, float]:
    """Least time of a convolution on the CPU by its dtype, s."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, _CHANNELS, _SIDE, _SIDE, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(_CHANNELS, _CHANNELS, _KERNEL, _KERNEL, generator=generator)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    with torch.inference_mode():
        for _ in range(1 + _TRIES):  # the first try of each is never the best
            for dtype in best:
                args = x.to(dtype), weight.to(dtype)
                start = time.thread_time()
                torch.nn.functional.conv2d(*args, padding=_KERNEL // 2)
                best[dtype] = min(best[dtype], time.thread_time() - start)
    return best
