"""The loop: it learns, says what it does, stops at numbers that are not finite, and goes on to the same bits."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor

from tiny_models import picture_batch, shallow
from tsuika.config import Recipe
from tsuika.core.errors import DivergedError, RecipeError
from tsuika.core.events import Stepped
from tsuika.core.sections import Train
from tsuika.core.seeds import generator
from tsuika.core.types import Batch
from tsuika.diffusion.losses import errors, thresholds
from tsuika.diffusion.objective import add_noise, alphas_cumprod_T, min_snr_weight, target
from tsuika.generation.encode import encode
from tsuika.methods.lora import Lora
from tsuika.methods.lora import layers as lora
from tsuika.training import checkpoint, loop, optim
from tsuika.training import trainer as trainers
from tsuika.training.fit import Fit, update_ema
from tsuika.training.loop import conditioner, draw, fit, perturbed
from tsuika.training.preparation import accelerate_for
from tsuika.training.schedule import Schedule
from tsuika.training.trainer import Trainer

SIZE = (64, 64)


def recipe(method: Lora | None = None, **train: Any) -> Recipe:
    settings = {"steps": 6, "batch_size": 2, "learning_rate": 1e-3, "precision": "fp32", "device": "cpu", **train}
    return Recipe(method=method or Lora(rank=2), train=Train(**settings))


def start(
    what: Recipe, *, family: str = "sd1", batch: Callable[[int], Batch] | None = None, schedule: Schedule | None = None
) -> Fit:
    model = shallow(family)
    attachment = lora.attach(model, what.method, generator(what.train.seed, "init"))
    source = batch or (lambda number: picture_batch(number, what.train.batch_size))
    condition = conditioner(model, attachment, lambda _: SIZE)
    return Fit(model, attachment, what, accelerate_for(what), source, condition, schedule)


def weights(run: Fit) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.attachment.tensors().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(run: Fit) -> list[float]:
    return [event.loss for event in fit(run) if isinstance(event, Stepped)]


def micro_loss(run: Fit, number: int) -> Tensor:
    """The loss of a micro-batch, from the formulas."""
    train, batch = run.recipe.train, run.batch(number)
    t_B, noise_BCHW = draw(train, number, batch.latents_BCHW, run.objective)
    a_B = alphas_cumprod_T(run.model.scheduler_config)[t_B]
    noisy = add_noise(batch.latents_BCHW, noise_BCHW, a_B)
    output = run.model.denoise(noisy, t_B, run.model.encode_text(batch.captions, size_px=SIZE))
    error_B = (output - target(run.model.prediction, batch.latents_BCHW, noise_BCHW, a_B)).pow(2).mean((1, 2, 3))
    return (error_B * min_snr_weight(run.model.prediction, a_B, train.min_snr_gamma) * batch.weight_B).mean()


def test_it_learns_and_says_so() -> None:
    run = start(recipe(steps=25, learning_rate=1e-2, batch_size=4, clip_norm=1.0, ema=0.0))
    with torch.no_grad():
        before = sum(float(micro_loss(run, number)) for number in range(1000, 1004))
    events = [event for event in fit(run) if isinstance(event, Stepped)]
    with torch.no_grad():
        after = sum(float(micro_loss(run, number)) for number in range(1000, 1004))
    assert after < 0.9 * before
    assert [event.step for event in events] == list(range(1, 26))
    assert all(event.loss > 0 and event.grad_norm > 0 and event.seconds > 0 for event in events)
    rates = [event.learning_rate for event in events]
    assert rates == [1e-2 * Schedule.of(run.recipe.train).share(step) for step in range(25)]


def test_loss_noise_and_timesteps_are_the_recipes() -> None:
    more = {"loss": "huber", "multires_noise": 3, "min_timestep": 300, "max_timestep": 600, "timesteps": "logit-normal"}
    run = start(recipe(steps=1, min_snr_gamma=0, **more))
    batch, train = run.batch(0), run.recipe.train
    t_B, noise = draw(train, 0, batch.latents_BCHW, run.objective)
    assert 300 <= t_B.min() <= t_B.max() < 600
    assert not torch.equal(noise, draw(recipe().train, 0, batch.latents_BCHW, run.objective)[1])
    with torch.no_grad():
        clean = batch.latents_BCHW
        output = run.model.denoise(
            run.objective.add_noise(clean, noise, t_B), t_B, run.model.encode_text(batch.captions)
        )
        c = thresholds(run.objective, "snr", 0.1, t_B)
        wanted = errors("huber", output, noise, c).mean()
    assert losses(run) == [pytest.approx(float(wanted), rel=1e-5)]


def test_perturbed_input_has_more_noise_than_its_target() -> None:
    """Ning et al. 2023, algorithm 1: x = sqrt(a) x0 + sqrt(1 - a) (noise + gamma xi), and the target stays the noise."""
    run = start(recipe(steps=1, min_snr_gamma=0, ip_noise_gamma=0.5))
    batch, train = run.batch(0), run.recipe.train
    t_B, noise = draw(train, 0, batch.latents_BCHW, run.objective)
    assert torch.equal(noise, draw(recipe().train, 0, batch.latents_BCHW, run.objective)[1])
    many = torch.randn(4, 4, 64, 64, generator=generator(1, "test"))
    xi = (perturbed(train, 3, many) - many) / 0.5
    assert abs(float(xi.std()) - 1) < 0.02 and abs(float((xi * many).mean())) < 0.02
    assert not torch.equal(perturbed(train, 4, many), perturbed(train, 3, many))
    assert perturbed(recipe().train, 3, many) is many
    with torch.no_grad():
        a = alphas_cumprod_T(run.model.scheduler_config)[t_B.cpu()].view(-1, 1, 1, 1).to(noise.device)
        noisy = a.sqrt() * batch.latents_BCHW + (1 - a).sqrt() * perturbed(train, 0, noise)
        output = run.model.denoise(noisy, t_B, run.model.encode_text(batch.captions))
        wanted = (output - noise).pow(2).mean()
    assert losses(run) == [pytest.approx(float(wanted), rel=1e-5)]


def test_going_on_from_weights_falls_to_nothing_and_forgets_the_optimizer() -> None:
    first = start(recipe(steps=12, learning_rate=1e-2, ema=0.9, schedule="constant"))
    for _ in fit(first):
        pass
    with first.written_weights():
        weights = {name: value.clone() for name, value in first.attachment.tensors().items()}
    what = recipe(steps=12, learning_rate=1e-2, ema=0.9, schedule="linear", warmup=0.0)
    again = start(what, schedule=Schedule.falling(what.train, 12, 20))
    again.start_from(weights)
    assert all(torch.equal(value, weights[name]) for name, value in again.attachment.tensors().items())
    assert all(torch.equal(value, weights[name]) for name, value in again.average.items())
    assert not again.optimizer.state_dict()["state"]
    events = list(fit(again))
    assert [event.step for event in events] == list(range(13, 21))
    rates = [event.learning_rate for event in events]
    assert rates[0] == 1e-2 and rates == sorted(rates, reverse=True) and 0 < rates[-1] < 2e-3


def reference(schedule: str, warmup: int, steps: int) -> list[float]:
    """The shares of diffusers' schedule of that name; it begins its warm-up at nought, ours one step up."""
    makers = {
        "cosine": get_cosine_schedule_with_warmup,
        "linear": get_linear_schedule_with_warmup,
        "constant": lambda optimizer, warmup, _steps: get_constant_schedule_with_warmup(optimizer, warmup),
    }
    theirs = makers[schedule](torch.optim.SGD([torch.zeros(1)], lr=1.0), warmup, steps).lr_lambdas[0]
    return [theirs(min(step + 1, warmup) if step < warmup else step) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_steady_rate_does_not_fall_before_what_comes_after_it(schedule: Any) -> None:
    train = Train(steps=40, schedule=schedule, warmup=0.1)
    steady, falling = Schedule.steady(train), Schedule.falling(train, 20, 30)
    assert [steady.share(step) for step in range(4, 40)] == [1.0] * 36 and steady.share(1) == 0.5
    assert Schedule.steady(train, 7).share(1) == 0.5, "the warm-up is the recipe's, wherever it ends"
    assert [falling.share(step) for step in range(20, 30)] == pytest.approx(reference(schedule, 1, 10))
    assert steady.total == falling.total == pytest.approx(sum(map(steady.share, range(40))))


def test_a_step_is_the_mean_over_its_batches() -> None:
    """`accumulate` = 2: the gradient and the loss are the means over micro-batches 2n and 2n + 1."""
    run = start(recipe(steps=1, accumulate=2, clip_norm=0))
    expected = (micro_loss(run, 0) + micro_loss(run, 1)) / 2
    wanted = torch.autograd.grad(expected, run.params)
    (event,) = fit(run)
    assert isinstance(event, Stepped)
    assert event.loss == pytest.approx(float(expected), rel=1e-5)
    for param, gradient in zip(run.params, wanted, strict=True):
        assert param.grad is not None
        torch.testing.assert_close(param.grad, gradient, rtol=1e-4, atol=1e-7)
    norm = torch.stack([gradient.norm() for gradient in wanted]).norm()
    assert event.grad_norm == pytest.approx(float(norm), rel=1e-4)


class Elsewhere:
    """An objective whose target is another one in the right half."""

    def __init__(self, objective: Any, by: float) -> None:
        self._objective, self._by = objective, by

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def target(self, *arguments: Tensor) -> Tensor:
        found: Tensor = self._objective.target(*arguments).clone()
        found[..., 4:] += self._by
        return found


def test_what_a_mask_leaves_out_is_not_learned() -> None:
    """Whatever stands there: neither loss nor gradient know it; a mask of ones is none, to the bit."""
    mask_B1HW = torch.zeros(2, 1, 8, 8)
    mask_B1HW[..., :4] = 1

    def gradients(mask: Tensor | None, change: float) -> tuple[float, list[Tensor]]:
        def batch(number: int) -> Batch:
            return replace(picture_batch(number, 2), mask_B1HW=mask)

        run = start(recipe(steps=1, clip_norm=0), batch=batch)
        run.objective = cast(Any, Elsewhere(run.objective, change))
        (event,) = fit(run)
        return event.loss, [param.grad for param in run.params if param.grad is not None]

    plain, ones = gradients(None, 0.0), gradients(torch.ones(2, 1, 8, 8), 0.0)
    assert plain[0] == ones[0] and all(map(torch.equal, plain[1], ones[1]))
    masked, changed = gradients(mask_B1HW, 0.0), gradients(mask_B1HW, 9.0)
    assert masked[0] == changed[0] and all(map(torch.equal, masked[1], changed[1]))
    assert 0 < masked[0] < plain[0]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("sd2", {"min_snr_gamma": 5.0, "noise_offset": 0.1, "schedule": "linear"}),
        ("sdxl", {"min_snr_gamma": 0.0, "clip_norm": 0.0, "ema": 0.0, "schedule": "constant", "warmup": 0.5}),
        ("sd1", {"accumulate": 2, "weight_decay": 0.1, "batch_size": 3}),
    ],
)
def test_settings_run(family: str, settings: dict[str, Any]) -> None:
    assert all(loss == loss and loss > 0 for loss in losses(start(recipe(steps=2, **settings), family=family)))


