"""Torch files and pickles: what torch reads is read to the same bits, and nothing that is in one is ever run."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tsuika.core import pickles
from tsuika.core.errors import ModelError
from tsuika.core.weights import load_pickle, open_weights

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.bool, torch.complex64),
]


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.dtype == theirs.dtype and torch.equal(ours.cpu(), theirs.cpu())


@pytest.mark.parametrize("zipped", [True, False])
def test_every_tensor_is_read_as_torch_reads_it(zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    # Torch itself cannot read its old layout with the newest types.
    new = (torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2)
    dtypes = [dtype for dtype in DTYPES if zipped or dtype not in new]
    tensors = {str(dtype): torch.arange(-3, 4).abs().to(dtype) for dtype in dtypes} | {
        "whole": base,
        "view": base[1, 1:, ::2],
        "transposed": base.permute(2, 0, 1),
        "scalar": torch.tensor(7.5),
        "none": torch.empty(0, 3),
        "expanded": torch.arange(4).expand(1, 4),
        "parameter": nn.Parameter(torch.randn(3, 2)),
        "odd bytes before": torch.ones(3, dtype=torch.uint8),
        "after them": torch.randn(5),
    }
    path = tmp_path / "a.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    theirs = torch.load(path, weights_only=True)
    opened = open_weights(path)
    assert opened.shapes == {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    for name, tensor in theirs.items():
        assert same(opened.raw(name), tensor.detach()), name


def test_a_module_s_state_and_what_lies_beside_it(tmp_path: Path) -> None:
    """`state_dict()` is an OrderedDict with an attribute; settings are of all kinds of classes."""
    module = nn.Sequential(nn.Linear(3, 2), nn.Conv2d(1, 2, 3))
    beside = {
        "epoch": np.int64(3),
        "loss": np.float32(0.25),
        "settings": argparse.Namespace(lr=1.0, path=Path("x"), words={"a", "b"}, frozen=frozenset({1})),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}},
        torch.device: torch.device("cpu"),
        (1, 2): "a key that is no name",
    }
    torch.save({"state_dict": module.state_dict(), **beside}, tmp_path / "a.ckpt")
    opened = open_weights(tmp_path / "a.ckpt")
    assert all(same(opened.raw(name), tensor) for name, tensor in module.state_dict().items())
    assert len(opened.shapes) == len(module.state_dict())
    content = load_pickle(tmp_path / "a.ckpt")
    assert (content["epoch"], content["loss"], content["settings"]) == (3, 0.25, None)


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class as the first official checkpoints of Stable Diffusion have it, as a key and as a value."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    kind = type("ModelCheckpoint", (), {"__module__": name})
    sys.modules[name].ModelCheckpoint = kind  # type: ignore[attr-defined]
    return kind


@pytest.mark.parametrize("zipped", [True, False])
def test_lightning_s_checkpoint(zipped: bool, lightning: type, tmp_path: Path) -> None:
    best = lightning()
    best.score = np.float64(0.5)
    content = {
        "callbacks": {lightning: {"best": best}},
        "state_dict": OrderedDict(w=torch.randn(3)),
        "global_step": 470000,
    }
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.ckpt", weights_only=True)
    opened = open_weights(tmp_path / "a.ckpt")
    assert opened.shapes == {"w": (3,)} and same(opened.raw("w"), content["state_dict"]["w"])


def test_the_first_embeddings_keep_their_vectors_in_a_parameter_dict(tmp_path: Path) -> None:
    vectors = torch.randn(2, 768)
    parameters = nn.ParameterDict({"*": nn.Parameter(vectors)})
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}, tmp_path / "a.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pt", weights_only=True)
    assert same(load_pickle(tmp_path / "a.pt")["string_to_param"]["*"], vectors)


NAME, NEST = "model.diffusion_model.out.2.bias", {"epoch": 1, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda table: table,
        lambda table: {"state_dict": table, **NEST},
        lambda table: {"state_dict": {"state_dict": table}},
        lambda table: {"model": table, **NEST},
        lambda table: {"model": {"state_dict": table}},
        lambda table: {"module": table},
        lambda table: {"something": table, "step": 3},
        lambda table: {f"module.{name}": tensor for name, tensor in table.items()},
        lambda table: {"state_dict": {f"module._orig_mod.{name}": tensor for name, tensor in table.items()}},
        lambda table: {f"model.{name}": tensor for name, tensor in table.items()},
        lambda table: {f"state_dict.{name}": tensor for name, tensor in table.items()},
        lambda table: {name.replace("_model.out", "_model.module.out"): tensor for name, tensor in table.items()},
    ],
)
def test_checkpoints_in_their_wrappers(wrap: Any, tmp_path: Path) -> None:
    table = {NAME: torch.randn(4), "first_stage_model.encoder.conv_in.bias": torch.ones(1)}
    torch.save(wrap(table), tmp_path / "a.ckpt")
    opened = open_weights(tmp_path / "a.ckpt")
    assert opened.shapes.keys() == table.keys() and same(opened.tensor(NAME), table[NAME])


# -------------------------------------------------------------------------------------------------------------- payloads


class Calls:
    """Calls `what` with the arguments, when it is unpickled by a reader that runs what it finds."""

    def __init__(self, what: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (what, arguments) if state is None else (what, arguments, state)

    def __reduce__(self) -> Any:
        return self.made


def op(code: bytes, *texts: str) -> bytes:
    return code + b"".join(text.encode() + b"\n" for text in texts)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def payloads(command: str) -> dict[str, bytes]:
    """Pickles that run a command, by the opcode that does it."""
    arguments = text(command) + b"\x85"  # TUPLE1
    system = op(b"cposix\n", "system") if os.name == "posix" else op(b"cnt\n", "system")
    code = f"__import__('os').system({command!r})"
    dumped = {f"REDUCE, protocol {p}": pickle.dumps(Calls(os.system, command), p) for p in (2, 3, 4, 5)}
    dumped |= {
        "eval": pickle.dumps(Calls(eval, code), 2),
        "exec": pickle.dumps(Calls(exec, code), 4),
        "subprocess": pickle.dumps(Calls(subprocess.check_output, ["sh", "-c", command]), 2),
        "a method": pickle.dumps(Calls(Path.chmod, Path(command)), 4),
        "popen": pickle.dumps(Calls(os.popen, command), 2),
        "torch.load": pickle.dumps(Calls(torch.load, io.BytesIO(pickle.dumps(Calls(os.system, command)))), 4),
        "a pickle in a pickle": pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(os.system, command))), 4),
        "torch._utils hook": pickle.dumps(
            Calls(torch._utils._rebuild_parameter, torch.zeros(1), False, Calls(os.system, command)), 2
        ),
        "as a key": b"\x80\x02}" + system + arguments + b"R" + text("x") + b"s.",
        "nested": pickle.dumps({"a": [({"b": Calls(os.system, command)},)]}, 2),
    }
    raw = {
        "INST": b"\x80\x02(" + text(command) + b"i" + op(b"posix\n", "system"),
        "OBJ": b"\x80\x02(" + system + text(command) + b"o",
        "STACK_GLOBAL": b"\x80\x04" + text("posix") + text("system") + b"\x93" + arguments + b"R",
        "NEWOBJ": b"\x80\x02" + system + arguments + b"\x81",
        "NEWOBJ_EX": b"\x80\x04" + system + arguments + b"}\x92",
        "BUILD with __setstate__": (
            # An object whose __setstate__ is os.system, as a state that is a dictionary makes it.
            b"\x80\x02"
            + op(b"c__main__\n", "Anything")
            + b")\x81}"
            + text("__setstate__")
            + system
            + b"sb"
            + text(command)
            + b"b"
        ),
        "BUILD of a class": (
            b"\x80\x02" + op(b"c__main__\n", "Anything") + b"N}" + text("__setitem__") + system + b"s\x86b"
            b"0" + op(b"c__main__\n", "Anything") + b")\x81" + text(command) + text("x") + b"s"
        ),
        "BUILD of a maker": (
            b"\x80\x02"
            + op(b"ccollections\n", "OrderedDict")
            + b"}"
            + text("_make")
            + system
            + b"sb"
            + arguments
            + b"R"
        ),
        "persistent id": b"\x80\x02(" + text("storage") + system + text(command) + text("cpu") + b"K\x01tQ",
        "tensor of type": (
            b"\x80\x02" + op(b"ctorch._tensor\n", "_rebuild_from_type_v2") + b"(" + system + b"N" + arguments + b"NtR"
        ),
        "a defaultdict's factory": b"\x80\x02"
        + op(b"ccollections\n", "defaultdict")
        + system
        + b"\x85R"
        + text("x")
        + b"s",
        "copyreg": b"\x80\x02"
        + op(b"ccopyreg\n", "_reconstructor")
        + b"("
        + system
        + op(b"c__builtin__\n", "object")
        + b"NtR",
        "EXT": b"\x80\x02\x82\x01" + arguments + b"R",
        "dotted": b"\x80\x04" + text("os") + text("path.os.system") + b"\x93" + arguments + b"R",
    }
    return dumped | {name: code if code.endswith(b".") else code + b"." for name, code in raw.items()}


PAYLOADS = sorted(payloads("true"))


def zipped(pickled: bytes, path: Path, *members: tuple[str, bytes], compress: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, content in (("data.pkl", pickled), ("version", b"3\n"), *members):
            archive.writestr(f"archive/{name}", content)
    return path


def legacy(pickled: bytes, path: Path) -> Path:
    head = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(head) + pickled + pickle.dumps([], 2))
    return path


@pytest.mark.parametrize("name", PAYLOADS)
def test_nothing_is_run(name: str, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    code = payloads(f"touch '{witness}'")[name]
    (tmp_path / "bare.pt").write_bytes(code)
    files = [tmp_path / "bare.pt", zipped(code, tmp_path / "zip.pt"), legacy(code, tmp_path / "old.pt")]
    for path in files:
        for read in (open_weights, load_pickle):
            with pytest.raises(ModelError) if read is open_weights else _whatever():
                read(path)
            assert not witness.exists(), f"{name} in {path.name}"


class _whatever:
    """A reader may take the file for something harmless, or refuse it."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> bool:
        return kind is not None and issubclass(kind, ModelError)


