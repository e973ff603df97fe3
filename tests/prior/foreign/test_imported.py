"""Imported networks within denoisers that adapt them."""

from __future__ import annotations

import edm_pickles
import pytest
import torch
from monai.bundle import ConfigParser

from klip_monai.errors import InputError
from klip_monai.prior import PatchDenoiser, SongUNet
from klip_monai.prior.foreign.edm_import import import_edm
from klip_monai.prior.foreign.imported import ImportedPrior

PADDED, SLICE, PATCH, SLACK, SIGMA_DATA = 28, 20, 8, 4, 0.5
SETTINGS = {
    "img_resolution": PADDED,
    "in_channels": 3,
    "out_channels": 1,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [14],
}


@pytest.fixture
def model() -> SongUNet:
    torch.manual_seed(5)
    return SongUNet(**SETTINGS).eval()


@pytest.fixture
def padis(model, tmp_path) -> ImportedPrior:
    content = edm_pickles.snapshot(model.state_dict(), SETTINGS, outer="Patch_EDMPrecond")
    return import_edm(edm_pickles.write(tmp_path / "network-snapshot-000100.pkl", content))


def built(imported: ImportedPrior) -> PatchDenoiser:
    config = {"image_shape": list(imported.image_shape), "network_def": dict(imported.network_def)}
    denoiser = ConfigParser(config).get_parsed_content("network_def")
    denoiser.load_state_dict(imported.weights, strict=True)
    return denoiser.eval()


def by_hand(model: SongUNet, x: torch.Tensor, sigma: float, offset: tuple[int, int], low: float) -> torch.Tensor:
    """One partition of a slice (H, W), patch by patch, in the network's own values, air being ``low``."""
    image = torch.full((PADDED, PADDED), low)
    image[SLACK:-SLACK, SLACK:-SLACK] = x
    line = (torch.arange(PADDED) / (PADDED - 1) - 0.5) * 2
    row, column = torch.meshgrid(line, line, indexing="ij")
    variance, noise_label = sigma**2 + SIGMA_DATA**2, torch.tensor([sigma]).log() / 4
    out = torch.full_like(image, torch.nan)
    for i in range(3):
        for j in range(3):
            top, left = offset[0] + i * PATCH, offset[1] + j * PATCH
            here = (slice(top, top + PATCH), slice(left, left + PATCH))
            seen = torch.stack([image[here] / variance**0.5, column[here], row[here]])
            residual = model(seen[None], noise_label)[0, 0]
            out[here] = SIGMA_DATA**2 / variance * image[here] + sigma * SIGMA_DATA / variance**0.5 * residual
    return out[SLACK:-SLACK, SLACK:-SLACK]


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0)])
def test_slices_are_assembled_from_the_patches_of_padis(model, padis, value_range):
    denoiser = built(padis.in_range(value_range).in_patches(PATCH))
    low, high = value_range
    half, middle = (high - low) / 2, (high + low) / 2
    x, sigmas = torch.randn(2, 1, SLICE, SLICE, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 2.0])

    def expected(offset: tuple[int, int]) -> torch.Tensor:
        parts = [
            by_hand(model, half * one[0] + middle, half * float(sigma), offset, low)
            for one, sigma in zip(x, sigmas, strict=True)
        ]
        return (torch.stack(parts)[:, None] - middle) / half

    with torch.inference_mode():
        for offset in ((0, 0), (SLACK, 1), (3, SLACK)):
            torch.testing.assert_close(denoiser.denoise_patches(x, sigmas, [offset] * len(x)), expected(offset))
        torch.testing.assert_close(denoiser(x, sigmas), (expected((2, 2)) + expected((1, 0))) / 2)
        assert not torch.allclose(expected((2, 2)), expected((1, 0)), atol=1e-2), "partitions do not matter"


def test_the_size_of_slices_follows_from_the_padded_one(padis):
    imported = padis.in_patches(PATCH)
    assert padis.image_shape == (PADDED, PADDED)
    assert (imported.image_shape, imported.multiple) == ((SLICE, SLICE), 1)
    assert imported.description.endswith("by patches of 8 x 8")


def test_patches_that_do_not_fit_the_network_are_refused(padis, tmp_path):
    for side, message in (
        (-2, "multiple of 2"),
        (7, "multiple of 2"),
        (14, "leaves no slice"),
        (28, "leaves no slice"),
    ):
        with pytest.raises(InputError, match=f"patch: got {side}.*{message}"):
            padis.in_patches(side)
    plain = {**SETTINGS, "in_channels": 1}
    content = edm_pickles.snapshot(SongUNet(**plain).state_dict(), plain)
    with pytest.raises(InputError, match="patch: got 8 for a network that is not told where a patch lies"):
        import_edm(edm_pickles.write(tmp_path / "plain.pkl", content)).in_patches(8)