def test_the_average_follows_and_is_lent_for_a_while() -> None:
    run = start(recipe(steps=4, ema=0.5, learning_rate=1e-2))
    expected = weights(run)
    for event in fit(run):
        assert isinstance(event, Stepped)
        decay = min(0.5, (1 + event.step) / (10 + event.step))
        now = run.attachment.tensors()
        expected = {name: decay * value + (1 - decay) * now[name] for name, value in expected.items()}
    for name, value in run.average.items():
        torch.testing.assert_close(value, expected[name])
    live, average = weights(run), {name: value.clone() for name, value in run.average.items()}
    assert not same(live, average)
    with run.written_weights():
        assert same(weights(run), average)
    assert same(weights(run), live)
    assert same(run.average, average)


def test_nothing_drops_out_of_what_is_written() -> None:
    run = start(recipe(Lora(rank=2, dropout=0.5), steps=1))
    list(fit(run))
    modes = [module.training for module in run.model.unet.modules()]
    batch = picture_batch(0)

    def said() -> Tensor:
        with torch.no_grad():
            return run.model.denoise(batch.latents_BCHW, torch.tensor([500, 500]), run.condition(batch))

    assert not torch.equal(said(), said())
    with run.written_weights():
        assert torch.equal(said(), said())
    assert [module.training for module in run.model.unet.modules()] == modes


