from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest

from klip_monai.errors import BundleError
from klip_monai.scoring import ExpectedDensity, IDReference, Places, settings_key

SETTINGS = {"weights": "ab12", "operator": {"type": "Identity", "image_shape": [8, 8]}, "window": {"high": 0.4}}


FLAT = ExpectedDensity(1.5, (0.1,), (1.0,), 1.0)


def alike(in_body: list[np.ndarray]) -> list[np.ndarray]:
    """The same local contrast everywhere: calibration then changes nothing but the scale."""
    return [np.full(values.shape, 0.1) for values in in_body]


def made_from(in_body: list[np.ndarray], contrast: list[np.ndarray], **options: object) -> IDReference:
    density = [values[:, None] for values in in_body]
    return IDReference.from_scans(density, contrast, contrast_px=2.0, settings=SETTINGS, **options)


def reference(scans: int = 20, *, seed: int = 0, pixels: int = 5000) -> IDReference:
    rng = np.random.default_rng(seed)
    in_body = [rng.gamma(2.0, 1.0, pixels) for _ in range(scans)]
    return made_from(in_body, alike(in_body), slices=12, description="healthy")


def with_scores(*scores: float) -> IDReference:
    return IDReference("key", FLAT, tuple(sorted(scores)), suspicious=1.0, strong=2.0, slices=12, description="")


def test_scan_scores_are_the_maxima_in_ascending_order():
    in_body = [np.full(300, 0.5), np.full(300, 0.5), np.full(300, 0.5)]
    for values, highest in zip(in_body, (7.0, 3.0, 4.0), strict=True):
        values[17] = highest
    made = made_from(in_body, alike(in_body), slices=3, description="three")
    np.testing.assert_allclose(made.scan_scores, (3.0, 4.0, 7.0), rtol=1e-6)
    assert (made.slices, made.description) == (3, "three")


def test_thresholds_are_the_quantiles_they_are_said_to_be():
    rng = np.random.default_rng(1)
    in_body = [rng.gamma(2.0, 1.0, 4000) for _ in range(40)]
    made = made_from(in_body, alike(in_body), slices=12, description="")
    assert np.mean(np.concatenate(in_body) >= made.suspicious) == pytest.approx(0.001, rel=0.05)
    assert np.mean([values.max() > made.strong for values in in_body]) <= 0.05


def test_scores_and_thresholds_are_of_the_calibrated_density():
    rng = np.random.default_rng(4)
    contrast = [np.geomspace(0.02, 0.8, 4000) for _ in range(20)]
    grain = [rng.gamma(2.0, 0.5, 4000) for _ in range(20)]
    uneven = [values * 30 * detail for values, detail in zip(grain, contrast, strict=True)]  # edges score 40 times more
    made = made_from(uneven, contrast, slices=12, description="")
    even = np.sort([values.max() for values in grain]) * made.expected.average
    np.testing.assert_allclose(made.scan_scores, even, rtol=0.2)
    assert made.suspicious == pytest.approx(np.quantile(np.concatenate(grain), 0.999) * made.expected.average, rel=0.1)


@pytest.mark.parametrize("scans", [2, 3, 30])
def test_strong_is_never_below_suspicious(scans):
    for seed in range(5):
        made = reference(scans, seed=seed, pixels=500)
        assert made.strong >= made.suspicious > 0


def test_p_value_counts_the_healthy_scans_that_score_at_least_as_high():
    made = with_scores(1.0, 2.0, 3.0, 4.0)
    assert [made.p_value(s) for s in (0.5, 1.0, 1.5, 4.0, 4.5)] == [1.0, 1.0, 0.8, 0.4, 0.2]


def test_p_values_of_exchangeable_healthy_scans_are_uniform_in_rank():
    rng, scans, trials = np.random.default_rng(2), 19, 4000
    p_values = np.empty(trials)
    for trial in range(trials):
        scores = rng.gumbel(size=scans + 1)
        p_values[trial] = with_scores(*scores[1:]).p_value(scores[0])
    ranks = np.round(p_values * (scans + 1)).astype(int)
    counts = np.bincount(ranks, minlength=scans + 2)[1:]
    expected = trials / (scans + 1)
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # 99.9 % quantile of chi-square with 19 degrees
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p_values <= level) == pytest.approx(level, abs=4 * (level * (1 - level) / trials) ** 0.5)


