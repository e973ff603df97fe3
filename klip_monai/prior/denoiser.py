"""Denoisers D(x, sigma) = E[x0 given x0 + sigma n = x]: the only face of the prior that the samplers see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import nn

from klip_monai.errors import BundleError, InputError
from klip_monai.prior.precision import PRECISIONS, Precision, settled_precision
from klip_monai.prior.preconditioning import preconditioned

# MONAI's sinusoidal embedding spans frequencies 1 to 1e-4 and expects hundreds of steps; ln(sigma)/4 spans about
# [-1.6, 1.1]. Times 100, its fastest sinusoid turns once per 0.25 of ln(sigma): resolved, yet smooth between levels.
_NOISE_EMBEDDING_SCALE = 100.0


class Denoiser(Protocol):
    """Anything that maps a noisy slice and its noise level to the expected clean slice."""

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Denoise.

        Args:
            x: noisy slices (B, 1, H, W), float32.
            sigma: noise level > 0, one for all slices or one per slice (B,).

        Returns:
            E[x0 given x], same shape and dtype as ``x``.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class GaussianDenoiser:
    """Exact denoiser of the white Gaussian prior N(mean, std^2 I): D = mean + std^2/(std^2 + sigma^2) (x - mean).

    Attributes:
        mean: prior mean, a number or a tensor that broadcasts against (B, 1, H, W).
        std: prior standard deviation, a number > 0 or a tensor that broadcasts against (B, 1, H, W).
    """

    mean: float | torch.Tensor = 0.0
    std: float | torch.Tensor = 1.0

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Denoise ``x`` (B, 1, H, W) at ``sigma`` (a number or (B,)); see `Denoiser`."""
        variance = torch.as_tensor(self.std, dtype=x.dtype, device=x.device) ** 2
        level = per_slice(sigma, x)[:, None, None, None]
        return self.mean + variance / (variance + level**2) * (x - self.mean)


class UNetDenoiser(nn.Module):
    """MONAI's diffusion U-Net with the preconditioning of Karras et al. 2022 (EDM, Table 1).

    See :func:`klip_monai.prior.preconditioning.preconditioned` for D(x, sigma) in terms of the network F.
    F works on space-to-depth blocks, which is what makes it affordable on a CPU, and sees two channels with the
    normalised row and column in [-1, 1]: CT slices are aligned, so the prior may depend on where a pixel lies.

    Args:
        image_shape: (H, W) of the slices, in pixels.
        channels: channels of each level, from fine to coarse.
        num_res_blocks: residual blocks per level.
        attention_levels: which levels attend over all their pixels; default: only the coarsest.
        norm_num_groups: groups of the group normalisation; divides every entry of ``channels``.
        num_head_channels: channels per attention head; divides the channels of every level with attention.
        space_to_depth: side s of the blocks; F sees (B, s*s + 2, H/s, W/s).
        sigma_data: standard deviation of the clean slices in [-1, 1] units.
        precision: arithmetic inside F, "auto" being the faster one on the device (see
            :mod:`klip_monai.prior.precision`); the preconditioning and everything outside stay float32.
        dropout: share of the features that each residual block forgets before its second convolution, in training
            only (Karras et al. 2022, appendix F.2).

    Raises:
        BundleError: if the shape is not divisible by s * 2^(levels - 1) or an option does not fit the others.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        *,
        num_res_blocks: int = 1,
        attention_levels: Sequence[bool] | None = None,
        norm_num_groups: int = 8,
        num_head_channels: int = 32,
        space_to_depth: int = 2,
        sigma_data: float = 0.5,
        precision: Precision = "float32",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        attention = [i == len(channels) - 1 for i in range(len(channels))]
        attention = attention if attention_levels is None else [bool(level) for level in attention_levels]
        self.multiple = space_to_depth * 2 ** (len(channels) - 1)
        self.image_shape = _checked_shape(image_shape, multiple=self.multiple)
        _check_channels(channels, attention, norm_num_groups=norm_num_groups, num_head_channels=num_head_channels)
        if sigma_data <= 0:
            raise BundleError(f"sigma_data: got {sigma_data}, expected the positive standard deviation of the slices.")
        if precision not in PRECISIONS:
            raise BundleError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}.")
        if not 0 <= dropout < 1:
            raise BundleError(f"dropout: got {dropout}, expected a share of at least 0 and below 1.")
        self.space_to_depth = space_to_depth
        self.sigma_data = sigma_data
        self.precision: Precision = precision
        self.network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=space_to_depth**2 + 2,
            out_channels=space_to_depth**2,
            num_res_blocks=num_res_blocks,
            channels=channels,
            attention_levels=attention,
            norm_num_groups=norm_num_groups,
            num_head_channels=num_head_channels,
            use_flash_attention=True,
        )
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if dropout:
            # MONAI's residual blocks have no dropout; a hook adds it without renaming a weight.
            for block in self.network.modules():
                if isinstance(block, DiffusionUNetResnetBlock):
                    block.conv2.register_forward_pre_hook(_Dropout(dropout))

    def forward(self, x: torch.Tensor, sigma: float | torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        """Denoise.

        Args:
            x: noisy slices (B, 1, H, W), float32, H and W as in ``image_shape`` unless there is a ``box``.
            sigma: noise level > 0, one for all slices or one per slice (B,).
            box: top, left, bottom and right edge of each patch (B, 4), in units in which a whole slice reaches from -1
                to 1; the sides of patches may be any multiples of s * 2^(levels - 1). None: ``x`` are whole slices.

        Returns:
            Denoised slices (B, 1, H, W), float32.

        Raises:
            InputError: if ``x`` has another shape or ``sigma`` or ``box`` does not fit it.
        """
        self._check_input(x, box)
        edges = x.new_tensor([-1.0, -1.0, 1.0, 1.0]).expand(x.shape[0], 4) if box is None else box
        # A level that all share is embedded once: faster, and in the same way however many there are.
        levels = slice(None) if isinstance(sigma, torch.Tensor) and sigma.numel() > 1 else slice(1)
        return preconditioned(
            lambda scaled, c_noise: self._residual(scaled, c_noise[levels], edges),
            x,
            per_slice(sigma, x),
            sigma_data=self.sigma_data,
        )

    def _residual(self, x: torch.Tensor, c_noise: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """F of the preconditioning, in the network's precision and back to float32."""
        blocks = nn.functional.pixel_unshuffle(x, self.space_to_depth)
        blocks = torch.cat([blocks, _position(box, blocks.shape[2], blocks.shape[3])], dim=1)
        blocks = blocks.contiguous(memory_format=torch.channels_last)
        low = settled_precision(self.precision, x.device) == "bfloat16"
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=low):
            out = self.network(blocks, timesteps=_NOISE_EMBEDDING_SCALE * c_noise)
        return nn.functional.pixel_shuffle(out.float(), self.space_to_depth)

    def _check_input(self, x: torch.Tensor, box: torch.Tensor | None) -> None:
        """Refuse slices that are not of the prior's shape, and patches that the network cannot halve."""
        if box is None and x.shape[1:] != (1, *self.image_shape):
            raise InputError(
                f"x: got shape {tuple(x.shape)}, expected (B, 1, {self.image_shape[0]}, {self.image_shape[1]}); "
                "resample the slices to the prior's image_shape."
            )
        if box is not None and (x.ndim != 4 or x.shape[1] != 1 or any(side % self.multiple for side in x.shape[2:])):
            raise InputError(
                f"x: got shape {tuple(x.shape)}, expected patches (B, 1, P, Q), sides multiples of {self.multiple}."
            )
        if box is not None and box.shape != (x.shape[0], 4):
            raise InputError(f"box: got shape {tuple(box.shape)}, expected ({x.shape[0]}, 4), four edges per patch.")


