"""Summaries are what their published schemas say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from klip_monai.report.schemas.summary_schema import FOLDER, KINDS, schema_of
from klip_monai.report.summary import (
    LookedAt,
    Provenance,
    RawData,
    SinogramSummary,
    Source,
    Summary,
    Thresholds,
    Worst,
)
from klip_monai.scoring import Candidate

PLACE = (1.0, 2.0, 3.0)
AFFINE = ((1.0, 0.0, 0.0, 0.0),) * 4
PROVENANCE = Provenance("b", "1", "x", settings={"window": {"high": 1.0}}, preset="fast")
SCAN = Summary(
    name="ct-0",
    source=Source("nifti", (4, 5, 6), PLACE, AFFINE, None),
    region=LookedAt("ab", (1, 2), 3, 0.1, 1, 1.0, 0.9, ()),
    unit="nats per pixel",
    scan_score=1.0,
    p_value=0.05,
    worst=Worst((1, 2, 3), PLACE, (3, 1)),
    slice_scores=(0.1, 0.2),
    volume_ml={"Suspicious": 1.0},
    candidate_count=1,
    candidates=(Candidate(1, (1, 2, 3), PLACE, PLACE, 1.0, PLACE, 0.5, 0.4, 1, 0.05, None),),
    p_and_q="p",
    thresholds=Thresholds(0.1, 0.2, "k", 29, 29, "29 healthy scans", 0.03, 24, (0.1, 0.2), "made up", {"null": "none"}),
    remarks=("one",),
    provenance=PROVENANCE,
    versions={"klip_monai": "0"},
    timings_s={"read": 1.0},
)
SINOGRAM = SinogramSummary(
    name="ct-0",
    source=RawData("sinogram", 24, 100, (0.0, 1.0), {"a": 1}, {"b": 2}, 0.1, {"least_squares": 0.1}),
    affine_ras_mm=AFFINE,
    reconstruction_unit="HU",
    unit="nats per pixel",
    slice_score=1.0,
    worst=Worst((1, 2, 0), PLACE, (0,)),
    remarks=(),
    provenance=PROVENANCE,
    versions={},
)


def validator(kind: type) -> Draft202012Validator:
    schema = schema_of(kind)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("name", KINDS)
def test_the_published_schema_is_that_of_the_type(name: str) -> None:
    published = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert published == schema_of(KINDS[name]), "python -m klip_monai.report.schemas.summary_schema writes it anew"


@pytest.mark.parametrize("summary", [SCAN, SINOGRAM, replace(SCAN, region=None, candidates=())])
def test_a_summary_passes_its_schema(summary: Summary | SinogramSummary) -> None:
    validator(type(summary)).validate(json.loads(json.dumps(summary.to_json())))


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.pop("p_value"),
        lambda told: told.update(p_value="small"),
        lambda told: told.update(more=1),
        lambda told: told["worst"].update(voxel=[1, 2]),
        lambda told: told["candidates"][0].pop("slice"),
        lambda told: told.update(schema="klip_monai/summary/0"),
    ],
)
def test_what_is_no_summary_does_not_pass(change: Any) -> None:
    told = json.loads(json.dumps(SCAN.to_json()))
    change(told)
    with pytest.raises(ValidationError):
        validator(Summary).validate(told)


def test_every_property_says_what_it_is() -> None:
    def undescribed(schema: dict[str, Any], where: str) -> list[str]:
        found = []
        for name, inner in schema.get("properties", {}).items():
            found += [] if "description" in inner else [f"{where}{name}"]
            found += undescribed(inner, f"{where}{name}.")
        return found

    missing = undescribed(schema_of(Summary), "")
    assert missing == []


def test_a_candidate_comes_back_from_json() -> None:
    (candidate,) = SCAN.candidates
    assert Candidate.from_json(json.loads(json.dumps(candidate.to_json()))) == candidate