def test_scans_of_one_person_count_as_one():
    made = replace(with_scores(1.0, 2.0, 3.0, 4.0, 5.0), patients=(0, 1, 1, 0, 2))
    assert made.people == 3
    assert made.least_p == 0.25
    assert made.in_words == "5 healthy scans of 3 people"
    assert with_scores(1.0, 2.0).in_words == "2 healthy scans"
    assert [made.p_value(s) for s in (0.5, 1.5, 2.5, 4.0, 4.5, 6.0)] == [1.0, 0.875, 0.75, 0.625, 0.5, 0.25]


@pytest.mark.parametrize("people", [4, 19])
def test_p_values_hold_for_new_people_however_alike_the_scans_of_each_are(people):
    rng, trials, scans = np.random.default_rng(5), 1000, 12
    each, alone = [], []
    of = np.repeat(np.arange(people + 1), scans)
    for _ in range(trials):
        scores = rng.normal(size=people + 1)[of] + 0.1 * rng.normal(size=of.size)
        order = np.argsort(scores[scans:])
        made = replace(with_scores(*scores[scans:]), patients=tuple(of[scans:][order].tolist()))
        each.append(made.p_value(scores[0]))
        alone.append(replace(made, patients=()).p_value(scores[0]))
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.asarray(each) <= level) <= level + 3 * (level * (1 - level) / trials) ** 0.5
    if people == 4:
        assert np.mean(np.asarray(alone) <= 0.05) > 0.15, "taken one by one they promise too much"


def test_people_of_a_reference_follow_their_scans():
    in_body = [np.full(300, 0.5) for _ in range(4)]
    for values, highest in zip(in_body, (7.0, 3.0, 5.0, 4.0), strict=True):
        values[17] = highest
    made = made_from(in_body, alike(in_body), slices=3, description="", patients=[0, 0, 1, 2])
    assert [round(score) for score in made.scan_scores] == [3, 4, 5, 7]
    assert made.patients == (0, 2, 1, 0)


def test_a_reference_without_people_has_one_for_each_scan(tmp_path):
    made = reference()
    content = {name: value for name, value in dataclasses.asdict(made).items() if name != "patients"}
    (tmp_path / "reference.json").write_text(json.dumps(content))
    read = IDReference.load(tmp_path / "reference.json")
    assert read.people == made.people == 20
    assert read.p_value(made.scan_scores[3]) == made.p_value(made.scan_scores[3])


def test_ties_never_make_a_p_value_too_small():
    rng, trials = np.random.default_rng(3), 2000
    scores = rng.integers(0, 4, (trials, 20)).astype(float)
    p_values = np.array([with_scores(*row[1:]).p_value(row[0]) for row in scores])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p_values <= level) <= level + 3 * (level * (1 - level) / trials) ** 0.5


def test_a_saved_reference_reads_back_the_same(tmp_path):
    made = reference()
    made.save(tmp_path / "reference.json")
    assert IDReference.load(tmp_path / "reference.json") == made
    json.loads((tmp_path / "reference.json").read_text())


@pytest.mark.parametrize(
    "content",
    [
        None,
        "not json",
        "[]",
        "{}",
        '{"key": "a", "scan_scores": [1.0]}',
        '{"key": "", "expected": {}, "scan_scores": [1], "suspicious": 1, "strong": 2, "slices": 1, "description": ""}',
        '{"key": "a", "scan_scores": 3, "suspicious": 1, "strong": 2, "slices": 1, "description": ""}',
    ],
)
def test_a_missing_or_broken_reference_is_refused_with_the_way_out(tmp_path, content):
    path = tmp_path / "reference.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BundleError, match="klip-monai calibrate") as caught:
        IDReference.load(path)
    assert "\n" not in str(caught.value)


