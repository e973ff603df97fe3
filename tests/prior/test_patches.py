from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from klip_monai.errors import InputError
from klip_monai.prior import GaussianDenoiser, PatchDenoiser, PatchGrid, UNetDenoiser
from klip_monai.prior.patches import AIR
from klip_monai.slice_generator import SliceGenerator


class Patchwise(nn.Module):
    """Stands where the U-Net stands: a function of the patch alone, which keeps what it was given."""

    def __init__(self, function, image_shape: tuple[int, int] = (8, 8)) -> None:
        super().__init__()
        self.function, self.image_shape, self.calls = function, image_shape, []

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        self.calls.append((x, sigma, box))
        return self.function(x, sigma)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def denoiser() -> PatchDenoiser:
    """A small network with random weights in all its layers."""
    torch.manual_seed(0)
    unet = UNetDenoiser([8, 8], [8, 16], num_head_channels=8, norm_num_groups=4)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return PatchDenoiser(unet).eval()


@st.composite
def grids(draw: st.DrawFn) -> tuple[PatchGrid, tuple[int, int]]:
    side, patch = st.integers(1, 30), st.integers(1, 12)
    grid = PatchGrid((draw(side), draw(side)), (draw(patch), draw(patch)))
    return grid, (draw(st.integers(0, grid.slack[0])), draw(st.integers(0, grid.slack[1])))


@given(grids())
@settings(max_examples=60, deadline=None)
def test_every_pixel_belongs_to_exactly_one_patch_of_a_grid(case):
    grid, offset = case
    image = torch.arange(1.0, 1 + grid.image_shape[0] * grid.image_shape[1]).reshape(1, 1, *grid.image_shape)
    patches = grid.split(image, offset)
    assert patches.shape == (grid.counts[0] * grid.counts[1], 1, *grid.patch_shape)
    values, times = patches[patches != AIR].unique(return_counts=True)
    assert torch.equal(values, image.flatten())
    assert (times == 1).all()
    assert torch.equal(grid.join(patches, offset), image)


@given(grids())
@settings(max_examples=60, deadline=None)
def test_boxes_say_where_each_patch_lies(case):
    grid, offset = case
    # A picture of normalised positions, split like any other, must agree with the boxes of its patches.
    height, width = (side + 2 * slack for side, slack in zip(grid.image_shape, grid.slack, strict=True))
    rows = ((torch.arange(height) + 0.5) * 2 / height - 1)[:, None].expand(height, width)
    inner = rows[grid.slack[0] : grid.slack[0] + grid.image_shape[0], : grid.image_shape[1]]
    patches = grid.split(inner[None, None], offset)[:, 0]
    boxes = grid.boxes(grid.corners(offset), grid.patch_shape)
    assert boxes.abs().max() <= 1
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    inside = (torch.arange(grid.patch_shape[0]) + 0.5) / grid.patch_shape[0]
    expected = torch.lerp(boxes[:, :1], boxes[:, 2:3], inside)[:, :, None].expand_as(patches)
    known = patches != AIR
    torch.testing.assert_close(patches[known], expected[known], rtol=0, atol=1e-5)


@given(st.integers(1, 400), st.integers(1, 100))
@settings(max_examples=60, deadline=None)
def test_a_padded_side_and_a_patch_tell_the_slice(side, patch):
    grid = PatchGrid((side, side), (patch, patch))
    assert PatchGrid.of_padded(side + 2 * grid.slack[0], patch) == grid


def test_padis_has_slices_of_256_in_304_pixels_of_patches_of_56():
    grid = PatchGrid.of_padded(304, 56)
    assert (grid.image_shape, grid.counts, grid.slack) == ((256, 256), (5, 5), (24, 24))
    for patch in (152, 304, 400):
        with pytest.raises(InputError, match=f"patch: got {patch}, which leaves no slice"):
            PatchGrid.of_padded(304, patch)