def test_the_payloads_do_run_where_a_pickle_is_trusted(tmp_path: Path) -> None:
    program = (
        "import pickle, sys\nclass Anything: pass\nclass U(pickle.Unpickler):\n persistent_load = lambda *a: 0\n"
        "for path in sys.argv[1:]:\n try: U(open(path, 'rb')).load()\n except Exception: pass\n"
    )
    # The two that need torch would take a second; of the others, some attack this reader's own objects.
    names = [name for name in PAYLOADS if not name.startswith("torch")]
    for number, name in enumerate(names):
        (tmp_path / f"{number}.pkl").write_bytes(payloads(f"touch '{tmp_path / str(number)}'")[name])
    files = sorted(tmp_path.glob("*.pkl"))
    subprocess.run([sys.executable, "-c", program, *files], check=False, capture_output=True)
    ran = [name for number, name in enumerate(names) if (tmp_path / str(number)).exists()]
    assert len(ran) >= 16, ran


# ------------------------------------------------------------------------------------------------------ damaged, and bombs

STORAGE = b"\x80\x02}" + text("w") + op(b"ctorch._utils\n", "_rebuild_tensor_v2")
STORAGE += b"((" + text("storage") + op(b"ctorch\n", "FloatStorage") + text("0") + text("cpu") + b"K\x04tQ"
REST = op(b"ccollections\n", "OrderedDict") + b")RtRs."


