from __future__ import annotations

import pytest
import torch

from klip_monai.errors import InputError
from klip_monai.physics import AttenuationScale, FanBeam, ParallelBeam, Tomography

OPERATORS = [
    Tomography(ParallelBeam(image_shape=(12, 10), pixel_mm=2.0, views=7)),
    Tomography(FanBeam(image_shape=(12, 10), pixel_mm=2.0, views=7, source_mm=90.0, detector_mm=60.0)),
]


def slices(n: int = 2) -> torch.Tensor:
    return 2 * torch.rand(n, 1, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1


def test_water_and_vacuum_are_where_the_hounsfield_scale_has_them():
    scale = AttenuationScale.from_hu((-160.0, 240.0), mu_water=0.02)
    water, vacuum = (torch.tensor(2 * (hu + 160) / 400 - 1) for hu in (0.0, -1000.0))
    assert float(scale.attenuation(water)) == pytest.approx(0.02)
    assert float(scale.attenuation(vacuum)) == pytest.approx(0.0, abs=1e-9)
    assert scale.vacuum == pytest.approx(float(vacuum)) == pytest.approx(-5.2)


@pytest.mark.parametrize("operator", OPERATORS, ids=["parallel", "fan"])
@pytest.mark.parametrize("scale", [AttenuationScale.from_hu((-160, 240)), AttenuationScale(0.0, 0.08)])
def test_line_integrals_of_attenuation_become_the_measurement_of_the_image_and_back(operator, scale):
    x = slices()
    lines = operator.A(scale.attenuation(x)) / operator.scale
    torch.testing.assert_close(scale.measurement(lines, operator), operator.A(x))
    torch.testing.assert_close(scale.line_integrals(operator.A(x), operator), lines)


@pytest.mark.parametrize("window", [(0.1, 0.1), (0.2, 0.1), (float("nan"), 0.1)])
def test_windows_that_do_not_rise_are_refused(window):
    with pytest.raises(InputError, match="attenuation window: got"):
        AttenuationScale(*window)
    with pytest.raises(InputError, match="mu_water: got 0"):
        AttenuationScale.from_hu((-160, 240), mu_water=0)
