"""Regularization of every method: stronger is smaller, without end it is the base, and off it is not there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import small_methods
from tiny_models import outputs, picture_batch, shallow, tiny
from tsuika import config
from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.events import Warned
from tsuika.core.seeds import generator
from tsuika.core.types import Attachment, ParamGroup, Update
from tsuika.guard.judge import LOOK, WHOLE
from tsuika.methods import METHODS
from tsuika.training import optim
from tsuika.training.fit import Fit
from tsuika.training.loop import conditioner, fit
from tsuika.training.penalties import Penalties
from tsuika.training.preparation import accelerate_for
from tsuika.training.schedule import Schedule

# No setting may be infinite; this leaves nothing of a change in float32.
ENDLESS = 1e30
ASKED = ("a zuzu cat", "zuzu")
STEPS = 3


def recipe(method: str, regularize: dict[str, float], **keys: Any) -> Recipe:
    own = {"train.steps": STEPS, "train.ema": 0.0, "train.weight_decay": 0.0}
    ranked = {"method.rank": 4} if method == "lora" else {}
    strengths = {f"regularize.{name}": strength for name, strength in regularize.items()}
    return small_methods.recipe(method, **{**own, **ranked, **strengths, **keys})


def attach(model: Any, what: Recipe) -> Attachment:
    made: Attachment = METHODS[what.method.name].attach(model, what.method, generator(0, "init"))
    return made


def train(attachment: Attachment, what: Recipe, loss: Callable[[], Tensor]) -> None:
    """The recipe's optimizer and schedule, and the penalties after each of its steps."""
    groups = attachment.param_groups()
    schedule = Schedule.of(what.train)
    penalties, optimizer = Penalties(what, attachment, schedule.total), optim.build(what.train, groups)
    for step in range(what.train.steps):
        share = schedule.share(step)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * share
        optimizer.zero_grad()
        torch.autograd.backward(loss())
        optimizer.step()
        penalties.apply(step, share, optimizer.param_groups)


def learn(model: Any, attachment: Attachment, what: Recipe) -> None:
    batch, t_B = picture_batch(0, 2), torch.tensor([50, 550])
    wanted = torch.randn(batch.latents_BCHW.shape, generator=torch.Generator().manual_seed(5))

    def loss() -> Tensor:
        said: Tensor = model.denoise(batch.latents_BCHW, t_B, model.encode_text(ASKED))
        return (said - wanted).pow(2).mean()

    train(attachment, what, loss)


@dataclass(frozen=True)
class Outcome:
    """A short training of a tiny model."""

    said: Tensor  # by the trained model
    tensors: dict[str, Tensor]
    changes: list[Tensor]  # what was learnt, place by place, worked out without what the penalties are told

    @property
    def size(self) -> float:
        return math.hypot(*(float(one.norm()) for one in self.changes))


Keys = tuple[tuple[str, Any], ...]


@cache
def attached(method: str, family: str, keys: Keys) -> tuple[Any, Attachment, dict[str, Tensor], Tensor]:
    """A model, what is attached to it, how that begins, and what the model then says: the base, for any method."""
    # Where few of a whole model's weights come back to the base, more than a shallow one has are to be counted.
    model = (tiny if method == "dreambooth" else shallow)(family)
    attachment = attach(model, recipe(method, {}, **dict(keys)))
    start = {name: value.clone() for name, value in attachment.tensors().items()}
    return model, attachment, start, outputs(model, ASKED)


def untrained(method: str, family: str = "sd1", *, keys: Keys = ()) -> Outcome:
    *_, start, said = attached(method, family, keys)
    return Outcome(said, start, [])


@cache
def trained(method: str, family: str = "sd1", *, keys: Keys = (), **regularize: float) -> Outcome:
    """Runs are asked for again by other tests, so they are kept."""
    model, attachment, start, _ = attached(method, family, keys)
    attachment.load(start)
    learn(model, attachment, recipe(method, regularize, **dict(keys)))
    tensors = {name: value.clone() for name, value in attachment.tensors().items()}
    return Outcome(outputs(model, ASKED), tensors, changes(method, model, attachment))


