from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from klip_monai.evaluation.reader_study import READERS, AwkwardSeries, Volume, awkward_series, verdict

CASES = awkward_series()


@pytest.mark.parametrize("series", CASES, ids=[series.name for series in CASES])
def test_our_reader_is_right_or_refuses_where_nothing_is_right(series: AwkwardSeries) -> None:
    assert verdict(series, READERS["ours"]) == ("right" if series.phases else "refused")


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
    assert verdict(CASES[0], read) == "silently wrong"


def test_errors_and_empty_results_are_refusals() -> None:
    assert verdict(CASES[0], lambda folder: []) == "refused"
    assert verdict(CASES[0], lambda folder: [][0]) == "refused"
