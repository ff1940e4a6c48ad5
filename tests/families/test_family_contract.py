"""What every family must do, parametrised over `FAMILIES`."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from family_files import single_file_tensors, tiny_geometry, write_folder, write_single
from safetensors.torch import load_file, save_file
from torch import nn

from tsuika.core.errors import ModelError
from tsuika.core.types import Conditioning, Model
from tsuika.families import Family, StableDiffusion, guess, load, peek
from tsuika.families.chunks import limit_of

CPU = torch.device("cpu")
PROMPTS = ["a cat", "dog, cat! and a very long tail of words"]


def outputs(model: Model) -> list[torch.Tensor]:
    """Everything a model computes, on fixed inputs."""
    draw = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, model.facts.latent_channels, 8, 8, generator=draw)
    pixels = torch.rand(1, 3, 64, 32, generator=draw) * 2 - 1
    with torch.no_grad():
        cond = model.encode_text(PROMPTS, size_px=(96, 64))
        latents = model.encode_images(pixels)
        found = [cond.tokens_BSD, cond.pooled_BP, cond.time_ids_B6, latents, model.decode_latents(latents)]
        found.append(model.denoise(noisy, torch.tensor([10, 900]), cond))
    return [value for value in found if value is not None]


@pytest.fixture(scope="session")
def said(tiny: StableDiffusion) -> list[torch.Tensor]:
    return outputs(tiny)


def assert_same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def open_again(path: Path, words: Path, model: StableDiffusion) -> StableDiffusion:
    return load(str(path), tokenizer=str(words), device=CPU, dtype=torch.float32, geometry=tiny_geometry(model))


def text_width(model: StableDiffusion) -> int:
    config = model.unet.config
    return config.joint_attention_dim if model.family.network.joins_streams else config.cross_attention_dim  # type: ignore[union-attr, return-value]


def test_it_is_a_model(tiny: StableDiffusion) -> None:
    model: Model = tiny
    assert tuple(model.text_encoders) == model.facts.text_encoders
    assert list(model.components) == ["unet", "vae", *model.facts.text_encoders]
    for module in model.components.values():
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_shapes_and_ranges(tiny: StableDiffusion) -> None:
    assert tiny.latent_factor == 8
    pixels = torch.rand(2, 3, 64, 32) * 2 - 1
    latents = tiny.encode_images(pixels)
    assert latents.shape == (2, tiny.facts.latent_channels, 8, 4)
    again = tiny.decode_latents(latents)
    assert again.shape == pixels.shape
    assert again.abs().max() <= 1
    cond = tiny.encode_text(["a cat", "dog, cat!"])
    behind = tiny.tokenizers["tokenizer_3"].model_max_length if "text_encoder_3" in tiny.text_encoders else 0
    assert cond.tokens_BSD.shape == (2, 12 + behind, text_width(tiny))
    assert tiny.denoise(latents, torch.tensor([1, 999]), cond).shape == latents.shape


def test_the_seed_decides_every_weight(kind: Family, said: list[torch.Tensor], words: Path) -> None:
    before = torch.random.get_rng_state()
    assert_same(said, outputs(kind.tiny(3, words)))
    assert not torch.equal(said[0], outputs(kind.tiny(4, words))[0])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("old_style", [True, False])
def test_a_folder_comes_back_the_same(
    tiny: StableDiffusion, said: list[torch.Tensor], tmp_path: Path, old_style: bool
) -> None:
    folder = write_folder(tiny, tmp_path / "model", old_style=old_style)
    found = peek(folder)
    assert (found.facts, found.prediction, found.kind) == (tiny.facts, tiny.prediction, "folder")
    again = load(str(folder), device=CPU, dtype=torch.float32)
    assert_same(said, outputs(again))
    assert again.scheduler_config == tiny.scheduler_config
    assert again.native_size_px == tiny.native_size_px


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_comes_back_the_same(
    tiny: StableDiffusion, said: list[torch.Tensor], words: Path, tmp_path: Path, suffix: str
) -> None:
    path = write_single(tiny, tmp_path / f"model{suffix}")
    found = peek(path)
    assert (found.facts, found.kind) == (tiny.facts, "single-file")
    again = open_again(path, words, tiny)
    assert_same(said, outputs(again))
    assert again.sha256 is not None
    assert len(again.sha256) == 64


def test_half_precision_computes_in_half_and_answers_in_full(
    tiny: StableDiffusion, said: list[torch.Tensor], tmp_path: Path
) -> None:
    folder = write_folder(tiny, tmp_path / "model", old_style=True)
    half = load(str(folder), device=CPU, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert next(half.vae.parameters()).dtype == torch.float32
    for a, b in zip(said, outputs(half), strict=True):
        torch.testing.assert_close(a, b.float(), rtol=0.1, atol=0.1)
    cond = half.encode_text(PROMPTS)
    assert (
        half.denoise(torch.zeros(2, half.facts.latent_channels, 8, 8), torch.tensor([1, 2]), cond).dtype
        == torch.float32
    )


def test_targets_exist_and_are_what_methods_expect(tiny: StableDiffusion) -> None:
    seen: set[tuple[str, str]] = set()
    for role in ("unet.attn", "unet.ff", "unet.conv", "text.attn", "text.ff", "text.tokens"):
        found = tiny.targets(role)  # type: ignore[arg-type]
        assert found or (role == "unet.conv" and tiny.family.network.joins_streams), role
        for component, paths in found.items():
            for path in paths:
                module = tiny.module(component, path)
                assert isinstance(module, nn.Embedding if role == "text.tokens" else nn.Linear | nn.Conv2d), path
                is_clip = component in tiny.text_encoders and not tiny.family.tower(component).is_t5
                assert path.startswith("text_model.") == is_clip
                assert (component, path) not in seen
                seen.add((component, path))


def test_an_unknown_path_is_a_key_error(tiny: StableDiffusion) -> None:
    with pytest.raises(KeyError):
        tiny.module("unet", "down_blocks.9.nothing")


def test_text_is_differentiable(kind: Family, words: Path) -> None:
    model = kind.tiny(1, words)
    for component, paths in model.targets("text.tokens").items():
        table = model.module(component, paths[0])
        table.requires_grad_(True)
        cond = model.encode_text(["cat"])
        (cond.tokens_BSD.sum() + (0 if cond.pooled_BP is None else cond.pooled_BP.sum())).backward()
        assert next(table.parameters()).grad.abs().sum() > 0  # type: ignore[union-attr]


def test_rows_are_independent_of_their_neighbours(tiny: StableDiffusion) -> None:
    both = tiny.encode_text(PROMPTS)
    alone = Conditioning.join([tiny.encode_text([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(both.tokens_BSD, alone.tokens_BSD)


def test_equal_to_the_diffusers_pipeline(tiny: StableDiffusion, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    folder = write_folder(tiny, tmp_path / "model", old_style=True)
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    prompts = ["a cat", "dog, cat"]  # no "!": diffusers takes it for SD2's padding
    settings: dict[str, object] = {"device": CPU, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    if tiny.family.network.joins_streams:
        settings |= {"prompt_2": prompts, "prompt_3": prompts}
        settings["max_sequence_length"] = tiny.tokenizers["tokenizer_3"].model_max_length
    theirs = pipe.encode_prompt(prompt=prompts, **settings)
    ours = tiny.encode_text(prompts)
    torch.testing.assert_close(ours.tokens_BSD, theirs[0])
    channels = tiny.facts.latent_channels
    noisy, t = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 700])
    added = {}
    if tiny.family.network.joins_streams:
        torch.testing.assert_close(ours.pooled_BP, theirs[2])
        out = pipe.transformer(noisy, theirs[0], theirs[2], t).sample
        torch.testing.assert_close(tiny.denoise(noisy, t, ours), out)
        return
    if ours.pooled_BP is not None:
        torch.testing.assert_close(ours.pooled_BP, theirs[2])
        side = tiny.native_size_px
        ids = pipe._get_add_time_ids((side, side), (0, 0), (side, side), torch.float32, ours.pooled_BP.shape[1])
        torch.testing.assert_close(ours.time_ids_B6, ids.repeat(2, 1))
        added = {"added_cond_kwargs": {"text_embeds": theirs[2], "time_ids": ids.repeat(2, 1)}}
    torch.testing.assert_close(tiny.denoise(noisy, t, ours), pipe.unet(noisy, t, theirs[0], **added).sample)


def test_new_words_are_their_vectors(tiny: StableDiffusion) -> None:
    """Against an encoder whose table really grew, in transformers' own way."""
    said, grown = tiny.encode_text(["a cat", "a dog"]), copy.deepcopy(tiny)
    generator = torch.Generator().manual_seed(0)
    vectors: dict[str, torch.Tensor] = {}
    for tower in tiny.family.towers:
        table = tiny.module(tower.component, tower.table)
        vectors[tower.component] = torch.randn(2, table.weight.shape[1], generator=generator)  # type: ignore[arg-type, index]
        tokenizer, encoder = grown.tokenizers[tower.tokenizer], grown.text_encoders[tower.component]
        first = len(table.weight)  # type: ignore[arg-type]
        assert tokenizer.add_tokens(["tsuipi", "tsuipi2"]) == 2 and tokenizer.convert_tokens_to_ids("tsuipi") == first
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # type: ignore[operator]
        grown_table = grown.module(tower.component, tower.table)
        grown_table.weight.data[first:] = vectors[tower.component]  # type: ignore[index, union-attr, operator]
    tiny.words["Tsuipi"] = vectors
    mine, other = tiny.encode_text(["a cat tsuipi", "TSUIPI, a dog"]), tiny.encode_text(["a tsuipistan"])
    theirs = grown.encode_text(["a cat tsuipi tsuipi2", "tsuipi tsuipi2 , a dog"])
    torch.testing.assert_close(mine.tokens_BSD, theirs.tokens_BSD)
    if mine.pooled_BP is not None:
        torch.testing.assert_close(mine.pooled_BP, theirs.pooled_BP)  # type: ignore[arg-type]
    assert tiny.count_tokens("a cat tsuipi") == tuple([4] * sum(not tower.is_t5 for tower in tiny.family.towers))
    del tiny.words["Tsuipi"]
    assert torch.equal(other.tokens_BSD, tiny.encode_text(["a tsuipistan"]).tokens_BSD)  # no word by itself
    assert torch.equal(tiny.encode_text(["a cat", "a dog"]).tokens_BSD, said.tokens_BSD)


