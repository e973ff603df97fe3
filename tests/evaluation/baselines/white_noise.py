"""White-noise slices, which a Gaussian denoiser knows exactly, with and without a bright square."""

from __future__ import annotations

import torch

from klip_monai.evaluation.baselines import BASELINES
from klip_monai.evaluation.method import Fitted, Method
from klip_monai.physics import Identity
from klip_monai.prior import GaussianDenoiser

STD = 0.2
SHAPE = (24, 24)
NETWORK = GaussianDenoiser(std=STD)

SETTINGS = {
    "denoising_error": {"draws": 4},
    "negative_elbo": {"draws": 2, "data_std": STD},
    "pf_ode_nll": {"data_std": STD},
    "ddpm_ood": {"levels": 8, "stride": 2, "sigma_max": 2.0},
    "anoddpm": {"sigma_start": 0.4},
    "data_fit_residual": {"operator": Identity(SHAPE), "sampler_levels": 8, "noise_std": 0.1, "data_std": STD},
}


def slices(count: int, *, seed: int = 0, std: float = STD) -> torch.Tensor:
    """Slices of the prior, float32 (count, 1, H, W)."""
    return std * torch.randn(count, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))


def square() -> torch.Tensor:
    """Where the anomaly is planted, bool (1, 1, H, W)."""
    mask = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    mask[..., 8:14, 10:16] = True
    return mask


def whole(images: torch.Tensor) -> torch.Tensor:
    """A body that fills the slices."""
    return torch.ones_like(images, dtype=torch.bool)


def made(name: str, **settings: object) -> Method:
    """A baseline with quick settings, not fitted."""
    return BASELINES[name](**{**SETTINGS.get(name, {}), **settings})


def ready(name: str, **settings: object) -> Method:
    """A baseline with quick settings, fitted to slices of the prior if it has to be."""
    method, healthy = made(name, **settings), slices(40, seed=1)
    return method.fit(healthy, whole(healthy), NETWORK) if isinstance(method, Fitted) else method
