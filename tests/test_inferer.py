from __future__ import annotations

import itertools

import pytest
import torch
from monai.data import MetaTensor

from klip_monai.inferer import KLIPInferer
from klip_monai.physics import (
    AttenuationScale,
    FinerGrid,
    GaussianNoise,
    Identity,
    Measurement,
    ParallelBeam,
    PoissonNoise,
    Tomography,
)
from klip_monai.prior import GaussianDenoiser, PatchDenoiser, UNetDenoiser
from klip_monai.sampling import AncestralDPS, PatchLangevin, PredictorCorrector, Step
from klip_monai.scoring import smooth
from klip_monai.slice_generator import SliceGenerator

SHAPE = (24, 20)
ESTIMATORS = ("renoised", "trajectory")
OPERATOR = Tomography(ParallelBeam(image_shape=SHAPE, pixel_mm=3.0, views=12))
ROUNDING = {"rtol": 1e-3, "atol": 1e-4}  # of sums that are added in another order
FAST = {"window": (0.4, 0.1), "window_levels": 3, "sampler_levels": 6, "cg_iterations": 3}


class CountingDenoiser:
    """A prior that counts how many slices pass it."""

    def __init__(self) -> None:
        self.prior, self.calls, self.slices = GaussianDenoiser(std=0.5), 0, 0

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.slices += len(x)
        return self.prior(x, sigma)


def inferer(**options) -> KLIPInferer:
    return KLIPInferer.of(options.pop("operator", OPERATOR), **{**FAST, **options})