@pytest.mark.parametrize(("word", "text"), [("Straße", "a straße"), ("istan", "an İSTAN, istan")])
def test_new_words_are_found_whatever_their_case_folds_to(tiny: StableDiffusion, word: str, text: str) -> None:
    """Letters that become two when the case is folded, and capitals that stand for another letter in other languages."""
    tables = {t.component: tiny.module(t.component, t.table) for t in tiny.family.towers}
    tiny.words[word] = {name: torch.zeros(3, table.weight.shape[1]) for name, table in tables.items()}  # type: ignore[arg-type, index]
    try:
        for name, table in tables.items():
            size = len(table.weight)  # type: ignore[arg-type]
            assert [i for i in tiny.token_ids([text], name, 40)[0].tolist() if i >= size] == [size, size + 1, size + 2]
    finally:
        del tiny.words[word]


def test_long_texts_are_chunks_joined_along_the_tokens(tiny: StableDiffusion) -> None:
    """Ten tokens are read at once; the chunks' own encodings are the reference, and pooled is the first one's. What T5
    reads comes behind them, and is the whole text."""
    assert limit_of(tiny) == 10
    parts = ["cat " * 9 + "dog", "dog " * 9 + "cat", "a cat"]
    long = tiny.encode_text([" ".join(parts)])
    alone = [tiny.encode_text([part]) for part in parts]
    assert torch.equal(long.tokens_BSD[:, :36], torch.cat([one.tokens_BSD[:, :12] for one in alone], dim=1))
    if behind := long.tokens_BSD.shape[1] - 36:
        whole = tiny._read("text_encoder_3", [" ".join(parts)])[0]
        assert behind == tiny.tokenizers["tokenizer_3"].model_max_length
        assert torch.equal(long.tokens_BSD[:, 36:], whole)
    if long.pooled_BP is not None:
        assert torch.equal(long.pooled_BP, alone[0].pooled_BP)


