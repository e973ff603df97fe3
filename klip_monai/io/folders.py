"""Every file below a folder, folder by folder: one way to walk for the reader and for the index of an archive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """A file of a folder: its name, bytes, and time of its last change in ns since 1970."""

    name: str
    size: int
    mtime: int


@dataclass(frozen=True)
class Listing:
    """What a folder holds besides folders.

    Attributes:
        path: the folder; or a file named by itself, which is its only entry then, under the name "".
        entries: its files by name; pipes and devices left out, links to files followed.
        problem: what kept it from being listed, or empty.
    """

    path: str
    entries: list[Entry] = field(default_factory=list)
    problem: str = ""


def walk(root: Path, roots: set[Path] | None = None, leave_out: Path | None = None) -> Iterator[Listing]:
    """List a folder and those below it, without recursion, in the order of the names.

    A link to a folder is followed unless the folder holds a root, or lies in one that is listed anyway; so loops end.

    Args:
        root: the folder, its path resolved.
        roots: folders that are listed, each with all below it; those that links lead to are added.
        leave_out: a folder to pass by.
    """
    roots = set() if roots is None else roots
    roots.add(root)
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        if leave_out is not None and folder == str(leave_out) and leave_out != root:
            continue
        entries: list[Entry] = []
        below: list[str] = []
        try:
            with os.scandir(folder) as found:
                for item in found:
                    if item.is_symlink() and item.is_dir():
                        target = Path(item.path).resolve()
                        inside = not roots.isdisjoint((target, *target.parents))
                        if not inside and not any(one.is_relative_to(target) for one in roots):
                            roots.add(target)
                            below.append(str(target))
                    elif item.is_dir():
                        below.append(item.path)
                    elif item.is_file():
                        status = item.stat()
                        entries.append(Entry(item.name, status.st_size, status.st_mtime_ns))
        except OSError:
            yield Listing(folder, problem="unreadable folder")
            continue
        entries.sort()
        yield Listing(folder, entries)
        folders += sorted(below, reverse=True)