def slices(n: int, *, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, *SHAPE, generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_map_has_the_shape_of_the_slices_and_is_never_negative(estimator):
    maps = inferer(estimator=estimator)(slices(3), GaussianDenoiser(std=0.5))
    assert maps.shape == (3, 1, *SHAPE)
    assert maps.dtype == torch.float32
    assert float(maps.min()) >= 0
    assert float(maps.max()) > 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_stacked_volumes_give_the_maps_of_their_slices(estimator):
    images, prior = slices(6), GaussianDenoiser(std=0.5)
    flat = torch.cat([inferer(estimator=estimator)(volume, prior) for volume in images.split(3)])
    volumes = images.reshape(2, 3, 1, *SHAPE).permute(0, 2, 3, 4, 1)
    stacked = inferer(estimator=estimator)(volumes, prior)
    assert stacked.shape == (2, 1, *SHAPE, 3)
    for volume, z in itertools.product(range(2), range(3)):
        torch.testing.assert_close(stacked[volume, ..., z], flat[3 * volume + z], **ROUNDING)


def patch_prior() -> PatchDenoiser:
    torch.manual_seed(0)
    return PatchDenoiser(UNetDenoiser([8, 8], [8, 16], num_head_channels=8, norm_num_groups=4)).eval()


SETTINGS = {
    "renoised": {"samples": 2, "draws": 2},
    "trajectory": {"estimator": "trajectory", "samples": 2},
    "twins": {"twins": 2, "samples": 2},
    "photons": {"noise": PoissonNoise(1e4, AttenuationScale.from_hu((-160, 240)))},
    "predictor_corrector": {"sampler": PredictorCorrector(levels=4)},
    "ancestral_dps": {"sampler": AncestralDPS(levels=4)},
    "patch_langevin": {"sampler": PatchLangevin(levels=3, steps=2)},
}


CASES = [(name, GaussianDenoiser(std=0.5)) for name in SETTINGS] + [("patch_langevin", patch_prior())]


@pytest.mark.parametrize(("name", "prior"), CASES, ids=[*SETTINGS, "patch_langevin of patches"])
def test_maps_depend_neither_on_the_batch_size_nor_on_what_else_is_scored(name, prior):
    options = SETTINGS[name]
    images, others = slices(8), slices(3, seed=1)
    whole = inferer(batch_size=16, **options)(images, prior)
    for size in (1, 3):
        torch.testing.assert_close(inferer(batch_size=size, **options)(images, prior), whole, **ROUNDING)
    order = [10, 5, 0, 8, 3]  # slices of two scans, in no order
    mixed = torch.cat([images, others])[order]
    maps = inferer(batch_size=4, **options)(mixed, prior, places=[i if i < 8 else i - 8 for i in order])
    torch.testing.assert_close(maps[[2, 4, 1]], whole[[0, 3, 5]], **ROUNDING)


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_equal_slices_of_a_volume_have_noise_of_their_own(options):
    maps = inferer(**options)(slices(1).expand(2, -1, -1, -1), GaussianDenoiser(std=0.5))
    assert not torch.allclose(maps[0], maps[1], rtol=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_meta_tensors_stay_so_and_maps_are_float32_whatever_the_slices_are(dtype):
    images, prior, affine = slices(2).to(dtype), GaussianDenoiser(std=0.5), torch.diag(torch.tensor([3.0, 3, 5, 1]))
    expected = inferer()(images.float(), prior)
    plain, meta = inferer()(images, prior), inferer()(MetaTensor(images, affine=affine), prior)
    assert type(plain) is torch.Tensor
    assert isinstance(meta, MetaTensor)
    assert torch.equal(meta.affine, affine.to(meta.affine))
    for maps in (plain, meta.as_tensor()):
        assert maps.dtype == torch.float32
        torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_same_seed_is_bit_identical_and_another_seed_differs(estimator):
    images, prior = slices(2), GaussianDenoiser(std=0.5)
    first = inferer(estimator=estimator, seed=4)(images, prior)
    torch.manual_seed(99)
    assert torch.equal(first, inferer(estimator=estimator, seed=4)(images, prior))
    assert not torch.equal(first, inferer(estimator=estimator, seed=5)(images, prior))


def test_one_inferer_gives_the_same_map_each_time_it_is_called():
    images, prior, one = slices(2), GaussianDenoiser(std=0.5), inferer()
    assert torch.equal(one(images, prior), one(images, prior))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("samples", "draws"), [(1, 1), (2, 1), (3, 2)])
def test_passes_are_the_network_calls_of_a_slice(estimator, samples, draws):
    one = inferer(estimator=estimator, samples=samples, draws=draws, batch_size=4)
    network = CountingDenoiser()
    one(slices(8), network)
    assert network.slices == 8 * one.passes


def test_a_posterior_sample_taken_from_the_measurement_costs_no_passes():
    network = CountingDenoiser()
    one = inferer(operator=Identity(SHAPE), sampler_levels=0, draws=2)
    one(slices(5), network)
    assert network.slices == 5 * one.passes == 5 * 2 * one.estimation.window_levels


def test_a_core_asks_the_network_about_few_states_at_a_time():
    largest = []

    def network(x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        largest.append(len(x))
        return GaussianDenoiser(std=0.5)(x, sigma)

    inferer(samples=3, window_levels=9, batch_size=64)(slices(20), network)
    assert 1 < max(largest) <= 8


def test_no_gradients_are_kept():
    images = slices(1).requires_grad_()
    assert not inferer()(images, GaussianDenoiser(std=0.5)).requires_grad


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_sharp_map_has_the_density_of_all_frequencies_second(estimator):
    images, prior = slices(3), GaussianDenoiser(std=0.5)
    options = {"estimator": estimator, "samples": 2, "draws": 2, "batch_size": 4}
    both = inferer(**options, lowpass_px=2.0, sharp=True)
    maps = both(images, prior)
    assert maps.shape == (3, 2, *SHAPE)
    torch.testing.assert_close(maps[:, :1], inferer(**options, lowpass_px=2.0)(images, prior))
    torch.testing.assert_close(maps[:, 1:], inferer(**options, lowpass_px=0.0)(images, prior))
    assert both.describe()["sharp"]


def test_noise_free_measurements_are_refused():
    with pytest.raises(ValueError, match="noise_std: got 0"):
        inferer(noise_std=0.0)(slices(1), GaussianDenoiser(std=0.5))


def test_smoothing_is_applied_to_the_density():
    images, prior = slices(1), GaussianDenoiser(std=0.5)
    raw = inferer(smoothing_px=0)(images, prior)
    torch.testing.assert_close(inferer(smoothing_px=2.0)(images, prior), smooth(raw, sigma_px=2.0))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_tap_receives_the_steps_that_the_density_is_made_of(estimator):
    steps: list[Step] = []
    one, generator = inferer(estimator=estimator, samples=2, lowpass_px=0), SliceGenerator(0, range(2))
    density, _ = one.density(slices(2), GaussianDenoiser(std=0.5), generator=generator, tap=steps.append)
    weighted = sum(
        one.estimation.range.weight(step.sigma, step.sigma_next) * (step.denoised_posterior - step.denoised_prior) ** 2
        for step in steps
    )
    assert steps[0].denoised_prior.shape == (4, 1, *SHAPE)
    torch.testing.assert_close(density, weighted.reshape(2, 2, 1, *SHAPE).mean(dim=1))


def test_samples_are_averaged_per_slice_and_not_across_slices():
    images = torch.zeros(2, 1, *SHAPE)
    images[1] = 3.0
    maps = inferer(operator=Identity(SHAPE), samples=3, smoothing_px=0)(images, GaussianDenoiser(std=0.5))
    assert float(maps[1].mean()) > 5 * float(maps[0].mean())


@pytest.mark.parametrize("operator", [Identity(SHAPE), OPERATOR], ids=["identity", "tomography"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_lesion_stands_out_of_a_prior_that_knows_the_healthy_slice(estimator, operator):
    healthy = slices(1)
    lesion = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    lesion[..., 8:13, 10:15] = True
    prior = GaussianDenoiser(mean=healthy, std=0.1)
    one = inferer(operator=operator, estimator=estimator, data_std=0.1, sampler_levels=12, smoothing_px=1.0)
    clean, ill = (one(image, prior) for image in (healthy, healthy + 0.6 * lesion))
    assert float(ill[lesion].mean()) > 3 * float(ill[~lesion].mean())
    assert float(ill[lesion].mean()) > 3 * float(clean[lesion].mean())
    y, x = divmod(int(ill.argmax()), SHAPE[1])
    assert bool(lesion[0, 0, y, x])


@pytest.mark.parametrize(("sampler_levels", "sy"), [(100, 0.3), (0, 0.01)])
def test_a_wide_window_gives_the_closed_form_nats_of_a_lesion(sampler_levels, sy):
    # Independent pixels: a shift of d raises the divergence from N(0, s^2) by (s^2 / (s^2 + sy^2))^2 d^2 / (2 s^2).
    s, shift = 0.4, 1.2
    image = torch.zeros(40, 1, *SHAPE)
    image[:, :, 4:10, 4:10] = shift
    options = {"noise_std": sy, "data_std": s, "cg_iterations": 2, "lowpass_px": 0.0, "smoothing_px": 0.0}
    one = KLIPInferer.of(
        Identity(SHAPE),
        window=(40.0, 0.005),
        window_levels=400,
        sampler_levels=sampler_levels,
        sigma_max=20.0,
        sigma_min=0.005,
        batch_size=40,
        **options,
    )
    density = one(image, GaussianDenoiser(std=s)).mean(dim=(0, 1))
    inside, outside = density[4:10, 4:10].mean(), density[12:].mean()
    gain = s**2 / (s**2 + sy**2)
    assert float(inside - outside) == pytest.approx(gain**2 * shift**2 / (2 * s**2), rel=0.05)


def with_blob(images: torch.Tensor) -> torch.Tensor:
    out = images.clone()
    out[..., 12:18, 12:18] += 1.5
    return out


def test_twins_cancel_what_anatomy_scores_and_leave_what_the_prior_does_not_know():
    spread = torch.full((1, 1, 32, 32), 0.02)
    spread[..., 16:] = 0.4  # the right half varies from patient to patient, so it moves more nats
    prior = GaussianDenoiser(std=spread)
    generator = torch.Generator().manual_seed(3)
    healthy = spread * torch.randn(6, 1, 32, 32, generator=generator)
    options = {"smoothing_px": 1.0, "window": (1.0, 0.1), "window_levels": 4, "sampler_levels": 8}
    plain = KLIPInferer.of(Identity((32, 32)), **options)
    twinned = KLIPInferer.of(Identity((32, 32)), twins=4, twin_smoothing_px=1.0, **options)
    ratios = [float(m[..., 18:].mean() / m[..., :14].mean()) for m in (plain(healthy, prior), twinned(healthy, prior))]
    assert ratios[0] > 10
    assert 0.3 < ratios[1] < 3
    found = twinned(with_blob(healthy), prior)
    assert float(found[..., 13:15, 13:15].min()) > 5 * float(found[..., :8, :].max())


@pytest.mark.parametrize("noise", [GaussianNoise(0.003), PoissonNoise(1e4, AttenuationScale.from_hu((-160, 240)))])
@pytest.mark.parametrize("twins", [0, 1])
def test_scoring_slices_is_scoring_their_measurement(noise, twins):
    one, images, prior = inferer(noise=noise, twins=twins, samples=2), slices(2), GaussianDenoiser(std=0.5)
    generator = SliceGenerator(one.seed, range(2))
    measurement = one.measure(images, generator=generator)
    maps, samples = one.map_measurement(measurement, prior, generator=generator)
    torch.testing.assert_close(smooth(maps, sigma_px=one.reading.smoothing_px), one(images, prior))
    assert samples.shape == (2, 2, *SHAPE)


def test_a_measurement_scores_the_same_each_time_and_by_itself():
    one, prior = inferer(), GaussianDenoiser(std=0.5)
    y = OPERATOR.A(slices(1))
    first, second = (one.score_measurement(Measurement(y, 0.01), prior)[0] for _ in range(2))
    assert torch.equal(first, second)
    less_sure = one.score_measurement(Measurement(y, torch.full_like(y, 0.5)), prior)[0]
    assert float(less_sure.mean()) < 0.5 * float(first.mean())


def test_data_of_the_same_operator_are_the_same():
    one, other = inferer(), inferer(data_operator=Tomography(OPERATOR.geometry))
    images = slices(2)
    y, same = (i.measure(images, generator=SliceGenerator(0, range(2))).y for i in (one, other))
    assert torch.equal(y, same)


@pytest.mark.parametrize(
    "data_operator",
    [Tomography(OPERATOR.geometry, kernel="strip"), FinerGrid(OPERATOR.geometry)],
    ids=["kernel", "grid"],
)
def test_data_of_another_discretisation_are_nearly_the_same_and_say_so(data_operator):
    one, other = inferer(), inferer(data_operator=data_operator)
    images = smooth(slices(2), sigma_px=2.0)
    y, mismatched = (i.measure(images, generator=SliceGenerator(0, range(2))).y for i in (one, other))
    assert 1e-4 < float((y - mismatched).norm() / y.norm()) < 0.05
    assert "data_operator" not in one.describe()
    assert other.describe()["data_operator"] == data_operator.describe()


def test_crossing_is_a_setting_of_renoised_and_its_density_is_never_negative():
    prior = GaussianDenoiser(mean=slices(1), std=0.1)
    one = inferer(operator=OPERATOR, estimator="renoised", sampler_levels=12, smoothing_px=0.0, lowpass_px=0.0)
    crossed = one.changed(crossed=True)
    assert crossed.describe() == one.describe() | {"crossed": True}
    assert crossed.passes == one.passes
    plain, product = (each(slices(2), prior) for each in (one, crossed))
    assert float(product.min()) == 0 < float(plain.min())
    assert float((product - plain).abs().mean()) > 0.1 * float(plain.mean())
    along = one.changed(estimator="trajectory")
    torch.testing.assert_close(along.changed(crossed=True)(slices(2), prior), along(slices(2), prior))
    assert along.changed(crossed=True).describe() == along.describe()
    unsampled = one.changed(sampler_levels=0)
    torch.testing.assert_close(unsampled.changed(crossed=True)(slices(2), prior), unsampled(slices(2), prior))
    assert unsampled.changed(crossed=True).describe() == unsampled.describe()
    assert unsampled.changed(crossed=True).changed(sampler_levels=12).describe() == crossed.describe()


def body_slices(n: int) -> torch.Tensor:
    """Bodies of several sizes in air."""
    images = torch.full((n, 1, 64, 96), -1.0)
    for number, image in enumerate(images):
        top, left = 4 + 3 * (number % 5), 8 + 2 * (number % 7)
        image[0, top : top + 24 + 8 * (number % 3), left : left + 40] = 0.2 * torch.rand(
            1, generator=torch.Generator().manual_seed(number)
        )
    return images


def unet(precision: str) -> UNetDenoiser:
    torch.manual_seed(0)
    network = UNetDenoiser((64, 96), [16, 32], num_head_channels=16, norm_num_groups=8, precision=precision).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.1 * torch.randn(weight.shape))
    return network


@pytest.mark.parametrize("operator", [Identity((64, 96)), None], ids=["identity", "tomography"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_maps_are_the_same_to_the_bit_whatever_the_batch_the_threads_and_the_neighbours(precision, operator):
    operator = operator or Tomography(ParallelBeam(image_shape=(64, 96), pixel_mm=3.0, views=8))
    images, network = body_slices(11), unet(precision)
    levels = 0 if isinstance(operator, Identity) else 4
    one = KLIPInferer.of(operator, window_levels=6, sampler_levels=levels, noise_px=8.0, body_margin_px=4, crossed=True)
    before, maps = torch.get_num_threads(), []
    try:
        for threads, batch_size in ((1, 16), (2, 16), (3, 8), (2, 1)):
            torch.set_num_threads(threads)
            maps.append(one.changed(batch_size=batch_size)(images, network))
            assert torch.get_num_threads() == threads, "the caller's threads are left as they were"
        some = one(images[[7, 2, 9]], network, places=[7, 2, 9])
    finally:
        torch.set_num_threads(before)
    assert float(maps[0].max()) > 0
    assert all(torch.equal(each, maps[0]) for each in maps)
    assert torch.equal(some, maps[0][[7, 2, 9]])


def test_levels_may_be_given_and_a_schedule_is_a_setting():
    counted = inferer(window_levels=3)
    given = inferer(window_levels=counted.estimation.edges[1:-1])
    assert given.estimation.edges == pytest.approx(counted.estimation.edges)
    assert given.passes == counted.passes
    images, prior = slices(2), GaussianDenoiser(std=0.5)
    torch.testing.assert_close(given(images, prior), counted(images, prior))
    assert given.describe()["window_levels"] == counted.estimation.edges[1:-1]
    with pytest.raises(ValueError, match=r"window_levels: got .*, expected descending levels within 0.4 to 0.1"):
        inferer(window_levels=[0.2, 0.3])


def test_slices_of_air_cost_no_pass_and_score_nothing():
    images = torch.cat([slices(2), torch.full((3, 1, *SHAPE), -1.0)])[[2, 0, 3, 1, 4]]
    network, seen = CountingDenoiser(), []
    options = {"operator": Identity(SHAPE), "sampler_levels": 0}
    one = inferer(**options)
    maps = one(images, network, progress=lambda done, total: seen.append((done, total)))
    assert network.slices == 2 * one.passes
    assert float(maps[[0, 2, 4]].abs().max()) == 0 < float(maps[[1, 3]].min(dim=3)[0].max())
    assert seen[-1] == (5, 5)
    assert torch.equal(maps[[1, 3]], one(images[[1, 3]], GaussianDenoiser(std=0.5), places=[1, 3]))


@pytest.mark.parametrize("sy", [0.01])
def test_spreading_noise_keeps_the_nats_of_a_lesion(sy):
    image = torch.zeros(40, 1, 48, 48)
    image[:, :, 16:32, 16:32] = 1.2
    options = {"noise_std": sy, "data_std": 0.4, "lowpass_px": 0.0, "smoothing_px": 0.0, "sampler_levels": 0}
    plain, spread = (
        KLIPInferer.of(Identity((48, 48)), window=(4.0, 0.1), window_levels=12, noise_px=width, **options)(
            image, GaussianDenoiser(std=0.4)
        )
        for width in (0.0, 12.0)
    )
    for part in ((..., slice(18, 30), slice(18, 30)), (..., slice(0, 10), slice(None))):
        assert float(spread[part].mean()) == pytest.approx(float(plain[part].mean()), rel=0.03)
    assert float(spread[..., 18:30, 18:30].std()) < 0.5 * float(plain[..., 18:30, 18:30].std())


@pytest.mark.parametrize("slice_mm", [0.0, -2.0, float("nan")])
@pytest.mark.parametrize("in_space", [{}, {"lowpass_z_mm": 3.0}, {"smoothing_z_mm": 3.0}])
def test_what_is_no_distance_of_slices_is_refused(slice_mm, in_space):
    made, prior = inferer(**in_space), GaussianDenoiser(std=0.5)
    for images in (slices(3), slices(3).permute(1, 2, 3, 0)[None]):
        with pytest.raises(ValueError, match=f"slice_mm: got {slice_mm}, expected"):
            made(images, prior, slice_mm=slice_mm)
    with pytest.raises(ValueError, match=f"slice_mm: got {slice_mm}, expected"):
        made.maps(slices(3), prior, slice_mm=[None, slice_mm])
    with pytest.raises(ValueError, match=f"slice_mm: got {slice_mm}, expected"):
        made.noise_left(3, slice_mm=slice_mm)
