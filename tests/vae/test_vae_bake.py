"""Baking and tuning on tiny models of every family, through the API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tsuika
from tiny_models import shallow
from tsuika import families
from tsuika.api import writing
from tsuika.core.errors import FormatError, ImageError, ModelError, RecipeError
from tsuika.core.weights import Weights, open_weights
from tsuika.formats import CHECKPOINTS, vae_file
from tsuika.vae import bake, roundtrip, tune


def write_base(family: str, folder: Path, kind: str, seed: int = 3) -> Path:
    """A tiny base in half precision, as a single file or a diffusers folder."""
    path = folder / (f"{family}.safetensors" if kind == "single-file" else family)
    format_ = next(one for one in CHECKPOINTS if one.name == kind)
    writing.write_model(shallow(family, seed), format_, path, "fp16", {"title": "tiny"})
    return path


def write_vae(family: str, folder: Path, kind: str, seed: int = 5) -> Path:
    """The VAE of another tiny model, as a file by itself (in the layout that A1111 takes) or in a base."""
    import json

    from tsuika.core.types import Artifact

    if kind == "in-a-base":
        return write_base(family, folder / "other", "single-file", seed)
    vae = shallow(family, seed).vae
    path = folder / f"{kind}.vae.safetensors"
    artifact = Artifact("vae", family, dict(vae.state_dict()), {vae_file.CONFIG: json.dumps(dict(vae.config))})
    vae_file.VaeFile().write(artifact, path, dtype=torch.float32)
    if kind == "ckpt":
        weights = open_weights(path)
        path = folder / "model.vae.ckpt"
        torch.save({"state_dict": {name: weights.tensor(name) for name in weights.shapes}}, path)
    return path


def numbers(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: weights.tensor(name) for name in weights.shapes}


@pytest.mark.parametrize(("family", "kind"), [("sd1", "ckpt"), ("sd2", "file"), ("sdxl", "in-a-base")])
def test_a_baked_file_differs_in_its_vae_alone(family: str, kind: str, tmp_path: Path) -> None:
    base, vae = write_base(family, tmp_path, "single-file"), write_vae(family, tmp_path, kind)
    before = base.read_bytes()
    done = tsuika.bake_vae(str(base), str(vae), tmp_path / "out.safetensors").result
    old, new = open_weights(base), open_weights(tmp_path / "out.safetensors")
    first, second = numbers(old), numbers(new)
    assert base.read_bytes() == before and list(first) == list(second)
    inside = {name for name in first if name.startswith("first_stage_model.")}
    assert done.tensors == len(inside) > 100
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and tensor.shape == second[name].shape
        assert torch.equal(tensor, second[name]) or name in inside, name
    assert sum(not torch.equal(first[name], second[name]) for name in inside) > len(inside) / 2
    assert new.metadata["tsuika.vae"] == vae.name and old.metadata.items() <= new.metadata.items()
    space = families.peek(str(tmp_path / "out.safetensors"))
    assert torch.equal(
        space.load_vae("builtin", torch.device("cpu")).state_dict()["decoder.conv_in.weight"],
        shallow(family, 5).vae.state_dict()["decoder.conv_in.weight"].half().float(),
    )


def test_a_baked_folder_differs_in_its_vae_alone(tmp_path: Path) -> None:
    family = "sd2"
    base, vae = write_base(family, tmp_path, "diffusers"), write_vae(family, tmp_path, "file")
    _ = tsuika.bake_vae(str(base), str(vae), tmp_path / "out").result
    files = sorted(path.relative_to(base) for path in base.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    changed = [file for file in files if (base / file).read_bytes() != (tmp_path / "out" / file).read_bytes()]
    assert changed == [Path("vae/diffusion_pytorch_model.safetensors")]
    made = families.load(str(tmp_path / "out"), device=torch.device("cpu"), dtype=torch.float32).vae.state_dict()
    assert all(
        torch.equal(made[name], value.half().float()) for name, value in shallow(family, 5).vae.state_dict().items()
    )


def test_a_folder_of_before_diffusers_0_14_keeps_its_names(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    base, vae = write_base("sd1", tmp_path, "diffusers"), write_vae("sd1", tmp_path, "file")
    file = base / "vae" / "diffusion_pytorch_model.safetensors"
    stored = {
        re.sub("|".join(map(re.escape, old)), lambda found: old[found[0]], name): tensor.contiguous()
        for name, tensor in numbers(open_weights(file)).items()
    }
    assert any("query" in name for name in stored)
    save_file(stored, file)
    _ = tsuika.bake_vae(str(base), str(vae), tmp_path / "out").result
    assert open_weights(tmp_path / "out/vae/diffusion_pytorch_model.safetensors").shapes.keys() == stored.keys()
    made = families.load(str(tmp_path / "out"), device=torch.device("cpu"), dtype=torch.float32).vae.state_dict()
    assert all(
        torch.equal(made[name], value.half().float()) for name, value in shallow("sd1", 5).vae.state_dict().items()
    )


def test_a_torch_checkpoint_becomes_safetensors(tmp_path: Path) -> None:
    base, vae = write_base("sd1", tmp_path, "single-file"), write_vae("sd1", tmp_path, "file")
    old = tmp_path / "old.ckpt"
    content = numbers(open_weights(base)) | {"cond_stage_model.position_ids": torch.arange(7)}
    torch.save({"state_dict": content, "global_step": 5}, old)
    with pytest.raises(RecipeError, match="RC005"):
        _ = tsuika.bake_vae(str(old), str(vae), tmp_path / "out.ckpt").result
    other = shallow("sd1", 5).vae
    bake.bake(old, other.state_dict(), dict(other.config), tmp_path / "out.safetensors", {"tsuika.vae": "x"})
    made = numbers(open_weights(tmp_path / "out.safetensors"))
    assert made.keys() == content.keys() and torch.equal(made["cond_stage_model.position_ids"], torch.arange(7))
    changed = {name for name in content if not torch.equal(made[name], content[name])}
    assert changed and all(name.startswith("first_stage_model.") for name in changed)


def test_what_cannot_be_baked_is_refused(tmp_path: Path) -> None:
    base, vae = write_base("sd1", tmp_path, "single-file"), write_vae("sd1", tmp_path, "file")
    with pytest.raises(RecipeError, match="RC007"):
        _ = tsuika.bake_vae(str(base), str(vae), base, overwrite=True).result
    with pytest.raises(ModelError, match="MD009"):
        _ = tsuika.bake_vae(str(base), "no/such.safetensors", tmp_path / "out.safetensors").result
    other = tsuika.EMBEDDED / "vae"  # latents at a quarter of the size, not an eighth
    with pytest.raises(ModelError, match="MD004"):
        _ = tsuika.bake_vae(str(base), str(other), tmp_path / "out.safetensors").result
    wide = tmp_path / "wide.safetensors"
    from safetensors.torch import save_file

    tensors = numbers(open_weights(vae))
    tensors["decoder.conv_in.weight"] *= 1e9
    save_file(tensors, wide)
    with pytest.raises(FormatError, match="FM002"):
        _ = tsuika.bake_vae(str(base), str(wide), tmp_path / "out.safetensors").result
    assert not (tmp_path / "out.safetensors").exists()


def draw(folder: Path, count: int, side: int = 48) -> Path:
    """Different soft pictures of a few colours."""
    folder.mkdir()
    rng = np.random.default_rng(4)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def test_tuning_leaves_the_encoder_alone_and_repeats_itself(tmp_path: Path) -> None:
    """A tiny VAE with random weights: anything is better than it, and so the gain is proven."""
    base, images = write_base("sd1", tmp_path, "diffusers"), draw(tmp_path / "images", 14)
    run = tsuika.tune_vae(
        images, tmp_path / "a.safetensors", base=str(base), steps=30, batch=2, learning_rate=3e-3, size_px=32
    )
    events = list(run)
    done = run.result
    assert done.proven and done.dtype == "fp16" and done.best_step > 0
    assert done.images.train + done.images.choose + done.images.prove == 14
    assert done.measures["psnr"].change.low > 0
    space = families.peek(str(base))
    own, tuned = (space.load_vae(name, torch.device("cpu")) for name in ("builtin", str(tmp_path / "a.safetensors")))
    assert roundtrip.encoders(own, tuned) == "same"
    same = [name for name, value in own.state_dict().items() if torch.equal(value, tuned.state_dict()[name])]
    assert {name.split(".")[0] for name in own.state_dict() if name not in same} == {"decoder"}
    _ = tsuika.tune_vae(
        images, tmp_path / "b.safetensors", base=str(base), steps=30, batch=2, learning_rate=3e-3, size_px=32
    ).result
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert {type(event).__name__ for event in events} >= {"Phase", "Progress"}


def test_tuning_that_gains_nothing_writes_nothing(tmp_path: Path) -> None:
    base, images = write_base("sd1", tmp_path, "diffusers"), draw(tmp_path / "images", 14)
    asked = {"base": str(base), "steps": 4, "batch": 1, "learning_rate": 1e-12, "size_px": 32}
    with pytest.raises(ImageError) as caught:
        _ = tsuika.tune_vae(images, tmp_path / "a.safetensors", **asked).result
    assert caught.value.code == "VA020" and not (tmp_path / "a.safetensors").exists()
    done = tsuika.tune_vae(images, tmp_path / "folder", keep_anyway=True, **asked).result
    assert not done.proven and (tmp_path / "folder" / "config.json").is_file()


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_copies_take_no_pictures_from_learning(copies: int) -> None:
    groups = [tuple(f"{i} {copy}" for copy in range(copies)) for i in range(12)]
    dealt = tune.parts(groups, 0)
    counts = [len({name.split()[0] for name in part}) for part in (dealt.train, dealt.choose, dealt.prove)]
    assert counts == [7, 1, 4] and sum(map(len, (dealt.train, dealt.choose, dealt.prove))) == 12 * copies


def test_too_few_pictures_to_tune_are_refused(tmp_path: Path) -> None:
    images = draw(tmp_path / "images", 11)
    for number in range(3):  # copies do not count
        Image.open(images / "0.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(images / f"copy{number}.png")
    with pytest.raises(ImageError) as caught:
        _ = tsuika.tune_vae(images, tmp_path / "a.safetensors").result
    assert caught.value.code == "VA021" and caught.value.params["found"] == 11


def test_small_pictures_do_not_make_all_crops_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, images = write_base("sd1", tmp_path, "diffusers"), draw(tmp_path / "images", 20)
    for number in (0, 1, 2, 3):
        Image.open(images / f"{number}.png").resize((24, 24)).save(images / f"{number}.png")
    drawn: list[torch.Size] = []
    crops = tune.crops

    def seen(*args: Any) -> Any:
        draw = crops(*args)
        return lambda step: drawn.append((made := draw(step)).shape) or made

    monkeypatch.setattr(tune, "crops", seen)
    done = tsuika.tune_vae(
        images, tmp_path / "a.safetensors", base=str(base), steps=4, batch=2, size_px=32, keep_anyway=True
    ).result
    assert set(drawn) == {(2, 3, 32, 32)}
    noted = [note.params["small"] for note in done.notes if note.code == "VA024"]
    assert noted and done.images.train + noted[0] + done.images.choose + done.images.prove == 20
