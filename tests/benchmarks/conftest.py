"""The least that can be measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from klip_monai.benchmarks.cost import Row
from klip_monai.benchmarks.series import Series
from klip_monai.benchmarks.subject import Subject
from klip_monai.bundle import find_bundle

SMALL = Series(side=64, slices=1, slice_mm=5.0)


@pytest.fixture(scope="session")
def subject() -> Subject:
    """The phantom bundle and one slice, measured once."""
    info = find_bundle("klip_ct_phantom")
    return Subject(info, torch.device("cpu"), tries=1, slices=1, scan=SMALL, series=Series(96, 3, 5.0))


@pytest.fixture(scope="session")
def assert_measured():
    """Whether all numbers of rows are finite and positive, and no two rows have one name."""

    def check(rows: Sequence[Row]) -> None:
        assert rows
        assert len({row.what for row in rows}) == len(rows)
        for row in rows:
            numbers = (row.cost.cpu_s, row.cost.wall_s, *row.figures.values())
            assert all(math.isfinite(number) and number > 0 for number in numbers), row

    return check
