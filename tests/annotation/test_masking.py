"""Masks by a model: what it reads, how it joins what is there, what is written, and each error."""

from __future__ import annotations

from pathlib import Path

import annotators
import numpy as np
import pytest
import torch
from PIL import Image

import tsuika
from tsuika.annotation.segmenter import load
from tsuika.core.errors import TsuikaError
from tsuika.core.sections import Data
from tsuika.data.scan import scan

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotators.clipseg(tmp_path_factory.mktemp("model") / "clipseg")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "in").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, size in (("a", (40, 30)), ("in/b", (32, 32))):
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{name}.png")
    half = Image.new("L", (32, 32))
    half.paste(255, (0, 0, 16, 32))
    half.save(folder / "in" / "b-mask.png")
    (folder / "a.txt").write_text("a cat", encoding="utf-8")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_a_mask_is_what_the_library_says(clipseg: Path, images: Path) -> None:
    from transformers import AutoProcessor, CLIPSegForImageSegmentation

    image = Image.open(images / "in" / "b.png")
    batch = AutoProcessor.from_pretrained(clipseg)(text=["a cat"], images=[image], return_tensors="pt")
    with torch.no_grad():
        wanted = CLIPSegForImageSegmentation.from_pretrained(clipseg)(**batch).logits.sigmoid().reshape(32, 32)
    found = np.asarray(load(str(clipseg), CPU).probabilities(image, "a cat"), dtype=np.float32) / 255
    assert np.abs(found - wanted.numpy()).max() < 0.01 and wanted.std() > 0.01


def test_masks_are_shown_and_then_written_beside_links(clipseg: Path, images: Path, tmp_path: Path) -> None:
    before = annotators.contents(images)
    options = {"text": "a cat", "model": str(clipseg), "threshold": 0.5, "grow_px": 1}
    looked = tsuika.mask(images, **options).result
    assert [(one.name, one.before) for one in looked.images] == [("a.png", None), ("in/b.png", 0.5)]
    assert looked.images[1].after == 0.5 and list(looked.left_out) == ["broken.png"] and looked.out is None
    assert annotators.contents(images) == before
    shares = {}
    for mode in ("missing", "replace", "add"):
        out = tmp_path / mode
        done = tsuika.mask(images, mode=mode, out=out, **options).result
        shares[mode] = done.images[1].after
        assert (out / "a.txt").read_text(encoding="utf-8") == "a cat"
        manifest = scan(out, Data(masks="auto", min_size_px=8), size_px=32)
        assert [one.mask.relative_to(out).as_posix() for one in manifest.samples if one.mask] == [
            "a-mask.png",
            "in/b-mask.png",
        ]
        assert Image.open(out / "a-mask.png").size == (40, 30)
        assert [one.mask for one in done.images] == ["a-mask.png", "" if mode == "missing" else "in/b-mask.png"]
    assert shares["missing"] == 0.5 and shares["add"] >= max(0.5, shares["replace"])
    assert annotators.contents(images) == before
    wide = tsuika.mask(images, **{**options, "grow_px": 9}).result
    assert wide.images[0].after >= looked.images[0].after


def test_what_cannot_be_is_said(clipseg: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(**changed: object) -> str:
        options: dict[str, object] = {"text": "a cat", "model": str(clipseg), **changed}
        with pytest.raises(TsuikaError) as error:
            _ = tsuika.mask(images, **options).result  # type: ignore[arg-type]
        return error.value.code

    (tmp_path / "none").mkdir()
    assert code(model=str(tmp_path / "none")) == code(model="no/such/folder") == "CP020"
    assert code(text=" ") == "RC005" and code(threshold=2.0) == code(grow_px=-1) == code(mode="some") == "RC002"
    assert code(out=images / "in" / "out") == "DS005"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert code(model="somebody/clipseg-that-is-not-here") == "CP021"
    found = tsuika.mask(images, text="a cat", model=str(clipseg), threshold=1.0).result
    assert [one.code for one in found.notes] == ["CP022"]
