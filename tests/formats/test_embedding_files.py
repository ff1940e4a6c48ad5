"""Files of new words: every layout of FORMATS is read, the written ones are exact to the key, nothing hostile runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_models import tiny, write_folder
from tsuika import formats
from tsuika.core.errors import FormatError, ModelError
from tsuika.core.safetensors import read_header
from tsuika.core.types import Artifact
from tsuika.families import StableDiffusion
from tsuika.formats.embedding_files import A1111Embedding, DiffusersEmbedding, KohyaEmbedding
from tsuika.generation.compose import Requested, compose
from tsuika.methods import METHODS

METHOD = "textual-inversion"
WRITERS = [KohyaEmbedding(), A1111Embedding(), DiffusersEmbedding()]
NAMES = {"sd1": ("text_encoder",), "sd2": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}
WIDTHS = {"sd1": (768,), "sd2": (1024,), "sdxl": (768, 1280)}


def rows(width: int, count: int = 2, seed: int = 0) -> torch.Tensor:
    return 0.01 * torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def word(family: str, name: str = "tsuipi", count: int = 2) -> Artifact:
    vectors = {f"{name}.{part}": rows(width, count) for part, width in zip(NAMES[family], WIDTHS[family], strict=True)}
    return Artifact(METHOD, family, vectors, {"steps": "12", "base_name": "some-base"})


def same(one: Artifact, other: Artifact) -> bool:
    return one.family == other.family and max(formats.relative_errors(one, other).values()) == 0


# ------------------------------------------------------------------------------------------- what others have written

L, G, WIDE = rows(768), rows(1280, seed=1), rows(1024)
TABLE = {
    "string_to_token": {"*": 265},
    "string_to_param": {"*": L},
    "name": "inner",
    "step": 99,
    "sd_checkpoint": "abc",
    "sd_checkpoint_name": "v1-5",
}
FOREIGN: dict[str, tuple[str, Any, str, str]] = {  # what it is -> file, content, word, family
    "a1111": ("x.pt", TABLE, "inner", "sd1"),
    "a1111, a trained parameter": ("x.pt", {**TABLE, "string_to_param": {"*": torch.nn.Parameter(L)}}, "inner", "sd1"),
    "a1111, no name": ("x.pt", {"string_to_param": {"*": L}}, "x", "sd1"),
    "a1111, sd2": ("x.pt", {**TABLE, "string_to_param": {"*": WIDE}}, "inner", "sd2"),
    "kohya": ("x.safetensors", {"emb_params": L}, "x", "sd1"),
    "kohya, sd2": ("x.safetensors", {"emb_params": WIDE}, "x", "sd2"),
    "kohya, one vector without rows": ("x.safetensors", {"emb_params": L[0]}, "x", "sd1"),
    "diffusers": ("learned_embeds.safetensors", {"<cat-toy>": L}, "<cat-toy>", "sd1"),
    "diffusers, bin": ("learned_embeds.bin", {"<cat-toy>": L[0]}, "<cat-toy>", "sd1"),
    "diffusers, another name": ("y.bin", {"toy": WIDE}, "toy", "sd2"),
    "sdxl": ("x.safetensors", {"clip_l": L, "clip_g": G}, "x", "sdxl"),
    "sdxl, pt": ("x.pt", {"clip_l": L, "clip_g": G}, "x", "sdxl"),
    "sdxl, pt with a name": ("x.pt", {"clip_l": L, "clip_g": G, "name": "inner", "step": 3}, "inner", "sdxl"),
    "sdxl, early diffusers": ("x.safetensors", {"text_encoders_0": L, "text_encoders_1": G}, "x", "sdxl"),
}


def put(path: Path, content: Any, *, old: bool = False) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("old", [False, True])
def test_every_layout_is_read(kind: str, old: bool, tmp_path: Path) -> None:
    name, content, expected, family = FOREIGN[kind]
    path = put(tmp_path / name, content, old=old)
    found = formats.find(path)
    artifact = found.read(path)
    assert (found.method, artifact.method, artifact.family) == (METHOD, METHOD, family)
    parts = [L, G] if family == "sdxl" else [WIDE if family == "sd2" else L]
    names = [f"{expected}.{part}" for part in NAMES[family]]
    assert list(artifact.tensors) == names
    for key, whole in zip(names, parts, strict=True):
        value = artifact.tensors[key]
        assert value.ndim == 2 and not value.requires_grad
        assert torch.equal(value, whole[: len(value)])
    assert [row.sniff(path) for row in formats.FORMATS].count(True) == 1


def test_sdxl_in_two_files_of_diffusers(tmp_path: Path) -> None:
    for suffix in ("safetensors", "bin"):
        folder = tmp_path / suffix
        folder.mkdir()
        put(folder / f"learned_embeds.{suffix}", {"toy": L})
        put(folder / f"learned_embeds_2.{suffix}", {"toy": G})
        for path in (folder, folder / f"learned_embeds.{suffix}"):
            artifact = formats.find(path).read(path)
            assert artifact.family == "sdxl"
            assert torch.equal(artifact.tensors["toy.text_encoder_2"], G)


# ------------------------------------------------------------------------------------------------------ what we write


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip(writer: Any, family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    artifact = word(family)
    rounded = Artifact(METHOD, family, {name: value.to(dtype) for name, value in artifact.tensors.items()})
    path = tmp_path / f"tsuipi{writer.suffix}"
    writer.write(artifact, path, dtype=dtype)
    assert formats.find(path).name == writer.name
    again = writer.read(path)
    assert same(rounded, again)
    assert all(value.dtype == dtype for value in again.tensors.values())
    second = tmp_path / "again" / f"tsuipi{writer.suffix}"
    writer.write(artifact, second, dtype=dtype)
    files = [sorted(p for p in (x.rglob("*") if x.is_dir() else [x]) if p.is_file()) for x in (path, second)]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


def test_the_keys_are_the_clients(tmp_path: Path) -> None:
    for family, keys in (("sd1", {"emb_params"}), ("sd2", {"emb_params"}), ("sdxl", {"clip_l", "clip_g"})):
        KohyaEmbedding().write(word(family), tmp_path / "x.safetensors", dtype=torch.float16)
        assert load_file(tmp_path / "x.safetensors").keys() == keys
        header = read_header(tmp_path / "x.safetensors").metadata
        assert header["modelspec.architecture"].endswith("/textual-inversion")
        A1111Embedding().write(word(family), tmp_path / "tsuipi.pt", dtype=torch.float32)
        held = torch.load(tmp_path / "tsuipi.pt", weights_only=True)
        about = {"name": "tsuipi", "step": 12, "sd_checkpoint": None, "sd_checkpoint_name": "some-base"}
        if family == "sdxl":
            assert held.keys() == keys  # A1111 takes every entry for vectors, so the word has no place but the name
            with pytest.raises(FormatError, match=r"tsuipi\.pt"):
                A1111Embedding().write(word(family), tmp_path / "x.pt", dtype=torch.float32)
        else:
            value = held.pop("string_to_param")
            assert held == {"string_to_token": {"*": 265}, **about}
            assert list(value) == ["*"]
            assert type(value["*"]) is torch.Tensor


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_diffusers_loads_what_we_write(family: str, tmp_path: Path) -> None:
    """Its pipeline, with our file, says of a prompt what our model says with the word."""
    from diffusers import DiffusionPipeline

    model = tiny(family)
    widths = [int(encoder.config.hidden_size) for encoder in model.text_encoders.values()]  # type: ignore[union-attr, arg-type]
    vectors = {f"tsuipi.{part}": rows(w, 2) for part, w in zip(model.text_encoders, widths, strict=True)}
    artifact = Artifact(METHOD, family, vectors)
    base = write_folder(model, tmp_path / "base", old_style=True)
    METHODS[METHOD].restore(model, artifact)
    ours = model.encode_text(["a tsuipi cat"]).tokens_BSD
    for writer in WRITERS:
        name = "learned_embeds.safetensors" if writer.name == "diffusers" else f"tsuipi{writer.suffix}"
        path = tmp_path / writer.name
        writer.write(artifact, path if writer.name == "diffusers" else path / name, dtype=torch.float32)
        pipe = DiffusionPipeline.from_pretrained(base, local_files_only=True)
        if family == "sdxl" and writer.name != "diffusers":  # diffusers wants each tensor by hand
            held = load_file(path / name) if writer.name == "kohya" else torch.load(path / name, weights_only=True)
            parts = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}
            for key, (encoder, tokenizer) in parts.items():
                pipe.load_textual_inversion(
                    held[key], token="tsuipi", text_encoder=getattr(pipe, encoder), tokenizer=getattr(pipe, tokenizer)
                )
        else:
            token = {"token": "tsuipi"} if writer.name == "kohya" else {}
            pipe.load_textual_inversion(str(path), weight_name=name, **token)
            if family == "sdxl":
                pipe.load_textual_inversion(
                    str(path),
                    weight_name="learned_embeds_2.safetensors",
                    text_encoder=pipe.text_encoder_2,
                    tokenizer=pipe.tokenizer_2,
                )
        theirs = pipe.encode_prompt(
            prompt=["a tsuipi cat"],
            device=torch.device("cpu"),
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )[0]
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_generation_reads_every_file(family: str, tmp_path: Path) -> None:
    model: StableDiffusion = tiny(family)
    plain = model.encode_text(["a tsuipi"]).tokens_BSD
    added = METHODS[METHOD].attach(
        model, METHODS[METHOD].settings(words=("tsuipi",), vectors=2), torch.Generator().manual_seed(0)
    )
    artifact, said = added.artifact(), model.encode_text(["a tsuipi"]).tokens_BSD
    added.detach()
    for writer in WRITERS:
        path = tmp_path / writer.name / f"tsuipi{writer.suffix}"
        writer.write(artifact, path, dtype=torch.float32)
        with compose(model, [Requested(path)], formats, METHODS) as composition:
            assert torch.equal(model.encode_text(["a tsuipi"]).tokens_BSD, said)
            assert not composition.parts[0].unmatched
            composition.set_strength(0, 0.0)
            assert torch.equal(model.encode_text(["a tsuipi"]).tokens_BSD, plain)
        assert torch.equal(model.encode_text(["a tsuipi"]).tokens_BSD, plain)


# ---------------------------------------------------------------------------------------------------- what is refused


class Attack:
    """Runs a command when unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.touched}'",)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("old", [False, True])
