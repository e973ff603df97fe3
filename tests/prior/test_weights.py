from __future__ import annotations

import hashlib
import os

import pytest
import safetensors.torch
import torch

from klip_monai.errors import BundleError, OutputError
from klip_monai.prior import load_weights, save_weights, weights_hash


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def noisy_denoiser(tiny_denoiser):
    def make():
        denoiser = tiny_denoiser()
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter.add_(torch.randn_like(parameter))
        return denoiser

    return make


def test_half_precision_weights_survive_a_round_trip_as_float32(tmp_path, tiny_denoiser, noisy_denoiser):
    original, copy = noisy_denoiser(), tiny_denoiser()
    path = tmp_path / "model.safetensors"
    save_weights(path, original)
    assert all(value.dtype == torch.float16 for value in safetensors.torch.load_file(path).values())
    load_weights(path, copy)
    for name, value in copy.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, original.state_dict()[name].half().float(), rtol=0, atol=0)


def test_full_precision_weights_are_exact_in_both_formats(tmp_path, tiny_denoiser, noisy_denoiser):
    original = noisy_denoiser()
    save_weights(tmp_path / "model.safetensors", original, half=False)
    torch.save(original.state_dict(), tmp_path / "model.pt")
    for name in ("model.safetensors", "model.pt"):
        copy = load_weights(tmp_path / name, tiny_denoiser())
        assert all(torch.equal(value, original.state_dict()[key]) for key, value in copy.state_dict().items())


def test_the_hash_is_that_of_the_file_and_of_the_network_loaded_from_it(tmp_path, tiny_denoiser, noisy_denoiser):
    path = tmp_path / "model.safetensors"
    save_weights(path, noisy_denoiser())
    assert weights_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    copy = load_weights(path, tiny_denoiser())
    assert weights_hash(copy) == weights_hash(path)
    with torch.no_grad():
        next(copy.parameters()).add_(1.0)
    assert weights_hash(copy) != weights_hash(path)


def test_pickled_code_is_refused_and_not_run(tmp_path, tiny_denoiser):
    marker = tmp_path / "executed"
    torch.save({"network.weight": Malicious(str(marker))}, tmp_path / "model.pt")
    with pytest.raises(BundleError, match="never executed"):
        load_weights(tmp_path / "model.pt", tiny_denoiser())
    assert not marker.exists()


def test_weights_of_another_network_are_refused_by_name_and_shape(tmp_path, tiny_denoiser):
    path = tmp_path / "model.safetensors"
    save_weights(path, tiny_denoiser(num_res_blocks=2))
    with pytest.raises(BundleError, match=r"do not fit the network, first: network\..* is unknown"):
        load_weights(path, tiny_denoiser())
    save_weights(path, tiny_denoiser(space_to_depth=4))
    with pytest.raises(BundleError, match=r"is \(.*\) instead of \(.*\)"):
        load_weights(path, tiny_denoiser())


def test_damaged_missing_and_foreign_files_are_refused(tmp_path, tiny_denoiser):
    for name, content in (("a.safetensors", b"\x00" * 40), ("a.pt", b"text"), ("a.bin", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BundleError):
            load_weights(tmp_path / name, tiny_denoiser())
    with pytest.raises(BundleError, match="no such file"):
        load_weights(tmp_path / "b.pt", tiny_denoiser())
    torch.save([torch.zeros(1)], tmp_path / "c.pt")
    with pytest.raises(BundleError, match="plain state dict"):
        load_weights(tmp_path / "c.pt", tiny_denoiser())


def test_weights_beyond_half_precision_are_not_written(tmp_path, tiny_denoiser):
    denoiser = tiny_denoiser()
    with torch.no_grad():
        next(denoiser.parameters()).fill_(1e6)
    with pytest.raises(OutputError, match="half=False"):
        save_weights(tmp_path / "model.safetensors", denoiser)
    assert not any(tmp_path.iterdir())


def test_an_unwritable_place_is_refused(tmp_path, tiny_denoiser):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save_weights(tmp_path / "file" / "model.safetensors", tiny_denoiser())
