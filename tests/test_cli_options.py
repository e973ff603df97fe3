"""Options of the command line as settings of a bundle."""

from __future__ import annotations

import pytest
from monai.bundle import ConfigWorkflow

from klip_monai.bundle import find_bundle, open_workflow
from klip_monai.cli.options import Operator, _flag, overrides_of
from klip_monai.errors import InputError
from klip_monai.scan.overrides import check_measurement


def workflow(operator: str | None, *settings: str) -> ConfigWorkflow:
    overrides = overrides_of(operator and Operator(operator), settings=settings)
    opened = open_workflow(find_bundle("klip_ct_phantom"), "inference.json", kind="inference", **overrides)
    check_measurement(opened.parser, overrides, called=_flag)
    return opened


def test_a_scanner_is_described_by_its_settings():
    scanner = ("source_mm=595", "detector_mm=490.6", "detectors=70", "pitch_mm=13.5")
    geometry = workflow("fan_beam", *scanner).parser.get_parsed_content("operator").geometry
    assert (geometry.source_mm, geometry.detector_mm, geometry.detectors) == (595.0, 490.6, 70)
    assert (geometry.pitch_mm, geometry.angle_range) == (13.5, 360.0)


def test_inpainting_takes_its_share_and_its_square():
    operator = workflow("inpainting", "measured=0.75", "missing=square").parser.get_parsed_content("operator")
    assert operator.describe()["measured"] == pytest.approx(0.75)
    assert not operator.mask[tuple(n // 2 for n in operator.image_shape)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sourc=595"], "got 'sourc=595', expected KEY=VALUE with a KEY of detectors, pitch_mm, source_mm, detector"),
        (["source_mm"], "got 'source_mm', expected KEY=VALUE"),
        (["source_mm=far"], "--operator-option source_mm: got 'far', expected a number"),
        (["detectors=3.5"], r"--operator-option detectors: got '3\.5', expected a whole number"),
        (["missing=$print(1)"], r"--operator-option missing: got '\$print\(1\)', expected random or square"),
        (["views=3"], "got 'views=3', which has an option of its own: use --views"),
        (["detectors=3", "detectors=4"], "got detectors twice"),
        (["blur_mm=3"], "--operator-option blur_mm: got it with the measurement fan_beam, .*source_mm, .*blur"),
    ],
)
def test_settings_that_are_none_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        workflow("fan_beam", *settings)


def test_settings_of_another_measurement_than_the_bundles_are_refused():
    with pytest.raises(InputError, match=r"with the measurement sparse_view, .*; or add --operator fan_beam"):
        workflow(None, "source_mm=595")


@pytest.mark.parametrize("bundle", ["klip_ct_phantom", "klip_ct_abdomen"])
def test_sharp_reaches_the_inferer_of_any_bundle(bundle):
    overrides = overrides_of(sharp=True)
    opened = open_workflow(find_bundle(bundle), "inference.json", kind="inference", **overrides)
    assert opened.parser.get_parsed_content("inferer").reading.sharp


def test_sharp_with_twins_is_refused():
    with pytest.raises(InputError, match="--twins, --sharp: got both"):
        overrides_of(twins=2, sharp=True)
