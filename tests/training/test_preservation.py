"""Differential output preservation: the base's own prediction for the class as a target beside each image's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tiny_models import picture_batch, shallow
from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.sections import Data
from tsuika.core.seeds import generator
from tsuika.core.types import Batch
from tsuika.data.caption import of_class
from tsuika.data.subjects import subjects_of
from tsuika.methods import METHODS
from tsuika.methods.lora import Lora
from tsuika.methods.textual_inversion import TextualInversion
from tsuika.training import preservation
from tsuika.training.fit import Fit
from tsuika.training.loop import conditioner, draw, fit
from tsuika.training.preparation import accelerate_for
from tsuika.training.preservation import Preservation

SIZE = (64, 64)
CAPTIONS = ("zuzu cat", "a cat on a mat", "zuzu in the snow")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("zuzu cat", "cat"),
        ("a Zuzu cat on a mat", "a cat on a mat"),
        ("zuzu in the snow", "cat in the snow"),
        ("zuzu, 1girl, cat, red", "1girl, cat, red"),
        ("a zuzu's hat", "a cat's hat"),
        ("zuzus and a cat", "zuzus and a cat"),
        ("", ""),
    ],
)
def test_a_caption_of_the_class(caption: str, expected: str) -> None:
    assert of_class(caption, "zuzu", "cat") == expected
    assert of_class("このツイピの絵", "ツイピ", "猫") == "この猫の絵"


def start(weight: float, settings: Any, steps: int = 1) -> Fit:
    recipe = Recipe.of(
        settings.name,
        steps=steps,
        device="cpu",
        trigger="zuzu",
        class_word="cat",
        settings={
            "train.precision": "fp32",
            "train.learning_rate": 2e-2,
            "train.batch_size": 3,
            "train.ema": 0.0,
            "regularize.output_preservation": weight,
        },
    )
    model = shallow("sd1")
    attachment = METHODS[settings.name].attach(model, settings, generator(0, "init"))
    condition, of_base = (conditioner(model, attachment, lambda _: SIZE, of_base=is_base) for is_base in (False, True))
    preserved = Preservation(model, attachment, subjects_of(recipe.data), condition, of_base) if weight else None

    def batch(number: int) -> Batch:
        return replace(picture_batch(number, 3), captions=CAPTIONS)

    return Fit(model, attachment, recipe, accelerate_for(recipe), batch, condition, None, preserved)


def apart(run: Fit) -> torch.Tensor:
    batch = run.batch(0)
    t_B, noise = draw(run.recipe.train, 0, batch.latents_BCHW, run.objective)
    with torch.no_grad():
        _output, apart_B = run.predict(run.objective.add_noise(batch.latents_BCHW, noise, t_B), t_B, batch)
    assert apart_B is not None
    return apart_B


@pytest.mark.parametrize("settings", [Lora(rank=2), Lora(rank=2, text_encoder=True)])
def test_the_extra_error_is_the_distance_from_the_base_and_nothing_at_first(settings: Lora) -> None:
    plain, run = start(0.0, settings), start(3.0, settings)
    assert apart(run).tolist() == pytest.approx([0, 0, 0], abs=1e-10)
    ((first,), (same,)) = (list(fit(one)) for one in (plain, run))
    assert first.loss == pytest.approx(same.loss, rel=1e-5), "untrained weights are the base"
    for tensor in run.attachment.tensors().values():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    batch, model = run.batch(0), run.model
    t_B, noise = draw(run.recipe.train, 0, batch.latents_BCHW, run.objective)
    noisy = run.objective.add_noise(batch.latents_BCHW, noise, t_B)
    said = []
    with torch.no_grad():
        for strength in (0, 1):
            run.attachment.set_strength(strength)
            texts = model.encode_text(["cat", "a cat on a mat", "cat in the snow"], size_px=SIZE)
            said.append(model.denoise(noisy, t_B, texts))
    wanted = (said[1] - said[0]).pow(2).mean((1, 2, 3))
    wanted[1] = 0  # its caption names no trigger word
    assert wanted[0] > 1e-4
    torch.testing.assert_close(apart(run), wanted, rtol=1e-4, atol=1e-7)
    run.discard()
    plain.discard()


@pytest.mark.slow
def test_the_class_stays_nearer_to_the_base() -> None:
    moved = []
    for weight in (1e-6, 20.0):
        run = start(weight, Lora(rank=2), steps=12)
        for _step in fit(run):
            pass
        moved.append(float(apart(run).sum()))
        run.discard()
    assert moved[1] < moved[0] / 2


def test_where_it_means_nothing_it_is_refused() -> None:
    lora = Lora()
    preservation.check(Data(), lora, 0.0)
    preservation.check(Data(trigger="zuzu", class_word="cat"), lora, 1.0)
    for data, flag in ((Data(class_word="cat"), "--trigger"), (Data(trigger="zuzu"), "--class-word")):
        with pytest.raises(RecipeError, match=flag):
            preservation.check(data, lora, 1.0)
    with pytest.raises(RecipeError, match="New words"):
        preservation.check(Data(trigger="zuzu", class_word="cat"), TextualInversion(words=("zuzu",)), 1.0)


def test_of_several_sets_each_has_its_own_words() -> None:
    sets = [
        {"images": "a", "trigger": "zuzu", "class_word": "cat"},
        {"images": "b", "trigger": "kiki", "class_word": "house"},
    ]
    data = Data(sets=tuple(sets))
    preservation.check(data, Lora(), 1.0)
    kept: Any = Preservation(None, None, subjects_of(data), None, None)  # type: ignore[arg-type]
    assert kept._of_class("zuzu on a kiki") == "cat on a house" and kept._of_class("a dog") == "a dog"
    with pytest.raises(RecipeError) as refused:
        preservation.check(Data(sets=(sets[0], {"images": "b", "trigger": "kiki"})), Lora(), 1.0)
    assert refused.value.code == "RC005" and refused.value.where == "b"