def test_an_attack_is_refused_and_does_not_run(suffix: str, old: bool, tmp_path: Path) -> None:
    touched, path = tmp_path / "touched", tmp_path / f"x{suffix}"
    attack = Attack(touched)
    for content in ({**TABLE, "optimizer": attack}, {"string_to_param": attack}, {"toy": attack}, attack):
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        for row in formats.FORMATS:
            assert not row.sniff(path) or row.method != METHOD
        with pytest.raises(ModelError, match="MD005"):
            formats.find(path)
        for reader in (A1111Embedding(), KohyaEmbedding(), DiffusersEmbedding()):
            with pytest.raises(ModelError, match="MD005"):
                reader.read(path)
    for protocol in range(6):
        path.write_bytes(pickle.dumps(attack, protocol))
        with pytest.raises(ModelError):
            formats.find(path)
    assert not touched.exists()


def test_another_table_is_described(tmp_path: Path) -> None:
    path = put(tmp_path / "x.pt", {"first": L, "second": rows(64)})
    with pytest.raises(FormatError, match=r"(?s)MD002.*2 tensors"):
        formats.find(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.pt", {"one": L, "two": L[:1]}),
        ("x.safetensors", {"one": L, "two": L[:1].clone()}),
        ("x.pt", {**TABLE, "name": "one", "string_to_param": {"*": L, "two": L[:1]}}),
        ("x.pt", {"string_to_param": {"*": L, "two": L[:1]}, "name": "one"}),
    ],
)
def test_several_words_in_one_file_are_all_read_and_drawn(name: str, content: Any, tmp_path: Path) -> None:
    path = put(tmp_path / name, content)
    artifact = formats.find(path).read(path)
    assert (artifact.method, artifact.family) == (METHOD, "sd1")
    assert artifact.tensors.keys() == {"one.text_encoder", "two.text_encoder"}
    assert torch.equal(artifact.tensors["one.text_encoder"], L)
    assert torch.equal(artifact.tensors["two.text_encoder"], L[:1])
    for number, (word_, piece) in enumerate(formats.pieces(artifact, "x").items()):
        out = tmp_path / f"{number}.safetensors"
        KohyaEmbedding().write(piece, out, dtype=torch.float32)
        assert torch.equal(
            KohyaEmbedding().read(out).tensors[f"{word_}.text_encoder"], artifact.tensors[f"{word_}.text_encoder"]
        )


