from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from klip_monai.evaluation.awkward_series import AwkwardSeries, awkward_series, write_awkward_series
from klip_monai.evaluation.reader_study import real_verdicts, verdict
from klip_monai.evaluation.readers import READERS, Volume

CASES = awkward_series()


@pytest.mark.parametrize("series", CASES, ids=[series.name for series in CASES])
def test_our_reader_is_right_or_refuses_where_nothing_is_right(series: AwkwardSeries) -> None:
    several = f" ({len(series.phases)} volumes)" if len(series.phases) > 1 else ""
    assert verdict(series, READERS["ours"]) == (f"right{several}" if series.phases else "refused")


@pytest.mark.parametrize("change", ["flip", "shift", "values", "extra"])
def test_wrong_volumes_are_found_out(change: str) -> None:
    def read(folder: Path) -> list[Volume]:
        ((values, affine),) = READERS["ours"](folder)
        if change == "flip":
            values = values[:, :, ::-1]
        elif change == "shift":
            affine = affine + np.array([[0, 0, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0], [0, 0, 0, 0]])
        elif change == "values":
            values = values + 1024
        else:
            return [(values, affine), (values[::-1], affine)]
        return [(values, affine)]

    assert verdict(CASES[0], READERS["ours"]) == "right"
    assert verdict(CASES[0], read).startswith("silently wrong")


def test_errors_and_empty_results_are_refusals() -> None:
    assert verdict(CASES[0], lambda folder: []) == "refused"
    assert verdict(CASES[0], lambda folder: [][0]) == "refused"


def test_real_cases_are_held_against_their_own_files(tmp_path: Path) -> None:
    write_awkward_series(CASES[0], tmp_path)

    def half(folder: Path) -> list[Volume]:
        ((values, affine),) = READERS["ours"](folder)
        return [(values[:, :, :6], affine)]

    def turned(folder: Path) -> list[Volume]:
        ((values, affine),) = READERS["ours"](folder)
        return [(values[:, ::-1], affine)]

    found = real_verdicts(tmp_path, [READERS["ours"], half, turned, lambda folder: [][0]])
    assert found == ["right", "silently wrong", "silently wrong", "refused"]