def tensor_of(place: bytes) -> bytes:
    """A table of one tensor of four numbers; `place` pushes its offset, shape and strides."""
    return STORAGE + place + b"\x89" + REST


PLACES = {
    "beyond": b"K\x02K\x04\x85K\x01\x85",
    "too many": b"K\x00K\x05\x85K\x01\x85",
    "before": b"J\xff\xff\xff\xffK\x04\x85K\x01\x85",
    "backwards": b"K\x00K\x04\x85J\xff\xff\xff\xff\x85",
    "repeated": b"K\x00K\xff\x85K\x00\x85",
    "text offset": text("0") + b"K\x04\x85K\x01\x85",
    "text size": b"K\x00" + text("4") + b"\x85K\x01\x85",
    "text stride": b"K\x00K\x04\x85" + text("1") + b"\x85",
    "no stride": b"K\x00K\x04\x85)",
    "nothing": b"K\x00NN",
    "a fraction": b"G?\xf0\x00\x00\x00\x00\x00\x00K\x04\x85K\x01\x85",
    "absurd": b"K\x00(" + b"\x8a\x08" + b"\xff" * 7 + b"\x7f" + b"K\x04tK\x01\x85",
    "300 sizes of 4,000 digits": b"K\x00(" + (b"\x8b" + struct.pack("<I", 1700) + b"\x7f" * 1700) * 300 + b"tK\x01\x85",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_tensor_that_is_not_there(place: bytes, tmp_path: Path) -> None:
    began = time.process_time()
    path = zipped(tensor_of(place), tmp_path / "a.pt", ("data/0", bytes(16)))
    with pytest.raises(ModelError) as caught:
        open_weights(path).tensor("w")
    assert caught.value.code == "MD003" and len(str(caught.value)) < 2000
    assert time.process_time() - began < 5


def test_the_same_tensor_in_its_place(tmp_path: Path) -> None:
    """What the cases above differ from is read; pickletools agrees that it is a pickle."""
    code = tensor_of(b"K\x00K\x04\x85K\x01\x85")
    pickletools.dis(code, io.StringIO())
    path = zipped(code, tmp_path / "a.pt", ("data/0", struct.pack("<4f", 1, 2, 3, 4)))
    assert open_weights(path).tensor("w").tolist() == [1, 2, 3, 4]
    packed = zipped(code, tmp_path / "b.pt", ("data/0", struct.pack("<4f", 1, 2, 3, 4)), compress=zipfile.ZIP_DEFLATED)
    assert open_weights(packed).tensor("w").tolist() == [1, 2, 3, 4]


def deep(count: int) -> bytes:
    return b"\x80\x02)" + b"\x85" * count


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02}" + deep(150_000)[2:] + b"Ns.",  # a key nested so deep that its hash would end the program
        b"\x80\x04\x8f(" + deep(150_000)[2:] + b"\x90.",  # the same in a set
        b"\x80\x02" + op(b"ccollections\n", "OrderedDict") + b"]" + deep(100_000)[2:] + b"N\x86a\x85R.",
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x02Nr\xff\xff\xff\xff.",  # a memo of four billion places
        b"\x80\x02X\xff\xff\xff\xff.",
        b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 35) + b".",  # a bytearray of 32 GiB
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
        b"\x80\x02I" + b"9" * 5000 + b"\n.",
        b"\x80\x02L" + b"9" * 5000 + b"L\n.",
        b"\x80\x02" + op(b"ctorch\n", "Size") + b"]" + b"(" + b"N" * 100_000 + b"e\x85R.",
        *(
            b"\x80\x02",
            b"\x80\x02.",
            b"\x80\x7f.",
            b"\x80\x02R.",
            b"\x80\x02)\x85.",
            b"\x80\x02h\x05.",
            b"\x80\x02\xff.",
        ),
    ],
)
def test_a_pickle_that_is_made_to_fail_fails_quickly(code: bytes, tmp_path: Path) -> None:
    began = time.process_time()
    (tmp_path / "a.pt").write_bytes(code)
    for path in (tmp_path / "a.pt", zipped(code, tmp_path / "b.pt")):
        with pytest.raises(ModelError) as caught:
            open_weights(path)
        assert caught.value.code in ("MD002", "MD003")
        assert len(str(caught.value)) < 2000
    assert time.process_time() - began < 10


