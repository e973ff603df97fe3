"""Bundles from checkpoints of other programs, tiny ones made here."""

from __future__ import annotations

import json
from pathlib import Path

import edm_pickles
import pytest
import torch
from monai.bundle import verify_metadata, verify_net_in_out
from typer.testing import CliRunner

from klip_monai.bundle import bundle_info, find_bundle, open_workflow
from klip_monai.cli import app
from klip_monai.errors import BundleError, InputError, OutputError
from klip_monai.prior import SongUNet
from klip_monai.training import import_weights

SETTINGS = {
    "img_resolution": 32,
    "in_channels": 3,
    "out_channels": 1,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8],
}
SLICES = {"hu_window": (-1000.0, 1000.0), "pixel_mm": 12.0}
BASE = find_bundle("klip_ct_abdomen").root


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    content = edm_pickles.snapshot(SongUNet(**SETTINGS).state_dict(), SETTINGS, outer="Patch_EDMPrecond")
    return edm_pickles.write(tmp_path / "network-snapshot-000123.pkl", content)


@pytest.fixture
def diffusers_folder(tmp_path: Path) -> Path:
    diffusers = pytest.importorskip("diffusers", reason="diffusers, a development dependency, is not installed")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]}
    options = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, **blocks}
    unet = diffusers.UNet2DModel(in_channels=1, out_channels=1, **options)
    unet.save_pretrained(tmp_path / "ddpm" / "unet")
    diffusers.DDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "ddpm" / "scheduler")
    return tmp_path / "ddpm"


def assert_scores(bundle: Path, side: int) -> None:
    workflow = open_workflow(bundle_info(bundle), "inference.json", kind="inference", device="$torch.device('cpu')")
    workflow.initialize()
    network, inferer, grid = (workflow.parser.get_parsed_content(name) for name in ("network", "inferer", "grid"))
    assert (grid.hu_window, grid.pixel_mm) == (SLICES["hu_window"], SLICES["pixel_mm"])
    slices = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    density = inferer(slices, network)
    assert density.shape == slices.shape
    assert bool(density.isfinite().all())
    assert float(density.max()) > 0
    with pytest.raises(RuntimeError) as caught:
        workflow.parser.get_parsed_content("reference")
    assert isinstance(caught.value.__cause__, BundleError)
    assert "klip-monai calibrate" in str(caught.value.__cause__)


def test_a_snapshot_becomes_a_bundle_that_scores_whole_slices(snapshot, tmp_path):
    target = tmp_path / "patch_diffusion"
    assert import_weights(snapshot, target, base=BASE, value_range=(0.0, 1.0), patch=0, **SLICES) == (32, 32)
    assert "Patch_EDMPrecond" in bundle_info(target).description
    assert_scores(target, 32)


def test_a_snapshot_becomes_a_bundle_that_scores_slices_by_patches(snapshot, tmp_path):
    # 24 pixels in patches of 14 are padded by 4 on each side, up to the network's 32.
    target = tmp_path / "padis"
    assert import_weights(snapshot, target, base=BASE, value_range=(0.0, 1.0), patch=14, **SLICES) == (24, 24)
    assert "by patches of 14 x 14" in bundle_info(target).description
    assert "| slices | 24 x 24," in (target / "docs" / "README.md").read_text()
    assert_scores(target, 24)


def test_a_folder_of_diffusers_becomes_a_bundle_that_scores_a_slice(diffusers_folder, tmp_path):
    target = tmp_path / "ddpm_bundle"
    with pytest.raises(InputError, match=r"does not say the size.*--image-size"):
        import_weights(diffusers_folder, target, base=BASE, **SLICES)
    import_weights(diffusers_folder, target, base=BASE, image_shape=(24, 24), **SLICES)
    assert_scores(target, 24)


