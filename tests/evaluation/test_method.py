"""KLIP is a method like its rivals."""

from __future__ import annotations

import json

import torch

from klip_monai.evaluation.method import Fitted, Method
from klip_monai.inferer import KLIPInferer
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser


def test_the_inferer_is_a_method_that_needs_no_fit():
    method: Method = KLIPInferer.of(Identity((8, 8)), sampler_levels=0, window_levels=3, smoothing_px=0)
    assert isinstance(method, Method)
    assert not isinstance(method, Fitted)
    assert method.passes == 3
    assert method(torch.zeros(2, 1, 8, 8), GaussianDenoiser()).shape == (2, 1, 8, 8)
    json.dumps(method.describe())
