from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from klip_monai.errors import InputError
from klip_monai.physics import GaussianBlur, Inpainting, LinearOperator

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_mask(shape: tuple[int, int]) -> torch.Tensor:
    mask = random(*shape) > 0
    mask[0, 0] = True
    return mask


def check(operator: LinearOperator) -> None:
    """The adjoint is exact, the spectral norm is one, and the description can be stored."""
    shape = operator.image_shape
    x, y = random(2, 1, *shape), random(2, *operator.range_shape, seed=1)
    assert float((operator.A(x) * y).sum()) == pytest.approx(float((x * operator.A_adjoint(y)).sum()), abs=1e-9)
    dense = operator.A(torch.eye(shape[0] * shape[1], dtype=torch.float64).reshape(-1, 1, *shape)).flatten(1)
    assert float(torch.linalg.matrix_norm(dense, 2)) == pytest.approx(1.0, rel=1e-4)
    assert json.loads(json.dumps(operator.describe())) == operator.describe()


@settings(max_examples=25, deadline=None)
@given(shapes, st.floats(0.3, 4.0))
def test_blur_is_its_own_adjoint_and_has_norm_one(shape, sigma_px):
    check(GaussianBlur(shape, sigma_px=sigma_px))


@settings(max_examples=15, deadline=None)
@given(shapes)
def test_inpainting_is_its_own_adjoint_and_has_norm_one(shape):
    check(Inpainting(random_mask(shape)))


def test_blur_is_that_of_scipy_up_to_the_scale():
    operator, x = GaussianBlur((20, 24), sigma_px=1.7), random(1, 1, 20, 24)
    expected = gaussian_filter(x[0, 0].numpy(), 1.7, mode="constant", truncate=4.0)
    np.testing.assert_allclose((operator.A(x) / operator.scale)[0, 0].numpy(), expected, atol=2e-3)


def test_blur_is_undone_by_least_squares_and_inpainting_keeps_what_was_measured():
    x = random(1, 1, 16, 16)
    blur = GaussianBlur((16, 16), sigma_px=0.6)
    torch.testing.assert_close(blur.A_dagger(blur.A(x), iterations=200), x, atol=1e-3, rtol=0)
    mask = random_mask((16, 16))
    torch.testing.assert_close(Inpainting(mask).A_dagger(Inpainting(mask).A(x)), x * mask)


def test_inpainting_says_briefly_what_it_is_and_tells_all_when_asked():
    mask = random_mask((3, 5))
    assert str(Inpainting(mask)) == f"Inpainting({int(mask.sum())} of 15 pixels of (3, 5))"
    assert torch.equal(eval(repr(Inpainting(mask))).mask, mask)
    for bits in ("ffff00", "ff", "quux"):
        with pytest.raises(InputError, match=f"bits: got '{bits}', expected 4 hexadecimal digits"):
            Inpainting.from_hex((3, 5), bits)


@pytest.mark.parametrize("sigma_px", [0.0, -1.0, float("nan")])
def test_a_width_that_is_none_is_refused(sigma_px):
    with pytest.raises(InputError, match="sigma_px: got"):
        GaussianBlur((8, 8), sigma_px=sigma_px)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4, 4), r"mask: got torch.float32 \(4, 4\)"),
        (np.ones((4, 4), bool), "mask: got ndarray"),
        (torch.ones(1, 4, 4, dtype=torch.bool), r"mask: got torch.bool \(1, 4, 4\)"),
        (torch.zeros(4, 4, dtype=torch.bool), "mask: got no pixel"),
    ],
)
def test_a_mask_that_is_none_is_refused(mask, message):
    with pytest.raises(InputError, match=message):
        Inpainting(mask)