def test_an_average_of_bfloat16_weights_gets_there() -> None:
    """A tenth of a small change is below bfloat16's gap: an average in bfloat16 would stand still."""
    following = 1 + 2**-7
    average, live = {"x": torch.ones(3)}, {"x": torch.full((3,), following, dtype=torch.bfloat16)}
    for _ in range(120):
        update_ema(average, live, 0.9)
    assert torch.allclose(average["x"], torch.tensor(following), atol=1e-4)


def test_a_fit_that_is_over_leaves_no_weights_behind() -> None:
    """Neither in Accelerate, which holds what it has prepared, nor as gradients that the next one would clip."""
    run = start(recipe(steps=1))
    list(fit(run))
    param, gradient = (weakref.ref(one) for one in (run.params[0], run.params[0].grad))
    assert param() is not None and gradient() is not None
    accelerator = run.accelerator
    run.discard()
    del run
    gc.collect()
    assert param() is None and gradient() is None
    assert accelerator is not None


def test_half_a_step_is_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl+C comes at any moment, also between the optimizer's step and its count."""
    run = start(recipe(steps=8, checkpoint_every=3))
    trainer = Trainer(run, tmp_path)

    def interrupted(step: int, *_: Any) -> None:
        if step == 4:
            raise SystemExit(130)

    monkeypatch.setattr(run.penalties, "apply", interrupted)
    with pytest.raises(SystemExit):
        list(trainer.train())
    assert checkpoint.steps(tmp_path) == {3} and run.step == 4


