"""The probe: zero at the base, the same bits for the same state, and numbers that the definition gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from small_methods import attach
from tiny_models import FAMILY_NAMES, bits, shallow
from tsuika.core.seeds import generator
from tsuika.core.types import Attachment
from tsuika.diffusion.objective import alphas_cumprod_T
from tsuika.guard.probe import HIGH, HIGHS, MID, Probe, ProbedImage, controls_for, passes, strata
from tsuika.guard.reading import Ratios, Reading, mean
from tsuika.methods import METHODS


def subjects(count: int, first: int = 0, sizes: Sequence[int] = (8,), channels: int = 4) -> list[ProbedImage]:
    return [
        ProbedImage(
            f"{i:064x}", latents(i, sizes[i % len(sizes)], channels), f"a zuzu {'cat' if i % 2 else 'dog'}", (64, 64)
        )
        for i in range(first, first + count)
    ]


def latents(number: int, side: int, channels: int = 4) -> Tensor:
    return torch.randn(channels, 8, side, generator=torch.Generator().manual_seed(number))


def move(attachment: Attachment, by: float, seed: int = 1) -> None:
    """As if something had been learnt."""
    source = torch.Generator().manual_seed(seed)
    state = attachment.tensors()
    attachment.load(
        {name: value + by * torch.randn(value.shape, generator=source).to(value.dtype) for name, value in state.items()}
    )


def test_drift_is_a_share_of_what_lies_between_two_prompts_in_the_base() -> None:
    """By the definition, from the model's own answers at the probe's draws; two prompts that say the same lie nowhere."""
    model = shallow("sd1")
    attachment = attach(model, "lora")
    attachment.set_strength(1)
    prompts = ("a photo of a dog", "a city at night")
    probe = Probe(model, attachment, subjects(1), (), controls=prompts, own=prompts)
    draws = probe._controls

    def answers(texts: Sequence[str]) -> list[Tensor]:
        with torch.no_grad():
            rows = [
                (one.noisy_CHW[None], torch.tensor([one.t]), model.encode_text([text], size_px=one.size_px))
                for one, text in zip(draws, texts, strict=True)
            ]
            return [model.denoise(noisy, t, cond).float()[0] for noisy, t, cond in rows]

    def square(left: list[Tensor], right: list[Tensor]) -> float:
        return sum(float((a - b).pow(2).mean()) for a, b in zip(left, right, strict=True))

    attachment.set_strength(0)
    own, other = answers(prompts), answers(prompts[::-1])
    attachment.set_strength(1)
    move(attachment, 0.3)
    reading = probe.measure(train=False)
    assert reading.drift == pytest.approx(square(answers(prompts), own) / square(other, own), rel=1e-3)
    assert reading.own_drift == reading.drift
    same = Probe(model, attachment, subjects(1), (), controls=prompts[:1] * 2).measure(train=False)
    assert same.drift is None


@pytest.mark.parametrize(
    ("method", "family"), [*((method, "sd1") for method in METHODS), *(("lora", name) for name in FAMILY_NAMES[1:])]
)
def test_every_method_is_zero_at_the_base_and_moves_with_its_weights(method: str, family: str) -> None:
    model = shallow(family)
    attachment = attach(model, method)
    channels = model.facts.latent_channels
    probed = subjects(2, channels=channels), subjects(2, 10, channels=channels)
    probe = Probe(model, attachment, *probed, controls=("a cat", "a dog"))
    first = probe.measure()
    before = bits(model)
    if METHODS[method].adds_words:  # its word is new text to the base, so that it differs before any step
        assert first.drift == 0.0
    else:
        assert first == Reading(Ratios(zeros(2, 6), zeros(2, 2)), Ratios(zeros(2, 6), zeros(2, 2)), 0.0, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in bits(model).items())
    move(attachment, 0.1)
    moved = probe.measure()
    assert moved.held_out != first.held_out and moved.train != first.train and moved.held_out.finite
    assert (moved.drift == 0.0) == METHODS[method].adds_words and moved.own_drift
    assert probe.measure() == moved


def zeros(rows: int, columns: int) -> tuple[tuple[float, ...], ...]:
    return ((0.0,) * columns,) * rows


@pytest.mark.parametrize("method", METHODS)
def test_the_same_state_in_a_fresh_process_gives_the_same_bits(method: str) -> None:
    readings = []
    for _ in range(2):
        torch.manual_seed(len(readings))  # global random state has no part in it
        model = shallow("sd1")
        attachment = attach(model, method)
        probe = Probe(model, attachment, subjects(2, sizes=(8, 16)), subjects(2, 10), controls=("a cat", "a dog"))
        move(attachment, 0.05)
        readings.append(probe.measure())
    assert readings[0] == readings[1]


def test_a_probe_built_late_is_the_probe_built_early() -> None:
    """As on resume: the base is measured with the trained weights there, at strength 0."""
    for method in METHODS:
        model = shallow("sd1")
        attachment = attach(model, method)
        early = Probe(model, attachment, subjects(1), subjects(1, 10), controls=("a cat",))
        move(attachment, 0.1)
        state = {name: value.clone() for name, value in attachment.tensors().items()}
        late = Probe(model, attachment, subjects(1), subjects(1, 10), controls=("a cat",))
        assert late.measure() == early.measure()
        assert all(torch.equal(value, state[name]) for name, value in attachment.tensors().items())


@pytest.mark.parametrize(("family", "masked"), [("sd1", False), ("sd2", False), ("sd1", True)])
def test_numbers_are_those_of_the_definition(family: str, masked: bool) -> None:
    """Loss of one draw after another, computed from the formulas of the forward process."""
    model = shallow(family)
    attachment = attach(model, "lora")
    mask_1HW = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(7)) if masked else None
    subject, whole = replace(subjects(1)[0], mask_1HW=mask_1HW), subjects(1, 20)
    probe = Probe(model, attachment, [subject, *whole], [], controls=())
    move(attachment, 0.3)
    found = probe.measure().held_out

    def losses() -> list[float]:
        cond = model.encode_text([subject.caption], size_px=subject.size_px)
        rows = []
        for t in (*MID, *HIGH):
            a = float(alphas_cumprod_T(model.scheduler_config)[t])
            noise = torch.randn(1, 4, 8, 8, generator=generator(0, f"guard/{subject.key}", t))
            clean = subject.latents_CHW[None]
            with torch.no_grad():
                said = model.denoise(math.sqrt(a) * clean + math.sqrt(1 - a) * noise, torch.tensor([t]), cond)
            v = math.sqrt(a) * noise - math.sqrt(1 - a) * clean
            error = (said - (noise if model.prediction == "epsilon" else v)).pow(2)
            rows.append(float((error if mask_1HW is None else error * mask_1HW).mean()))
        return rows

    now = losses()
    attachment.set_strength(0)
    expected = [math.log(one / base) for one, base in zip(now, losses())]
    assert [*found.mid[0], *found.high[0]] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_noise_belongs_to_the_content_and_not_to_the_place() -> None:
    model = shallow("sd1")
    attachment = attach(model, "lora")
    some = subjects(4)
    forward = Probe(model, attachment, some, [], controls=(), chunk=8)
    backward = Probe(model, attachment, some[::-1], [], controls=(), chunk=8)
    move(attachment, 0.3)
    one, other = forward.measure().held_out, backward.measure().held_out
    assert one.mid == other.mid[::-1] and one.high == other.high[::-1]
    assert len(set(one.mid)) == 4


def test_the_size_of_a_chunk_changes_only_the_last_bits() -> None:
    model = shallow("sd1")
    attachment = attach(model, "lora")
    whole, small = (Probe(model, attachment, subjects(3), [], controls=(), chunk=n) for n in (64, 5))
    move(attachment, 0.3)
    assert mean(whole.measure().held_out.mid) == pytest.approx(mean(small.measure().held_out.mid), abs=1e-5)


def test_training_on_the_held_out_pictures_shows() -> None:
    """A model that is moved towards a picture's own answers gets better on it."""
    model = shallow("sd1")
    attachment = attach(model, "lora")
    subject = subjects(1)[0]
    probe = Probe(model, attachment, [subject], [], controls=())
    params = [param for group in attachment.param_groups() for param in group.params]
    optimizer = torch.optim.Adam(params, lr=1e-2)
    alphas = alphas_cumprod_T(model.scheduler_config)
    cond = model.encode_text([subject.caption], size_px=(64, 64))
    source = torch.Generator().manual_seed(0)
    for _ in range(12):
        t_B = torch.randint(50, 700, (4,), generator=source)
        noise = torch.randn(4, 4, 8, 8, generator=source)
        a = alphas[t_B].view(-1, 1, 1, 1)
        rows = type(cond).join([cond] * 4)
        error = model.denoise(a.sqrt() * subject.latents_CHW + (1 - a).sqrt() * noise, t_B, rows) - noise
        optimizer.zero_grad()
        error.pow(2).mean().backward()
        optimizer.step()
    assert mean(probe.measure().held_out.mid) < -0.01


