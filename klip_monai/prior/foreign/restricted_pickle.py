"""Pickles of networks, read as plain data: whatever code they name or carry, none of it is looked up or executed.

A pickle is a program for a small machine, which can only reach what :meth:`pickle.Unpickler.find_class` hands out.
Here that is a fixed list of names, each answered with a stand-in of ours that builds dictionaries, tensors and
`PlainObject`; any other name refuses the file.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from klip_monai.errors import BundleError

_SCALARS = ("f8", "f4", "f2", "i8", "i4", "u1", "b1")


class PlainObject:
    """What is left of an object whose class was not loaded.

    Attributes:
        class_name: name of its class.
        state: what the pickle says its attributes are.
    """

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str, state: dict[str, Any] | None = None) -> None:
        self.class_name = class_name
        self.state = {} if state is None else state

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"the state of a {self.class_name} is no dictionary")
        self.state = state


def read_pickle(path: str | Path) -> Any:
    """Read a pickle of ``torch_utils.persistence`` (NVlabs; EDM, PaDIS and others) without executing anything.

    Args:
        path: the file.

    Returns:
        Its content: dictionaries, lists, numbers, strings, CPU tensors, and `PlainObject` for everything else. The
        source code inside is dropped.

    Raises:
        BundleError: if the file is missing, damaged, or asks for anything beyond that.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); give a pickle file.") from error
    except Exception as error:  # a damaged or hostile pickle can fail in every way
        raise BundleError(
            f"{path}: refused ({error}); a file of networks may hold only tensors and settings; code in it is "
            "never executed."
        ) from error


def named_tensors(module: PlainObject) -> dict[str, torch.Tensor]:
    """State dict of a module that was read as plain data: parameters and buffers by dotted name.

    Raises:
        BundleError: if the object is no module.
    """
    try:
        found = module.state["_parameters"] | module.state["_buffers"]
        tensors = {name: value for name, value in found.items() if value is not None}
        children = {name: child for name, child in module.state["_modules"].items() if child is not None}
    except (AttributeError, KeyError, TypeError) as error:
        raise BundleError(f"{getattr(module, 'class_name', 'object')}: got no torch module, expected one.") from error
    for name, child in children.items():
        tensors |= {f"{name}.{inner}": value for inner, value in named_tensors(child).items()}
    return tensors


class _StandIn:
    """A function that a pickle can call and cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        if module.startswith("torch.nn.modules.") and name.isidentifier():
            return _plain_class(name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to data outside of the file")


def _plain_class(name: str) -> type:
    """A class for `PlainObject` of this name; pickles make instances by ``cls.__new__``."""

    class Plain(PlainObject):
        __slots__ = ()

        def __new__(cls, *_: Any) -> Plain:
            made = super().__new__(cls)
            PlainObject.__init__(made, name)
            return made

        def __init__(self, *_: Any) -> None:
            pass

    return Plain


def _persistent(meta: Any) -> PlainObject:
    """An object of ``torch_utils.persistence``; its module's source code stays unread."""
    made = PlainObject(str(meta["class_name"]))
    made.__setstate__(meta["state"])
    return made


def _storage(content: Any) -> torch.TypedStorage:
    """A tensor's storage, by torch's own restricted reader."""
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("a storage is no bytes")
    loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(loaded, torch.TypedStorage):
        raise pickle.UnpicklingError("a storage holds something else")
    return loaded


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """A view of a storage, refused where it would reach beyond it."""
    if not isinstance(storage, torch.TypedStorage) or len(size) != len(stride) or min((offset, *size, *stride)) < 0:
        raise pickle.UnpicklingError("a tensor has no storage or an impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else -1
    empty, content = torch.empty(0, dtype=storage.dtype), storage._untyped_storage
    if last >= content.nbytes() // empty.itemsize:
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return empty.set_(content, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise pickle.UnpicklingError("a parameter is no tensor")
    return data


def _dtype(code: Any, *_: Any) -> PlainObject:
    if code not in _SCALARS:
        raise pickle.UnpicklingError("a number is of an unknown type")
    return _NumpyType(code)


class _NumpyType(PlainObject):
    """A NumPy number's type."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", "|"):
            raise pickle.UnpicklingError("a number is not little-endian")


def _scalar(dtype: Any, content: Any) -> int | float | bool:
    if not isinstance(dtype, _NumpyType) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("a number is none")
    value: int | float | bool = np.frombuffer(content, np.dtype(f"<{dtype.class_name}"))[0].item()
    return value


_STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): dict,
    ("dnnlib.util", "EasyDict"): dict,
    ("builtins", "set"): set,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _StandIn(_persistent),
    ("torch._utils", "_rebuild_parameter"): _StandIn(_parameter),
    ("torch._utils", "_rebuild_tensor_v2"): _StandIn(_tensor),
    ("torch.storage", "_load_from_bytes"): _StandIn(_storage),
    ("numpy", "dtype"): _StandIn(_dtype),
    ("numpy.core.multiarray", "scalar"): _StandIn(_scalar),
    ("numpy._core.multiarray", "scalar"): _StandIn(_scalar),
}
