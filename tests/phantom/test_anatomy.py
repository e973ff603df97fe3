from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from klip_monai.phantom import PHASES, add_lesions, random_anatomy
from klip_monai.phantom.anatomy import random_rotation


def values(of: object) -> list[float]:
    """Every number in a nested anatomy, in order."""
    if dataclasses.is_dataclass(of):
        return [v for field in dataclasses.fields(of) for v in values(getattr(of, field.name))]
    if isinstance(of, dict):
        return [v for name in sorted(of) for v in values(of[name])]
    if isinstance(of, str):
        return []
    if isinstance(of, (tuple, np.ndarray)):
        return [v for part in of for v in values(part)]
    return [float(of)]  # type: ignore[arg-type]


def test_same_seed_is_the_same_patient_and_another_seed_another():
    first, again, other = random_anatomy(5), random_anatomy(5), random_anatomy(6)
    assert values(first) == values(again)
    assert first.phase == again.phase
    assert values(first) != values(other)


def test_numpy_global_state_plays_no_part():
    np.random.seed(0)  # noqa: NPY002
    first = values(random_anatomy(5))
    np.random.seed(1)  # noqa: NPY002
    assert values(random_anatomy(5)) == first


def test_patients_differ_in_size_fat_and_organs():
    patients = [random_anatomy(seed) for seed in range(30)]
    widths = np.array([p.half_width for p in patients])
    assert 0.04 < widths.std() / widths.mean() < 0.2
    assert np.std([p.fat_mm for p in patients]) > 2
    livers = np.array([p.organs["liver"][0].centre for p in patients])
    assert (livers.std(axis=0) > 2).all()
    assert {len(p.organs["gallbladder"]) for p in patients} == {0, 1}
    assert {p.phase for p in patients} == set(PHASES)


@pytest.mark.parametrize("phase", PHASES)
def test_phase_can_be_asked_for(phase):
    assert random_anatomy(0, phase=phase).phase == phase


def test_unknown_phase_is_refused():
    with pytest.raises(ValueError, match="phase: got 'venous', expected one of"):
        random_anatomy(0, phase="venous")


def mean_hu(phase: str) -> dict[str, float]:
    patients = [random_anatomy(seed, phase=phase).hu for seed in range(40)]
    return {name: float(np.mean([hu[name] for hu in patients])) for name in patients[0]}


def test_contrast_agent_is_where_the_phase_says():
    native, arterial, portal = (mean_hu(phase) for phase in PHASES)
    assert arterial["aorta"] > portal["aorta"] + 80 > native["aorta"] + 160
    assert portal["liver"] > arterial["liver"] + 20 > native["liver"]
    assert portal["vena_cava"] > arterial["vena_cava"] + 40
    assert arterial["cortex"] > arterial["medulla"] + 50, "cortex enhances first"
    assert portal["liver_vessel"] > portal["liver"] + 30, "portal vessels are bright"
    assert native["liver_vessel"] < native["liver"], "vessels are dark without contrast agent"
    for hu in (native, arterial, portal):
        assert hu["fat"] == pytest.approx(-104, abs=5)
        assert 40 < hu["muscle"] < 75
        assert 0 <= hu["fluid"] <= 18
        assert hu["bone"] > 350


def test_rotations_are_rotations_within_their_range():
    rng = np.random.default_rng(0)
    for degrees in (0.0, 5.0, 90.0):
        turn = random_rotation(rng, degrees).astype(float)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(turn) == pytest.approx(1)
    assert np.array_equal(random_rotation(rng, 0), np.eye(3))


def test_lesions_are_added_to_a_copy():
    healthy = random_anatomy(3)
    ill = add_lesions(healthy, seed=3, count=3)
    assert healthy.lesions == ()
    assert len(ill.lesions) == 3
    assert len(add_lesions(ill, seed=4).lesions) == 4
    assert values(dataclasses.replace(ill, lesions=())) == values(healthy)
    assert values(ill) == values(add_lesions(healthy, seed=3, count=3))
    assert values(ill) != values(add_lesions(healthy, seed=4, count=3))


def test_lesion_options_keep_their_ranges():
    healthy = random_anatomy(3)
    contrasts = []
    for seed in range(60):
        (lesion,) = add_lesions(healthy, seed=seed, radius_mm=(6, 9), contrast_hu=(30, 40), z_mm=(20, 60)).lesions
        assert 0.75 * 6 <= lesion.shape.radii.min() <= lesion.shape.radii.max() <= 1.3 * 9
        assert 20 <= lesion.shape.centre[2] <= 60
        assert 30 <= abs(lesion.contrast) <= 40
        contrasts.append(lesion.contrast)
    assert 0.5 < np.mean(np.array(contrasts) < 0) < 0.95, "three in four are hypodense"


def test_no_place_for_a_lesion_is_an_error():
    with pytest.raises(ValueError, match="z_mm: no place for a lesion"):
        add_lesions(random_anatomy(3), seed=0, z_mm=(300, 310))