def test_metadata_and_card_say_what_the_bundle_is(snapshot, tmp_path):
    target = tmp_path / "mine"
    import_weights(snapshot, target, base=BASE, image_shape=(24, 24), patch=0, **SLICES)
    metadata = target / "configs" / "metadata.json"
    schema = str(target / "docs" / "metadata.schema.json")
    verify_metadata(meta_file=str(metadata), filepath=schema, create_dir=False)
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(metadata),
        config_file=str(target / "configs" / "inference.json"),
        device="cpu",
        extra_forward_args={"sigma": 0.3},
    )
    image = json.loads(metadata.read_text())["network_data_format"]["inputs"]["image"]
    assert image["spatial_shape"] == [24, 24]
    assert "-1000 to 1000 HU, 12 mm" in image["channel_def"]["0"]
    card = (target / "docs" / "README.md").read_text()
    for words in ("24 x 24", "network-snapshot-000123.pkl", "licence is that of their source", "calibrate"):
        assert words in card
    assert not (target / "LICENSE").exists(), "the weights are not ours to license"


def test_the_command_says_what_to_do_next(snapshot, tmp_path):
    options = ["--hu-window", "-1000", "1000", "--pixel-mm", "12", "--value-range", "0", "1", "--patch", "14"]
    done = CliRunner().invoke(app, ["import-weights", str(snapshot), "-o", str(tmp_path / "mine"), *options])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "for slices of 24 x 24" in said
    assert "klip-monai calibrate --bundle" in said
    network = json.loads((tmp_path / "mine" / "configs" / "inference.json").read_text())["network_def"]
    assert network["_target_"] == "klip_monai.prior.PatchDenoiser"
    assert network["unet"]["value_range"] == [0, 1]
    assert network["unet"]["denoiser"]["image_shape"] == [14, 14]


def test_a_network_that_knows_positions_needs_to_be_told_its_patches(snapshot, diffusers_folder, tmp_path):
    with pytest.raises(InputError, match=r"--patch with the side.*PaDIS: 56.*--patch 0.*Patch Diffusion"):
        import_weights(snapshot, tmp_path / "new", base=BASE, **SLICES)
    with pytest.raises(InputError, match="not told where a patch lies; leave it out"):
        import_weights(diffusers_folder, tmp_path / "new", base=BASE, image_shape=(24, 24), patch=8, **SLICES)
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_imported_is_refused_and_leaves_nothing(snapshot, tmp_path):
    target = tmp_path / "new"
    (tmp_path / "weights.ckpt").write_text("")
    snapshot_options = ({"image_shape": (32, 32), "patch": 14}, {"patch": 13}, {"patch": 16}, {"patch": 32})
    messages = (r"slices are \(24, 24\)", "multiple of 2", "not half of it", "leaves no slice")
    for source, options, message in (
        *((snapshot, *case) for case in zip(snapshot_options, messages, strict=True)),
        (tmp_path / "weights.ckpt", {}, "expected a folder that diffusers saved"),
        (tmp_path / "none", {}, "expected a folder that diffusers saved"),
        (snapshot, {"image_shape": (33, 33)}, "multiples of 2"),
        (snapshot, {"pixel_mm": 0.0}, "pixel_mm"),
        (snapshot, {"hu_window": (5.0, 5.0)}, "hu_window"),
    ):
        with pytest.raises(InputError, match=message):
            import_weights(source, target, base=BASE, **{**SLICES, "patch": 0, **options})
        assert not target.exists()
    target.mkdir()
    with pytest.raises(OutputError, match="exists"):
        import_weights(snapshot, target, base=BASE, **SLICES)


def test_settings_that_do_not_make_a_network_are_refused(tmp_path):
    impossible = SETTINGS | {"num_blocks": 1.5}
    content = edm_pickles.snapshot(SongUNet(**SETTINGS).state_dict(), impossible, outer="Patch_EDMPrecond")
    source = edm_pickles.write(tmp_path / "a.pkl", content)
    with pytest.raises(BundleError, match="do not make a network"):
        import_weights(source, tmp_path / "new", base=BASE, patch=0, **SLICES)
    assert not (tmp_path / "new").exists()
