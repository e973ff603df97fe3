from __future__ import annotations

import numpy as np
import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.physics.filtered_back_projection import ramp_filter


@pytest.mark.parametrize("detectors", [1, 2, 13, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ram_lak_is_a_linear_convolution_with_the_sampled_ramp(detectors, dtype):
    pitch = 0.7
    n = np.arange(-detectors + 1, detectors)
    kernel = np.where(n % 2, -1 / (np.pi * pitch * np.where(n == 0, 1, n)) ** 2, 0.0)
    kernel[n == 0] = 1 / (4 * pitch**2)
    signal = torch.randn(3, detectors, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = [pitch * np.convolve(row, kernel)[detectors - 1 : 2 * detectors - 1] for row in signal.numpy()]
    result = ramp_filter(signal, pitch_mm=pitch)
    assert result.dtype == dtype
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_hann_leaves_slow_changes_and_removes_the_nyquist_frequency():
    u = torch.arange(256, dtype=torch.float64)
    slow, fast = torch.cos(2 * torch.pi * u / 64), torch.cos(torch.pi * u)
    middle = slice(96, 160)
    for signal, kept in ((slow, 1.0), (fast, 0.0)):
        plain = ramp_filter(signal, pitch_mm=1.0)[middle]
        hann = ramp_filter(signal, pitch_mm=1.0, window="hann")[middle]
        assert float((hann - kept * plain).norm() / plain.norm()) < 0.02


def test_unknown_window_is_refused():
    with pytest.raises(InputError, match="window: got 'cosine', expected one of ram-lak, hann"):
        ramp_filter(torch.zeros(1, 4), pitch_mm=1.0, window="cosine")