@pytest.mark.parametrize("key", ["clip_l", "clip_g", "text_encoders_0", "text_encoders_1"])
def test_half_of_an_sdxl_word_is_named_and_no_word(key: str, tmp_path: Path) -> None:
    width = 1280 if key in ("clip_g", "text_encoders_1") else 768
    for name in ("x.safetensors", "x.pt"):
        with pytest.raises(FormatError, match=r"FM001(?s:.*)half of an SDXL"):
            formats.find(put(tmp_path / name, {key: rows(width)}))
        assert formats.is_artifact(tmp_path / name), "what is wrong with it is said by whoever opens it"


@pytest.mark.parametrize("key", ["weight", "bias", "t5xxl"])
def test_a_bare_name_of_a_tensor_is_no_word(key: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="FM001"):
        formats.find(put(tmp_path / "x.safetensors", {key: L}))


@pytest.mark.parametrize("step", [float("nan"), float("inf"), "many", None, 12.0, "7"])
def test_any_step_of_another_program_can_be_written(step: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "x.pt", {**TABLE, "step": step})
    artifact = formats.find(path).read(path)
    A1111Embedding().write(artifact, tmp_path / "y.pt", dtype=torch.float32)
    written = torch.load(tmp_path / "y.pt", weights_only=True)["step"]
    assert written == {12.0: 12, "7": 7}.get(step, 0)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_are_read_and_written_in_more(dtype: torch.dtype, tmp_path: Path) -> None:
    path = put(tmp_path / "x.safetensors", {"emb_params": L.to(dtype)})
    artifact = formats.find(path).read(path)
    assert torch.equal(artifact.tensors["x.text_encoder"].float(), L.to(dtype).float())
    KohyaEmbedding().write(artifact, tmp_path / "y.safetensors", dtype=torch.float16)
    assert torch.equal(load_file(tmp_path / "y.safetensors")["emb_params"], L.to(dtype).half())


