"""The denoising objective of Karras et al. 2022 (EDM), as the parts that MONAI's supervised engines ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.utils import CommonKeys
from torch import nn

from klip_monai.errors import InputError
from klip_monai.training.augment import BatchAugment

Prepared = tuple[torch.Tensor, dict[str, torch.Tensor], tuple[Any, ...], dict[str, Any]]


def loss_weight(sigma: torch.Tensor, sigma_data: float) -> torch.Tensor:
    """Weight lambda(sigma) = (sigma^2 + sd^2)/(sigma sd)^2 that evens out the loss over noise levels (EDM, Table 1)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


class EDMLoss(nn.Module):
    """Mean over pixels and slices of lambda(sigma) (D - x0)^2; 1 for a network that outputs zeros on zero-mean data.

    Pixels of weight 0 add nothing, and every other pixel counts the same in whichever slice it lies.

    Args:
        sigma_data: standard deviation of the clean slices; the same as the denoiser's.
    """

    def __init__(self, sigma_data: float) -> None:
        super().__init__()
        self.sigma_data = sigma_data

    def forward(self, denoised: torch.Tensor, target: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Loss of a batch.

        Args:
            denoised: the denoiser's output (B, 1, H, W).
            target: ``image``, the clean slices (B, 1, H, W), ``sigma``, their noise levels (B,), and optionally
                ``weight`` (B, 1, H, W), 0 for pixels whose clean value is unknown and 1 for the others.

        Returns:
            Scalar loss.
        """
        return self.per_slice(denoised, target).mean()

    def per_slice(self, denoised: torch.Tensor, target: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Loss of each slice (B,); arguments as in `forward`."""
        error = (denoised - target["image"]).square()
        if "weight" in target:
            error = error * target["weight"]
        return loss_weight(target["sigma"], self.sigma_data) * error.flatten(1).mean(dim=1)


class EDMPrepareBatch(PrepareBatch):
    """Augments and noises a training batch: ln(sigma) ~ N(p_mean, p_std^2) (EDM, Table 1).

    All randomness comes from one generator whose state is saved and restored with `state_dict`, so that a resumed run
    draws what the uninterrupted run would have drawn.

    Args:
        p_mean: mean of ln(sigma).
        p_std: standard deviation of ln(sigma).
        seed: seed of the generator.
        augment: applied to the clean slices first; None leaves them.
        device: where the random numbers are drawn; a CPU and a GPU draw different ones.
    """

    def __init__(
        self,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        *,
        seed: int = 0,
        augment: BatchAugment | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.p_mean = p_mean
        self.p_std = p_std
        self.augment = augment
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Prepared:
        """Noise the batch's ``image`` (B, 1, H, W), clean slices in [-1, 1]; their ``weight``, if any, moves along.

        Returns:
            (noisy slices, target as in `EDMLoss.forward`, (), {"sigma": (B,)}), all on ``device``.
        """
        images, weight = self._clean(batchdata, device=device, non_blocking=non_blocking, **kwargs)
        sigma = self._sigma(len(images)).to(images)
        return noised(images, sigma, self._randn(*images.shape).to(images), weight=weight)

    def _clean(self, batchdata: Mapping[str, torch.Tensor], **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The batch's slices and weight on their device, augmented."""
        images, weight = _to_device(batchdata, **kwargs)
        return (images, weight) if self.augment is None else self.augment(images, self.generator, weight=weight)

    def _sigma(self, n: int) -> torch.Tensor:
        """Noise levels (n,)."""
        return (self.p_mean + self.p_std * self._randn(n)).exp()

    def _randn(self, *shape: int) -> torch.Tensor:
        """Standard normal draws on the generator's device."""
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The generator's state, a byte tensor."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue the draws from a `state_dict`."""
        self.generator.set_state(state["generator"])


class FixedNoisePrepareBatch(PrepareBatch):
    """Noises a validation batch at each of a few fixed levels, with the same noise every time it is asked.

    Args:
        sigmas: noise levels; a batch of B slices becomes one of B * len(sigmas), all slices of a level together.
        seed: seed of the noise; the noise depends on nothing else.
    """

    def __init__(self, sigmas: Sequence[float], *, seed: int = 0) -> None:
        if not sigmas or min(sigmas) <= 0:
            raise InputError(f"sigmas: got {list(sigmas)}, expected at least one noise level, all > 0.")
        self.sigmas = torch.tensor(sigmas, dtype=torch.float32)
        self.seed = seed

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Prepared:
        """Noise the batch's ``image`` (B, 1, H, W); returns what `EDMPrepareBatch` returns, for B * len(sigmas)."""
        images, weight = _to_device(batchdata, device=device, non_blocking=non_blocking, **kwargs)
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(images.shape, generator=generator).to(images)
        levels = len(self.sigmas)
        sigma = self.sigmas.to(images).repeat_interleave(len(images))
        weight = None if weight is None else weight.repeat(levels, 1, 1, 1)
        return noised(images.repeat(levels, 1, 1, 1), sigma, noise.repeat(levels, 1, 1, 1), weight=weight)


def _to_device(batchdata: Mapping[str, torch.Tensor], **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The batch's ``image``, and its ``weight`` if there is one."""
    weight = batchdata.get("weight")
    return batchdata[CommonKeys.IMAGE].to(**kwargs), None if weight is None else weight.to(**kwargs)


def noised(images: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor, *, weight: torch.Tensor | None) -> Prepared:
    """x_sigma = x0 + sigma n, in the form MONAI's engines unpack.

    Args:
        images: x0, (B, 1, H, W).
        sigma: noise levels (B,).
        noise: n, (B, 1, H, W).
        weight: see `EDMLoss.forward`; None is one everywhere.

    Returns:
        (noisy slices, target as in `EDMLoss.forward`, (), {"sigma": (B,)}).
    """
    target = {"image": images, "sigma": sigma} | ({} if weight is None else {"weight": weight})
    return images + sigma[:, None, None, None] * noise, target, (), {"sigma": sigma}