def test_what_is_shared_is_read_once(tmp_path: Path) -> None:
    """Ten lists in ten lists in ten ...: 10^12 ways through a file of a hundred bytes."""
    held: Any = [1]
    for _ in range(12):
        held = [held] * 10
    (tmp_path / "a.pt").write_bytes(pickle.dumps(held, 2))
    assert load_pickle(tmp_path / "a.pt")[9][0][0]


def test_a_zip_that_would_fill_the_memory(tmp_path: Path) -> None:
    """Two gigabytes of zeros in two megabytes: refused before a byte is unpacked."""
    code = tensor_of(b"K\x00K\x04\x85K\x01\x85")
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", code)
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(ModelError) as caught:
        open_weights(path)
    assert caught.value.code == "MD003" and tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("layout", ["zip", "old"])
def test_a_damaged_file_is_damaged(layout: str, tmp_path: Path) -> None:
    """Cut anywhere, or with any byte changed, there is an error of ours or the file is read; never anything else."""
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(6.0), "b": {"c": 1}}, path, _use_new_zipfile_serialization=layout == "zip")
    whole = path.read_bytes()
    random = np.random.default_rng(3)
    for number in range(400):
        raw = bytearray(whole)
        if number % 2:
            raw = raw[: random.integers(len(raw))]
        else:
            for place in random.integers(len(raw), size=random.integers(1, 6)):
                raw[place] = random.integers(256)
        path.write_bytes(raw)
        try:
            opened = open_weights(path)
            for name in opened.shapes:
                opened.raw(name)
        except ModelError as error:
            assert len(str(error)) < 2000