def test_what_is_not_asked_for_is_not_measured() -> None:
    model = shallow("sd1")
    attachment = attach(model, "lora")
    probe = Probe(model, attachment, subjects(1), subjects(1, 5))
    assert probe.draws == 8 + 8 + 8 + 1
    reading = probe.measure(train=False, drift=False)
    assert len(reading.train) == 0 and reading.drift is None
    alone = Probe(model, attachment, [], subjects(2), controls=()).measure()
    assert len(alone.held_out) == 0 and len(alone.train) == 2 and alone.drift is None
    with pytest.raises(ValueError, match="at least one"):
        Probe(model, attachment, [], [])


def test_a_broken_model_gives_a_reading_that_is_not_finite() -> None:
    model = shallow("sd1")
    attachment = attach(model, "lora")
    probe = Probe(model, attachment, subjects(1), [], controls=())
    attachment.load({name: torch.full_like(value, math.nan) for name, value in attachment.tensors().items()})
    assert not probe.measure().held_out.finite


def test_prompts_that_name_the_class_are_no_controls() -> None:
    assert len(controls_for("")) == 8
    assert all("dog" not in text.split() for text in controls_for("Dog")) and len(controls_for("dog")) == 7


def test_some_timesteps_of_each_image_are_those_of_its_place() -> None:
    model = shallow("sd1")
    attachment = attach(model, "lora")
    whole, some = (
        Probe(model, attachment, subjects(5), subjects(2, 10), controls=(), draws=draws, first=first)
        for draws, first in (((6, 6), 0), ((2, 3), 7))
    )
    move(attachment, 0.1)
    every, found = whole.measure(), some.measure()
    assert whole.draws == passes(5, 6) + passes(2, 6) == 56 and some.draws == passes(5, 2) + passes(2, 3) == 21
    for side, draws, first in (("held_out", 2, 7), ("train", 3, 0)):
        all_of, some_of = getattr(every, side), getattr(found, side)
        for place, (row, whole_row) in enumerate(zip(some_of.mid, all_of.mid, strict=True)):
            assert row == pytest.approx([whole_row[i] for i in strata(first + place, draws)], abs=1e-5)
        for place, row in enumerate(some_of.high):
            assert row == pytest.approx([all_of.high[place][(first + place) % 2]], abs=1e-5)
    assert len(found.held_out.high) == HIGHS


@pytest.mark.parametrize("draws", [1, 2, 3, 6])
@pytest.mark.parametrize("first", [0, 4])
def test_images_share_the_timesteps_evenly(draws: int, first: int) -> None:
    """Six passes hold each once, from any place that begins such a round; and what grows with the timestep cancels before."""
    for rounds in (1, 2):
        dealt = [k for place in range(rounds * 6 // draws) for k in strata(place, draws)]
        assert sorted(dealt) == sorted([*range(6)] * rounds)
    assert all(len(set(strata(place, draws))) == draws for place in range(first, first + 12))
    if draws < 3:
        for images in range(2, 14, 2):
            dealt = [k for place in range(first, first + images) for k in strata(place, draws)]
            assert sum(dealt) / len(dealt) == 2.5