def test_only_the_very_settings_match():
    made = reference()
    assert made.matches(dict(reversed(SETTINGS.items()))), "the order of settings must not matter"
    assert made.matches(json.loads(json.dumps(SETTINGS))), "settings from a file must match"
    for changed in (
        {**SETTINGS, "weights": "ab13"},
        {**SETTINGS, "window": {"high": 0.41}},
        {**SETTINGS, "operator": {"type": "Identity", "image_shape": [8, 9]}},
        {**SETTINGS, "more": 1},
        {k: v for k, v in SETTINGS.items() if k != "window"},
    ):
        assert not made.matches(changed)


def test_key_is_the_same_in_every_process():
    assert settings_key({"b": [1, 2], "a": 0.5}) == settings_key({"a": 0.5, "b": (1, 2)}) == "61c62de8eeea3030"


def with_peaks(*peaks: tuple[float, ...], patients: tuple[int, ...] = ()) -> IDReference:
    scores = sorted(range(1, len(peaks) + 1))
    return replace(with_scores(*map(float, scores)), peaks=peaks, patients=patients)


def test_q_value_is_what_healthy_scans_lead_to_expect_over_what_was_found():
    # Four people have 0, 1, 1 and 2 candidates at or above 2, of which none, one, none and one at or above 5.
    made = with_peaks((1.0,), (5.0,), (2.0, 1.5), (6.0, 3.0))
    # t = 9: (1 + 0) / 5 over 1; t = 5: (1 + 2) / 5 over 2; t = 2: (1 + 4) / 5 over 4.
    assert made.q_values([9.0, 5.0, 2.0, 2.0]) == pytest.approx([0.2, 0.25, 0.25, 0.25])
    assert made.q_values([2.0, 9.0, 2.0, 5.0]) == pytest.approx([0.25, 0.2, 0.25, 0.25]), "in the order given"
    assert made.q_values([2.0]) == [1.0], "never above 1"
    assert made.q_values([]) == []


def test_q_values_fall_with_the_peak_and_are_never_below_what_so_few_people_allow():
    rng = np.random.default_rng(6)
    made = with_peaks(*(tuple(rng.gamma(2.0, 1.0, rng.integers(0, 6)).tolist()) for _ in range(19)))
    peaks = np.sort(rng.gamma(2.0, 2.0, 30))
    q = np.asarray(made.q_values(peaks.tolist()))
    assert (np.diff(q) <= 0).all()
    assert q.max() <= 1
    assert (q >= 1 / 20 / 30).all()
    brute = [
        min((1 + sum(p >= t for scan in made.peaks for p in scan)) / 20 / (peaks >= t).sum() for t in peaks[: n + 1])
        for n in range(30)
    ]
    np.testing.assert_allclose(q, np.minimum(brute, 1))


def test_candidates_of_one_persons_scans_count_by_their_mean():
    made = with_peaks((5.0, 5.0), (5.0,), (), patients=(0, 0, 1))
    # Person 0 has 1.5 candidates a scan, person 1 none.
    assert made.q_values([4.0, 4.5, 5.0, 4.2, 4.1]) == pytest.approx([2.5 / 3 / 5] * 5)


@pytest.mark.parametrize(("people", "more"), [(4, 0.05), (40, 0.02)])
def test_share_of_false_findings_is_about_q_where_healthy_places_are_like_those_of_healthy_scans(people, more):
    rng, trials, found, false = np.random.default_rng(7), 1000, 0, []
    for _ in range(trials):
        made = with_peaks(*(tuple(rng.exponential(size=rng.poisson(2)).tolist()) for _ in range(people)))
        healthy, ill = rng.exponential(size=rng.poisson(2)), 4 + rng.exponential(size=4)
        q = np.asarray(made.q_values([*healthy.tolist(), *ill.tolist()]))
        wrong, right = (q[: healthy.size] <= 0.2).sum(), (q[healthy.size :] <= 0.2).sum()
        false.append(wrong / max(wrong + right, 1))
        found += int(right)
    assert np.mean(false) <= 0.2 + more, "an estimate: a little too small with few people"
    assert found > 3 * trials, "what is there is found"


