from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
from monai.data import MetaTensor

from klip_monai import physics
from klip_monai.errors import InputError
from klip_monai.physics import Identity, LinearOperator, make_operator


@pytest.fixture(params=["identity", "blur", "inpainting", "sparse_view", "limited_angle", "fan_beam"])
def operator(request) -> LinearOperator:
    angle_range = 100.0 if request.param == "limited_angle" else 180.0
    return make_operator(request.param, image_shape=(9, 12), pixel_mm=1.3, views=5, angle_range=angle_range)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtype_follow_the_input(operator, dtype):
    y = operator.A(random(3, 1, 9, 12, dtype=dtype))
    assert (y.dtype, y.shape) == (dtype, (3, *operator.range_shape))
    for x in (operator.A_adjoint(y), operator.A_dagger(y, iterations=3)):
        assert (x.dtype, x.shape) == (dtype, (3, 1, 9, 12))


def test_both_maps_pass_gradcheck_to_second_order(operator):
    x = random(2, 1, 9, 12).requires_grad_()
    y = random(2, *operator.range_shape, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(operator.A, (x,))
    assert torch.autograd.gradcheck(operator.A_adjoint, (y,))
    assert torch.autograd.gradgradcheck(lambda v: operator.A(v).square(), (x,))


def test_backward_of_A_is_the_adjoint(operator):
    x = random(2, 1, 9, 12).requires_grad_()
    y = random(2, *operator.range_shape, seed=1)
    operator.A(x).backward(y)
    assert torch.equal(x.grad, operator.A_adjoint(y))


def test_linearity(operator):
    a, b = random(2, 1, 9, 12), random(2, 1, 9, 12, seed=1)
    torch.testing.assert_close(operator.A(2.5 * a - b), 2.5 * operator.A(a) - operator.A(b))


def test_batch_equals_loop(operator):
    x = random(4, 1, 9, 12)
    y = operator.A(x)
    torch.testing.assert_close(y, torch.cat([operator.A(slice_[None]) for slice_ in x]))
    torch.testing.assert_close(operator.A_adjoint(y), torch.cat([operator.A_adjoint(view[None]) for view in y]))


def test_non_contiguous_input_gives_the_same(operator):
    x = random(12, 9, 1, 2).permute(3, 2, 1, 0)
    assert torch.equal(operator.A(x), operator.A(x.contiguous()))


def test_autocast_does_not_lower_the_precision(operator):
    x = random(2, 1, 9, 12, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = operator.A(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, operator.A(x))


def test_meta_tensor_becomes_a_plain_tensor(operator):
    x = random(1, 1, 9, 12)
    assert type(operator.A(MetaTensor(x))) is torch.Tensor
    assert torch.equal(operator.A(MetaTensor(x)), operator.A(x))


def test_description_is_json_and_tells_operators_apart(operator):
    description = operator.describe()
    assert json.loads(json.dumps(description)) == description
    other = make_operator("sparse_view", image_shape=(9, 12), pixel_mm=1.3, views=6)
    assert description != other.describe()


def test_repr_pastes_back(operator):
    twin = eval(repr(operator), vars(physics))
    assert twin.describe() == operator.describe()
    assert twin.scale == operator.scale


def test_copies_and_pickles_work_after_use(operator):
    x = random(1, 1, 9, 12)
    y = operator.A(x)
    for twin in (copy.deepcopy(operator), pickle.loads(pickle.dumps(operator))):
        assert torch.equal(twin.A(x), y)


def test_empty_batch_gives_an_empty_batch(operator):
    y = operator.A(torch.zeros(0, 1, 9, 12))
    assert y.shape == (0, *operator.range_shape)
    assert operator.A_adjoint(y).shape == (0, 1, 9, 12)


def test_wrong_tensors_are_refused_with_got_and_expected(operator):
    with pytest.raises(InputError, match=r"x: got shape \(1, 9, 12\), expected \(B, 1, 9, 12\) for ") as caught:
        operator.A(torch.zeros(1, 9, 12))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"x: got shape \(2, 1, 12, 9\), expected \(B, 1, 9, 12\)"):
        operator.A(torch.zeros(2, 1, 12, 9))
    with pytest.raises(InputError, match=r"y: got shape \(2, 1, 3\), expected \(B, 1, "):
        operator.A_adjoint(torch.zeros(2, 1, 3))
    with pytest.raises(InputError, match=r"x: got dtype torch.bfloat16, expected float32 or float64"):
        operator.A(torch.zeros(1, 1, 9, 12, dtype=torch.bfloat16))
    with pytest.raises(InputError, match="x: got ndarray, expected a torch tensor"):
        operator.A(torch.zeros(1, 1, 9, 12).numpy())


def test_wrong_options_of_the_reconstruction_are_refused(operator):
    y = torch.zeros(1, *operator.range_shape)
    with pytest.raises(InputError, match="method: got 'svd', expected 'cg'"):
        operator.A_dagger(y, method="svd")
    with pytest.raises(InputError, match="regularization: got -1"):
        operator.A_dagger(y, regularization=-1)


def test_identity_gives_itself_back_in_every_direction():
    identity = Identity((5, 6))
    x = random(2, 1, 5, 6, dtype=torch.float32)
    assert identity.scale == 1.0
    for result in (identity.A(x), identity.A_adjoint(x), identity.A_dagger(x)):
        assert torch.equal(result, x)
        assert result.data_ptr() != x.data_ptr()
    torch.testing.assert_close(identity.A_dagger(x, regularization=0.25), x / 1.25)
    with pytest.raises(InputError, match="method: got 'fbp', expected 'cg' for Identity"):
        identity.A_dagger(x, method="fbp")


@pytest.mark.parametrize(
    ("name", "angle_range", "message"),
    [
        ("limited_angle", 180.0, "angle_range: got 180 degrees for limited_angle, expected less than 180"),
        ("sparse_view", 90.0, "angle_range: got 90 degrees for sparse_view, expected 180 or more; use limited_angle"),
        ("cone_beam", 180.0, "operator: got 'cone_beam', expected one of sparse_view, limited_angle, fan_beam, blur"),
    ],
)
def test_factory_refuses_contradictions(name, angle_range, message):
    with pytest.raises(InputError, match=message):
        make_operator(name, image_shape=(8, 8), pixel_mm=1.0, angle_range=angle_range)


def test_importing_physics_does_not_import_astra():
    code = "import sys, klip_monai.physics; sys.exit('astra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
