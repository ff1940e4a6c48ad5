"""Results of several methods on one base: real files, what is told of them, and what they do together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tsuika import formats
from tsuika.core.errors import FormatError, ModelError
from tsuika.core.events import Warned
from tsuika.generation.compose import Requested, compose, describe
from tsuika.generation.pipeline import sample
from tsuika.methods import METHODS
from tsuika.methods.hypernetwork import Hypernetwork
from tsuika.methods.lora import Lora
from tsuika.methods.textual_inversion import TextualInversion

CONFIGS: dict[str, tuple[str, Any]] = {
    "lora": ("lora", Lora(rank=2)),
    "lora2": ("lora", Lora(rank=2, text_encoder=True)),
    "hyper": ("hypernetwork", Hypernetwork()),
    "ついぴ": ("textual-inversion", TextualInversion(words=("tsuipi",), vectors=2, init="noise")),
    "other": ("textual-inversion", TextualInversion(words=("Tsuipi",), vectors=1, init="noise")),
}


@pytest.fixture(scope="module")
def made(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each, with random weights, on the tiny SD1."""
    folder, model, paths = tmp_path_factory.mktemp("made"), tiny_models["sd1"], {}
    for seed, (name, (method, config)) in enumerate(CONFIGS.items()):
        generator = torch.Generator().manual_seed(seed)
        attachment = METHODS[method].attach(model, config, generator)
        for tensor in attachment.tensors().values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        kind = formats.for_method(method)[0]
        paths[name] = folder / f"{name}{kind.suffix}"
        kind.write(attachment.artifact(), paths[name], dtype=torch.float32)
        attachment.detach()
    return paths


def draw(model: Any, prompt: str = "a tsuipi") -> torch.Tensor:
    return sample(model, prompt, seed=1, cfg=2, steps=2, sampler="Euler", size_px=(model.size_step_px,) * 2)


def test_all_together_and_at_0_the_base(sd1: Any, made: dict[str, Path]) -> None:
    base = draw(sd1)
    wanted = [Requested(made[name]) for name in ("lora", "hyper", "ついぴ", "lora2")]
    with compose(sd1, wanted, formats, METHODS) as together:
        everything = draw(sd1)
        for number in range(4):  # each has a part in the picture
            together.set_strength(number, 0)
            assert not torch.equal(draw(sd1), everything)
            together.set_strength(number, 1)
        torch.testing.assert_close(draw(sd1), everything, rtol=0, atol=0)
        for number in range(4):
            together.set_strength(number, 0)
        assert torch.equal(draw(sd1), base)
    assert torch.equal(draw(sd1), base)


def test_the_order_does_not_matter_where_effects_add_up(sd1: Any, made: dict[str, Path]) -> None:
    """Two updates of a layer are a sum, which floating point rounds by its order; what else is there is exact."""

    def drawn(*names: str) -> torch.Tensor:
        with compose(sd1, [Requested(made[name], 0.7) for name in names], formats, METHODS):
            return draw(sd1)

    assert torch.equal(drawn("lora", "ついぴ", "hyper"), drawn("hyper", "ついぴ", "lora"))
    torch.testing.assert_close(drawn("lora", "lora2"), drawn("lora2", "lora"), rtol=0, atol=1e-5)


def test_what_is_told(sd1: Any, made: dict[str, Path]) -> None:
    wanted = [
        Requested(made["lora"], 0.8),
        Requested(made["lora2"], 1, 0.5),
        Requested(made["hyper"]),
        Requested(made["ついぴ"]),
    ]
    with compose(sd1, wanted, formats, METHODS) as together:
        told = describe(together)
        together.set_strength(1, 0)
        later = describe(together)
    lora, lora2, hyper, embedding = told.artifacts
    assert [one.method for one in told.artifacts] == ["lora", "lora", "hypernetwork", "textual-inversion"]
    assert (lora.strength, lora2.strength, lora2.text_strength) == (0.8, 1, 0.5)
    assert all(one.unmatched == 0 and one.matched > 0 and one.sha256 for one in told.artifacts)
    assert embedding.words == ("tsuipi", "ついぴ")
    adapted = {f"unet.{path}" for role in ("unet.attn", "unet.ff") for path in sd1.targets(role)["unet"]}
    assert lora.layers == len(adapted)
    keys = [path for path in adapted if path.endswith((".to_k", ".to_v"))]
    assert 0 < hyper.layers <= len(keys)
    assert embedding.layers == 0

    by_pair = {(Path(one.first).stem, Path(one.second).stem): one for one in told.conflicts}
    assert by_pair.keys() == {("lora", "lora2"), ("lora", "hyper"), ("lora2", "hyper")}
    assert by_pair["lora", "lora2"].layers == len(adapted)  # the text encoder is of one alone
    assert by_pair["lora", "hyper"].layers == hyper.layers
    assert by_pair["lora", "hyper"].example in keys
    assert [(Path(one.first).stem, Path(one.second).stem) for one in later.conflicts] == [("lora", "hyper")]