def test_an_attack_is_real(tmp_path: Path) -> None:
    """The payload of the test above does run where a pickle is trusted."""
    pickle.loads(pickle.dumps(Attack(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"string_to_param": {"*": L, "+": WIDE}},
        {"string_to_param": {}},
        {"string_to_param": {"*": "text"}},
        {"string_to_param": {"*": L.int()}},
        {"string_to_param": {"*": L * float("nan")}},
        {"string_to_param": {"*": torch.zeros(0, 768)}},
        {"string_to_param": {"*": torch.zeros(2, 2, 768)}},
        {"string_to_param": 3},
        {"clip_l": L, "clip_g": G[:1], "name": "x"},
    ],
)
def test_damaged_tables_are_refused(content: Any, tmp_path: Path) -> None:
    path = put(tmp_path / "x.pt", content)
    with pytest.raises(FormatError, match=r"MD003|MD011"):
        formats.find(path).read(path)


def test_cut_files_are_refused(tmp_path: Path) -> None:
    for writer in WRITERS[:2]:
        path = tmp_path / f"x{writer.suffix}"
        writer.write(word("sd1"), path, dtype=torch.float16)
        whole = path.read_bytes()
        for size in range(0, len(whole), 97):
            path.write_bytes(whole[:size])
            with pytest.raises(ModelError):
                formats.find(path).read(path)


def test_what_a_file_cannot_hold(tmp_path: Path) -> None:
    two = Artifact(METHOD, "sd1", {**word("sd1").tensors, **word("sd1", "other").tensors})
    assert set(formats.pieces(two, "run")) == {"tsuipi", "other"}
    half = Artifact(METHOD, "sdxl", word("sd1").tensors)
    lora = Artifact("lora", "sd1", {"unet.x.lora_up.weight": rows(4)})
    broken = Artifact(METHOD, "sd1", {"tsuipi.text_encoder": rows(768) * float("nan")})
    large = Artifact(METHOD, "sd1", {"tsuipi.text_encoder": rows(768) * 1e9})
    for writer in WRITERS:
        for artifact in (two, half, lora, broken, large):
            with pytest.raises(FormatError, match="FM002"):
                writer.write(artifact, tmp_path / f"x{writer.suffix}", dtype=torch.float16)
        assert not list(tmp_path.glob("x*"))


def test_a_header_that_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    """A safetensors header's length is its first byte; 128 is also how a pickle begins."""
    path = tmp_path / "x.safetensors"
    for extra in range(300):
        save_file({"emb_params": L}, path, {"note": "x" * extra})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert torch.equal(formats.find(path).read(path).tensors["x.text_encoder"], L)