def test_the_network_sees_normalised_positions_up_to_the_borders_of_the_padded_slice(denoiser):
    # 20 pixels in patches of 8: 3 patches and a slack of 4, so the padded slice has 28.
    seen = []
    denoiser.unet.network = nn.Module()
    denoiser.unet.network.forward = lambda x, timesteps: seen.append(x) or x[:, :-2]
    denoiser.denoise_patches(torch.zeros(2, 1, 20, 20), 1.0, [(4, 0)] * 2)
    rows, columns = seen[0][:, -2], seen[0][:, -1]  # (18, 4, 4), blocks of 2 pixels
    torch.testing.assert_close(rows[:9], rows[9:])
    down, across = rows[:9].reshape(3, 3, 4, 4), columns[:9].reshape(3, 3, 4, 4)
    # Offset 4 puts the last patch at the lower border, offset 0 the first one at the left border.
    block = 2 * 2 / 28
    torch.testing.assert_close(down[2, :, 3], torch.full((3, 4), 1 - block / 2))
    torch.testing.assert_close(across[:, 0, :, 0], torch.full((3, 4), -1 + block / 2))
    torch.testing.assert_close(down[0, :, 0], torch.full((3, 4), -1 + 2 * block + block / 2))
    steps = down[:, 0, :, 0].flatten().diff()
    torch.testing.assert_close(steps, torch.full((11,), block))


@pytest.mark.parametrize("shape", [(16, 16), (19, 30), (5, 8), (256, 256), (512, 512)])
def test_an_identity_network_assembles_to_the_identity(shape):
    patch = 64 if shape[0] > 100 else 8
    denoiser = PatchDenoiser(Patchwise(lambda x, sigma: x, (patch, patch)), offsets=2, max_patches=50)
    x = randn(2, 1, *shape)
    torch.testing.assert_close(denoiser(x, 0.5), x)
    assert torch.equal(denoiser.denoise_patches(x, 0.5, [(1, 0), (0, 2)]), x)


