from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.io.strict_json import write_json


def test_summary_is_read_back_with_plain_numbers(tmp_path: Path) -> None:
    summary = {
        "score": np.float32(0.5),
        "spacing": np.array([0.5, 0.5, 2.0]),
        "worst": (np.int64(3), 4),
        "mask": torch.tensor([True, False]),
        "bundle": {"name": "größe", "path": Path("a/b")},
        "p_value": None,
    }
    path = write_json(tmp_path / "summary.json", summary)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "score": 0.5,
        "spacing": [0.5, 0.5, 2.0],
        "worst": [3, 4],
        "mask": [True, False],
        "bundle": {"name": "größe", "path": "a/b"},
        "p_value": None,
    }


def test_order_of_keys_does_not_change_the_file(tmp_path: Path) -> None:
    one = write_json(tmp_path / "1.json", {"a": 1, "b": {"c": 2, "d": 3}})
    two = write_json(tmp_path / "2.json", {"b": {"d": 3, "c": 2}, "a": 1})
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), np.array([0.0, np.nan])])
def test_number_that_json_cannot_hold_is_refused_with_its_place(value: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^summary\.scan\.score(\[1\])?: got (nan|inf)"):
        write_json(tmp_path / "summary.json", {"scan": {"score": value}})
    assert not list(tmp_path.iterdir())


def test_object_and_key_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^summary\.x: got a object"):
        write_json(tmp_path / "summary.json", {"x": object()})
    with pytest.raises(InputError, match="expected a string"):
        write_json(tmp_path / "summary.json", {"x": {1: 2}})
