from __future__ import annotations

import edm_pickles
import pytest
import torch
from monai.bundle import ConfigParser

from klip_monai.errors import BundleError
from klip_monai.prior import EDMDenoiser, SongUNet
from klip_monai.prior.foreign.edm_import import import_edm

SETTINGS = {
    "img_resolution": 16,
    "in_channels": 1,
    "out_channels": 1,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
}
TRAINING = {"label_dim": 0, "augment_dim": 9, "dropout": 0.13, "decoder_type": "standard"}
NCSN = {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}


def network(**options: object) -> SongUNet:
    torch.manual_seed(5)
    return SongUNet(**{**SETTINGS, **options}).eval()


def tensors(model: SongUNet) -> dict[str, torch.Tensor]:
    """As a checkpoint has them: filters beside the convolutions that halve or double, and training's own weights."""
    state = dict(model.state_dict())
    state["enc.8x8_down.conv0.resample_filter"] = torch.full((1, 1, 2, 2), 0.25)
    state["map_augment.weight"] = torch.ones(8, 9)
    return state


@pytest.mark.parametrize("options", [{}, NCSN])
def test_a_snapshot_comes_through_with_weights_settings_and_output(tmp_path, options):
    model = network(**options)
    content = edm_pickles.snapshot(tensors(model), {**SETTINGS, **TRAINING, **options})
    imported = import_edm(edm_pickles.write(tmp_path / "network-snapshot-000100.pkl", content))
    assert imported.image_shape == (16, 16)
    assert imported.multiple == 2
    parser = ConfigParser({"image_shape": [16, 16], "network_def": dict(imported.network_def)})
    denoiser = parser.get_parsed_content("network_def")
    assert isinstance(denoiser, EDMDenoiser)
    denoiser.load_state_dict(imported.weights, strict=True)
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(x, 0.4), EDMDenoiser(model, (16, 16))(x, 0.4), rtol=0, atol=0)


def test_a_patch_prior_takes_positions(tmp_path):
    model = network(in_channels=3)
    settings = {**SETTINGS, **TRAINING, "in_channels": 3, "hash_channels": 1}
    content = edm_pickles.snapshot(tensors(model), settings, outer="Patch_EDMPrecond")
    imported = import_edm(edm_pickles.write(tmp_path / "a.pkl", content))
    assert imported.network_def["model"]["in_channels"] == 3


@pytest.mark.parametrize(
    ("changes", "outer", "inner", "message"),
    [
        ({}, "VPPrecond", "SongUNet", "VPPrecond"),
        ({}, "VEPrecond", "SongUNet", "VEPrecond"),
        ({}, "iDDPMPrecond", "SongUNet", "iDDPMPrecond"),
        ({}, "EDMPrecond", "DhariwalUNet", "DhariwalUNet"),
        ({"label_dim": 10}, "EDMPrecond", "SongUNet", "label_dim=10"),
        ({"decoder_type": "skip"}, "EDMPrecond", "SongUNet", "decoder_type='skip'"),
        ({"implicit_mlp": True}, "Patch_EDMPrecond", "SongUNet", "implicit_mlp=True"),
        ({"embedding_type": "$print(1)"}, "EDMPrecond", "SongUNet", r"embedding_type='\$print"),
        ({"num_blocks": "$print(1)"}, "EDMPrecond", "SongUNet", r"num_blocks='\$print"),
        ({"channel_mult": [1, "$print(1)"]}, "EDMPrecond", "SongUNet", r"channel_mult=\[1, '\$print"),
        ({"attn_resolutions": {"_target_": "print"}}, "EDMPrecond", "SongUNet", "attn_resolutions="),
        ({"something": 1}, "EDMPrecond", "SongUNet", "something=1"),
        ({"in_channels": 3, "out_channels": 3}, "EDMPrecond", "SongUNet", "3 input and 3 output"),
        ({"in_channels": 3}, "EDMPrecond", "SongUNet", "3 input and 1 output"),
    ],
)
def test_other_networks_are_refused_by_name(tmp_path, changes, outer, inner, message):
    settings = {**SETTINGS, **TRAINING, **changes}
    content = edm_pickles.snapshot(tensors(network()), settings, outer=outer, inner=inner)
    with pytest.raises(BundleError, match=message):
        import_edm(edm_pickles.write(tmp_path / "a.pkl", content))


def test_pickles_of_other_things_are_refused(tmp_path):
    content = edm_pickles.snapshot(tensors(network()), SETTINGS)
    del content["ema"]._modules["model"]
    for other in ({"x": 1}, [1], {"ema": torch.zeros(1)}, content):
        with pytest.raises(BundleError, match="network"):
            import_edm(edm_pickles.write(tmp_path / "a.pkl", other))