def test_an_embedding_answers_to_its_word_and_to_its_files_name(sd1: Any, made: dict[str, Path]) -> None:
    plain = draw(sd1, "a tsuipi"), draw(sd1, "a ついぴ")
    with compose(sd1, [Requested(made["ついぴ"])], formats, METHODS):
        word, name = draw(sd1, "a tsuipi"), draw(sd1, "a ついぴ")
        assert torch.equal(word, name)
        assert not torch.equal(word, plain[0])
    looked_up = Requested(made["ついぴ"], method="textual-inversion", called="ついぴ")
    with compose(sd1, [looked_up], formats, METHODS) as together:
        assert torch.equal(draw(sd1, "a ついぴ"), name)
        assert torch.equal(draw(sd1, "a tsuipi"), plain[0])
        assert describe(together).artifacts[0].words == ("ついぴ",)
    assert torch.equal(draw(sd1, "a ついぴ"), plain[1])


def test_a_name_that_no_prompt_can_hold_is_no_word(sd1: Any, made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / f"my dog (1){made['ついぴ'].suffix}"
    path.write_bytes(made["ついぴ"].read_bytes())
    with compose(sd1, [Requested(path)], formats, METHODS) as together:
        assert together.parts[0].words == ("tsuipi",)


KEEPERS = [one for name in ("lora", "hypernetwork") for one in formats.for_method(name) if one.name != "a1111"]


@pytest.mark.parametrize("kind", KEEPERS, ids=lambda one: one.name)
def test_nothing_is_applied_by_name_where_a_given_file_has_that_trigger_word(
    sd1: Any, made: dict[str, Path], tmp_path: Path, kind: Any
) -> None:
    """A stray embedding called like the trigger word of the LoRA on the command line."""
    source = made["lora" if kind.method == "lora" else "hyper"]
    artifact = formats.find(source).read(source)
    given, told = tmp_path / f"given{kind.suffix}", list[Warned]()
    kind.write(
        replace(artifact, metadata={**artifact.metadata, "trigger": "ついぴ teapot"}), given, dtype=torch.float32
    )
    stray = Requested(made["ついぴ"], method="textual-inversion", called="ついぴ")
    with compose(sd1, [Requested(given), stray], formats, METHODS, told.append) as together:
        assert [part.request.path for part in together.parts] == [given]
        assert describe(together).refused[0].file == str(made["ついぴ"])
    assert [one.code for one in told] == ["GN006"] and "given" in told[0].message
    with compose(sd1, [Requested(given), Requested(made["ついぴ"])], formats, METHODS) as together:
        assert len(together.parts) == 2, "given by a flag, it is wanted"


def test_two_embeddings_of_one_word_are_an_error(sd1: Any, made: dict[str, Path]) -> None:
    with pytest.raises(ModelError) as error:
        compose(sd1, [Requested(made["ついぴ"]), Requested(made["other"])], formats, METHODS)
    assert error.value.code == "MD007"
    assert all(str(made[name]) in error.value.where for name in ("ついぴ", "other"))
    assert sd1.words == {}


def test_a_file_of_another_method_than_the_flag_is_refused(sd1: Any, made: dict[str, Path]) -> None:
    with pytest.raises(FormatError, match="hypernetwork"):
        compose(sd1, [Requested(made["hyper"], method="lora")], formats, METHODS)


def test_an_embedding_of_another_family_that_was_only_found_is_left_out(
    sd1: Any, made: dict[str, Path], tmp_path: Path
) -> None:
    foreign = tmp_path / "cat.safetensors"
    save_file({"emb_params": torch.zeros(1, 1024)}, foreign)  # as wide as SD2's
    told: list[Warned] = []
    found = Requested(foreign, method="textual-inversion", called="cat")
    base = draw(sd1)
    with compose(sd1, [found, Requested(made["lora"], 0)], formats, METHODS, told.append) as together:
        assert torch.equal(draw(sd1), base)
        (refusal,) = describe(together).refused
    assert Path(refusal.file) == foreign
    assert [warned.code for warned in told] == ["GN006"]
    with pytest.raises(ModelError):
        compose(sd1, [Requested(foreign)], formats, METHODS)