def test_texts_of_different_lengths_in_one_batch_do_not_change_each_other(tiny: StableDiffusion) -> None:
    texts = ["a cat", "cat dog " * 9, "dog " * 25]
    shape, t = (3, tiny.facts.latent_channels, 8, 8), torch.tensor([3, 400, 800])
    noisy = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = tiny.denoise(noisy, t, tiny.encode_text(texts))
        for row, text in enumerate(texts):
            alone = tiny.denoise(noisy[row : row + 1], t[row : row + 1], tiny.encode_text([text]))
            torch.testing.assert_close(together[row : row + 1], alone)


def test_padding_is_the_clients(tiny: StableDiffusion) -> None:
    for tower in tiny.family.towers:
        tokenizer = tiny.tokenizers[tower.tokenizer]
        vocabulary = tokenizer.get_vocab()
        if tower.is_t5:
            ids = tiny.token_ids(["!"], tower.component, 8)[0].tolist()
            assert ids == [vocabulary["▁"], vocabulary["!"], 1, *[0] * 5]
            continue
        ids = tiny.token_ids(["cat!"], tower.component, 8)[0].tolist()
        end = tokenizer.eos_token_id
        padding = vocabulary["!"] if tower.padding == "!" else end
        assert ids == [tokenizer.bos_token_id, vocabulary["cat</w>"], vocabulary["!</w>"], end, *[padding] * 4]


