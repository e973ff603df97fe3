from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from klip_monai.prior import GaussianDenoiser, UNetDenoiser
from klip_monai.prior.within_body import Box, InBoxes, body_box, boxes_of

SHAPE = (32, 48)


def unet() -> UNetDenoiser:
    torch.manual_seed(0)
    network = UNetDenoiser(SHAPE, [8, 16], num_head_channels=8, norm_num_groups=4, space_to_depth=2).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape))
    return network


def slice_with(top: int, left: int, height: int, width: int) -> torch.Tensor:
    image = torch.full((1, *SHAPE), -1.0)
    image[0, top : top + height, left : left + width] = 0.2
    return image


@given(
    rows=st.lists(st.integers(0, 31), min_size=1, max_size=4),
    columns=st.lists(st.integers(0, 47), min_size=1, max_size=4),
    margin=st.integers(0, 12),
    multiple=st.sampled_from([1, 4, 8, 16]),
)
def test_a_box_holds_the_body_and_its_margin_and_fits_the_network(rows, columns, margin, multiple):
    image = torch.full((1, *SHAPE), -1.0)
    for row, column in zip(rows, columns, strict=False):
        image[0, row, column] = 0.0
    box = body_box(image, margin_px=margin, multiple=multiple)
    inside = (image[0] > -1).nonzero()
    for axis, (first, side) in enumerate(((box.top, box.height), (box.left, box.width))):
        assert 0 <= first <= first + side <= SHAPE[axis]
        assert side % multiple == 0
        assert first <= max(0, int(inside[:, axis].min()) - margin)
        assert first + side >= min(SHAPE[axis], int(inside[:, axis].max()) + 1 + margin)
        extent = int(inside[:, axis].max() - inside[:, axis].min()) + 1 + 2 * margin
        assert side < extent + multiple, "larger than it has to be"


def test_air_has_no_box_and_is_seen_whole():
    air = torch.full((1, 1, *SHAPE), -1.0)
    assert body_box(air[0], margin_px=4, multiple=4) is None
    assert boxes_of(air, unet(), margin_px=4) == [Box(0, 0, *SHAPE)]


def test_networks_that_take_whole_slices_are_given_them():
    image = slice_with(4, 4, 8, 8)[None]
    assert boxes_of(image, GaussianDenoiser(), margin_px=2) == [Box(0, 0, *SHAPE)]
    assert boxes_of(image, unet(), margin_px=None) == [Box(0, 0, *SHAPE)]
    assert boxes_of(image, unet(), margin_px=2) == [Box(2, 2, 12, 12)]


def test_edges_place_a_box_as_positions_of_whole_slices_do():
    assert Box(0, 0, *SHAPE).edges(SHAPE) == (-1, -1, 1, 1)
    assert Box(8, 12, 16, 24).edges(SHAPE) == (-0.5, -0.5, 0.5, 0.5)


def test_inside_a_box_is_what_the_network_makes_of_it_and_outside_is_air():
    network, box = unet(), Box(4, 8, 16, 24)
    x = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = InBoxes(network, [box], rows=8)(x, 0.5)
        alone = network(x[..., 4:20, 8:32], 0.5, torch.tensor([box.edges(SHAPE)]))
    torch.testing.assert_close(found[..., 4:20, 8:32], alone, rtol=1e-4, atol=1e-5)
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[4:20, 8:32] = False
    assert bool((found[0, 0, outside] == -1).all())


@pytest.mark.parametrize("repeats", [1, 3, 9])
@pytest.mark.parametrize("rows", [1, 4, 8])
def test_states_keep_their_places_however_they_are_cut(repeats, rows):
    network, boxes = unet(), [Box(0, 0, 16, 16), Box(0, 0, *SHAPE), Box(8, 8, 16, 16)]
    x = torch.randn(3 * repeats, 1, *SHAPE, generator=torch.Generator().manual_seed(2))
    sigma = torch.rand(3 * repeats, generator=torch.Generator().manual_seed(3)) + 0.1
    seen = []

    def counting(x: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return network(x, *args)

    whole = InBoxes(network, boxes, rows=rows)
    whole.network = counting
    with torch.inference_mode():
        found = whole(x, sigma)
        for number, box in enumerate(boxes):
            for state in range(number * repeats, (number + 1) * repeats):
                alone = InBoxes(network, [box], rows=1)(x[state : state + 1], float(sigma[state]))
                torch.testing.assert_close(found[state : state + 1], alone, rtol=1e-4, atol=1e-5)
    assert max(seen) <= rows
    assert sum(seen) == len(x)


def test_what_the_network_is_asked_has_gradients():
    x = torch.randn(1, 1, *SHAPE, requires_grad=True)
    InBoxes(unet(), [Box(4, 8, 16, 24)], rows=8)(x, 0.5).sum().backward()
    inside = x.grad[..., 4:20, 8:32]
    assert int(x.grad.count_nonzero()) == int(inside.count_nonzero()) > 0