def test_q_values_are_unknown_without_candidates_of_healthy_scans_and_known_where_these_had_none():
    assert with_scores(1.0, 2.0).q_values([3.0]) is None
    assert with_peaks((), ()).q_values([3.0, 4.0]) == pytest.approx([1 / 6, 1 / 6])


def test_peaks_are_kept_in_the_file_and_a_file_without_them_is_read(tmp_path):
    made = with_peaks((), (2.0,), (3.0, 1.0))
    made.save(tmp_path / "reference.json")
    assert IDReference.load(tmp_path / "reference.json") == made
    content = json.loads((tmp_path / "reference.json").read_text())
    del content["peaks"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert IDReference.load(tmp_path / "old.json") == replace(made, peaks=())
    content["peaks"] = [[1.0]]
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="peaks: got those of 1 scans, expected 3"):
        IDReference.load(tmp_path / "bad.json")


def test_a_reference_holds_the_peaks_of_the_candidates_of_its_scans():
    inside = np.zeros((4, 10, 10), bool)
    inside[:, 1:9, 1:9] = True
    in_body = [np.full(256, 0.5) for _ in range(3)]
    for values, found in zip(in_body, ({3: 7.0, 200: 6.0}, {17: 3.0}, {40: 4.0, 41: 3.9}), strict=True):
        for place, value in found.items():
            values[place] = value
    options = {"settings": SETTINGS, "slices": 4, "description": "", "patients": [0, 1, 2], "expected": FLAT}
    made = IDReference.from_calibrated(in_body, places=[Places(inside, 0.2)] * 3, **options)
    assert made.scan_scores == (3.0, 4.0, 7.0)
    reached = [peak for peak in (7.0, 6.0, 3.0, 4.0) if peak >= made.suspicious]
    assert sorted(peak for scan in made.peaks for peak in scan) == pytest.approx(sorted(reached))
    assert made.peaks[2][0] == 7.0
    small = IDReference.from_calibrated(in_body, places=[Places(inside, 0.01)] * 3, **options)
    assert small.peaks == ((), (), ()), "too small to be candidates"


def q_as_defined(made: IDReference, peaks: list[float]) -> list[float]:
    """The definition, counted out for each threshold."""
    scans = list(zip([weight for _, weight in made.weighted_scores], made.peaks, strict=True))
    least, q_of = 1.0, {}
    for t in sorted(set(peaks)):
        healthy = math.fsum(share * sum(peak >= t for peak in found) for share, found in scans)
        least = min(least, (1 + healthy) / (1 + made.people) / sum(peak >= t for peak in peaks))
        q_of[t] = least
    return [q_of[peak] for peak in peaks]


@pytest.mark.parametrize("seed", range(20))
def test_q_values_are_those_of_the_definition_to_the_last_bit(seed):
    rng = np.random.default_rng(seed)
    digits = int(rng.integers(0, 8))  # few make ties, of own and healthy peaks alike
    counts = rng.integers(0, 12, rng.integers(1, 9))
    made = with_peaks(*(tuple(np.round(rng.gamma(2.0, 1.0, n), digits).tolist()) for n in counts))
    made = replace(made, patients=tuple(rng.integers(0, 3, len(counts)).tolist()))
    peaks = np.round(rng.gamma(2.0, 1.0, rng.integers(0, 60)), digits).tolist()
    assert made.q_values(peaks) == q_as_defined(made, peaks)


def test_q_values_of_very_many_peaks_take_no_time():
    rng = np.random.default_rng(0)
    made = with_peaks(*(tuple(rng.gamma(2.0, 1.0, 200).tolist()) for _ in range(40)))
    start = time.process_time()
    assert len(made.q_values(rng.gamma(2.0, 1.0, 100_000).tolist())) == 100_000
    assert time.process_time() - start < 5.0