def test_peek_says_what_loading_gives(tiny: StableDiffusion, words: Path, tmp_path: Path) -> None:
    paths = write_single(tiny, tmp_path / "a.safetensors"), write_folder(tiny, tmp_path / "new", old_style=False)
    for path in paths:
        base = peek(path, geometry=tiny_geometry(tiny))
        assert (base.family, base.facts) == (tiny.family, tiny.facts)
        # an SD2 file without the marker of v-prediction counts as epsilon
        says_so = path.is_dir() or tiny.prediction == "flow"
        assert base.prediction == (tiny.prediction if says_so else "epsilon")
        found = base.geometry
        assert (found.native_size_px, found.latent_factor) == (tiny.native_size_px, tiny.latent_factor)
        assert found.latent_scale == tiny.latent_scale
        widths = {name: tower.config.hidden_size for name, tower in tiny.text_encoders.items()}  # type: ignore[union-attr]
        assert {tower.component: tower.width(found.text[tower.component]) for tower in base.towers} == widths


def test_the_name_on_the_hub_suggests_a_family() -> None:
    names = {
        "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
        "stabilityai/stable-diffusion-2-1-base": "sd2",
        "someone/sd-2.1-thing": "sd2",
        "runwayml/stable-diffusion-v1-5": "sd1",
        "stabilityai/stable-diffusion-3.5-medium": "sd3",
        "someone/something": "sd1",
    }
    assert {name: guess(name).name for name in names} == names


# --------------------------------------------------------------------------------------------- what does not fit


def test_a_lost_tensor_is_named(tiny: StableDiffusion, words: Path, tmp_path: Path) -> None:
    for prefix in ("model.diffusion_model.", "first_stage_model.", tiny.family.towers[-1].prefix):
        tensors = single_file_tensors(tiny)
        # T5's vocabulary is there twice, so that one may be lost.
        twice = (f"{prefix}shared.weight", f"{prefix}encoder.embed_tokens.weight")
        own = (name for name in tensors if name.startswith(prefix) and name.endswith("weight"))
        lost = next(name for name in own if name not in twice)
        del tensors[lost]
        save_file(tensors, tmp_path / "lost.safetensors")
        with pytest.raises(ModelError) as caught:
            open_again(tmp_path / "lost.safetensors", words, tiny)
        assert caught.value.code in ("MD003", "MD002")
        assert lost in str(caught.value) or caught.value.code == "MD002"


def test_an_unknown_tensor_is_named(tiny: StableDiffusion, words: Path, tmp_path: Path) -> None:
    extra = {"model.diffusion_model.input_blocks.1.0.adapter.weight": torch.zeros(3)}
    path = write_single(tiny, tmp_path / "extra.safetensors", **extra)
    with pytest.raises(ModelError, match="adapter") as caught:
        open_again(path, words, tiny)
    assert caught.value.code == "MD003"


def test_another_size_is_named(tiny: StableDiffusion, words: Path, tmp_path: Path) -> None:
    path = write_single(tiny, tmp_path / "small.safetensors")
    with pytest.raises(ModelError, match=r"another model size|missing|no place") as caught:
        load(str(path), tokenizer=str(words), device=CPU, dtype=torch.float32)
    assert caught.value.code == "MD003"


def test_a_random_text_encoder_never_passes(tiny: StableDiffusion, tmp_path: Path) -> None:
    folder = write_folder(tiny, tmp_path / "model", old_style=True)
    file = folder / "text_encoder" / "model.safetensors"
    save_file({f"wrapped.{name}": tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ModelError, match="text_encoder") as caught:
        load(str(folder), device=CPU, dtype=torch.float32)
    assert caught.value.code == "MD003"