def test_each_slice_is_denoised_by_its_own_partition(denoiser):
    x, offsets = randn(2, 1, 16, 16), [(1, 5), (4, 0)]
    with torch.inference_mode():
        together = denoiser.denoise_patches(x, 0.5, offsets)
        alone = [denoiser.denoise_patches(x[i : i + 1], 0.5, offsets[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_white_gaussian_patches_assemble_to_the_gaussian_denoiser():
    gaussian, x = GaussianDenoiser(mean=0.2, std=0.6), randn(3, 1, 20, 13)
    sigma = torch.tensor([0.1, 1.0, 5.0])
    torch.testing.assert_close(PatchDenoiser(Patchwise(gaussian))(x, sigma), gaussian(x, sigma))


def test_patches_of_all_slices_pass_together_up_to_the_maximum():
    unet = Patchwise(lambda x, sigma: x)
    PatchDenoiser(unet, max_patches=10).denoise_patches(randn(3, 1, 16, 8), torch.tensor([1.0, 2.0, 3.0]), [(0, 0)] * 3)
    assert [len(x) for x, _, _ in unet.calls] == [10, 8]
    assert torch.cat([sigma for _, sigma, _ in unet.calls]).tolist() == [1.0] * 6 + [2.0] * 6 + [3.0] * 6


def test_outside_a_slice_is_air_without_noise():
    unet = Patchwise(lambda x, sigma: x)
    PatchDenoiser(unet).denoise_patches(randn(1, 1, 8, 8) + 10, 3.0, [(8, 8)])
    first, right, below, corner = unet.calls[0][0]
    assert (first > 0).all()
    assert all((patch == AIR).all() for patch in (right, below, corner))


@pytest.mark.parametrize("max_patches", [1, 5, 100])
def test_a_slice_does_not_depend_on_its_neighbours_in_the_batch_or_on_chunks(denoiser, max_patches):
    x, sigma = randn(3, 1, 20, 12), torch.tensor([0.2, 0.5, 2.0])
    with torch.inference_mode():
        alone = denoiser(x[1:2], 0.5)
        denoiser.max_patches = max_patches
        together = denoiser(x, sigma)[1:2]
        others = denoiser(torch.cat([x[:1] + 1, x[1:2], -x[2:]]), sigma)[1:2]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(others, alone, rtol=1e-4, atol=1e-5)


def test_a_whole_slice_is_the_mean_over_partitions_spread_over_the_slack(denoiser, monkeypatch):
    x, partitions = randn(1, 1, 16, 16), {}
    one = denoiser.denoise_patches

    def noted(x: torch.Tensor, sigma: float, offsets: list[tuple[int, int]]) -> torch.Tensor:
        partitions[offsets[0]] = one(x, sigma, offsets)
        return partitions[offsets[0]]

    monkeypatch.setattr(denoiser, "denoise_patches", noted)
    denoiser.offsets = 4
    with torch.inference_mode():
        torch.testing.assert_close(denoiser(x, 0.5), torch.stack([*partitions.values()]).mean(dim=0))
    assert len(partitions) == 4
    for axis in (0, 1):
        places = sorted(offset[axis] for offset in partitions)
        assert min(b - a for a, b in pairwise(places)) >= 1
        assert places[0] <= 3
        assert places[-1] >= 5


def test_forward_is_deterministic_and_random_grids_follow_their_generator(denoiser):
    x = randn(1, 1, 16, 16)

    def runs(seed: int) -> list[torch.Tensor]:
        denoise = denoiser.on_random_grids(SliceGenerator(seed, [0]))
        return [denoise(x, 0.5) for _ in range(4)]

    with torch.inference_mode():
        assert torch.equal(denoiser(x, 0.5), denoiser(x, 0.5))
        first, again, other = runs(1), runs(1), runs(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])


def test_random_grids_visit_every_offset_evenly():
    unet = Patchwise(lambda x, sigma: x, (4, 4))
    denoise = PatchDenoiser(unet).on_random_grids(SliceGenerator(0, [0]))
    for _ in range(600):
        denoise(torch.zeros(1, 1, 10, 5), 1.0)
    tops = torch.stack([box[0, :2] for _, _, box in unet.calls])
    assert len(tops.unique(dim=0)) == 3 * 4  # slack 2 and 3
    assert tops.unique(dim=0, return_counts=True)[1].min() > 25


def test_the_gradient_reaches_the_slice_through_its_patches(denoiser):
    x = randn(1, 1, 12, 12).requires_grad_()
    (slope,) = torch.autograd.grad(denoiser(x, 0.5).square().sum(), x)
    assert (slope != 0).all()


def test_one_patch_with_its_box_is_denoised_as_it_is(denoiser):
    x, box = randn(2, 1, 4, 4), torch.tensor([[-1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    with torch.inference_mode():
        assert torch.equal(denoiser(x, 0.5, box), denoiser.unet(x, 0.5, box))
        assert not torch.allclose(denoiser(x, 0.5, box), denoiser(x, 0.5, box.flip(0))), "positions do not matter"


def test_settings_and_shapes_that_do_not_fit_are_refused(denoiser):
    with pytest.raises(InputError, match="offsets, max_patches: got 0 and 256"):
        PatchDenoiser(denoiser.unet, offsets=0)
    with pytest.raises(InputError, match=r"offset: got \(9, 0\), expected 0 to \(8, 8\)"):
        denoiser.denoise_patches(torch.zeros(1, 1, 16, 16), 1.0, [(9, 0)])
    with pytest.raises(InputError, match=r"expected slices \(B, 1, H, W\)"):
        denoiser(torch.zeros(1, 2, 16, 16), 1.0)
    with pytest.raises(InputError, match="sides multiples of 4"):
        denoiser(torch.zeros(1, 1, 6, 8), 1.0, torch.zeros(1, 4))
    with pytest.raises(InputError, match=r"box: got shape \(2, 4\), expected \(1, 4\)"):
        denoiser(torch.zeros(1, 1, 8, 8), 1.0, torch.zeros(2, 4))