def changes(method: str, model: Any, attachment: Any) -> list[Tensor]:
    tensors = {name: value.float() for name, value in attachment.artifact().tensors.items()}
    if method == "lora":
        layers = [name.removesuffix(".lora_up.weight") for name in tensors if name.endswith(".lora_up.weight")]
        parts = [[tensors[f"{n}.{p}"] for p in ("lora_up.weight", "lora_down.weight", "alpha")] for n in layers]
        return [float(alpha) / len(down) * up.flatten(1) @ down.flatten(1) for up, down, alpha in parts]
    if method == "dreambooth":
        return [slot.trained.detach().float() - slot.base.detach().float() for slot in attachment.slots]
    if method == "textual-inversion":
        start = untrained(method, model.facts.family).tensors
        return [value - start[name] for name, value in tensors.items()]
    if method != "hypernetwork":
        return [outputs(model, ASKED) - untrained(method, model.facts.family).said]
    draw = torch.Generator().manual_seed(9)
    return [net(torch.randn(16, width, generator=draw)).detach() for (width, _), net in attachment.nets.items()]


CASES = [*((method, "sd1") for method in METHODS), ("lora", "sdxl"), ("textual-inversion", "sdxl")]


@pytest.mark.parametrize(("method", "family"), CASES, ids=["-".join(case) for case in CASES])
def test_more_l2_is_less_change_and_without_end_the_base(method: str, family: str) -> None:
    free, some, all_of_it = (trained(method, family, l2=strength) for strength in (0.0, 3.0, ENDLESS))
    assert free.size > 1.2 * some.size > 0
    assert all_of_it.size <= 1e-6
    torch.testing.assert_close(all_of_it.said, untrained(method, family).said, rtol=0, atol=1e-5)
    assert not torch.allclose(free.said, untrained(method, family).said, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["lora", "dreambooth", "hypernetwork"])