def test_states_by_the_clock_and_the_last_without_the_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gives no number of steps has a state every two minutes, and less often where saving takes long."""
    clock = [0.0]

    def slow(run: Fit) -> Iterator[Stepped]:
        for event in fit(run):
            clock[0] += 50
            yield event

    monkeypatch.setattr(trainers, "fit", slow)
    monkeypatch.setattr(trainers.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(trainers, "_LEAST_SHARE", 4)
    run = start(recipe(steps=12))
    saved: list[int] = []

    def save(_folder: Path, state: checkpoint.State) -> Path:
        saved.append(state.step)
        clock[0] += 50
        assert bool(state.optimizer) == (state.step < 12)
        return tmp_path

    monkeypatch.setattr(trainers.checkpoint, "save", save)
    list(Trainer(run, tmp_path).train())
    # After 120 s at least, then, as saving took 50 s, after 4 times that.
    assert saved == [3, 7, 11, 12]
    again = start(recipe(steps=12))
    again.restore(run.state())
    assert not losses(again) and same(weights(again), weights(run))


PACKAGES = {"prodigy": "prodigyopt", "schedule-free": "schedulefree"}


@pytest.mark.parametrize("optimizer", ["adamw", "prodigy", "schedule-free"])
def test_goes_on_to_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    """With dropout, an average, text encoders, and a look at the written weights in between."""
    if optimizer in PACKAGES:
        pytest.importorskip(PACKAGES[optimizer])
    method = Lora(rank=2, dropout=0.3, text_encoder=optimizer == "adamw")
    rate = 1.0 if optimizer == "prodigy" else 1e-2
    what = recipe(method, steps=4, optimizer=optimizer, learning_rate=rate, ema=0.9, warmup=0.3)
    whole = start(what)
    list(fit(whole))

    first = start(what)
    events = fit(first)
    next(events)
    next(events)
    with first.written_weights():
        looked = weights(first)
    assert not same(looked, weights(first))
    next(events)
    events.close()  # type: ignore[attr-defined]
    with first.written_weights():
        looked = weights(first)
    checkpoint.save(tmp_path, first.state())

    second = start(what)
    state, _damaged = checkpoint.newest(tmp_path)
    assert state is not None and same(state.average, looked), "who looks at saved states sees what would be written"
    second.restore(state)
    assert [event.step for event in fit(second) if isinstance(event, Stepped)] == [4]
    assert same(weights(whole), weights(second))
    with whole.written_weights(), second.written_weights():
        assert same(weights(whole), weights(second))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_numbers_that_are_not_finite_end_the_run_and_harm_nothing(accumulate: int) -> None:
    def poisoned(number: int) -> Batch:
        batch = picture_batch(number)
        if number == 2 * accumulate - 1:  # the second step's last: 2.png and 3.png
            batch.latents_BCHW[[i for i, name in enumerate(batch.names) if name == "2.png"]] = torch.nan
        return batch

    run = start(recipe(accumulate=accumulate), batch=poisoned)
    events = fit(run)
    next(events)
    good, average = weights(run), {name: value.clone() for name, value in run.average.items()}
    with pytest.raises(DivergedError) as caught:
        next(events)
    assert (caught.value.code, caught.value.exit_status) == ("TR001", 6)
    assert "2.png" in str(caught.value)
    assert "3.png" not in str(caught.value)
    assert run.step == 1
    assert same(weights(run), good)
    assert same(run.average, average)


def test_gradient_checkpointing_changes_only_the_memory() -> None:
    plain = start(recipe(Lora(rank=2, dropout=0.2), steps=3))
    saving = start(recipe(Lora(rank=2, dropout=0.2), steps=3))
    unet: Any = saving.model.unet
    unet.enable_gradient_checkpointing()
    unet.train()
    assert losses(saving) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.parametrize("text", [False, True])
def test_captions_are_encoded_once_unless_a_text_encoder_trains(text: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(recipe(Lora(rank=2, text_encoder=text), steps=3, accumulate=2))
    asked: list[str] = []
    real = run.model.encode_text

    def counting(prompts: Any, **more: Any) -> Any:
        asked.extend(prompts)
        return real(prompts, **more)

    monkeypatch.setattr(run.model, "encode_text", counting)
    list(fit(run))
    seen = [caption for number in range(6) for caption in run.batch(number).captions]
    assert sorted(asked) == sorted(seen if text else set(seen))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("text", [False, True])
def test_long_captions_are_trained_as_prompts_are_drawn(family: str, text: bool) -> None:
    run = start(recipe(Lora(rank=2, text_encoder=text)), family=family)
    captions = ("a cat", "a cat on a mat, " * 8 + "and a dog")
    latents, weight = torch.zeros(2, 4, 8, 8), torch.ones(2)
    both = run.condition(Batch(latents, captions, ("0", "1"), weight))
    drawn = [encode(run.model, caption, size_px=SIZE) for caption in captions]
    assert drawn[1].tokens_BSD.shape[1] > drawn[0].tokens_BSD.shape[1]
    assert torch.equal(both.tokens_BSD[1:], drawn[1].tokens_BSD)
    assert torch.equal(both.tokens_BSD[:1, : drawn[0].tokens_BSD.shape[1]], drawn[0].tokens_BSD)
    if family == "sdxl":
        assert torch.equal(both.pooled_BP[1:], drawn[1].pooled_BP)


@pytest.mark.parametrize("by_size", [False, True])
def test_only_the_latest_captions_are_held(by_size: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With shuffled tags every caption is a new one. One of SD3 is as large as twenty of SDXL."""
    model = shallow("sd1")
    each = model.encode_text(["a cat"]).tokens_BSD.nbytes
    monkeypatch.setattr(loop, *(("CAPTION_BYTES", 2 * each) if by_size else ("CAPTIONS", 2)))
    condition = conditioner(model, lora.attach(model, Lora(rank=1), generator(0, "init")), lambda _: SIZE)
    asked: list[str] = []
    real = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda texts, **more: asked.extend(texts) or real(texts, **more))
    for captions in (("a cat", "a dog"), ("a cat", "a fox"), ("a cat", "a dog"), ("a fox", "a dog")):
        both = condition(picture_batch(0, captions=captions))
        for row, caption in enumerate(captions):
            assert torch.equal(both.tokens_BSD[row], real([caption], size_px=SIZE).tokens_BSD[0])
    assert asked == ["a cat", "a dog", "a fox", "a dog", "a fox"]


