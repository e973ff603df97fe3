"""The U-Nets DDPM++ and NCSN++ (Song et al. 2021) as Karras et al. 2022 trained them (EDM, Appendix F).

Written from the papers. Parameters carry the names of the published checkpoints, so that those can be loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from klip_monai.errors import BundleError

_HALF = math.sqrt(0.5)  # every sum of two branches is scaled by it, which keeps the variance
_EPS = 1e-6


class SongUNet(nn.Module):
    """DDPM++ (the defaults) or NCSN++ (Fourier embedding, residual encoder, resampling filter 1, 3, 3, 1).

    Residual blocks with attention at some resolutions, halvings inside of blocks, and skip connections from every block
    of the encoder to the decoder. Fully convolutional: other sizes than ``img_resolution`` work, if 2^(levels - 1)
    divides them; attention stays at the levels it was trained at.

    Args:
        img_resolution: side of the images it was trained at, in pixels; names the levels and places the attention.
        in_channels: channels of the input.
        out_channels: channels of the output.
        model_channels: channels that the multipliers below multiply.
        channel_mult: multiplier of each level's channels, from fine to coarse.
        channel_mult_emb: multiplier of the embedding's channels.
        channel_mult_noise: multiplier of the noise embedding's channels, before the two layers that map it.
        num_blocks: residual blocks of each level in the encoder; the decoder has one more.
        attn_resolutions: sides, in pixels, of the levels with attention; between encoder and decoder there always is.
        embedding_type: how the noise level is embedded, "positional" or "fourier".
        encoder_type: "standard", or "residual" for an input pyramid that is added to each level.
        resample_filter: taps of the separable filter for halving and doubling; [1, 1] averages and repeats.

    Raises:
        BundleError: for an unknown embedding or encoder.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        channel_mult_noise: int = 1,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        embedding_type: Literal["positional", "fourier"] = "positional",
        encoder_type: Literal["standard", "residual"] = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        if embedding_type not in ("positional", "fourier"):
            raise BundleError(f"embedding_type: got {embedding_type!r}, expected 'positional' or 'fourier'.")
        if encoder_type not in ("standard", "residual"):
            raise BundleError(f"encoder_type: got {encoder_type!r}, expected 'standard' or 'residual'.")
        self.img_resolution, self.in_channels, self.out_channels = img_resolution, in_channels, out_channels
        self.multiple = 2 ** (len(channel_mult) - 1)
        embedding, noise = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        self.map_noise = _NoiseEmbedding(noise, fourier=embedding_type == "fourier")
        self.map_layer0 = nn.Linear(noise, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)

        def block(
            inputs: int, outputs: int, *, attention: bool = False, resample: Literal["up", "down"] | None = None
        ) -> _Block:
            return _Block(inputs, outputs, embedding, attention=attention, resample=resample, taps=resample_filter)

        sides = [img_resolution >> level for level in range(len(channel_mult))]
        widths = [model_channels * mult for mult in channel_mult]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[f"{sides[0]}x{sides[0]}_conv"] = nn.Conv2d(in_channels, model_channels, 3, padding=1)
        skips, current, pyramid = [model_channels], model_channels, in_channels
        for level, (side, width) in enumerate(zip(sides, widths, strict=True)):
            name = f"{side}x{side}"
            if level > 0:
                self.enc[f"{name}_down"] = block(current, current, resample="down")
                skips.append(current)
                if encoder_type == "residual":
                    self.enc[f"{name}_aux_residual"] = _ConvThenHalve(pyramid, current, taps=resample_filter)
                    pyramid = current
            for number in range(num_blocks):
                self.enc[f"{name}_block{number}"] = block(current, width, attention=side in attn_resolutions)
                current = width
                skips.append(current)
        for level, (side, width) in reversed(list(enumerate(zip(sides, widths, strict=True)))):
            name = f"{side}x{side}"
            if level == len(sides) - 1:
                self.dec[f"{name}_in0"] = block(current, current, attention=True)
                self.dec[f"{name}_in1"] = block(current, current)
            else:
                self.dec[f"{name}_up"] = block(current, current, resample="up")
            for number in range(num_blocks + 1):
                attends = number == num_blocks and side in attn_resolutions
                self.dec[f"{name}_block{number}"] = block(current + skips.pop(), width, attention=attends)
                current = width
        self.dec[f"{sides[0]}x{sides[0]}_aux_norm"] = _group_norm(current)
        self.dec[f"{sides[0]}x{sides[0]}_aux_conv"] = nn.Conv2d(current, out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor, noise_labels: torch.Tensor) -> torch.Tensor:
        """F(x, c_noise) of the preconditioning.

        Args:
            x: (B, in_channels, H, W), float32, H and W multiples of 2^(levels - 1).
            noise_labels: c_noise of each image (B,).

        Returns:
            (B, out_channels, H, W), float32.
        """
        embedding = functional.silu(self.map_layer0(self.map_noise(noise_labels)))
        embedding = functional.silu(self.map_layer1(embedding))
        skips: list[torch.Tensor] = []
        pyramid = x
        for layer in self.enc.values():
            if isinstance(layer, _ConvThenHalve):
                x = pyramid = skips[-1] = _HALF * (x + layer(pyramid))
            else:
                x = layer(x, embedding) if isinstance(layer, _Block) else layer(x)
                skips.append(x)
        *blocks, norm, out = self.dec.values()
        for layer in blocks:
            assert isinstance(layer, _Block)
            x = layer(x if x.shape[1] == layer.in_channels else torch.cat([x, skips.pop()], dim=1), embedding)
        result: torch.Tensor = out(functional.silu(norm(x)))
        return result


