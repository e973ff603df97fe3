"""The unconditional U-Net of Hugging Face diffusers, computed by MONAI's."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import nn


class DiffusersUNet(nn.Module):
    """`UNet2DModel` of diffusers for gray images: MONAI's `DiffusionModelUNet` with three differences made up for.

    Args:
        channels: channels of each level, from fine to coarse.
        attention_levels: which levels attend over all their pixels; between encoder and decoder it always does.
        num_res_blocks: residual blocks per level.
        num_head_channels: channels per attention head of each level.
        norm_num_groups: groups of the group normalisation.
        norm_eps: its epsilon.
        freq_shift: the time embedding's lowest frequency is 10^(-4 (n - 1)/(n - freq_shift)) of its n.
        cosine_first: the time embedding has its cosines before its sines (``flip_sin_to_cos``).
        downsample_padding: 1 halves with a border of one zero pixel; 0 with one below and to the right only.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        attention_levels: Sequence[bool],
        num_res_blocks: int,
        num_head_channels: Sequence[int],
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        freq_shift: float = 0,
        cosine_first: bool = True,
        downsample_padding: int = 1,
    ) -> None:
        super().__init__()
        self.freq_shift, self.cosine_first = freq_shift, cosine_first
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            num_res_blocks=num_res_blocks,
            channels=channels,
            attention_levels=attention_levels,
            num_head_channels=num_head_channels,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            use_flash_attention=True,
        )
        if downsample_padding == 0:
            for block in self.unet.down_blocks:
                _pad_below_and_right(block)

    def forward(self, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """What the network predicts of images x_t (B, 1, H, W) at times (B,), whole or not; float32 (B, 1, H, W)."""
        unet = self.unet
        embedding = unet.time_embed(self._embed(times, unet.block_out_channels[0]))
        h = unet.conv_in(x)
        skips = [h]
        for down in unet.down_blocks:
            h, outputs = down(hidden_states=h, temb=embedding)
            skips += outputs
        h = unet.middle_block(hidden_states=h, temb=embedding)
        for up in unet.up_blocks:
            n = len(cast(Any, up).resnets)
            skips, taken = skips[:-n], skips[-n:]
            h = up(hidden_states=h, res_hidden_states_list=taken, temb=embedding)
        result: torch.Tensor = unet.out(h)
        return result

    def _embed(self, times: torch.Tensor, width: int) -> torch.Tensor:
        """Sinusoidal embedding (B, width)."""
        n = width // 2
        steps = torch.arange(n, dtype=torch.float32, device=times.device)
        angles = times[:, None] * torch.exp(-math.log(10000) * steps / (n - self.freq_shift))
        parts = (angles.cos(), angles.sin()) if self.cosine_first else (angles.sin(), angles.cos())
        return torch.cat(parts, dim=1)


def _pad_below_and_right(block: Any) -> None:
    """Let a level's halving pad a row below and a column to the right, instead of all around."""
    if block.downsampler is not None:
        conv = block.downsampler.op.conv
        conv.padding = (0, 0)
        block.downsampler.op = nn.Sequential(OrderedDict(pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=conv))