def test_a_disk_of_several(tmp_path: Path) -> None:
    path = zipped(b"\x80\x02}.", tmp_path / "a.pt")
    raw = bytearray(path.read_bytes())
    place = raw.rindex(b"PK\x05\x06")
    raw[place + 4 : place + 8] = b"\x01\x00\x01\x00"
    path.write_bytes(raw)
    with pytest.raises(ModelError) as caught:
        open_weights(path)
    assert caught.value.code in ("MD002", "MD003")


def test_a_program_of_torchscript_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(ModelError, match="TorchScript"):
        open_weights(tmp_path / "a.pt")


def test_the_table_of_contents_needs_no_torch(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2, 3).half()}}, tmp_path / "a.ckpt")
    program = (
        "import sys; from pathlib import Path; from tsuika.core.weights import open_weights\n"
        f"opened = open_weights(Path({str(tmp_path / 'a.ckpt')!r}))\n"
        "assert (opened.shapes, opened.dtypes) == ({'w': (2, 3)}, {'w': 'F16'}), opened\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_limit_of_a_pickle_is_far_from_what_models_need() -> None:
    """SDXL with the two moments of its optimizer, as torch writes it."""
    names = [
        f"model.diffusion_model.output_blocks.{n}.1.transformer_blocks.9.attn2.to_out.0.weight" for n in range(2515)
    ]
    buffer = io.BytesIO()
    torch.save({f"{name}.{kind}": torch.empty(1, 1) for name in names for kind in "abc"}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        size = next(member.file_size for member in archive.infolist() if member.filename.endswith("data.pkl"))
    assert size * 4 < pickles.MAX_PICKLE_BYTES
