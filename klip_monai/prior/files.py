"""Files that appear whole or not at all, and are read without executing anything in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from klip_monai.errors import BundleError, OutputError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there, so that nobody ever reads half of it.

    Args:
        path: the file; missing folders are made, an existing file is replaced.
        write: writes the content to the path it is given.

    Raises:
        OutputError: if the file cannot be written.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(f"path: cannot write {path} ({reason}); choose a writable place.") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def read_plain(path: Path) -> Any:
    """Read what ``torch.save`` wrote, on the CPU, if it is nothing but tensors, numbers, strings and containers.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        BundleError: if the file is damaged or asks for code to be executed, which is never done.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's restricted reader fails on damaged files with errors of every kind
        raise BundleError(
            f"{path}: not a plain file of tensors (damaged, or it holds code, which is never executed); "
            "get or make it anew, best as safetensors."
        ) from error