class _NoiseEmbedding(nn.Module):
    """Sines and cosines of the noise label: log-spaced frequencies 1 to 1e-4, or the checkpoint's random ones."""

    def __init__(self, channels: int, *, fourier: bool) -> None:
        super().__init__()
        half = channels // 2
        positional = 1e-4 ** (torch.arange(half, dtype=torch.float32) / max(half - 1, 1))
        self.freqs: torch.Tensor
        self.register_buffer("freqs", 16 * torch.randn(half) if fourier else positional, persistent=fourier)
        self.turn = 2 * math.pi if fourier else 1.0

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(labels, self.turn * self.freqs)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class _Block(nn.Module):
    """Residual block with the noise embedding added between its convolutions, then attention if asked for."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        *,
        attention: bool,
        resample: Literal["up", "down"] | None,
        taps: Sequence[float],
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.norm0 = _group_norm(in_channels)
        self.conv0 = _Conv(in_channels, out_channels, 3, resample=resample, taps=taps)
        self.affine = nn.Linear(embedding, out_channels)
        self.norm1 = _group_norm(out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels or resample:
            self.skip = _Conv(in_channels, out_channels, 1, resample=resample, taps=taps)
        self.attends = attention
        if attention:
            self.norm2 = _group_norm(out_channels)
            self.qkv = nn.Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv0(functional.silu(self.norm0(x))) + self.affine(embedding)[:, :, None, None]
        x = _HALF * (self.skip(x) + self.conv1(functional.silu(self.norm1(h))))
        return _HALF * (x + self._attention(x)) if self.attends else x

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        """Self-attention over all pixels with a single head; q, k and v alternate along the channels of ``qkv``."""
        q, k, v = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (-1, 3)).movedim(2, 0).mT
        attended = functional.scaled_dot_product_attention(q, k, v).mT
        result: torch.Tensor = self.proj(attended.reshape(x.shape))
        return result


class _Conv(nn.Conv2d):
    """Convolution of an input that is halved or doubled first, if asked for."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, resample: Literal["up", "down"] | None, taps: Sequence[float]
    ) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.resample = resample
        self.filter: torch.Tensor
        self.register_buffer("filter", _filter(taps), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side, channels = self.filter.shape[-1], x.shape[1]
        kernel, padding = self.filter.expand(channels, 1, side, side), (side - 1) // 2
        if self.resample == "down":
            x = functional.conv2d(x, kernel, stride=2, padding=padding, groups=channels)
        elif self.resample == "up":
            x = functional.conv_transpose2d(x, 4 * kernel, stride=2, padding=padding, groups=channels)
        return super().forward(x)


class _ConvThenHalve(nn.Conv2d):
    """Convolution whose output is halved: a step of the input pyramid."""

    def __init__(self, inputs: int, outputs: int, *, taps: Sequence[float]) -> None:
        super().__init__(inputs, outputs, 3, padding=1 + (len(taps) - 1) // 2)
        self.filter: torch.Tensor
        self.register_buffer("filter", _filter(taps), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = self.filter.shape[-1]
        kernel = self.filter.expand(self.out_channels, 1, side, side)
        return functional.conv2d(super().forward(x), kernel, stride=2, groups=self.out_channels)


def _filter(taps: Sequence[float]) -> torch.Tensor:
    """Separable low-pass filter with sum 1, float32 (n, n)."""
    row = torch.tensor(taps, dtype=torch.float32)
    return torch.outer(row, row) / row.sum() ** 2


def _group_norm(channels: int) -> nn.GroupNorm:
    """Up to 32 groups of at least 4 channels."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=_EPS)
