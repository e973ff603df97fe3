"""What each section measures; never how long it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from klip_monai.benchmarks import NAMES, QUICK, sections_of
from klip_monai.benchmarks.sections import SECTIONS
from klip_monai.benchmarks.subject import SPARSE_VIEW
from klip_monai.bundle import find_bundle
from klip_monai.errors import InputError


def test_precision_has_both_kinds_and_says_which_is_taken(subject, assert_measured):
    rows = SECTIONS["precision"](subject)
    assert_measured(rows)
    taken = {row.what.split(",")[0] for row in rows if row.remark}
    assert len(taken) == 1
    assert {row.what.split(",")[0] for row in rows} == {"float32", "bfloat16"}
    assert {row.figures["rows"] for row in rows} == {1, 4, 8}


def test_levels_of_a_bundle_without_presets_are_its_own(subject, assert_measured):
    (row,) = SECTIONS["levels"](subject)
    assert_measured([row])
    assert row.figures["passes"] == subject.inferer.passes


def test_presets_and_measurements_are_those_of_the_bundle(subject):
    real = replace(subject, bundle=find_bundle("klip_ct_abdomen"))
    assert real.presets == ("fast", "default", "thorough")
    assert real.measurements == {"sparse_view 24 views": SPARSE_VIEW, "identity": {}}
    assert subject.presets == (None,)
    assert subject.measurements == {"sparse_view 24 views": {}}


def test_crop_tells_the_share_of_pixels_that_the_network_sees(subject, assert_measured):
    rows = SECTIONS["crop"](subject)
    assert_measured(rows)
    boxes, whole = (row.figures["pixel_share"] for row in rows)
    assert boxes < whole == 1


def test_stages_are_those_of_a_scan_and_of_a_run(subject, assert_measured):
    rows = SECTIONS["stages"](subject)
    assert_measured(rows)
    assert {row.per for row in rows} == {"pass", "slice", "scan", "run"}


def test_sections_are_chosen_by_name():
    assert sections_of([]) == list(QUICK)
    assert sections_of(["all"]) == list(NAMES) == list(SECTIONS)
    assert sections_of(["crop", "precision", "crop"]) == ["precision", "crop"]
    with pytest.raises(InputError, match=r"section: got levles, expected some of precision, .*, or all"):
        sections_of(["levles"])