def test_more_l1_leaves_fewer_and_without_end_none(method: str) -> None:
    runs = [trained(method, l1=strength) for strength in (0.0, 0.6, 0.95, ENDLESS)]

    def alive(run: Outcome) -> int:
        """Ranks that a LoRA's layers have, nets that add something, weights that are not the base's."""
        if method == "lora":
            ups = [value for name, value in run.tensors.items() if name.endswith("lora_up.weight")]
            return sum(int(up.flatten(1).any(0).sum()) for up in ups)
        return sum(int((one != 0).sum()) if method == "dreambooth" else int(bool(one.any())) for one in run.changes)

    counts = [alive(run) for run in runs]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] == 0, counts
    assert all(more.size > less.size for more, less in itertools.pairwise(runs))
    assert torch.equal(runs[-1].said, untrained(method).said)


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_max_norm_holds_everywhere_and_touches_nothing_smaller(method: str) -> None:
    free = trained(method, l2=0.0)
    norms = sorted(float(one.norm()) for one in free.changes)
    middle = norms[len(norms) // 2]
    held = [float(one.norm()) for one in trained(method, max_norm=middle).changes]
    assert max(held) <= middle * (1 + 1e-4) < max(norms)
    wide = trained(method, max_norm=2 * norms[-1])
    assert all(torch.equal(value, free.tensors[name]) for name, value in wide.tensors.items())
    torch.testing.assert_close(trained(method, max_norm=1e-9).said, untrained(method).said, rtol=0, atol=1e-5)


def test_max_norm_of_new_words_is_the_length_of_their_vectors() -> None:
    adamw = (("train.optimizer", "adamw"),)
    lengths = [value.norm(dim=-1) for value in trained("textual-inversion", keys=adamw).tensors.values()]
    largest = float(torch.cat(lengths).min()) / 2
    held = trained("textual-inversion", keys=adamw, max_norm=largest)
    assert all((value.norm(dim=-1) <= largest * (1 + 1e-5)).all() for value in held.tensors.values())


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_every_adapter_goes_back_to_the_base(kind: str) -> None:
    keys = (("method.adapter", kind),)
    some, all_of_it = (trained("lora", keys=keys, l2=strength).said for strength in (0.5, ENDLESS))
    base = untrained("lora").said
    assert not torch.allclose(some, base, rtol=0, atol=1e-3)
    torch.testing.assert_close(all_of_it, base, rtol=0, atol=1e-5)


def test_new_words_that_turn_keep_their_length() -> None:
    apart = []
    for strength in (0.0, 3.0):
        (now_nD,), (start_nD,) = (
            one.tensors.values() for one in (trained("textual-inversion", l2=strength), untrained("textual-inversion"))
        )
        torch.testing.assert_close(now_nD.norm(dim=-1), start_nD.norm(dim=-1))
        apart.append(float(torch.nn.functional.cosine_similarity(now_nD, start_nD).clamp(-1, 1).acos().mean()))
    assert apart[0] > apart[1] > 0


@pytest.mark.parametrize("method", ["textual-inversion", "lora"])
def test_a_resumed_run_is_pulled_to_the_same_start(method: str) -> None:
    """The loop's own way: what a state brings back is no start."""

    def begin() -> Fit:
        what = recipe(method, {"l2": 2.0}, **{"train.steps": 4, "train.precision": "fp32", "train.device": "cpu"})
        model = shallow("sd1")
        attachment = attach(model, what)
        told = conditioner(model, attachment, lambda _: (64, 64))
        return Fit(model, attachment, what, accelerate_for(what), lambda n: picture_batch(n, 2, ASKED), told)

    whole, broken, resumed = begin(), begin(), begin()
    list(fit(whole))
    list(itertools.islice(fit(broken), 2))
    resumed.restore(broken.state())
    list(fit(resumed))
    there = resumed.attachment.tensors()
    assert all(torch.equal(value, there[name]) for name, value in whole.attachment.tensors().items())


# What follows is about the strengths, on weights without a model.


class Bare:
    """An attachment of weights that belong to nothing."""

    def __init__(self, *groups: ParamGroup, updates: list[Update] | None = None) -> None:
        self.groups, self.given = list(groups), updates

    def param_groups(self) -> list[ParamGroup]:
        return self.groups

    def updates(self) -> list[Update]:
        assert self.given is not None, "nobody should have asked"
        return self.given


def weights(value: Tensor, start: Tensor) -> Bare:
    param = nn.Parameter(value.clone())
    return Bare(ParamGroup("unet", [param], 0.0), updates=[Update("weights", [param], [start])])


def apply_all(what: Recipe, bare: Any, rates: list[float] | None = None, first: int = 0, last: int = 0) -> None:
    schedule = Schedule.of(what.train)
    penalties = Penalties(what, bare, schedule.total)
    for step in range(first, last or what.train.steps):
        share = schedule.share(step)
        penalties.apply(step, share, [{"lr": rate * share} for rate in rates or [what.train.learning_rate]])


@pytest.mark.parametrize("schedule", ["cosine", "constant", "linear"])
@pytest.mark.parametrize(("rate", "steps"), [(1e-6, 300), (1e-2, 300), (1e-4, 1000)])
def test_l2_is_what_is_left_after_the_run_whatever_rate_and_steps(schedule: str, rate: float, steps: int) -> None:
    keys = {"train.schedule": schedule, "train.learning_rate": rate, "train.steps": steps, "train.warmup": 0.1}
    what = recipe("dreambooth", {"l2": 0.8}, **keys)
    start = torch.randn(50, generator=torch.Generator().manual_seed(0))
    bare = weights(start + 0.1, start)
    apply_all(what, bare)
    left = ((bare.groups[0].params[0] - start).double().mean() / 0.1).log().item()
    rates = [Schedule.of(what.train).share(step) for step in range(steps)]
    slack = sum((0.8 * one / sum(rates)) ** 2 for one in rates) / 2  # -log(1 + c) is between -c and -c + c²/2
    assert -0.8 - 1e-3 <= left <= -0.8 + slack + 1e-3


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_l2_is_what_is_left_after_both_parts_of_a_guarded_run(schedule: str) -> None:
    """The longest trial run of the plan, at a steady rate, then the longest falling part: within 8 % of the dose."""
    what = recipe("dreambooth", {"l2": 0.8}, **{"train.schedule": schedule, "train.steps": 300, "train.warmup": 0.1})
    start = torch.zeros(50)
    bare = weights(start + 0.1, start)
    first, last = round(LOOK * 300), round(WHOLE * 300)
    steady, falling = Schedule.steady(what.train, first), Schedule.falling(what.train, first, last)
    penalties = Penalties(what, bare, steady.total)
    rates = [*map(steady.share, range(first)), *map(falling.share, range(first, last))]
    assert steady.total == falling.total == pytest.approx(sum(rates), rel=0.08)
    for step, share in enumerate(rates):
        penalties.apply(step, share, [{"lr": share}])
    left = (bare.groups[0].params[0].double().mean() / 0.1).log().item()
    dose = 0.8 * sum(rates) / steady.total
    assert -dose - 1e-3 <= left <= -dose + sum((0.8 * one / steady.total) ** 2 for one in rates) / 2 + 1e-3


def test_l1_follows_the_rate_of_each_group() -> None:
    fast, slow = (nn.Parameter(torch.full((4,), 0.5)) for _ in range(2))
    updates = [Update("weights", [param], [torch.zeros(4)]) for param in (slow, fast)]  # not in the order of the groups
    bare = Bare(ParamGroup("unet", [fast], 0.0), ParamGroup("text", [slow], 0.0), updates=updates)
    what = recipe("dreambooth", {"l1": 0.5}, **{"train.schedule": "constant"})
    apply_all(what, bare, [1e-2, 1e-3])
    torch.testing.assert_close(fast.detach(), torch.full((4,), 0.5 - STEPS * 0.5 * 1e-2))
    torch.testing.assert_close(slow.detach(), torch.full((4,), 0.5 - STEPS * 0.5 * 1e-3))
    moved = []
    for rate in (1e-3, 1e-2, 1.0):
        alone = weights(torch.full((4,), 0.5), torch.zeros(4))
        apply_all(what, alone, [rate])
        moved.append(0.5 - float(alone.groups[0].params[0].mean()))
    assert moved[0] < moved[1] < moved[2] == 0.5


def test_l1_holds_what_does_not_pull_steadily_whatever_the_scale() -> None:
    """Ranks whose gradients keep their sign leave the base; those whose gradients are noise are exactly zero."""
    steps, out, ranks = 150, 40, 6
    for rate, scale in ((1e-2, 1.0), (1e-5, 1e4)):
        up, down = nn.Parameter(torch.zeros(out, ranks)), nn.Parameter(torch.ones(ranks, 8))
        bare: Any = Bare(ParamGroup("unet", [up, down], 0.0), updates=[Update("factors", [up], down=down)])
        keys = {"train.steps": steps, "train.learning_rate": rate, "train.schedule": "constant"}
        what, draw = recipe("lora", {"l1": 0.4}, **keys), torch.Generator().manual_seed(0)
        steady = torch.cat([torch.ones(out, 3), torch.zeros(out, 3)], 1) * torch.randn(out, 1, generator=draw).sign()

        def loss(up: Tensor = up, steady: Tensor = steady, scale: float = scale, draw: Any = draw) -> Tensor:
            return scale * (up * (steady + torch.randn(up.shape, generator=draw))).sum()

        train(bare, what, loss)
        assert (up[:, :3] != 0).any(0).all()
        assert not up[:, 3:].any()


def test_nothing_is_asked_and_no_bit_moves_where_all_is_off() -> None:
    param = nn.Parameter(torch.randn(3, 4))
    before, bare = param.detach().clone(), Bare(ParamGroup("unet", [param], 0.0))
    apply_all(recipe("dreambooth", {}), bare)
    assert torch.equal(param, before)


def test_bf16_weights_come_back_on_average_and_to_the_bit_when_resumed() -> None:
    """A pull far below half of bfloat16's gap: rounding to the nearest would never move."""
    count, l2 = 4096, 1.0
    start = torch.ones(count, dtype=torch.bfloat16)
    what = recipe("dreambooth", {"l2": l2}, **{"train.steps": 200, "train.schedule": "constant"})
    runs = [weights(start + 2**-5, start) for _ in range(2)]
    apply_all(what, runs[0])
    apply_all(what, runs[1], last=80)
    apply_all(what, Bare(runs[1].groups[0], updates=runs[1].given), first=80)
    ends = [run.groups[0].params[0].detach() for run in runs]
    assert ends[0].dtype == torch.bfloat16
    assert torch.equal(ends[0], ends[1])
    left = float((ends[0].float() - 1).mean()) / 2**-5
    # Each step rounds by at most half of the gap of 2^-7 (a quarter of 2^-5): 5 standard errors of 200 steps' mean.
    assert abs(left - (1 + l2 / 200) ** -200) < 5 * 2**-3 * math.sqrt(200 / count)


@pytest.mark.parametrize(
    ("code", "method", "regularize", "keys"),
    [
        ("RC008", "textual-inversion", {"l1": 0.1}, {}),
        ("RC009", "lora", {"l1": 0.1}, {"method.adapter": "lokr"}),
        ("RC009", "lora", {"max_norm": 1.0}, {"method.adapter": "dora"}),
        ("RC009", "hypernetwork", {"max_norm": 1.0}, {}),
        ("RC010", "lora", {"l1": 0.1}, {"train.ema": 0.9}),
        ("RC011", "lora", {"l2": 0.1}, {"train.optimizer": "schedule-free"}),
        ("RC012", "textual-inversion", {"max_norm": 1.0}, {}),
        (
            "RC013",
            "hypernetwork",
            {"l2": 1.0},
            {"method.activation": "sigmoid", "method.activate_output": True, "method.zero_last": False},
        ),
    ],
)
def test_what_means_nothing_is_refused(
    code: str, method: str, regularize: dict[str, float], keys: dict[str, Any]
) -> None:
    what = recipe(method, regularize, **keys)
    with pytest.raises(RecipeError) as caught:
        Penalties(what, attach(shallow("sd1"), what), 1.0)
    assert caught.value.code == code
    assert caught.value.describe("ja") != caught.value.describe("en")


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_weight_decay_over_the_run_is_what_the_optimizer_does(schedule: str) -> None:
    keys = {"train.weight_decay": 0.5, "train.schedule": schedule, "train.steps": 60, "train.warmup": 0.1}
    what = recipe("dreambooth", {}, **keys)
    param = nn.Parameter(torch.ones(1, dtype=torch.float64).float())
    optimizer = optim.build(what.train, [ParamGroup("unet", [param], 0.0)])
    for step in range(60):
        optimizer.param_groups[0]["lr"] = what.train.learning_rate * Schedule.of(what.train).share(step)
        param.grad = torch.zeros(1)
        optimizer.step()
    strength = optim.weight_decay_over_run(what.train)
    assert strength == pytest.approx(-math.log(float(param)), rel=2e-3)


def test_weight_decay_that_does_nothing_is_told() -> None:
    def told(**train: Any) -> list[Warned]:
        return list(optim.notes(config.build({"train": {"learning_rate": 1e-3, "steps": 100, **train}}).train))

    assert not told() and not told(weight_decay=1.0)
    # Prodigy's rate is not known before.
    of_prodigy = config.build({"train": {"weight_decay": 0.01, "optimizer": "prodigy"}}).train
    assert optim.weight_decay_over_run(of_prodigy) is None
    (one,) = told(weight_decay=0.01)
    assert one.code == "TR004" and one.words("ja") != one.words("en")
