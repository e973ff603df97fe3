from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import conv2d, group_norm, linear, silu, softmax

from klip_monai.errors import BundleError, InputError
from klip_monai.prior import EDMDenoiser, SongUNet

TINY = {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (8,)}
NCSN = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": (1, 3, 3, 1),
}


def made(side: int = 16, **options: object) -> SongUNet:
    torch.manual_seed(3)
    return SongUNet(side, **{**TINY, **options}).eval()  # type: ignore[arg-type]


class Reference:
    """The network worked out layer by layer from a state dict, for 16 pixels, two levels, one block, attention at 8."""

    def __init__(self, network: SongUNet, taps: tuple[float, ...], *, fourier: bool) -> None:
        self.w = network.state_dict()
        row = torch.tensor(taps) / sum(taps)
        self.kernel, self.fourier = torch.outer(row, row), fourier

    def conv(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = self.w[f"{name}.weight"]
        return conv2d(x, weight, self.w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        groups = min(32, x.shape[1] // 4)
        return group_norm(x, groups, self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps=1e-6)

    def filtered(self, x: torch.Tensor, padding: tuple[int, int, int, int]) -> torch.Tensor:
        x = torch.nn.functional.pad(x, padding)
        n = self.kernel.shape[0]
        return (x.unfold(2, n, 1).unfold(3, n, 1) * self.kernel).sum((-1, -2))

    def half(self, x: torch.Tensor) -> torch.Tensor:
        before = (self.kernel.shape[0] - 1) // 2
        return self.filtered(x, (before, before, before, before))[..., ::2, ::2]

    def double(self, x: torch.Tensor) -> torch.Tensor:
        apart = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        apart[..., ::2, ::2] = x
        n = self.kernel.shape[0]
        before, after = n // 2, (n - 1) // 2
        return 4 * self.filtered(apart, (before, after, before, after))

    def block(self, x: torch.Tensor, name: str, resample=lambda x: x) -> torch.Tensor:
        h = self.conv(resample(silu(self.norm(x, f"{name}.norm0"))), f"{name}.conv0")
        shift = linear(self.embedding, self.w[f"{name}.affine.weight"], self.w[f"{name}.affine.bias"])
        h = self.conv(silu(self.norm(h + shift[:, :, None, None], f"{name}.norm1")), f"{name}.conv1")
        skip = self.conv(resample(x), f"{name}.skip") if f"{name}.skip.weight" in self.w else x
        x = (skip + h) / math.sqrt(2)
        if f"{name}.qkv.weight" not in self.w:
            return x
        qkv = self.conv(self.norm(x, f"{name}.norm2"), f"{name}.qkv").flatten(2)
        q, k, v = qkv[:, 0::3], qkv[:, 1::3], qkv[:, 2::3]
        attention = softmax(torch.einsum("bcq,bck->bqk", q, k) / math.sqrt(q.shape[1]), dim=-1)
        mixed = torch.einsum("bqk,bck->bcq", attention, v).reshape(x.shape)
        return (x + self.conv(mixed, f"{name}.proj")) / math.sqrt(2)

    def __call__(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        channels = self.w["map_layer0.weight"].shape[1] // 2
        if self.fourier:
            freqs = 2 * math.pi * self.w["map_noise.freqs"]
        else:
            freqs = torch.tensor([10000 ** (-i / (channels - 1)) for i in range(channels)])
        angles = labels[:, None] * freqs
        embedding = torch.cat([torch.sin(angles), torch.cos(angles)], 1)
        for layer in ("map_layer0", "map_layer1"):
            embedding = silu(linear(embedding, self.w[f"{layer}.weight"], self.w[f"{layer}.bias"]))
        self.embedding = embedding
        a = self.conv(x, "enc.16x16_conv")
        b = self.block(a, "enc.16x16_block0")
        c = self.block(b, "enc.8x8_down", self.half)
        if "enc.8x8_aux_residual.weight" in self.w:
            name, n = "enc.8x8_aux_residual", (self.kernel.shape[0] - 1) // 2
            wide = conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], padding=1 + n)
            c = (c + self.filtered(wide, (0, 0, 0, 0))[..., ::2, ::2]) / math.sqrt(2)
        d = self.block(c, "enc.8x8_block0")
        y = self.block(self.block(d, "dec.8x8_in0"), "dec.8x8_in1")
        for skip, name in ((d, "dec.8x8_block0"), (c, "dec.8x8_block1")):
            y = self.block(torch.cat([y, skip], 1), name)
        y = self.block(y, "dec.16x16_up", self.double)
        for skip, name in ((b, "dec.16x16_block0"), (a, "dec.16x16_block1")):
            y = self.block(torch.cat([y, skip], 1), name)
        return self.conv(silu(self.norm(y, "dec.16x16_aux_norm")), "dec.16x16_aux_conv")


@pytest.mark.parametrize(("options", "taps"), [({}, (1, 1)), (NCSN, (1, 3, 3, 1))])
def test_the_network_equals_its_layers_worked_out_one_by_one(options, taps):
    network = made(**options)
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(2, 1, 16, 16, generator=generator), torch.tensor([-1.2, 0.4])
    with torch.no_grad():
        expected = Reference(network, taps, fourier=bool(options))(x, labels)
        assert float(expected.std()) > 0.05
        torch.testing.assert_close(network(x, labels), expected, rtol=1e-4, atol=1e-5)


def test_the_cifar_networks_have_their_published_size():
    with torch.device("meta"):
        ddpm = SongUNet(32, 3, 3, channel_mult=(2, 2, 2))
    assert sum(p.numel() for p in ddpm.parameters()) / 1e6 == pytest.approx(55.7, abs=0.05)


def test_other_sizes_than_the_trained_one_work_too():
    with torch.no_grad():
        assert made()(torch.zeros(1, 1, 24, 32), torch.zeros(1)).shape == (1, 1, 24, 32)


def test_attention_lies_where_it_was_trained_and_between_encoder_and_decoder():
    attending = {name.rsplit(".", 2)[0] for name in made(attn_resolutions=(16,)).state_dict() if "qkv" in name}
    assert attending == {"enc.16x16_block0", "dec.16x16_block1", "dec.8x8_in0"}


def test_unknown_options_are_refused():
    with pytest.raises(BundleError, match="embedding_type: got 'learned'"):
        made(embedding_type="learned")
    with pytest.raises(BundleError, match="encoder_type: got 'skip'"):
        made(encoder_type="skip")


def test_the_denoiser_has_the_coefficients_of_edm():
    network = made()
    denoiser, x, sigma = EDMDenoiser(network, (16, 16), sigma_data=0.4), torch.randn(2, 1, 16, 16), 0.3
    total = sigma**2 + 0.4**2
    with torch.no_grad():
        inside = network(x / math.sqrt(total), torch.full((2,), math.log(sigma) / 4))
        expected = 0.4**2 / total * x + sigma * 0.4 / math.sqrt(total) * inside
        torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-4, atol=1e-5)


def positions_seen(denoiser: EDMDenoiser, *args: torch.Tensor | float) -> torch.Tensor:
    seen = []
    hook = denoiser.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        denoiser(*args)
    hook.remove()
    return seen[0][:, 1:]


def test_positions_are_columns_and_rows_from_minus_one_to_one():
    position = positions_seen(EDMDenoiser(made(in_channels=3), (16, 16)), torch.zeros(2, 1, 16, 16), 0.5)
    expected = torch.linspace(-1, 1, 16)
    torch.testing.assert_close(position[1, 0, 3], expected)
    torch.testing.assert_close(position[1, 1, :, 3], expected)


def test_slices_lie_in_the_middle_of_the_padded_image():
    position = positions_seen(EDMDenoiser(made(in_channels=3), (8, 12)), torch.zeros(1, 1, 8, 12), 0.5)
    expected = torch.linspace(-1, 1, 16)
    torch.testing.assert_close(position[0, 0, 0], expected[2:14])
    torch.testing.assert_close(position[0, 1, :, 0], expected[4:12])


def test_a_patch_knows_where_its_box_lies():
    # Rows 4 to 12 and columns 0 to 8 of an image of 16 pixels.
    box = torch.tensor([[-0.5, -1.0, 0.5, 0.0]])
    position = positions_seen(EDMDenoiser(made(in_channels=3), (8, 8)), torch.zeros(1, 1, 8, 8), 0.5, box)
    expected = torch.linspace(-1, 1, 16)
    torch.testing.assert_close(position[0, 0, 0], expected[:8])
    torch.testing.assert_close(position[0, 1, :, 0], expected[4:12])


def test_what_does_not_fit_the_denoiser_is_refused():
    with pytest.raises(BundleError, match="got 2 input and 1 output"):
        EDMDenoiser(made(in_channels=2), (16, 16))
    with pytest.raises(BundleError, match="multiples of 2"):
        EDMDenoiser(made(), (16, 15))
    with pytest.raises(InputError, match=r"expected \(B, 1, 16, 16\)"):
        EDMDenoiser(made(), (16, 16))(torch.zeros(1, 1, 8, 8), 0.5)
    with pytest.raises(InputError, match="four edges"):
        EDMDenoiser(made(in_channels=3), (16, 16))(torch.zeros(1, 1, 8, 8), 0.5, torch.zeros(2, 4))
