"""Reading, writing and naming of weights, without ever executing code from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from klip_monai.errors import BundleError, OutputError
from klip_monai.prior.files import read_plain, write_whole


def load_weights(path: str | Path, network: nn.Module) -> nn.Module:
    """Load a state dict into a network.

    Args:
        path: ``.safetensors`` file, or ``.pt``/``.pth`` file with a plain state dict. Half-precision values are cast
            to the network's own dtype.
        network: its parameters and buffers are overwritten in place; names and shapes must match exactly.

    Returns:
        ``network``.

    Raises:
        BundleError: if the file is missing, damaged, contains anything but tensors, or does not fit the network.
    """
    path = Path(path)
    return load_state(read_state(path), network, source=str(path))


def load_state(state: Mapping[str, torch.Tensor], network: nn.Module, *, source: str) -> nn.Module:
    """Load named tensors into a network.

    Args:
        state: the tensors; names and shapes must match the network's exactly.
        network: its parameters and buffers are overwritten in place.
        source: what to call the tensors in errors.

    Returns:
        ``network``.

    Raises:
        BundleError: if a tensor is missing, unknown or of another shape.
    """
    own = network.state_dict()
    wrong = [f"{name} is missing" for name in own.keys() - state.keys()]
    wrong += [f"{name} is unknown" for name in state.keys() - own.keys()]
    wrong += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    ]
    if wrong:
        raise BundleError(
            f"weights {source}: {len(wrong)} of {len(own)} entries do not fit the network, first: {min(wrong)}; "
            "use the configuration the weights were made with."
        )
    network.load_state_dict(state)
    return network


def save_weights(path: str | Path, network: nn.Module, *, half: bool = True) -> None:
    """Write a network's state dict as safetensors; the file appears whole or not at all.

    Args:
        path: file to write, ``.safetensors``.
        network: the network.
        half: store floating-point values as float16, half the size.

    Raises:
        OutputError: if the name has another suffix, the weights are not finite in the stored precision, or the file
            cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise OutputError(f"path: got {path.name}, expected a name ending in .safetensors.")
    state = _stored_state(network, half=half)
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise OutputError("network: got weights that are not finite in the stored precision; save with half=False.")
    write_whole(path, lambda draft: draft.write_bytes(safetensors.torch.save(state)))


def weights_hash(source: str | Path | nn.Module) -> str:
    """SHA-256 that names a set of weights, for provenance and for refusing thresholds made with other weights.

    Args:
        source: a weights file, or a network, which is hashed as the file that `save_weights` would write.

    Returns:
        64 hexadecimal digits; equal for a file from `save_weights` with ``half`` and a network loaded from it.

    Raises:
        BundleError: if the file cannot be read.
    """
    if isinstance(source, nn.Module):
        return hashlib.sha256(safetensors.torch.save(_stored_state(source, half=True))).hexdigest()
    try:
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"weights {source}: cannot be read ({error.strerror}); check the bundle.") from error


def _stored_state(network: nn.Module, *, half: bool) -> dict[str, torch.Tensor]:
    """State dict as stored: on the CPU, contiguous, floating-point values halved if asked."""
    state = {}
    for name, value in network.state_dict().items():
        dtype = torch.float16 if half and value.is_floating_point() else value.dtype
        state[name] = value.detach().to("cpu", dtype).contiguous()
    return state


def read_state(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a file by name, read without executing anything in it.

    Args:
        path: ``.safetensors`` file, or ``.pt``, ``.pth`` or ``.bin`` file with a plain state dict.

    Raises:
        BundleError: if the file is missing, damaged, or contains anything but tensors.
    """
    if not path.is_file():
        raise BundleError(f"weights {path}: no such file; check the bundle's models folder.")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise BundleError(f"weights {path}: not a safetensors file ({error}); get or make it anew.") from error
    if path.suffix not in (".pt", ".pth", ".bin"):
        raise BundleError(f"weights {path}: got suffix {path.suffix!r}, expected .safetensors, .pt, .pth or .bin.")
    state = read_plain(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BundleError(f"weights {path}: got something else than named tensors, expected a plain state dict.")
    return state
