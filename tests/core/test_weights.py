"""Torch files: what we write is what old programs let in, byte for byte the same again, and what we read runs nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import zipfile
from pathlib import Path

import pytest
import torch

from tsuika.core import kinds
from tsuika.core.errors import ModelError, ResourceError
from tsuika.core.weights import load_pickle, open_folder, open_weights, save_pickle

# What A1111 1.0 to 1.10 let pass (modules/safe.py there): anything else in the zip makes it call the file malicious.
ALLOWED = re.compile(r"[^/]+/((data/\d+)|version|(data\.pkl))")
CONTENT = {
    "name": "ツイピ",
    "step": 3,
    768: ({"linear.0.weight": torch.arange(6.0).reshape(2, 3)}, {}),
    "half": torch.ones(2).bfloat16(),
}


def test_a_torch_file_has_only_members_that_a1111_lets_in(tmp_path: Path) -> None:
    save_pickle(CONTENT, tmp_path / "a.pt")
    names = zipfile.ZipFile(tmp_path / "a.pt").namelist()
    assert names and all(ALLOWED.fullmatch(name) for name in names), names
    torch.save(CONTENT, tmp_path / "torch.pt")
    assert not all(ALLOWED.fullmatch(name) for name in zipfile.ZipFile(tmp_path / "torch.pt").namelist())


def test_torch_reads_it_and_the_bytes_are_the_same_again(tmp_path: Path) -> None:
    save_pickle(CONTENT, tmp_path / "a.pt")
    keep = [torch.empty(1000) for _ in range(3)]  # other memory addresses
    save_pickle(CONTENT, tmp_path / "b.pt")
    assert len(keep) == 3 and (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    for held in (
        load_pickle(tmp_path / "a.pt"),
        torch.load(tmp_path / "a.pt", weights_only=True),
        torch.load(tmp_path / "a.pt", weights_only=False),
    ):
        assert held["name"] == "ツイピ" and held["step"] == 3
        assert torch.equal(held[768][0]["linear.0.weight"], torch.arange(6.0).reshape(2, 3))
        assert held["half"].dtype == torch.bfloat16 and torch.equal(held["half"], torch.ones(2).bfloat16())


@pytest.mark.parametrize(
    "places", [{"a": "../x"}, {"a": "b/c"}, {"a": ".."}, {"a": ""}, {"a": "b\0"}, {"a": 1}, ["a"], "a"]
)
def test_an_index_that_leads_elsewhere_is_damaged(places: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    with pytest.raises(ModelError, match="weight_map") as caught:
        open_folder(tmp_path, "model")
    assert caught.value.code == "MD003"


def test_tensors_in_tables_and_lists_are_named_by_the_way_to_them(tmp_path: Path) -> None:
    """As in a hypernetwork: by a width, two nets, and each net's tensors."""
    first, second = torch.arange(6.0).reshape(2, 3), torch.arange(4.0)
    torch.save({768: ({"linear.0.weight": first}, {"linear.0.bias": second}), "step": 3}, tmp_path / "a.pt")
    opened = open_weights(tmp_path / "a.pt")
    assert opened.shapes == {"768.0.linear.0.weight": (2, 3), "768.1.linear.0.bias": (4,)}
    assert opened.kind is kinds.HYPERNETWORK
    assert torch.equal(opened.tensor("768.0.linear.0.weight"), first)
    assert torch.equal(opened.tensor("768.1.linear.0.bias"), second)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    for path in (tmp_path / "a.safetensors", Path(os.devnull)):
        with pytest.raises(ModelError) as error:
            open_weights(path)
        assert error.value.code == "MD002" and "pipe" in error.value.part("why")


def test_a_file_that_may_not_be_read_is_no_missing_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_args: object, **_more: object) -> None:
        raise PermissionError(errno.EACCES, "denied", str(tmp_path / "a"))

    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ResourceError) as error:
        open_weights(tmp_path / "a")
    assert error.value.code == "RS003" and error.value.where == str(tmp_path / "a")
