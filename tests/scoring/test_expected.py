from __future__ import annotations

import numpy as np
import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.scoring import ContrastSums, ExpectedDensity, leave_one_out, local_contrast


def healthy(pixels: int = 20_000, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Density that grows with contrast: 0.2 + contrast on average."""
    rng = np.random.default_rng(seed)
    contrast = np.exp(rng.uniform(np.log(0.012), np.log(0.9), pixels))
    return (0.2 + contrast) * rng.gamma(4.0, 0.25, pixels), contrast


def fitted(**options: int) -> ExpectedDensity:
    return ExpectedDensity.fit(ContrastSums.of(*healthy(**options)), contrast_px=1.5)


def test_contrast_of_a_flat_image_is_nought_and_that_of_noise_its_standard_deviation():
    flat = torch.full((1, 1, 64, 64), 0.3)
    noisy = flat + 0.2 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    inner = (..., slice(10, -10), slice(10, -10))
    assert float(local_contrast(flat, sigma_px=1.5)[inner].max()) < 0.003
    assert float(local_contrast(noisy, sigma_px=3.0)[inner].mean()) == pytest.approx(0.2, rel=0.05)


def test_contrast_at_an_edge_is_half_the_step_and_falls_off_within_the_neighbourhood():
    edge = torch.where(torch.arange(64) < 32, -0.5, 0.5).expand(1, 1, 64, 64).contiguous()
    row = local_contrast(edge, sigma_px=1.5)[0, 0, 32]
    assert float(row[31:33].mean()) == pytest.approx(0.5, rel=0.05)
    assert float(row[24]) < 0.01


def test_the_border_of_the_image_is_no_edge():
    assert float(local_contrast(torch.full((2, 1, 32, 32), 0.7), sigma_px=1.5).max()) < 0.003


def test_expectation_follows_the_healthy_density():
    contrast = np.array([0.02, 0.05, 0.2, 0.7])
    np.testing.assert_allclose(fitted().at(contrast), 0.2 + contrast, rtol=0.06)


def test_expectation_is_constant_beyond_what_was_seen():
    expected = fitted()
    assert expected.at(np.array([1e-4])) == pytest.approx(expected.density[0])
    assert expected.at(np.array([5.0])) == pytest.approx(expected.density[-1])


def test_bins_with_few_pixels_are_interpolated():
    density, contrast = healthy()
    gap = (contrast > 0.1) & (contrast < 0.2)
    keep = ~gap | (np.cumsum(gap) <= 3)
    density[gap & keep] = 1e3  # three wild pixels
    expected = ExpectedDensity.fit(ContrastSums.of(density[keep], contrast[keep]), contrast_px=1.5)
    assert expected.at(np.array([0.15])) == pytest.approx(0.35, rel=0.15)


def test_calibrated_healthy_density_is_the_average_at_every_contrast():
    density, contrast = healthy(seed=1)
    expected = fitted()
    calibrated = density * expected.average / expected.at(contrast)
    for low, high in ((0.012, 0.05), (0.05, 0.2), (0.2, 0.9)):
        inside = (contrast >= low) & (contrast < high)
        assert calibrated[inside].mean() == pytest.approx(expected.average, rel=0.05)


def test_heat_maps_are_raised_in_smooth_tissue_and_lowered_at_edges():
    edge = torch.where(torch.arange(64) < 32, -0.7, 0.7).expand(1, 1, 64, 64).contiguous()
    heatmap = fitted().heatmap(torch.ones_like(edge), edge)
    assert heatmap.shape == edge.shape
    assert heatmap.dtype == torch.float32
    assert float(heatmap[0, 0, 32, 10]) > 1.5 * float(heatmap[0, 0, 32, 31])


def test_sums_of_scans_add_up():
    (d1, c1), (d2, c2) = healthy(seed=1), healthy(seed=2)
    both = ContrastSums.of(np.concatenate([d1, d2]), np.concatenate([c1, c2]))
    added = ContrastSums.of(d1, c1) + ContrastSums.of(d2, c2)
    np.testing.assert_array_equal(added.pixels, both.pixels)
    np.testing.assert_allclose(added.nats, both.nats)


def test_a_scan_has_no_part_in_its_own_calibration():
    scans = [healthy(5000, seed=seed) for seed in range(4)]
    density, contrast = [d for d, _ in scans], [c for _, c in scans]
    density[2] = 10 * density[2]
    _, calibrated = leave_one_out([d[:, None] for d in density], contrast, contrast_px=1.5)
    rest = (0, 1, 3)
    others = ContrastSums.of(np.concatenate([density[i] for i in rest]), np.concatenate([contrast[i] for i in rest]))
    alone = ExpectedDensity.fit(others, contrast_px=1.5)
    np.testing.assert_allclose(calibrated[2], density[2] * alone.average / alone.at(contrast[2]), rtol=1e-9)


def test_a_person_has_no_part_in_the_calibration_of_its_scans():
    scans = [healthy(5000, seed=seed) for seed in range(4)]
    density, contrast = [d for d, _ in scans], [c for _, c in scans]
    together = [d[:, None] for d in density]
    _, calibrated = leave_one_out(together, contrast, contrast_px=1.5, patients=[0, 1, 1, 2])
    rest = (0, 3)
    others = ContrastSums.of(np.concatenate([density[i] for i in rest]), np.concatenate([contrast[i] for i in rest]))
    alone = ExpectedDensity.fit(others, contrast_px=1.5)
    np.testing.assert_allclose(calibrated[2], density[2] * alone.average / alone.at(contrast[2]), rtol=1e-9)
    with pytest.raises(InputError, match="4 of 1 people, expected 2"):
        leave_one_out(together, contrast, contrast_px=1.5, patients=[3, 3, 3, 3])


def test_too_few_pixels_are_refused():
    with pytest.raises(InputError, match="got 50 in-body pixels, expected 200"):
        fitted(pixels=50)


def test_a_quarter_of_the_average_is_expected_at_least():
    contrast = np.repeat([0.012, 0.1], 1000)
    density = np.where(contrast < 0.05, 1e-4, 1.0)
    expected = ExpectedDensity.fit(ContrastSums.of(density, contrast), contrast_px=4.0)
    assert expected.average == pytest.approx(0.50005)
    np.testing.assert_allclose(expected.at(np.array([0.001, 0.011, 0.5])), [0.125, 0.125, 1.0], rtol=0.02)


def test_calibration_of_half_strength_is_the_geometric_mean_of_none_and_full():
    density, contrast = healthy()
    sums = ContrastSums.of(density, contrast)
    none, half, full = (ExpectedDensity.fit(sums, contrast_px=1.5, strength=s) for s in (0.0, 0.5, 1.0))
    column = density[:, None]
    np.testing.assert_allclose(none.calibrated(column, contrast), density)
    both = np.sqrt(density * full.calibrated(column, contrast))
    np.testing.assert_allclose(half.calibrated(column, contrast), both, rtol=1e-9)


def two_densities(*, seed: int = 0, pixels: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """A second density, of all frequencies, that is larger and heavier-tailed."""
    density, contrast = healthy(pixels, seed=seed)
    every = 3 * np.random.default_rng(seed + 100).gamma(1.0, 1.0, pixels)
    return np.stack([density, every], axis=1), contrast


def test_the_density_of_all_frequencies_reaches_as_far_in_healthy_tissue_as_the_calibrated_one():
    density, contrast = two_densities()
    alone = ExpectedDensity.fit(ContrastSums.of(density[:, 0], contrast), contrast_px=1.5)
    both = alone.matched(density, contrast)
    rare = [np.quantile(values, 0.999) for values in (alone.calibrated(density, contrast), both.sharp * density[:, 1])]
    assert rare[0] == pytest.approx(rare[1])
    assert alone.matched(density[:, :1], contrast) == alone


def test_the_larger_of_both_counts():
    density, contrast = two_densities()
    both = ExpectedDensity.fit(ContrastSums.of(density[:, 0], contrast), contrast_px=1.5).matched(density, contrast)
    larger = both.calibrated(density, contrast)
    alone = both.calibrated(density * [1, 0], contrast)
    np.testing.assert_allclose(larger, np.maximum(alone, both.sharp * density[:, 1]))
    assert 0.01 < (larger > alone).mean() < 0.99
    maps = torch.from_numpy(density[:400].T.reshape(1, 2, 20, 20)).float()
    at = torch.from_numpy(contrast[:400].reshape(1, 1, 20, 20))
    np.testing.assert_allclose(both.heatmap_at(maps, at).flatten(), larger[:400], rtol=1e-5)


def test_a_scan_has_no_part_in_what_its_density_of_all_frequencies_is_matched_by():
    scans = [two_densities(seed=seed, pixels=5000) for seed in range(4)]
    density, contrast = [d for d, _ in scans], [c for _, c in scans]
    density[2][:, 1] *= 1000
    expected, calibrated = leave_one_out(density, contrast, contrast_px=1.5)
    rest = [np.concatenate([parts[i] for i in (0, 1, 3)]) for parts in (density, contrast)]
    others = ExpectedDensity.fit(ContrastSums.of(rest[0][:, 0], rest[1]), contrast_px=1.5).matched(*rest)
    np.testing.assert_allclose(calibrated[2], others.calibrated(density[2], contrast[2]))
    assert expected.sharp < others.sharp / 100
