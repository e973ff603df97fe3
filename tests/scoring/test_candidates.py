"""Candidates: where they are in the patient, how large, in which order, and with which p and q."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from klip_monai.io.strict_json import write_json
from klip_monai.scoring import (
    Candidate,
    ExpectedDensity,
    IDReference,
    find_candidates,
    threshold_heatmap,
    what_p_and_q_mean,
)
from klip_monai.scoring.candidates import ranked

SHAPE = (14, 12, 9)
FLAT = ExpectedDensity(1.5, (0.1,), (1.0,), 1.0)
REFERENCE = IDReference("key", FLAT, (1.0, 2.0, 3.0, 4.0), suspicious=1.0, strong=3.5, slices=9, description="")
WITH_PEAKS = replace(REFERENCE, peaks=((), (2.0, 1.5), (3.0,), (4.0, 1.0)))
STRAIGHT = np.array([[-0.8, 0, 0, 90.0], [0, -0.5, 0, 70.0], [0, 0, 5.0, -300.0], [0, 0, 0, 1.0]])


def scan() -> tuple[np.ndarray, np.ndarray]:
    """A low wide block, a high small one, and one of two voxels that touch at a corner."""
    heatmap, labels = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint8)
    heatmap[1:7, 2:5, 1:3] = 1.5
    heatmap[4, 3, 2] = 2.5
    heatmap[9:11, 7:10, 4:8] = 1.0
    heatmap[10, 8, 6] = 4.5
    heatmap[12, 1, 0] = heatmap[13, 0, 1] = 1.25
    labels[heatmap >= 1.0] = 1
    labels[heatmap >= 3.5] = 2
    return heatmap, labels


def test_connected_places_come_by_peak_the_highest_first():
    found = find_candidates(*scan(), STRAIGHT, REFERENCE)
    assert [candidate.rank for candidate in found] == [1, 2, 3]
    assert [candidate.peak for candidate in found] == [4.5, 2.5, 1.25]
    assert [candidate.voxel for candidate in found] == [(10, 8, 6), (4, 3, 2), (12, 1, 0)]
    assert [candidate.slice for candidate in found] == [6, 2, 0]
    assert [candidate.label for candidate in found] == [2, 1, 1]


def test_volume_and_mean_are_those_of_the_voxels_of_each():
    found = find_candidates(*scan(), STRAIGHT, REFERENCE)
    assert [candidate.volume_ml for candidate in found] == pytest.approx([24 * 0.002, 36 * 0.002, 2 * 0.002])
    assert [candidate.mean for candidate in found] == pytest.approx([(23 + 4.5) / 24, (35 * 1.5 + 2.5) / 36, 1.25])


def test_places_are_ras_millimetres_and_extents_those_of_the_box_on_an_anisotropic_flipped_grid():
    first, second, _ = find_candidates(*scan(), STRAIGHT, REFERENCE)
    assert first.peak_ras_mm == pytest.approx((90 - 8.0, 70 - 4.0, -300 + 30.0))
    assert first.centre_ras_mm == pytest.approx((90 - 0.8 * 9.5, 70 - 0.5 * 8, -300 + 5 * 5.5))
    assert first.extent_mm == pytest.approx((2 * 0.8, 3 * 0.5, 4 * 5.0))
    assert second.extent_mm == pytest.approx((6 * 0.8, 3 * 0.5, 2 * 5.0))


def test_extents_are_named_by_patient_axes_on_a_sagittal_grid():
    sagittal = np.array(
        [[0, 0, 5.0, 0], [-0.8, 0, 0, 0], [0, -0.5, 0, 0], [0, 0, 0, 1.0]]
    )  # x runs back, y down, z right
    first, *_ = find_candidates(*scan(), sagittal, REFERENCE)
    assert first.peak_ras_mm == pytest.approx((30.0, -8.0, -4.0))
    assert first.extent_mm == pytest.approx((4 * 5.0, 2 * 0.8, 3 * 0.5))
    assert first.slice == 6


@given(angles=st.tuples(*[st.floats(-12, 12)] * 3), flips=st.tuples(*[st.booleans()] * 3))
@settings(max_examples=30, deadline=None)
def test_oblique_and_mirrored_grids_move_places_and_keep_volume_and_extent(angles, flips):
    spacing = np.array([0.8, 0.5, 5.0])
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turned * spacing * np.where(flips, -1, 1)
    affine[:3, 3] = 11.0, -22.0, 33.0
    for moved, straight in zip(
        find_candidates(*scan(), affine, REFERENCE), find_candidates(*scan(), STRAIGHT, REFERENCE), strict=True
    ):
        assert moved.voxel == straight.voxel
        assert moved.peak_ras_mm == pytest.approx((affine @ [*moved.voxel, 1.0])[:3])
        assert moved.extent_mm == pytest.approx(straight.extent_mm)
        assert moved.volume_ml == pytest.approx(straight.volume_ml)


def test_p_is_the_share_of_healthy_people_with_anything_as_high():
    found = find_candidates(*scan(), STRAIGHT, REFERENCE)
    assert [candidate.p for candidate in found] == [1 / 5, 3 / 5, 4 / 5]


def test_the_candidate_with_the_maximum_has_the_p_of_the_scan_and_none_a_smaller():
    heatmap, labels = scan()
    heatmap *= np.float32(0.7)  # what interpolation to the scan's grid took from each peak
    for scan_score in (3.1, 4.0, 4.5, 6.0):
        found = find_candidates(heatmap, labels, STRAIGHT, WITH_PEAKS, scan_score=scan_score)
        assert found[0].p == WITH_PEAKS.p_value(scan_score)
        assert all(candidate.p >= found[0].p for candidate in found)
        assert found[0].peak == heatmap.max()
    by_hand = find_candidates(heatmap, labels, STRAIGHT, WITH_PEAKS, scan_score=4.5)
    assert [candidate.p for candidate in by_hand] == [1 / 5, 3 / 5, 4 / 5]


def test_q_is_unknown_and_said_to_be_where_the_reference_holds_no_candidates():
    assert [candidate.q for candidate in find_candidates(*scan(), STRAIGHT, REFERENCE)] == [None] * 3
    assert "q is not known" in what_p_and_q_mean(REFERENCE)
    assert "share of false findings" in what_p_and_q_mean(WITH_PEAKS)


def test_candidates_carry_the_q_values_of_their_peaks():
    found = find_candidates(*scan(), STRAIGHT, WITH_PEAKS)
    assert [candidate.q for candidate in found] == WITH_PEAKS.q_values([4.5, 2.5, 1.25])
    assert found[0].q == pytest.approx(1 / 5)


def test_a_scan_without_labels_has_no_candidates():
    assert find_candidates(np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint8), STRAIGHT, REFERENCE) == ()


def test_candidates_come_back_from_json_as_they_were(tmp_path: Path):
    found = find_candidates(*scan(), STRAIGHT, WITH_PEAKS)
    path = write_json(tmp_path / "s.json", {"candidates": [candidate.to_json() for candidate in found]})
    for read, candidate in zip(json.loads(path.read_text())["candidates"], found, strict=True):
        assert read["slice"] == candidate.voxel[2]
        assert Candidate.from_json(read) == candidate


def test_the_first_of_very_many_are_those_of_all_with_the_number_of_all():
    rng = np.random.default_rng(0)
    heatmap = np.zeros((160, 160, 160), np.float32)
    heatmap[::2, ::2, ::2] = np.round(1 + rng.gamma(1.0, 0.5, (80, 80, 80)), 2)
    start = time.process_time()
    labels = threshold_heatmap(heatmap, suspicious=1.0, strong=3.5, voxel_ml=0.002)
    found, count = ranked(heatmap, labels, STRAIGHT, WITH_PEAKS, most=50)
    assert time.process_time() - start < 20.0
    assert count == 80**3
    assert [candidate.peak for candidate in found] == np.sort(heatmap, axis=None)[::-1][:50].tolist()
    few = labels.copy()
    few[20:] = few[:, 20:] = few[:, :, 20:] = 0
    heatmap = np.where(few > 0, heatmap, 0)
    all_of_few = find_candidates(heatmap, few, STRAIGHT, WITH_PEAKS)
    assert ranked(heatmap, few, STRAIGHT, WITH_PEAKS, most=7) == (all_of_few[:7], len(all_of_few))
    assert len(all_of_few) == 1000
    voxels = [tuple(index) for index in np.argwhere(few > 0).tolist()]
    assert [candidate.voxel for candidate in all_of_few] == sorted(voxels, key=lambda voxel: -heatmap[voxel])