class _Dropout:
    """Forward pre-hook: dropout of a module's input while the module trains."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return nn.functional.dropout(args[0], self.share, training=module.training), *args[1:]


def per_slice(sigma: float | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One noise level per slice (B,), on the device and in the dtype of ``x``."""
    if not isinstance(sigma, torch.Tensor) and not sigma > 0:
        raise InputError(f"sigma: got {sigma}, expected a noise level > 0.")
    level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if level.shape not in ((), (1,), (x.shape[0],)):
        raise InputError(f"sigma: got shape {tuple(level.shape)}, expected a number or ({x.shape[0]},), one per slice.")
    return level.expand(x.shape[0])


def _checked_shape(image_shape: Sequence[int], *, multiple: int) -> tuple[int, int]:
    """The pair (H, W), refused unless space-to-depth and every halving divide it."""
    shape = tuple(int(side) for side in image_shape)
    if len(shape) != 2 or any(side <= 0 or side % multiple for side in shape):
        raise BundleError(
            f"image_shape: got {shape}, expected (H, W), both multiples of {multiple} "
            "(space_to_depth times 2 per level below the first); change the shape or use fewer channels."
        )
    return shape[0], shape[1]


def _check_channels(
    channels: Sequence[int], attention: Sequence[bool], *, norm_num_groups: int, num_head_channels: int
) -> None:
    """Refuse level options that do not fit each other, before MONAI does so less plainly."""
    if len(attention) != len(channels):
        raise BundleError(f"attention_levels: got {len(attention)} entries, expected {len(channels)}, one per channel.")
    if any(c % norm_num_groups for c in channels):
        raise BundleError(f"channels: got {tuple(channels)}, expected multiples of norm_num_groups={norm_num_groups}.")
    # MONAI's middle block always attends, on the coarsest level.
    attending = [c for c, attends in zip(channels, attention, strict=True) if attends] + [channels[-1]]
    if any(c % num_head_channels for c in attending):
        raise BundleError(
            f"num_head_channels: got {num_head_channels}, expected a divisor of the attending channels {attending}."
        )


def _position(box: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Row and column of the centres of each box's blocks (B, 2, rows, columns), from its edges (B, 4)."""
    centres = []
    for axis, n in enumerate((rows, columns)):
        first, last = box[:, axis, None], box[:, axis + 2, None]
        centres.append((torch.arange(n, dtype=box.dtype, device=box.device) + 0.5) * (last - first) / n + first)
    row, column = centres[0][:, :, None], centres[1][:, None, :]
    return torch.stack([row.expand(-1, -1, columns), column.expand(-1, rows, -1)], dim=1)