# ------------------------------------------------------------------------------------------------------------- optim


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_and_falls(schedule: Any) -> None:
    train = Train(steps=100, warmup=0.2, schedule=schedule)
    assert [Schedule.of(train).share(step) for step in range(100)] == pytest.approx(reference(schedule, 20, 100))
    assert Schedule.of(train).total == pytest.approx(sum(reference(schedule, 20, 100)))


def test_text_encoders_learn_at_a_tenth_or_at_their_own_rate() -> None:
    model = shallow("sd1")
    for own, expected in ((0.0, 1e-4), (3e-5, 3e-5)):
        attachment = lora.attach(model, Lora(rank=1, text_encoder=True, text_learning_rate=own), generator(0, "init"))
        groups = optim.build(Train(learning_rate=1e-3), attachment.param_groups()).param_groups
        assert {group["name"]: group["lr"] for group in groups} == {"unet": 1e-3, "text": pytest.approx(expected)}
        attachment.detach()


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_lora_plus_raises_what_peft_raises(adapter: Any) -> None:
    model = shallow("sd1")
    attachment = lora.attach(model, Lora(rank=1, adapter=adapter, lora_plus_ratio=16), generator(0, "init"))
    ours = optim.build(Train(learning_rate=1e-3), attachment.param_groups())
    theirs = create_loraplus_optimizer(model.unet, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    rates = [{id(p): g["lr"] for g in one.param_groups for p in g["params"]} for one in (ours, theirs)]
    assert rates[0] == pytest.approx(rates[1]) and {*rates[0].values()} == {1e-3, 16e-3}
    with pytest.raises(RecipeError, match="lora_plus_ratio"):
        lora.attach(model, Lora(rank=1, adapter="lokr", lora_plus_ratio=2), generator(0, "init"))


def test_the_second_text_encoder_may_have_a_rate_of_its_own() -> None:
    model = shallow("sdxl")
    for more, second in (({}, 3e-5), ({"text_learning_rate_2": 5e-6}, 5e-6)):
        what = Lora(rank=1, targets=r".*(attn1|self_attn)\..*", text_encoder=True, text_learning_rate=3e-5, **more)
        attachment = lora.attach(model, what, generator(0, "init"))
        rates = {
            id(param): group["lr"]
            for group in optim.build(Train(learning_rate=1e-3), attachment.param_groups()).param_groups
            for param in group["params"]
        }
        wanted = {"unet": 1e-3, "text_encoder": 3e-5, "text_encoder_2": second}
        for slot in attachment.slots:
            assert {rates[id(param)] for _part, param in attachment._parameters(slot)} == {wanted[slot.component]}
        attachment.detach()
    with pytest.raises(RecipeError, match="text_learning_rate_2"):
        lora.attach(shallow("sd1"), Lora(rank=1, text_learning_rate_2=1e-5), generator(0, "init"))


def test_prodigy_has_one_rate() -> None:
    pytest.importorskip("prodigyopt")
    model = shallow("sd1")
    train = Train(optimizer="prodigy", learning_rate=1.0)
    attachment = lora.attach(model, Lora(rank=1, text_encoder=True), generator(0, "init"))
    assert {group["lr"] for group in optim.build(train, attachment.param_groups()).param_groups} == {1.0}
    attachment.text_rates = (0.5, 0.5)
    with pytest.raises(RecipeError, match="text_learning_rate"):
        optim.build(train, attachment.param_groups())
