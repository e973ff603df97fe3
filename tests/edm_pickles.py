"""Pickles with the structure of ``torch_utils.persistence``, made without it."""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise AssertionError("the original reader executes the module's source; nothing may call it")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent(nn.Module):
    """A module that is pickled as the decorated classes of EDM are: source code, class name and state."""

    def __init__(self, class_name: str, source: str = "", **attributes: Any) -> None:
        super().__init__()
        vars(self).update(attributes, _class_name=class_name, _source=source)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: value for name, value in vars(self).items() if name not in ("_class_name", "_source")}
        meta = {"type": "class", "version": 6, "module_src": self._source, "class_name": self._class_name}
        return _reconstruct_persistent_obj, ({**meta, "state": state},), None


def module(class_name: str, tensors: Mapping[str, torch.Tensor], **attributes: Any) -> nn.Module:
    """A persistent module of modules from a state dict; encoder and decoder are torch's own ModuleDict."""
    made = Persistent(class_name, **attributes)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        first, _, rest = name.partition(".")
        if rest:
            groups.setdefault(first, {})[rest] = value
        elif first in ("resample_filter", "freqs"):
            made.register_buffer(first, value)
        else:
            made.register_parameter(first, nn.Parameter(value))
    for name, group in groups.items():
        if name in ("enc", "dec"):
            blocks: dict[str, dict[str, torch.Tensor]] = {}
            for inner, value in group.items():
                block, _, rest = inner.partition(".")
                blocks.setdefault(block, {})[rest] = value
            made.add_module(name, nn.ModuleDict({key: module("UNetBlock", part) for key, part in blocks.items()}))
        else:
            made.add_module(name, module("Linear", group))
    return made


def snapshot(
    tensors: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    *,
    outer: str = "EDMPrecond",
    inner: str = "SongUNet",
    source: str = "",
    **attributes: Any,
) -> dict[str, Any]:
    """What a network snapshot of EDM holds."""
    model = module(inner, tensors, _init_args=(), _init_kwargs=dict(settings), source=source, **attributes)
    model.register_module("map_label", None)
    ema = Persistent(outer, source, sigma_data=0.5, sigma_min=0, sigma_max=float("inf"), use_fp16=False)
    ema.add_module("model", model)
    return {"ema": ema, "loss_fn": Persistent("EDMLoss", source), "augment_pipe": None, "dataset_kwargs": OrderedDict()}


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    fake = types.ModuleType("torch_utils.persistence")
    fake._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    package = types.ModuleType("torch_utils")
    with mock.patch.dict(sys.modules, {"torch_utils": package, "torch_utils.persistence": fake}):
        path.write_bytes(pickle.dumps(content, protocol))
    return path
