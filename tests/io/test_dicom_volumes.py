"""How a series is taken apart into volumes of one thing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom import Dataset

from klip_monai.io.dicom.volumes import split

Edit = Callable[[int, Dataset], None]


def slices(count: int, edit: Edit | None = None, *, per_place: int = 1) -> list[Dataset]:
    """Axial slices, some at each place, 2 mm apart."""
    made = []
    for k in range(count):
        ds = Dataset()
        ds.SOPInstanceUID = f"1.2.{k}"
        ds.ImagePositionPatient = [0, 0, 2 * (k // per_place)]
        ds.KVP, ds.SliceThickness, ds.ConvolutionKernel, ds.AcquisitionNumber = "120", "2", "B30f", 1
        if edit is not None:
            edit(k, ds)
        made.append(ds)
    return made


def sizes(headers: list[Dataset]) -> list[int]:
    return [len(part) for part in split(headers)]


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("KVP", ("80", "140")),
        ("ConvolutionKernel", ("B30f", "B60f")),
        ("ConvolutionKernel", ("B30f", "")),
        ("SliceThickness", ("2", "5")),
        ("ImageType", (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "AXIAL"])),
        ("AcquisitionNumber", (1, 2)),
        ("TemporalPositionIdentifier", (1, 2)),
        ("NominalPercentageOfCardiacPhase", (40, 70)),
    ],
)
@pytest.mark.parametrize("per_place", [1, 2])
def test_slices_that_alternate_or_share_places_are_of_two_volumes(
    tag: str, values: tuple[object, object], per_place: int
) -> None:
    assert sizes(slices(8, lambda k, ds: setattr(ds, tag, values[k % 2]), per_place=per_place)) == [4, 4]


@pytest.mark.parametrize("tag", ["KVP", "ConvolutionKernel", "SliceThickness"])
def test_a_stack_of_two_reconstructions_is_two_volumes(tag: str) -> None:
    assert sizes(slices(8, lambda k, ds: setattr(ds, tag, str(1 + k // 5)))) == [5, 3]


@pytest.mark.parametrize("rotation", [1, 2, 4])
@pytest.mark.parametrize("tag", ["AcquisitionNumber", "AcquisitionTime", "ContentTime", "TriggerTime"])
def test_rotations_one_after_the_other_are_one_volume(tag: str, rotation: int) -> None:
    assert sizes(slices(8, lambda k, ds: setattr(ds, tag, f"{100000 + k // rotation}"))) == [8]


@pytest.mark.parametrize(("tag", "values"), [("KVP", ("120", "120.0")), ("SliceThickness", ("2", "1.99999"))])
def test_one_number_in_two_spellings_is_one_volume(tag: str, values: tuple[str, str]) -> None:
    assert sizes(slices(8, lambda k, ds: setattr(ds, tag, values[k % 2]))) == [8]


def test_phases_of_each_of_two_kernels_are_four_volumes() -> None:
    def edit(k: int, ds: Dataset) -> None:
        ds.ConvolutionKernel, ds.AcquisitionNumber = f"B{k % 2}", k // 2 % 2

    assert sizes(slices(16, edit, per_place=4)) == [4, 4, 4, 4]


def test_copies_do_not_hide_phases() -> None:
    def edit(k: int, ds: Dataset) -> None:
        ds.AcquisitionNumber, ds.SOPInstanceUID = k % 4 // 2, f"1.2.{k // 2}"

    assert sizes(slices(16, edit, per_place=4)) == [8, 8]


def test_repeats_that_no_tag_tells_apart_stay_together() -> None:
    assert sizes(slices(8, per_place=2)) == [8]


def test_slices_without_a_place_stay_together() -> None:
    assert sizes(slices(4, lambda k, ds: ds.__delattr__("ImagePositionPatient") if k else None)) == [4]
