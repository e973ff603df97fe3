from __future__ import annotations

import builtins
import io
import operator
import os
import pickle
import subprocess
from collections import OrderedDict

import edm_pickles
import numpy as np
import pytest
import torch
from torch import nn

from klip_monai.errors import BundleError
from klip_monai.prior.foreign.restricted_pickle import PlainObject, named_tensors, read_pickle


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_modules_come_back_as_plain_data_with_their_tensors(tmp_path, protocol):
    torch.manual_seed(0)
    whole = torch.randn(4, 6)
    inner = edm_pickles.module("Linear", {"weight": whole[1:3, ::2], "bias": torch.randn(2)}, skip_scale=np.sqrt(0.5))
    outer = edm_pickles.Persistent("Net", "raise SystemExit", _init_kwargs={"dropout": 0.1, "levels": [1, 2]})
    outer.add_module("blocks", nn.ModuleDict({"a": inner, "b": nn.Sequential(nn.Linear(2, 3))}))
    outer.register_buffer("steps", torch.arange(5))
    outer.register_buffer("nothing", None)
    read = read_pickle(edm_pickles.write(tmp_path / "a.pkl", {"ema": outer, "half": torch.ones(2).half()}, protocol))
    net = read["ema"]
    assert isinstance(net, PlainObject)
    assert net.class_name == "Net"
    assert net.state["_init_kwargs"] == {"dropout": 0.1, "levels": [1, 2]}
    assert net.state["_modules"]["blocks"].class_name == "ModuleDict"
    assert net.state["_modules"]["blocks"].state["_modules"]["a"].state["skip_scale"] == np.sqrt(0.5)
    tensors = named_tensors(net)
    assert {name: value.shape for name, value in tensors.items()} == {
        name: value.shape for name, value in outer.state_dict().items()
    }
    for name, value in outer.state_dict().items():
        assert torch.equal(tensors[name], value), name
    assert read["half"].dtype == torch.float16


def evil(marker):
    """Pickles that would leave the marker, each by another way in."""
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    nested = io.BytesIO()
    torch.save(Call(os.system, command), nested)
    legacy = io.BytesIO()
    torch.save(Call(os.system, command), legacy, _use_new_zipfile_serialization=False)
    load = torch.storage._load_from_bytes
    return {
        "system": Call(os.system, command),
        "subprocess": Call(subprocess.check_call, ["touch", str(marker)]),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "attrgetter": Call(operator.attrgetter("system"), Call(__import__, "os")),
        "mkdir": Call(os.mkdir, str(marker)),
        "open": Call(builtins.open, str(marker), "w"),
        "within a module": {"ema": edm_pickles.Persistent("Net", x=Call(os.system, command))},
        "source of a module": {"ema": edm_pickles.Persistent("Net", code), "x": Call(os.system, command)},
        "bytes of a storage": Call(load, nested.getvalue()),
        "legacy bytes of a storage": Call(load, legacy.getvalue()),
        "bare pickle as a storage": Call(load, pickle.dumps(Call(os.system, command))),
        "torch.load": Call(torch.load, io.BytesIO(nested.getvalue())),
        "hub": Call(torch.hub.load, str(marker), "x"),
    }


@pytest.mark.parametrize("way", list(evil("m")))
def test_code_in_a_pickle_is_refused_and_nothing_runs(tmp_path, way):
    marker = tmp_path / "executed"
    path = edm_pickles.write(tmp_path / "evil.pkl", evil(marker)[way])
    with pytest.raises(BundleError, match="never executed"):
        read_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize("way", ["system", "subprocess", "eval", "mkdir", "open"])
def test_the_same_pickles_run_under_the_ordinary_reader(tmp_path, way):
    marker = tmp_path / "executed"
    pickled = pickle.dumps(evil(marker)[way])
    pickle.loads(pickled)
    assert marker.exists(), "this way in leads nowhere, so refusing it proves nothing"


def test_source_code_of_a_module_is_carried_but_never_run(tmp_path):
    marker = tmp_path / "executed"
    source = f"open({str(marker)!r}, 'w')"
    read = read_pickle(edm_pickles.write(tmp_path / "a.pkl", edm_pickles.Persistent("Net", source)))
    assert read.class_name == "Net"
    assert source not in str(read.state)
    assert not marker.exists()


def opcodes(*lines: bytes) -> bytes:
    return b"\x80\x04" + b"".join(lines) + b"."


@pytest.mark.parametrize(
    "program",
    [
        # Dotted names that walk from an allowed one to a forbidden one.
        opcodes(b"\x8c\x0bcollections\x8c\x1aOrderedDict.__subclasses__\x93", b")R"),
        opcodes(b"\x8c\x10torch.nn.modules\x8c\x02os\x93"),
        opcodes(b"\x8c\x11torch.nn.modules.\x8c\x05a.b.c\x93"),
        opcodes(b"ctorch._utils\n_rebuild_tensor\n"),
        opcodes(b"cos\nsystem\n", b"\x8c\x04true\x85R"),
        opcodes(b"(\x8c\x04trueios\nsystem\n"),  # INST
        opcodes(b"\x82\x01"),  # EXT1
        opcodes(b"Pid\n"),  # PERSID
        # Changing a stand-in, which later files would meet.
        opcodes(b"ctorch.storage\n_load_from_bytes\n", b"}\x8c\x08__call__Nsb"),
        opcodes(b"ctorch.storage\n_load_from_bytes\n", b"N}\x8c\x09_functionNs\x86b"),
        opcodes(b"ctorch.nn.modules.container\nModuleDict\n", b"N}\x8c\x0c__setstate__Ns\x86b"),
        opcodes(b"ccollections\nOrderedDict\n", b"N}\x8c\x08__init__Ns\x86b"),
    ],
)
def test_hand_written_programs_are_refused(tmp_path, program):
    (tmp_path / "a.pkl").write_bytes(program)
    with pytest.raises(BundleError, match="refused"):
        read_pickle(tmp_path / "a.pkl")


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path):
    rebuild, storage = torch._utils._rebuild_tensor_v2, torch.zeros(4).storage()
    impossible = ((0, (5,), (1,)), (2, (2, 2), (2, 1)), (-1, (1,), (1,)), (0, (2,), (-1,)), (0, (2,), ()))
    for offset, size, stride in impossible:
        path = edm_pickles.write(tmp_path / "a.pkl", Call(rebuild, storage, offset, size, stride, False, OrderedDict()))
        with pytest.raises(BundleError, match="tensor"):
            read_pickle(path)
    path = edm_pickles.write(tmp_path / "a.pkl", Call(rebuild, storage, 4, (0, 3), (3, 1), False, OrderedDict()))
    assert read_pickle(path).shape == (0, 3)


def test_damaged_and_missing_files_are_refused(tmp_path):
    whole = edm_pickles.write(tmp_path / "a.pkl", {"x": torch.zeros(3)}).read_bytes()
    for content in (b"", b"text", whole[:-20], whole[:30]):
        (tmp_path / "b.pkl").write_bytes(content)
        with pytest.raises(BundleError):
            read_pickle(tmp_path / "b.pkl")
    with pytest.raises(BundleError, match="cannot be read"):
        read_pickle(tmp_path / "c.pkl")
