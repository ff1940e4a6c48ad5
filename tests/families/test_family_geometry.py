"""The true geometry of the real models, on the meta device: names and counts against independent sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from family_files import UNET, VAE, at_full_size, places, single_file_tensors, write_single

from tsuika.core.types import Role
from tsuika.families import FAMILIES, Family, StableDiffusion, load
from tsuika.families.network import UNET as UNET_KIND

CLIP = Path(__file__).resolve().parents[3] / "shared" / "data" / "clip-tokenizer"

# kohya's sd-scripts: modules it adapts by default in the UNet, in each text encoder, and with convolutions (UNet)
KOHYA = {"sd1": (192, [72], 278), "sd2": (192, [138], 278), "sdxl": (722, [72, 192], 788)}
# Tensors of the published single files: UNet, VAE, text encoders (as far as the model uses them)
TENSORS = {"sd1": (686, 248, [196]), "sd2": (686, 248, [280]), "sdxl": (1680, 248, [196, 389])}
# Parameters as published: UNet, VAE, text encoders, in millions
MILLIONS = {"sd1": (859.5, 83.7, [123.1]), "sd2": (865.9, 83.7, [340.4]), "sdxl": (2567.5, 83.7, [123.1, 694.7])}


@pytest.fixture(scope="session", params=[row for row in FAMILIES if row.network is UNET_KIND], ids=lambda row: row.name)
def kind(request: pytest.FixtureRequest) -> Family:
    """Every family with a UNet; SD3's sizes are in `test_sd3.py`."""
    found: Family = request.param
    return found


@pytest.fixture(scope="module")
def full(kind: Family) -> StableDiffusion:
    """The family at its true size, without weights."""
    with torch.device("meta"):
        return at_full_size(kind)


def test_targets_are_kohyas(full: StableDiffusion) -> None:
    unet, texts, with_conv = KOHYA[full.facts.family]
    roles: tuple[Role, ...] = ("unet.attn", "unet.ff", "unet.conv", "text.attn", "text.ff")
    found = {role: full.targets(role) for role in roles}
    assert len(found["unet.attn"]["unet"]) + len(found["unet.ff"]["unet"]) == unet
    assert unet + len(found["unet.conv"]["unet"]) == with_conv
    assert [len(found["text.attn"][c]) + len(found["text.ff"][c]) for c in full.text_encoders] == texts
    # and by kind of module, as sd-scripts chooses them
    parents = ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D")
    inside = {
        f"{name}.{sub}"
        for name, parent in full.unet.named_modules()
        if type(parent).__name__ in parents
        for sub, module in parent.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert inside == {path for role in roles[:3] for path in found[role]["unet"]}


def test_sizes_are_the_published_ones(full: StableDiffusion) -> None:
    unet, vae, texts = MILLIONS[full.facts.family]
    millions = {name: sum(p.numel() for p in m.parameters()) / 1e6 for name, m in full.components.items()}
    expected = {"unet": unet, "vae": vae, **dict(zip(full.text_encoders, texts, strict=True))}
    assert millions == pytest.approx(expected, abs=0.06)
    assert full.latent_factor == 8
    assert full.unet.config.sample_size * 8 == full.native_size_px == full.facts.native_size_px


def test_the_single_file_has_the_published_tensors(full: StableDiffusion) -> None:
    unet, vae, texts = TENSORS[full.facts.family]
    names: dict[str, set[str]] = {}
    for component, _, place in places(full):
        names.setdefault(component, set()).add(place.name)
    assert (len(names["unet"]), len(names["vae"])) == (unet, vae)
    assert [len(names[component]) for component in full.text_encoders] == texts
    assert all(name.startswith(UNET) for name in names["unet"])
    assert all(name.startswith(VAE) for name in names["vae"])


def test_the_map_is_diffusers_own(full: StableDiffusion) -> None:
    """What our map writes, diffusers' converters read back to the same names and shapes."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    tensors = single_file_tensors(full)
    for component, convert in (("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)):
        own = full.components[component].state_dict()
        theirs = convert(tensors, dict(full.components[component].config))  # type: ignore[arg-type]
        assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in own.items()}


def test_the_map_moves_every_weight_where_diffusers_does(tiny: StableDiffusion) -> None:
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
        convert_open_clip_checkpoint,
    )

    tensors = single_file_tensors(tiny)
    theirs = {
        "unet": convert_ldm_unet_checkpoint(tensors, dict(tiny.unet.config)),  # type: ignore[arg-type]
        "vae": convert_ldm_vae_checkpoint(tensors, dict(tiny.vae.config)),  # type: ignore[arg-type]
    }
    for tower in tiny.family.towers:
        encoder = tiny.text_encoders[tower.component]
        if tower.layout == "clip":
            theirs[tower.component] = convert_ldm_clip_checkpoint(tensors)
            continue
        # diffusers takes the width from text_projection, which SD2's file keeps at the true width
        mine = {name: tensor for name, tensor in tensors.items() if tower.projected or "text_projection" not in name}
        theirs[tower.component] = convert_open_clip_checkpoint(encoder, mine, prefix=tower.prefix)
    for component, module in tiny.components.items():
        for name, tensor in module.state_dict().items():
            key = name
            if component.startswith("text") and not name.startswith("text_"):
                key = f"text_model.{name}"
            assert torch.equal(theirs[component][key], tensor), (component, name)


# ------------------------------------------------------------------------------------------------------- full weights


@pytest.mark.slow
@pytest.mark.skipif(not (CLIP / "vocab.json").is_file(), reason="shared/data/clip-tokenizer is not there")
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_full_size_file_loads_without_network(kind: Family, tmp_path: Path, suffix: str) -> None:
    """Random half-precision weights at the true size (2 to 7 GB on disk): loads, and one small denoising step works."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        made = at_full_size(kind)
    finally:
        torch.set_default_dtype(before)
    path = write_single(made, tmp_path / f"full{suffix}")
    probe = next(iter(made.unet.parameters())).detach().clone()
    del made
    model = load(str(path), tokenizer=str(CLIP), device=torch.device("cpu"), dtype=torch.bfloat16)
    assert torch.equal(next(iter(model.unet.parameters())), probe.to(torch.bfloat16))
    with torch.no_grad():
        cond = model.encode_text(["a photo of a cat"])
        out = model.denoise(torch.randn(1, 4, 16, 16), torch.tensor([500]), cond)
    assert out.shape == (1, 4, 16, 16)
    assert torch.isfinite(out).all()


@pytest.mark.skipif(not (CLIP / "vocab.json").is_file(), reason="shared/data/clip-tokenizer is not there")
def test_clips_own_vocabulary_without_a_config(kind: Family) -> None:
    """A folder with vocab.json and merges.txt alone: 77 tokens, and each tower's own padding."""
    model = kind.tiny(0, CLIP)
    vocabulary = json.loads((CLIP / "vocab.json").read_text(encoding="utf-8"))
    for tower in kind.towers:
        ids = model.token_ids(["a cat!"], tower.component, 77)[0].tolist()
        body = [vocabulary[word] for word in ("<|startoftext|>", "a</w>", "cat</w>", "!</w>", "<|endoftext|>")]
        assert ids == body + [0 if tower.layout == "open_clip" else 49407] * 72
    assert model.encode_text(["a cat"]).tokens_BSD.shape[1] == 77
