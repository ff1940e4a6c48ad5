"""VAEs and bases at the true geometry of SD1, SD2 and SDXL, with random half-precision numbers: minutes, and 15 GB of disk.

Outside the VAE a base is random bits, not numbers that are finite by chance, so that "the same" means every bit.
"""

from __future__ import annotations

import filecmp
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import tsuika
from tiny_models import at_full_size, single_file_tensors
from tsuika import families
from tsuika.core.errors import ImageError
from tsuika.core.events import Warned
from tsuika.core.types import Artifact
from tsuika.core.weights import open_weights
from tsuika.diffusion import ldm
from tsuika.families import Family, StableDiffusion
from tsuika.families.common import build_vae
from tsuika.formats import vae_file
from tsuika.vae import bake, faults, metrics, roundtrip
from tsuika.vae.compare import ComparedImage, LoadedVae, compare

pytestmark = pytest.mark.slow
CLIP = Path(__file__).resolve().parents[3] / "shared" / "data" / "clip-tokenizer"
CPU = torch.device("cpu")
LATENTS_1CHW = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
POSITIONS = "text_model.embeddings.position_ids"  # integers that files of CLIP towers have
_NAMES = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}


def random_vae(kind: Family, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_vae(kind.geometry(kind.facts.prediction).vae).eval().requires_grad_(False)


def write(path: Path, tensors: Mapping[str, Tensor], *, holes: bool = False) -> None:
    """Tensor by tensor, in half precision; those on the meta device become random bits, or zeros that take no place."""
    rng, place, header = np.random.default_rng(len(tensors)), 0, {}
    bits = rng.bytes(1 << 27)  # of which each takes another stretch
    halves = {name: one.half() if one.is_floating_point() else one for name, one in tensors.items()}
    for name, one in halves.items():
        end = place + one.numel() * one.element_size()
        header[name] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [place, end]}
        place = end
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for one in halves.values():
            if one.is_meta and holes:
                file.seek(2 * one.numel(), os.SEEK_CUR)
            elif one.is_meta:
                begin = int(rng.integers(len(bits) - 2 * one.numel()))
                file.write(bits[begin : begin + 2 * one.numel()])
            else:
                file.write(one.contiguous().numpy().tobytes())
        file.truncate(8 + len(raw) + place)


def write_base(kind: Family, layout: str, folder: Path, *, holes: bool = False) -> Path:
    """A base with random bits (or nothing) and a VAE of random numbers."""
    with torch.device("meta"):
        model = at_full_size(kind)
    model.vae = random_vae(kind, 1)
    if layout == "folder":
        return write_folder(model, folder / "base", holes=holes)
    positions = {t.prefix + POSITIONS: torch.arange(77)[None] for t in kind.towers if t.layout == "clip"}
    tensors = single_file_tensors(model) | positions
    path = folder / f"base{layout}"
    write(path.with_suffix(".safetensors"), tensors, holes=holes)
    if layout == ".ckpt":
        from safetensors.torch import load_file

        given = path.with_suffix(".safetensors")
        torch.save({"state_dict": load_file(given), "global_step": 7}, path)
        given.unlink()
    return path


def write_folder(model: StableDiffusion, folder: Path, *, holes: bool) -> Path:
    for name, module in model.components.items():
        stem, variant = ("model" if name.startswith("text") else "diffusion_pytorch_model"), ""
        if len(model.text_encoders) == 2:
            variant = ".fp16"  # as SDXL is published
        write(folder / name / f"{stem}{variant}.safetensors", module.state_dict(), holes=holes)
        config = module.config.to_dict() if name.startswith("text") else dict(module.config)  # type: ignore[union-attr, operator, arg-type]
        (folder / name / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(model.scheduler_config), encoding="utf-8")
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    return folder


