from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch

from klip_monai.errors import InputError
from klip_monai.physics import bounded_least_squares, conjugate_gradient, spectral_norm


def positive_definite(n: int, *, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return root @ root.T + torch.eye(n, dtype=dtype)


def rows(matrix: torch.Tensor):
    return lambda x: (x.flatten(1) @ matrix.T).reshape(x.shape)


def test_conjugate_gradient_solves_a_batch_of_any_shape():
    matrix = positive_definite(12, seed=0)
    b = torch.randn(5, 1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = conjugate_gradient(rows(matrix), b, iterations=60, tolerance=1e-12)
    torch.testing.assert_close(x.flatten(1), torch.linalg.solve(matrix, b.flatten(1).T).T)


def test_each_sample_takes_its_own_steps():
    matrix = positive_definite(12, seed=2)
    b = torch.randn(4, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    b *= torch.tensor([1e-6, 1.0, 1e6, 0.0], dtype=torch.float64)[:, None]
    x = conjugate_gradient(rows(matrix), b, iterations=4)
    alone = torch.cat([conjugate_gradient(rows(matrix), sample[None], iterations=4) for sample in b])
    torch.testing.assert_close(x, alone, rtol=1e-12, atol=0.0)


def test_starting_point_is_used():
    matrix = positive_definite(6, seed=4)
    solution = torch.ones(1, 6, dtype=torch.float64)
    b = rows(matrix)(solution)
    assert torch.equal(conjugate_gradient(rows(matrix), b, x0=solution, iterations=0), solution)
    torch.testing.assert_close(conjugate_gradient(rows(matrix), b, x0=solution, iterations=20), solution)


@pytest.mark.parametrize("tolerance", [0.0, 1e-5])
def test_float32_stays_finite_long_after_convergence_and_for_zero_sides(tolerance):
    matrix = positive_definite(8, seed=5).float()
    b = torch.randn(3, 8, generator=torch.Generator().manual_seed(6))
    b[1] = 0
    x = conjugate_gradient(rows(matrix), b, iterations=500, tolerance=tolerance)
    assert torch.isfinite(x).all()
    assert torch.equal(x[1], torch.zeros(8))
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b.T).T, rtol=1e-3, atol=1e-4)


def test_singular_system_stays_finite():
    projection = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    x = conjugate_gradient(rows(projection), torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]), iterations=10)
    assert torch.isfinite(x).all()


def test_gradient_through_the_iterations_is_right_and_finite_for_a_zero_side():
    matrix = positive_definite(4, seed=7)
    b = torch.randn(2, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    b.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: conjugate_gradient(rows(matrix), v, iterations=3), (b,))
    zero = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    conjugate_gradient(rows(matrix), zero, iterations=3).sum().backward()
    assert torch.isfinite(zero.grad).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": -1}, "iterations: got -1, expected 0 or more"),
        ({"iterations": 1, "tolerance": -1.0}, "tolerance: got -1.0"),
        ({"iterations": 1, "x0": torch.zeros(2, 3)}, r"x0: got shape \(2, 3\), expected \(1, 3\)"),
    ],
)
def test_bad_solver_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        conjugate_gradient(lambda x: x, torch.ones(1, 3), **options)


def test_spectral_norm_of_a_known_matrix():
    matrix = torch.rand(20, 30, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    norm = spectral_norm(lambda x: matrix.T @ (matrix @ x), (30,))
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-4)


def test_spectral_norm_refuses_the_zero_operator():
    with pytest.raises(InputError, match="spectral norm"):
        spectral_norm(lambda x: 0 * x, (3,))


def test_bounded_least_squares_finds_what_lies_above_the_bound():
    matrix = torch.randn(40, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)
    y = torch.randn(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = bounded_least_squares(lambda v: v @ matrix.T, lambda v: v @ matrix, y, low=-0.1, iterations=500)
    for solution, right in zip(x, y, strict=True):
        expected = scipy.optimize.lsq_linear(matrix.numpy(), right.numpy(), bounds=(-0.1, np.inf), tol=1e-12).x
        np.testing.assert_allclose(solution.numpy(), expected, atol=1e-5)
    assert float(x.min()) == -0.1
