"""New words: a word starts as its init and is unknown when it goes; nothing but its own vectors ever moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_models import FAMILY_NAMES, bits, outputs, picture_batch, shallow
from tsuika.config import build
from tsuika.core.errors import ModelError, RecipeError
from tsuika.core.sections import Data, Train
from tsuika.core.types import Artifact, Model
from tsuika.generation.encode import encode
from tsuika.methods.textual_inversion import TextualInversion
from tsuika.methods.textual_inversion import vectors as textual_inversion
from tsuika.training import checkpoint, optim
from tsuika.training.fit import Fit
from tsuika.training.loop import conditioner, fit
from tsuika.training.preparation import accelerate_for


def attach(model: Model, seed: int = 0, **settings: Any) -> textual_inversion.WordAttachment:
    config = TextualInversion(**{"words": ("tsuipi",), "init": "cat", **settings})
    return textual_inversion.attach(model, config, torch.Generator().manual_seed(seed))


def table(model: Model, component: str) -> torch.Tensor:
    layer: Any = model.module(component, *model.targets("text.tokens")[component])
    return layer.weight


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_word_starts_as_its_init_and_others_stay(family: str) -> None:
    model = shallow(family)
    before, plain = outputs(model), model.encode_text(["a cat", "a catdog"])
    added = attach(model)
    twice = attach(model, words=("double",), init="cat dog", vectors=2)
    assert torch.equal(outputs(model), before)
    for component in model.text_encoders:
        assert added.words["tsuipi"][component].shape == (1, table(model, component).shape[1])
    said = model.encode_text(["a Tsuipi", "a double"])
    cat_dog = model.encode_text(["a cat", "a cat dog"])
    assert torch.equal(said.tokens_BSD, cat_dog.tokens_BSD)
    if said.pooled_BP is not None:
        assert torch.equal(said.pooled_BP, cat_dog.pooled_BP)
    for one in (added, twice):  # first in, first out
        one.detach()
    assert not model.words
    assert not model.word_weights
    assert torch.equal(model.encode_text(["a cat", "a catdog"]).tokens_BSD, plain.tokens_BSD)


def test_starts_keep_the_vocabularys_norm() -> None:
    model = shallow("sdxl")
    for settings in ({"init": "noise", "vectors": 16}, {"init": "cat dog", "vectors": 1}, {"init": "", "vectors": 2}):
        added = attach(model, **settings)
        for component, vectors in added.words["tsuipi"].items():
            usual = table(model, component).norm(dim=1).mean()
            assert vectors.dtype == torch.float32
            torch.testing.assert_close(vectors.norm(dim=1), usual.expand(len(vectors)))
        added.detach()
    mean = attach(model, init="cat dog").words["tsuipi"]["text_encoder"][0].detach()
    ids = model.tokenizers["tokenizer"]("cat dog", add_special_tokens=False)["input_ids"]
    expected = table(model, "text_encoder")[ids].mean(0)
    torch.testing.assert_close(torch.cosine_similarity(mean, expected, dim=0), torch.tensor(1.0))


def test_noise_is_the_generators() -> None:
    model = shallow("sd1")
    rows = []
    for seed in (0, 0, 1):
        added = attach(model, seed, init="noise")
        rows.append(added.artifact().tensors["tsuipi.text_encoder"])
        added.detach()
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def run(model: Model, optimizer: str, *, steps: int = 12, rate: float = 0.03, **settings: Any) -> Fit:
    added = attach(model, **settings)
    train = Train(
        steps=steps,
        batch_size=2,
        learning_rate=rate,
        optimizer=optimizer,
        precision="fp32",
        device="cpu",
        ema=0.0,
        schedule="constant",
        warmup=0,
    )
    recipe = build(
        {"method": {"name": "textual-inversion"}, "train": train.model_dump(), "data": {"trigger": "tsuipi"}}
    )

    def batch(number: int) -> Any:
        one = picture_batch(number, 2)
        return type(one)(one.latents_BCHW, ("a tsuipi", "tsuipi"), one.names, one.weight_B)

    return Fit(model, added, recipe, accelerate_for(recipe), batch, conditioner(model, added, lambda _: (64, 64)))


@pytest.mark.parametrize("optimizer", ["riemannian", "adamw"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_only_the_vectors_move(family: str, optimizer: str) -> None:
    model = shallow(family)
    before, weights = outputs(model), bits(model)
    fitting = run(model, optimizer, vectors=2)
    start = {name: value.clone() for name, value in fitting.attachment.tensors().items()}
    list(fit(fitting))
    after = bits(model)
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[name], after[name]) for name in weights)  # every row of the vocabulary among them
    assert torch.equal(outputs(model), before)
    for name, value in fitting.attachment.tensors().items():
        assert (value != start[name]).any(dim=1).all(), name
        if optimizer == "riemannian":
            torch.testing.assert_close(value.norm(dim=1), start[name].norm(dim=1))
    assert fitting.attachment.trains == {"text.tokens"}


def test_it_goes_on_from_a_saved_state_to_the_same_bits(tmp_path: Path) -> None:
    whole = run(shallow("sd1"), "riemannian", steps=6)
    list(fit(whole))
    first = run(shallow("sd1"), "riemannian", steps=6)
    for event in fit(first):
        if event.step == 3:
            break
    checkpoint.save(tmp_path, first.state())
    second = run(shallow("sd1"), "riemannian", steps=6)
    state, _damaged = checkpoint.newest(tmp_path)
    assert state is not None
    second.restore(state)
    list(fit(second))
    (ours,), (theirs,) = (one.attachment.tensors().values() for one in (second, whole))
    assert torch.equal(ours, theirs)


def test_a_caption_without_the_word_is_no_error() -> None:
    fitting = run(shallow("sd1"), "riemannian", steps=2)
    fitting.batch = picture_batch_of("a cat")
    start = fitting.attachment.tensors()["tsuipi.text_encoder"].clone()
    list(fit(fitting))
    assert torch.equal(fitting.attachment.tensors()["tsuipi.text_encoder"], start)


def picture_batch_of(caption: str) -> Any:
    def batch(number: int) -> Any:
        one = picture_batch(number, 2)
        return type(one)(one.latents_BCHW, (caption,) * 2, one.names, one.weight_B)

    return batch


def test_strength_is_the_words_weight_in_a_prompt() -> None:
    model = shallow("sd1")
    base = encode(model, "a tsuipi, dog").tokens_BSD
    added = attach(model, init="dog", vectors=2)
    full = encode(model, "a tsuipi, dog").tokens_BSD
    assert torch.equal(full, model.encode_text(["a tsuipi, dog"]).tokens_BSD)
    assert torch.equal(encode(model, "a (tsuipi:0.5), dog").tokens_BSD, at(model, added, 0.5, "a tsuipi, dog"))
    assert torch.equal(encode(model, "a (tsuipi:0.6), dog").tokens_BSD, at(model, added, 0.5, "a (TSUIPI:1.2), dog"))
    assert torch.equal(encode(model, "a cat").tokens_BSD, at(model, added, 0.5, "a cat"))
    added.set_strength(0)
    assert torch.equal(encode(model, "a tsuipi, dog").tokens_BSD, base)
    added.set_strength(1)
    assert torch.equal(encode(model, "a tsuipi, dog").tokens_BSD, full)
    added.detach()
    assert torch.equal(encode(model, "a tsuipi, dog").tokens_BSD, base)


def at(model: Model, added: textual_inversion.WordAttachment, strength: float, prompt: str) -> torch.Tensor:
    added.set_strength(strength)
    tokens_BSD = encode(model, prompt).tokens_BSD
    added.set_strength(1)
    return tokens_BSD


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_restored_is_what_was_trained(family: str) -> None:
    model = shallow(family)
    added = attach(model, init="noise", vectors=3)
    said, artifact = model.encode_text(["a tsuipi"]).tokens_BSD, added.artifact()
    added.detach()
    again = textual_inversion.restore(model, artifact)
    assert torch.equal(model.encode_text(["a tsuipi"]).tokens_BSD, said)
    assert not any(param.requires_grad for group in again.param_groups() for param in group.params)
    with pytest.raises(ModelError) as caught:  # the same word twice
        textual_inversion.restore(model, artifact)
    assert caught.value.code == "MD007"
    assert torch.equal(model.encode_text(["a tsuipi"]).tokens_BSD, said)
    again.set_strength(0)
    textual_inversion.restore(model, artifact).detach()
    with pytest.raises(KeyError):
        again.load({})


def test_what_does_not_fit_is_refused() -> None:
    model = shallow("sdxl")
    artifact = textual_inversion.attach(model, TextualInversion(words=("a-b",)), torch.Generator()).artifact()
    model.words.clear()
    narrow = {name: value[:, :-1] for name, value in artifact.tensors.items()}
    half = {"a-b.text_encoder": artifact.tensors["a-b.text_encoder"]}
    spaced = {name.replace("-", " "): value for name, value in artifact.tensors.items()}
    for tensors, code in ((narrow, "MD004"), (half, "MD004"), (spaced, "MD008")):
        with pytest.raises(ModelError) as caught:
            textual_inversion.restore(model, Artifact("textual-inversion", "sdxl", tensors))
        assert caught.value.code == code
        assert not model.words


@pytest.mark.parametrize("word", ["two words", "a,b", "a:b", "(a)", "[a]", "a|b", "a\\b", "a/b"])
def test_a_word_that_prompts_cannot_hold_is_named(word: str) -> None:
    with pytest.raises(RecipeError) as caught:
        attach(shallow("sd1"), words=(word,))
    assert caught.value.code == "RC002"
    assert word in caught.value.describe()


def test_words_must_differ() -> None:
    model = shallow("sd1")
    attach(model)
    for words in (("TSUIPI",), ("one", "One")):
        with pytest.raises(RecipeError, match="RC002"):
            attach(model, words=words)


def test_words_and_init_come_from_the_pictures_section() -> None:
    section = TextualInversion()
    filled: Any = section.completed(Data(trigger="tsuipi", class_word="dog"))
    assert (filled.words, filled.init) == (("tsuipi",), "dog")
    own: Any = TextualInversion(words=("x", "y"), init="cat").completed(Data(trigger="tsuipi", class_word="dog"))
    assert (own.words, own.init) == (("x", "y"), "cat")
    noise: Any = section.completed(Data(trigger="tsuipi"))
    assert noise.init == "noise"
    for data, code in ((Data(), "RC005"), (Data(trigger="my dog"), "RC002")):
        with pytest.raises(RecipeError) as caught:
            section.completed(data)
        assert caught.value.code == code


def test_the_optimizers_know_what_they_can() -> None:
    added = attach(shallow("sd1"))
    groups = added.param_groups()
    assert isinstance(optim.build(Train(optimizer="riemannian", ema=0), groups), optim.Riemannian)
    with pytest.raises(RecipeError, match="weight_decay"):
        optim.build(Train(optimizer="riemannian", ema=0, weight_decay=0.1), groups)
    with pytest.raises(RecipeError, match="ema"):
        optim.build(Train(optimizer="riemannian"), groups)
    weights = [type(groups[0])("unet", groups[0].params, 0.0)]
    with pytest.raises(RecipeError) as caught:
        optim.build(Train(optimizer="riemannian", ema=0), weights)
    assert caught.value.code == "RC002"