def write_vae(vae: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    config = {vae_file.CONFIG: json.dumps(dict(vae.config))}  # type: ignore[arg-type]
    vae_file.VaeFile().write(Artifact("vae", "", dict(vae.state_dict()), config), path, dtype=dtype)
    return path


class Stored:
    """A file's header without its metadata, and the bytes of each tensor: not by the library that is tested."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self.header = json.loads(file.read(length))
        self.header.pop("__metadata__", None)
        self._begin = 8 + length

    def __getitem__(self, name: str) -> bytes:
        first, last = self.header[name]["data_offsets"]
        with self.path.open("rb") as file:
            file.seek(self._begin + first)
            return file.read(last - first)


def same_but(old: Path, new: Path, prefix: str) -> list[str]:
    """The tensors under a prefix that differ; whatever else of the file is held to be the same, bit for bit."""
    before, after = Stored(old), Stored(new)
    assert before.header == after.header
    changed = [name for name in before.header if before[name] != after[name]]
    assert all(name.startswith(prefix) for name in changed)
    return changed


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that is gone at once, as the files are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.skipif(not (CLIP / "vocab.json").is_file(), reason="shared/data/clip-tokenizer is not there")
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("sd1", ".safetensors"),
        ("sd1", ".ckpt"),
        ("sd2", ".safetensors"),
        ("sd2", "folder"),
        ("sdxl", ".safetensors"),
        ("sdxl", "folder"),
    ],
)
def test_baking_changes_the_vae_alone(name: str, layout: str, place: Path) -> None:
    kind = families.family(name)
    base, vae = write_base(kind, layout, place), random_vae(kind, 2)
    out = place / ("out" if layout == "folder" else "out.safetensors")
    done = tsuika.bake_vae(str(base), str(write_vae(vae, place / "other.vae.safetensors")), out).result
    assert (done.family, done.tensors, done.dtype) == (name, 248, "fp16")
    expected = {key: value.half() for key, value in vae.state_dict().items()}
    varied = sum(value.numel() > 1 and bool((value != value.flatten()[0]).any()) for value in expected.values())
    if layout == ".safetensors":
        assert len(same_but(base, out, "first_stage_model.")) == varied
    elif layout == ".ckpt":
        given = torch.load(base, weights_only=True, mmap=True)["state_dict"]
        made = Stored(out)
        assert made.header.keys() == given.keys()
        for key, tensor in given.items():
            row, is_same = made.header[key], made[key] == tensor.numpy().tobytes()
            assert is_same or key.startswith("first_stage_model."), key
            assert row["dtype"] == _NAMES[tensor.dtype] and row["shape"] == list(tensor.shape)
    else:
        files = sorted(path.relative_to(base) for path in base.rglob("*") if path.is_file())
        assert files == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
        for file in files:
            if file.parts[0] == "vae" and file.suffix == ".safetensors":
                assert len(same_but(base / file, out / file, "")) == varied
            else:
                assert filecmp.cmp(base / file, out / file, shallow=False), file
    space = families.peek(str(out))
    inside = space.load_vae("builtin", CPU)
    alone = random_vae(kind, 2)
    alone.load_state_dict(expected)
    assert torch.equal(roundtrip.decode(inside, LATENTS_1CHW), roundtrip.decode(alone, LATENTS_1CHW))
    if layout != "folder":  # and by diffusers' own reading of the file
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

        weights = open_weights(out)
        own = {key: weights.tensor(key) for key in weights.names("first_stage_model.")}
        theirs = convert_ldm_vae_checkpoint(own, dict(space.geometry.vae))
        assert theirs.keys() == expected.keys()
        assert all(torch.equal(theirs[key].reshape(value.shape), value) for key, value in expected.items())
    meta = families.load(str(out), tokenizer=str(CLIP), device=torch.device("meta"), dtype=torch.bfloat16)
    assert meta.facts.family == name  # every part has all of its tensors in their shapes


def draw(folder: Path, count: int, size: tuple[int, int] = (64, 64)) -> Path:
    """Soft pictures, different ones, all of them in dark reds: what the mean of a decoder can learn in a few steps."""
    folder.mkdir()
    rng = np.random.default_rng(4)
    for number in range(count):
        small = rng.integers(0, 90, (4, 4, 3), dtype=np.uint8)
        small[..., 0] += 60
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(("name", "layout"), [("sd1", "folder"), ("sd2", ".safetensors"), ("sdxl", ".safetensors")])
def test_tuning_leaves_the_encoder_alone(name: str, layout: str, place: Path) -> None:
    kind = families.family(name)
    base, images = write_base(kind, layout, place, holes=True), draw(place / "images", 12)
    asked = {"base": str(base), "size_px": 64, "crop_px": 64, "batch": 1}
    with pytest.raises(ImageError) as caught:
        _ = tsuika.tune_vae(images, place / "none.safetensors", steps=1, learning_rate=1e-12, **asked).result
    assert caught.value.code == "VA020" and not (place / "none.safetensors").exists()
    done = tsuika.tune_vae(images, place / "tuned.safetensors", steps=6, learning_rate=3e-4, **asked).result
    assert done.proven and done.best_step > 0 and done.dtype == "fp16"
    space = families.peek(str(base))
    own, tuned = (space.load_vae(one, CPU) for one in ("builtin", str(place / "tuned.safetensors")))
    made = Stored(place / "tuned.safetensors")
    given = {ldm.vae_place(key, space.geometry.vae).name: value.half() for key, value in own.state_dict().items()}
    changed = {key for key, value in given.items() if made[key] != value.numpy().tobytes()}
    assert made.header.keys() == given.keys() and {key.split(".")[0] for key in changed} == {"decoder"}
    assert len(changed) == sum(key.startswith("decoder.") for key in given)
    told = done.measures["psnr"]
    assert told.change.low > 0 and told.after - told.before == pytest.approx(told.change.mean)
    picture = roundtrip.to_signal(Image.open(images / "0.png"))
    before, after = (
        float(metrics.psnr(roundtrip.decode(one, roundtrip.encode(own, picture)).clamp(-1, 1), picture))
        for one in (own, tuned)
    )
    assert after > before
    if layout == "folder":
        _ = tsuika.bake_vae(str(base), str(place / "tuned.safetensors"), place / "out").result
        weights = f"vae/{bake.WEIGHTS}.safetensors"
        again = same_but(base / weights, place / "out" / weights, "decoder.")
        assert len(again) == len(changed)


def loud(vae: nn.Module, factor: float) -> nn.Module:
    """The same VAE, but with numbers so much larger between the norms of its decoder, as in SDXL's first one.

    What goes from block to block is a sum; every norm takes the factor out again.
    """
    decoder: nn.Module = vae.decoder  # type: ignore[assignment]
    for name, value in decoder.named_parameters():
        adds = any(part in f".{name}" for part in (".conv_in.", ".conv2.", ".to_out.0."))
        passes = any(part in name for part in (".conv_shortcut.", ".upsamplers."))  # the sum itself, but for the bias
        if adds or (passes and name.endswith(".bias")):
            value.mul_(factor)
    return vae


def test_half_precision_that_overflows_inside_falls_back_and_says_so(tmp_path: Path) -> None:
    """fp16 to bf16 where the numbers between the layers are too large; on to fp32 where a weight is, even for bf16."""
    kind = families.family("sdxl")
    own, big, huge = random_vae(kind, 1), loud(random_vae(kind, 1), 2.0**22), loud(random_vae(kind, 1), 2.0**22)
    huge.post_quant_conv.weight[0, 3] = 3.4e38  # type: ignore[union-attr, index]
    huge.quant_conv.weight[3] *= 1e-38  # type: ignore[union-attr, index]
    huge.quant_conv.bias[3] *= 1e-38  # type: ignore[union-attr, index]
    pixels = [
        roundtrip.to_signal(Image.open(path)) for path in sorted(draw(tmp_path / "images", 2, (48, 32)).iterdir())
    ]
    pictures = [ComparedImage(str(number), one, number) for number, one in enumerate(pixels)]
    told: list[Warned] = []
    done = compare(
        LoadedVae("builtin", own),
        [LoadedVae("big", big), LoadedVae("huge", huge)],
        pictures,
        scale=kind.facts.latent_scale,
        precision="fp16",
        tell=told.append,
    )
    assert [one.precision for one in done.results] == ["fp16", "bf16", "fp32"]
    falls = [(w.params["vae"], w.params["precision"], w.params["fallback"]) for w in told if w.code == "VA009"]
    assert falls == [("big", "fp16", "bf16"), ("huge", "fp16", "bf16"), ("huge", "bf16", "fp32")]
    assert {w.params["vae"] for w in told if w.code == "VA001"} == {"big", "huge"}
    assert all(math.isfinite(row["colour"]) for one in done.results for row in one.rows)
    json.dumps(done.to_dict(), allow_nan=False)
    plain, same = (roundtrip.decode(one, LATENTS_1CHW) for one in (own, big))
    assert torch.allclose(plain, same, atol=0.02 * float(plain.std()))  # in fp32 nobody sees the difference


def test_tiles_and_sizes(tmp_path: Path) -> None:
    """Tiles as large as diffusers' own take hours here; smaller ones of the same network have the same seams."""
    for name, side in (("sd1", 512), ("sd2", 768), ("sdxl", 1024)):
        with torch.device("meta"):
            assert faults.tile_px(build_vae(families.family(name).geometry("epsilon").vae)) == side
    vae = random_vae(families.family("sd1"), 1)
    vae.tile_sample_min_size, vae.tile_latent_min_size = 64, 8  # type: ignore[assignment]
    picture = roundtrip.to_signal(Image.open(draw(tmp_path / "images", 1, (64, 64)) / "0.png"))
    within = roundtrip.decode(vae, LATENTS_1CHW)
    vae.enable_tiling()  # type: ignore[operator]
    assert torch.equal(roundtrip.decode(vae, LATENTS_1CHW), within)  # one tile has no seams
    vae.disable_tiling()  # type: ignore[operator]
    found = faults.seams(vae, picture)
    assert found is not None and found > 0 and not vae.use_tiling
    for size in ((16, 16), (24, 40)):  # the least that is taken, and sides that are no power of two
        small = roundtrip.to_signal(roundtrip.fitted(Image.new("RGB", (size[0] + 7, size[1] + 3)), 16, 8))
        assert roundtrip.decode(vae, roundtrip.encode(vae, small)).shape == small.shape
