"""A set of standard slices on disk: made once from scans or pictures, then read without loading it all."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from klip_monai.errors import InputError, KlipError
from klip_monai.prior.files import write_whole
from klip_monai.standard import PriorGrid, body_of, slice_distance, standard_slices
from klip_monai.training.sources import Group

_MANIFEST, _GRID = "manifest.csv", "grid.json"


@dataclass(frozen=True)
class SliceGroup:
    """One line of a slice set's manifest.

    Attributes:
        group: name of the patient or of the range of neighbouring slices.
        source: the data set it comes from.
        split: "train", "val" or any other name.
        slices: number of slices.
        clip_hu: the lowest HU that the source kept; None if it kept all that matters.
        file: ``.npy`` file, float16 (slices, H, W) in [-1, 1], inferior to superior where the order is known.
        sha256: of the file.
        slice_mm: distance of neighbouring slices, mm; None if it is not known, or they are no neighbours.
    """

    group: str
    source: str
    split: str
    slices: int
    clip_hu: float | None
    file: str
    sha256: str
    slice_mm: float | None = None


def write_slice_set(groups: Iterable[Group], folder: str | Path, *, grid: PriorGrid) -> list[str]:
    """Bring groups to a prior's slice format and write them, with a manifest.

    A group that cannot be read is left out, and the others go on. Groups that are there already are not made again, so
    a run that was cut off can be repeated.

    Args:
        groups: what to read.
        folder: where to write; made if missing.
        grid: the prior's slice format.

    Returns:
        For each group left out, the reason.

    Raises:
        OutputError: if the folder cannot be written to.
        InputError: if the folder holds a slice set of another format, or no group could be read.
    """
    folder = Path(folder)
    _check_same_grid(folder, grid)
    write_whole(folder / _GRID, lambda draft: draft.write_text(json.dumps(grid.describe(), indent=2) + "\n"))
    done: list[SliceGroup] = []
    refused: list[str] = []
    listed = {group.file: group.slice_mm for group in read_manifest(folder)} if (folder / _MANIFEST).exists() else {}
    for group in groups:
        file = f"slices/{hashlib.sha256(f'{group.source}/{group.name}'.encode()).hexdigest()[:16]}.npy"
        path = folder / file
        slice_mm = listed.get(file) if group.is_scan else group.slice_mm
        if not path.exists() or (group.is_scan and file not in listed):
            try:
                parts = [standard_slices(volume, grid) for volume in group.volumes()]
            except KlipError as error:
                refused.append(f"{group.name}: {error}")
                continue
            if group.is_scan:
                slice_mm = slice_distance(parts[0].placement.affine)
            _save(path, np.concatenate([part.images[:, 0].half().numpy() for part in parts]))
        slices = len(np.load(path, mmap_mode="r"))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        done.append(SliceGroup(group.name, group.source, group.split, slices, group.clip_hu, file, digest, slice_mm))
    if not done:
        raise InputError(f"slice set {folder}: none of {len(refused)} groups could be read, first: {refused[0]}")
    write_whole(folder / _MANIFEST, lambda draft: _write_manifest(draft, done))
    return refused


def _check_same_grid(folder: Path, grid: PriorGrid) -> None:
    if (folder / _GRID).exists() and PriorGrid(**json.loads((folder / _GRID).read_text())) != grid:
        raise InputError(f"slice set {folder}: made for another slice format; choose another folder")


def _save(path: Path, images: NDArray[np.float16]) -> None:
    def save(draft: Path) -> None:
        with draft.open("wb") as file:
            np.save(file, images)

    write_whole(path, save)


def _write_manifest(path: Path, groups: Sequence[SliceGroup]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(SliceGroup)])
        writer.writeheader()
        writer.writerows(asdict(group) for group in groups)


def read_manifest(folder: str | Path) -> list[SliceGroup]:
    """The groups of a slice set.

    Raises:
        InputError: if the folder is not a slice set.
    """
    try:
        with (Path(folder) / _MANIFEST).open(newline="") as file:
            return [
                SliceGroup(
                    row["group"],
                    row["source"],
                    row["split"],
                    int(row["slices"]),
                    float(row["clip_hu"]) if row["clip_hu"] else None,
                    row["file"],
                    row["sha256"],
                    float(row["slice_mm"]) if row.get("slice_mm") else None,
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"slice set {folder}: no readable {_MANIFEST} ({error}); make one with `klip-monai prepare`"
        ) from error


class SliceSet(Dataset[dict[str, torch.Tensor]]):
    """Standard slices of a split, read from disk as they are asked for.

    Items are ``image``, float32 (1, H, W) in [-1, 1], and ``weight``, float32 (1, H, W): 1, but ``filled_weight`` where
    the source clipped the HU away, so that it is unknown whether the pixel is fat or air.

    Args:
        folder: from :func:`write_slice_set`.
        split: which groups, by split or splits; None takes all.
        groups: which groups, by name; None takes all of the split.
        grid: the slice format expected; None accepts any.
        clipped: also groups whose source clipped HU away; or the names of such sources. What was filled in for these is
            no tissue: slices to train on, but none to be scored as healthy.
        filled_weight: weight of the pixels that were filled in. 0 teaches a prior nothing about them, so it may make
            anything of fat in a scan that looks like theirs; a little teaches it that fat is about what was filled in.

    Raises:
        InputError: if nothing is left or the format is another.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        split: str | Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        grid: PriorGrid | None = None,
        clipped: bool | Sequence[str] = True,
        filled_weight: float = 0.0,
    ) -> None:
        self.folder = Path(folder)
        self.filled_weight = filled_weight
        splits = [split] if isinstance(split, str) else split
        self.groups = [
            group
            for group in read_manifest(folder)
            if (splits is None or group.split in splits)
            and (groups is None or group.group in groups)
            and (group.clip_hu is None or clipped is True or (clipped and group.source in clipped))
        ]
        if not self.groups:
            kind = "" if clipped else "unclipped "
            raise InputError(f"slice set {folder}: no {kind}group with split {split!r}; see its {_MANIFEST}")
        self.grid = PriorGrid(**json.loads((self.folder / _GRID).read_text()))
        if grid is not None and grid != self.grid:
            raise InputError(f"slice set {folder}: got slices of {self.grid}, expected {grid}; prepare it anew")
        self._ends = np.cumsum([group.slices for group in self.groups])
        self._files: dict[int, NDArray[np.float16]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def stacked(self, indices: Iterable[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Slices, float32 (B, 1, H, W), and where their body's HU are known, bool (B, 1, H, W)."""
        items = [self[index] for index in indices]
        images, weight = (torch.stack([item[key] for item in items]) for key in ("image", "weight"))
        return images, body_of(images, self.grid) & (weight == 1)

    def group_of(self, index: int) -> SliceGroup:
        """The group that a slice belongs to."""
        return self.groups[int(np.searchsorted(self._ends, index, side="right"))]

    def balanced_weights(self, power: float = 0.5) -> list[float]:
        """A weight for each slice, so that a group of n slices is drawn in proportion to n^``power``.

        Neighbouring slices show the same anatomy again, so a long scan says less than as many slices of many patients.
        """
        return [group.slices ** (power - 1) for group in self.groups for _ in range(group.slices)]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, expected 0 to {len(self) - 1}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        group = self.groups[number]
        plane = self.planes(number)[index - int(self._ends[number]) + group.slices]
        image = torch.from_numpy(np.array(plane, dtype=np.float32))[None]
        return {"image": image, "weight": self.weight(image, self._lowest(group))}

    def planes(self, number: int) -> NDArray[np.float16]:
        """The slices of a group, by its place in ``groups``: float16 (slices, H, W), mapped from its file."""
        if number not in self._files:
            file = self.folder / self.groups[number].file
            self._files[number] = np.load(file, mmap_mode="r", allow_pickle=False)
        return self._files[number]

    def lowest_known(self) -> torch.Tensor:
        """For each slice, float32 (slices,), the lowest value in [-1, 1] that its source kept; below -1 if all."""
        lowest = [self._lowest(group) for group in self.groups for _ in range(group.slices)]
        return torch.tensor(lowest, dtype=torch.float32)

    def weight(self, image: torch.Tensor, lowest: float | torch.Tensor) -> torch.Tensor:
        """``filled_weight`` where the value was filled in, below what the source kept, and 1 elsewhere.

        Args:
            image: slices (..., H, W) in [-1, 1].
            lowest: lowest value that the source kept, one for all or a tensor that broadcasts against ``image``.
        """
        return (image >= lowest).float().clamp_min(self.filled_weight)

    def _lowest(self, group: SliceGroup) -> float:
        if group.clip_hu is None:
            return -math.inf
        low, high = self.grid.hu_window
        return (group.clip_hu - low) / (high - low) * 2 - 1
