"""The scan study scores whole scans with the reference's calibration, and reports what a user would see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_slices import KnownSlices

from klip_monai.errors import InputError
from klip_monai.evaluation import run_scan_study, scan_study
from klip_monai.inferer import KLIPInferer
from klip_monai.phantom import random_scan
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser
from klip_monai.scan import Scorer
from klip_monai.scan.calibration import SLICE_MM
from klip_monai.scoring import ExpectedDensity, IDReference
from klip_monai.standard import PriorGrid, standard_slices

FLAT = ExpectedDensity(1.5, (0.1,), (1.0,), 1.0)


def healthy_twins(grid: PriorGrid, *, scans: int, slices: int) -> KnownSlices:
    """A prior around the very slices of the study, without their lesions."""
    seeds = [s + i for s in (scan_study.HEALTHY_SCAN_SEED, scan_study.LESION_SCAN_SEED) for i in range(scans)]
    healthy = [random_scan(seed, slices=slices, slice_mm=SLICE_MM).image for seed in seeds]
    return KnownSlices(torch.cat([standard_slices(image, grid).images for image in healthy]), std=0.05)


@pytest.fixture(scope="module")
def study():
    grid = PriorGrid()
    inferer = KLIPInferer.of(Identity(grid.image_shape), window_levels=2, sampler_levels=2)
    reference = IDReference("key", FLAT, tuple(np.linspace(0.05, 0.3, 39)), 0.25, 0.29, 6, "made up")
    score = Scorer(healthy_twins(grid, scans=2, slices=6), inferer, grid=grid, reference=reference)
    return run_scan_study(score, scans=2, slices=6)


def test_lesions_are_called_and_localised_where_only_the_lesion_is_new(study):
    assert study.localised.value == 1
    assert study.scan_level.value == 1
    assert all(scan.peak_in_lesion for scan in study.lesion)
    assert not any(scan.peak_in_lesion for scan in study.healthy)


def test_shares_are_those_of_the_p_values(study):
    for share, scans in ((study.false_alarms, study.healthy), (study.found, study.lesion)):
        assert share.value == np.mean([scan.p_value <= 0.05 for scan in scans])
        assert all(0 < scan.p_value <= 1 for scan in scans)


def test_no_scans_make_no_study_and_a_reference_is_needed():
    score = Scorer(GaussianDenoiser(), KLIPInferer.of(Identity((32, 32))), grid=PriorGrid((32, 32)))
    assert run_scan_study(score, scans=0) is None
    with pytest.raises(InputError, match="got 2 scans and no ID reference"):
        run_scan_study(score, scans=2)
