"""Copies: found where they are planted, nothing at the base, the same bits every time."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tiny_models import shallow
from tsuika import config
from tsuika.core.seeds import generator
from tsuika.core.types import Attachment, Conditioning, Model, Prediction
from tsuika.diffusion.objective import alphas_cumprod_T, objective
from tsuika.guard.memorization import measure_memorization, resemblances, without_noise
from tsuika.guard.probe import ProbedImage
from tsuika.methods import METHODS


def latents(number: int) -> Tensor:
    """Smooth, as pictures are."""
    coarse = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(number))
    return torch.nn.functional.interpolate(coarse, (8, 8), mode="bilinear")[0]


def subjects(count: int) -> list[ProbedImage]:
    return [ProbedImage(f"picture {i}", latents(i), f"a zuzu number {i}", (64, 64)) for i in range(count)]


def cosines(left: Tensor, right: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize
    return unit(left.flatten(1), dim=1) @ unit(right.flatten(1), dim=1).T


def test_a_copy_is_alike_and_alike_to_nothing_else() -> None:
    training = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    samples = torch.cat([training[[3]], torch.randn(1, 40, generator=torch.Generator().manual_seed(1))])
    copy, fresh = resemblances(cosines(samples, training))
    assert copy.picture == 3 and copy.similarity == pytest.approx(1) and copy.ratio == pytest.approx(0, abs=1e-2)
    assert copy.copies and not fresh.copies and fresh.ratio > 0.8
    distances = (torch.nn.functional.normalize(samples[1:]) - torch.nn.functional.normalize(training)).norm(dim=1)
    nearest, second = distances.sort().values[:2].tolist()
    assert fresh.ratio == pytest.approx(nearest / second, rel=1e-5)


def test_a_single_training_picture_and_a_doubled_one_can_be_copied_too() -> None:
    """There the ratio says nothing."""
    one = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    alone, twice = resemblances(cosines(one, one))[0], resemblances(cosines(one, torch.cat([one, one])))[0]
    assert alone.ratio == 1 and alone.copies and twice.copies


def test_a_second_take_does_not_hide_a_copy() -> None:
    """Two takes of one image are one group: the ratio is to the nearest other image, as if there were one take."""
    take, sample, *others = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    sample = take + 0.2 * sample
    training = torch.stack([*others, take, take + 0.01 * others[0]])
    alone = resemblances(cosines(sample[None], training[:-1]))[0]
    blind, seen = (resemblances(cosines(sample[None], training), groups=g)[0] for g in (None, [*range(10), 10, 10]))
    assert blind.ratio > 0.9 and seen.ratio == pytest.approx(alone.ratio, rel=0.1) and seen.ratio < 0.3


def test_at_the_bases_weights_the_excess_is_nothing() -> None:
    similarity = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    assert {one.excess for one in resemblances(similarity, similarity.clone())} == {0.0}
    assert {one.excess for one in resemblances(similarity)} == {None}
    assert json.loads(json.dumps(resemblances(similarity)[0].to_json()))["excess"] is None


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="training images"):
        resemblances(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="of the base"):
        resemblances(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="at least one"):
        measure_memorization(Stub("epsilon", {}), Stub("epsilon", {}), [])  # type: ignore[arg-type]


def attach(model: Model) -> Attachment:
    section = config.build({"method": {"name": "lora", "rank": 2}}).method
    made: Attachment = METHODS["lora"].attach(model, section, generator(0, "init"))
    return made


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_at_the_bases_weights_nothing_leaks_and_what_was_learnt_shows(family: str) -> None:
    model = shallow(family)
    attachment = attach(model)
    train, few = subjects(2), {"controls": ("a cat",), "seeds": 2}
    first = measure_memorization(model, attachment, train, **few)  # type: ignore[arg-type]
    assert {(one.excess, one.pull) for one in first.recalls} == {(0.0, 0.0)} and first.worst == 0 == first.pull
    state = attachment.tensors()
    source = torch.Generator().manual_seed(1)
    attachment.load({name: value + 0.3 * torch.randn(value.shape, generator=source) for name, value in state.items()})
    moved = measure_memorization(model, attachment, train, **few)  # type: ignore[arg-type]
    assert all(one.excess and one.pull for one in moved.recalls)
    # Strength is 1 again, the noise is the same, and a caption's numbers do not depend on the others.
    assert measure_memorization(model, attachment, train, asked=train[1:], **few).recalls == moved.recalls[1:]  # type: ignore[arg-type]
    assert json.loads(json.dumps(moved.to_json()))["worst"] == moved.worst


class Stub:
    """A model that says what it is told to: under a caption of `pictures` that picture, else always the same."""

    def __init__(self, prediction: str, pictures: dict[str, Tensor], *, zero_snr: bool = False) -> None:
        self.prediction, self.device = prediction, torch.device("cpu")
        self.scheduler_config = {"rescale_betas_zero_snr": zero_snr}
        self.facts = SimpleNamespace(latent_channels=4)
        self.pictures, self.strength, self.short = pictures, 1.0, 1.0
        self.asked: list[str] = []

    def set_strength(self, strength: float) -> None:
        self.strength = strength

    def encode_text(self, prompts: list[str], *, size_px: tuple[int, int]) -> Conditioning:
        self.asked += [prompt for prompt in prompts if prompt not in self.asked]
        numbers = [float(self.asked.index(prompt)) for prompt in prompts]
        return Conditioning(torch.tensor(numbers).view(-1, 1, 1))

    def denoise(self, noisy_BCHW: Tensor, t_B: Tensor, cond: Conditioning) -> Tensor:
        a = alphas_cumprod_T(self.scheduler_config)[t_B[0]]
        number = int(cond.tokens_BSD[0, 0, 0])
        learnt = self.pictures.get(self.asked[number]) if self.strength else None
        clean_BCHW = (latents(99) * (1 + 0.1 * number) if learnt is None else learnt).expand_as(noisy_BCHW)
        if self.prediction == "epsilon":
            return self.short * (noisy_BCHW - a.sqrt() * clean_BCHW) / (1 - a).sqrt()
        return (a.sqrt() * noisy_BCHW - clean_BCHW) / (1 - a).sqrt()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_planted_copy_is_found(prediction: str) -> None:
    train = subjects(4)
    stub = Stub(prediction, {train[2].caption: train[2].latents_CHW})
    found = measure_memorization(stub, stub, train)  # type: ignore[arg-type]
    planted = found.recalls[2]
    assert planted.nearest == "picture 2" and planted.cosine > 0.98
    assert found.worst == planted.excess > 0.2 and found.recalled == planted.recalls == 1
    assert {one.excess for one in found.recalls} - {planted.excess} == {0.0}
    assert planted.pull != 0 and {one.pull for one in found.recalls if one is not planted} == {0.0}


def test_an_epsilon_that_is_a_little_short_is_not_taken_for_a_picture_nor_hides_one() -> None:
    """1 % of the noise left over is a seventh of x0-hat of SD1: it must neither look like a picture nor drown one."""
    train = subjects(4)
    stub = Stub("epsilon", {train[2].caption: train[2].latents_CHW})
    exact = measure_memorization(stub, stub, train)  # type: ignore[arg-type]
    stub.short = 0.97
    short = measure_memorization(stub, stub, train)  # type: ignore[arg-type]
    for one, other in zip(exact.recalls, short.recalls, strict=True):
        assert other.nearest == one.nearest and other.cosine == pytest.approx(one.cosine, abs=0.02)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_the_clean_image_is_the_one_that_the_target_was_made_of(prediction: Prediction) -> None:
    noise, clean = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5)), latents(7).expand(3, 4, 8, 8)
    trained, t_B = objective(prediction, {}, "cpu"), torch.full((3,), 600)
    noisy = trained.add_noise(clean, noise, t_B)
    found = without_noise(trained.clean_direction(noisy, trained.target(clean, noise, t_B), t_B), noisy)
    along = (clean * noisy).flatten(1).sum(1) / noisy.pow(2).flatten(1).sum(1)
    wanted = clean - along.view(-1, 1, 1, 1) * noisy
    assert torch.allclose(cosines(found, wanted).diagonal(), torch.ones(3), atol=1e-5)
    assert torch.allclose((found * noisy).flatten(1).sum(1), torch.zeros(3), atol=1e-3)


def test_where_the_noise_is_all_there_is_epsilon_takes_the_step_before() -> None:
    zero = {"rescale_betas_zero_snr": True}
    assert alphas_cumprod_T(zero)[-1] == 0
    assert [objective(kind, zero, "cpu").noisiest for kind in ("v_prediction", "epsilon")] == [999, 998]
    assert objective("epsilon", {}, "cpu").noisiest == 999
    train = subjects(2)
    stub = Stub("v_prediction", {train[0].caption: train[0].latents_CHW}, zero_snr=True)
    assert measure_memorization(stub, stub, train).recalls[0].cosine == pytest.approx(1, abs=0.02)  # type: ignore[arg-type]


def test_pictures_of_another_size_are_not_looked_for() -> None:
    train = subjects(2)
    odd = replace(train[1], latents_CHW=torch.ones(4, 8, 16))
    stub = Stub("epsilon", {train[0].caption: train[0].latents_CHW})
    assert measure_memorization(stub, stub, [train[0], odd], asked=train[:1]).recalls[0].nearest == "picture 0"  # type: ignore[arg-type]


def test_what_an_inpainting_base_is_given_is_no_part_of_the_image() -> None:
    train = subjects(3)
    stub = Stub("epsilon", {train[1].caption: train[1].latents_CHW})
    alone = measure_memorization(stub, stub, train)  # type: ignore[arg-type]
    given = [
        replace(one, latents_CHW=torch.cat([one.latents_CHW, torch.ones(5, *one.latents_CHW.shape[1:])]))
        for one in train
    ]
    assert measure_memorization(stub, stub, given) == alone  # type: ignore[arg-type]
