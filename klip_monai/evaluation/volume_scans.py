"""Healthy scans to put lesions into: of a slice set, or volume files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from klip_monai.errors import InputError
from klip_monai.evaluation.volume_anomalies import SliceStack
from klip_monai.io import read_volume
from klip_monai.io.dicom.source import person_of
from klip_monai.standard import PriorGrid, slice_distance, standard_slices
from klip_monai.training import SliceSet


@dataclass(frozen=True)
class HealthyVolume:
    """A healthy scan.

    Attributes:
        name: of it.
        person: whose it is.
        slices: in the slice format of the prior.
        assumed: whether the distance of its slices is not known but assumed.
    """

    name: str
    person: Hashable
    slices: SliceStack
    assumed: bool = False


class HealthyVolumes:
    """Healthy scans, read one at a time; ``len`` counts those that cannot be used, too.

    Args:
        readers: of each scan; give None for one whose slices have no distance.
    """

    def __init__(self, readers: Sequence[Callable[[], HealthyVolume | None]]) -> None:
        self._readers = tuple(readers)

    def __len__(self) -> int:
        """Number of scans."""
        return len(self._readers)

    def __iter__(self) -> Iterator[HealthyVolume]:
        for read in self._readers:
            volume = read()
            if volume is not None:
                yield volume


def healthy_volumes(
    folder: str | Path,
    *,
    grid: PriorGrid,
    split: str | Sequence[str] | None = None,
    assumed_mm: float | None = None,
    most_slices: int | None = None,
) -> HealthyVolumes:
    """The scans of a slice set, or those in a folder.

    Args:
        folder: a slice set, each group of which is a scan of another person; or a folder of which each sub-folder (a
            DICOM series) or volume file is a scan, those with the same PatientID of one person.
        grid: the prior's slice format.
        split: of the slice set, or several; None takes all.
        assumed_mm: distance that slices of unknown distance are taken to have, mm, which is wrong for those that are no
            neighbours; None leaves such scans out.
        most_slices: of a longer scan only so many in its middle are taken; None takes all.

    Raises:
        InputError: if there is no such scan, or a number is not positive.
    """
    for name, number in (("assumed_mm", assumed_mm), ("most_slices", most_slices)):
        if number is not None and not number > 0:
            raise InputError(f"{name}: got {number}, expected a positive number or none")
    if not Path(folder).is_dir():
        raise InputError(f"scans {folder}: got no such folder, expected a slice set or a folder of volumes")
    if (Path(folder) / "manifest.csv").is_file():
        data = SliceSet(folder, split=split, grid=grid, clipped=False)
        return _of_set(data, assumed_mm=assumed_mm, most_slices=most_slices)
    read = partial(_read, grid=grid, assumed_mm=assumed_mm, most_slices=most_slices)
    paths = sorted(Path(folder).iterdir())
    if not paths:
        raise InputError(f"scans {folder}: got an empty folder, expected a slice set or a folder of volumes")
    return HealthyVolumes([partial(read, path) for path in paths])


def _of_set(data: SliceSet, *, assumed_mm: float | None, most_slices: int | None) -> HealthyVolumes:
    readers, first = [], 0
    for person, group in enumerate(data.groups):
        slice_mm = group.slice_mm or assumed_mm
        if slice_mm is not None:
            some = _middle(group.slices, most_slices)
            places = range(first + some.start, first + some.stop)
            assumed = group.slice_mm is None
            readers.append(partial(_stacked, data, places, group.group, person, slice_mm, assumed))
        first += group.slices
    if not readers:
        raise InputError(
            f"scans: got {len(data.groups)} groups of slices of unknown distance, expected at least one of a known "
            "distance; prepare volumes anew, or assume a distance with assumed_mm"
        )
    return HealthyVolumes(readers)


def _stacked(data: SliceSet, places: range, name: str, person: int, slice_mm: float, assumed: bool) -> HealthyVolume:
    images, body = data.stacked(places)
    return HealthyVolume(name, person, SliceStack(images, body, data.grid, slice_mm), assumed)


def _read(path: Path, *, grid: PriorGrid, assumed_mm: float | None, most_slices: int | None) -> HealthyVolume | None:
    volume = read_volume(path)
    standard = standard_slices(volume, grid)
    known_mm = slice_distance(standard.placement.affine)
    slice_mm = known_mm or assumed_mm
    if slice_mm is None:
        return None
    some = _middle(len(standard.images), most_slices)
    slices = SliceStack(standard.images[some], standard.body[some], grid, slice_mm)
    return HealthyVolume(path.name, person_of(volume) or path.name, slices, known_mm is None)


def _middle(slices: int, most: int | None) -> slice:
    """So many in the middle of a scan."""
    taken = min(slices, most or slices)
    return slice((slices - taken) // 2, (slices - taken) // 2 + taken)
