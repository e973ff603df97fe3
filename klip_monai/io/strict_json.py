"""JSON as the standard has it: no NaN, no infinity, keys in one order."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from klip_monai.errors import InputError


def write_json(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write strict JSON with sorted keys.

    Args:
        path: file to write.
        content: nested dictionaries and sequences of strings, numbers, booleans, None, paths, NumPy or torch values.

    Returns:
        The path written.

    Raises:
        InputError: a number that is not finite, a key that is not a string, or a value that JSON cannot hold.
    """
    path = Path(path)
    text = json.dumps(_plain(content, Path(path).stem), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _plain(value: Any, where: str) -> Any:
    """Turn a value into what JSON knows; `where` is its place, for the error message."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{where}: got the key {key!r}, expected a string")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: got {value}, expected a finite number; leave the entry out or use None")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise InputError(
        f"{where}: got a {type(value).__name__}, expected strings, numbers, booleans, None, lists or mappings"
    )
