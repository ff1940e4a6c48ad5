"""Optimizers by name, and two of our own. Shapes: n vectors of D numbers.

- Riemannian SGD on spheres (Directional Textual Inversion, Kim et al. 2026, section 4), for new words: vectors that grow far
  beyond the vocabulary's norm drown what the prompt says besides.
- Weights in bfloat16: rounding to the nearest loses an update smaller than half the gap between two numbers (2^-9 of the weight),
  and so nearly all at small rates (Zamirai et al. 2020, "Revisiting BFloat16 Training"); so each is rounded at random.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tsuika.core.errors import RecipeError, no_such
from tsuika.core.events import Warned, note
from tsuika.core.outside import imported
from tsuika.core.sections import Train
from tsuika.core.seeds import derive
from tsuika.core.texts import _
from tsuika.core.types import ParamGroup
from tsuika.training.schedule import SCHEDULE_FREE, Schedule

# Of the main rate, where the recipe gives text encoders none of their own (`core.methods.Lora`).
TEXT_SHARE: Final = 0.1
PLACEBO: Final = 0.01  # weight decay that takes less of the weights in a whole run is reported as without effect
# What an optimizer takes and a setting of its own says.
_SETTINGS: Final = {
    "params": "method", "lr": "train.learning_rate", "weight_decay": "train.weight_decay", "warmup_steps": "train.warmup",
}  # fmt: skip
_DROPPED = 0xFFFF  # the lower half of a float32, which bfloat16 has not


def weight_decay_over_run(train: Train) -> float | None:
    """The sum over the run of learning rate * weight decay: decay alone leaves exp(-sum). None for Prodigy, unknown before."""
    return None if train.optimizer == "prodigy" else train.weight_decay * train.learning_rate * Schedule.of(train).total


def check(train: Train, device: torch.device) -> None:
    """Whether the optimizer can be made, and one of an installed package makes a step.

    Raises RecipeError (RC002): it cannot; some need a closure, or gradients of another kind.
    """
    one = nn.Parameter(torch.zeros(2, 2, device=device))
    found = _choose(train, [{"params": [one], "lr": train.learning_rate}])
    if not train.optimizer_class:
        return
    one.grad = torch.ones_like(one)
    try:
        found.step()
    # Whatever its package raises.
    except Exception as error:
        why = _("It fails at a step: {error}", error=error)
        raise RecipeError("RC002", key="train.optimizer_class", found=train.optimizer_class, why=why) from error


def notes(train: Train) -> Iterator[Warned]:
    """TR004 where weight decay is set and has next to no effect: below `PLACEBO` over the run."""
    strength = weight_decay_over_run(train)
    if train.weight_decay and strength is not None and strength < PLACEBO:
        yield note("TR004", strength=f"{strength:.2g}")


def build(train: Train, groups: Iterable[ParamGroup]) -> Optimizer:
    """The optimizer over parameter groups, each remembering its own `base_lr`.

    Raises RecipeError (RC002): the optimizer's package is not installed, or it cannot have two rates, or `riemannian` cannot train it.
    """
    groups = list(groups)
    if train.optimizer == "riemannian":
        _check_turning(train, groups)
    rows: list[dict[str, Any]] = []
    for group in groups:
        is_less = group.name.startswith("text") and train.optimizer != "prodigy"
        lr = (group.learning_rate or train.learning_rate * (TEXT_SHARE if is_less else 1)) * group.factor
        rows.append({"params": group.params, "lr": lr, "base_lr": lr, "name": group.name})
    if train.optimizer == "riemannian":
        return _choose(train, rows)
    if train.optimizer == "prodigy" and len({row["lr"] for row in rows}) > 1:
        why = _("Prodigy finds one rate for all weights, so none can have another.")
        raised = max(group.factor for group in groups)
        key, found = ("lora_plus_ratio", raised) if raised != 1 else ("text_learning_rate", rows[-1]["lr"])
        raise RecipeError("RC002", key=f"method.{key}", found=found, why=why)
    if all(param.dtype == torch.float32 for row in rows for param in row["params"]):
        return _choose(train, rows)
    if train.optimizer in SCHEDULE_FREE:
        why = _(
            "It works on all weights together, and bf16 weights are stepped one by one; adafactor takes least memory."
        )
        raise RecipeError("RC002", key="train.optimizer", found=train.optimizer, why=why)
    return StochasticRounding(rows, lambda one: _choose(train, one), train.seed)


def _choose(train: Train, rows: list[dict[str, Any]]) -> Optimizer:
    kind, usual = _kind(train)
    try:
        found: Optimizer = kind(rows, **(usual | _arguments(train, kind)))
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise RecipeError("RC002", key="train.optimizer_args", found=train.optimizer_args, why=str(error)) from error
    return found


def _kind(train: Train) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    """What makes the optimizer, and what it is given by itself."""
    decay: dict[str, Any] = {"weight_decay": train.weight_decay}
    betas = {"betas": (0.9, 0.99)}
    if train.optimizer_class:
        kind = imported(train.optimizer_class, type, key="train.optimizer_class")
        if not issubclass(kind, Optimizer):
            why = _("It is not an optimizer of PyTorch.")
            raise RecipeError("RC002", key="train.optimizer_class", found=train.optimizer_class, why=why)
        return kind, decay if train.weight_decay else {}
    match train.optimizer:
        case "adamw":
            return AdamW, decay | betas | {"fused": True}
        case "adamw8bit":
            return _package("bitsandbytes", train).optim.AdamW8bit, decay | betas
        case "adafactor":
            # Shazeer & Stern 2018, at the recipe's rate instead of its own.
            own = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
            return _package("transformers.optimization", train).Adafactor, decay | own
        case "prodigy":
            own = {"safeguard_warmup": True, "use_bias_correction": True}
            return _package("prodigyopt", train).Prodigy, decay | betas | own
        case "riemannian":
            return Riemannian, {}
        case _:
            warmup = {"warmup_steps": round(train.warmup * train.steps)}
            return _package("schedulefree", train).AdamWScheduleFree, decay | betas | warmup


def _arguments(train: Train, kind: Callable[..., Optimizer]) -> dict[str, Any]:
    """`train.optimizer_args`, read as Python's literals: `betas=0.9,0.999`, `amsgrad=True`, `d_coef=2`.

    Raises RecipeError (RC002): not of the form, unknown to the optimizer, or what another setting says.
    """
    taken = inspect.signature(kind).parameters
    is_open = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    found: dict[str, Any] = {}
    for text in train.optimizer_args:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            why = _("It is not of the form `name=value`.")
            raise RecipeError("RC002", key="train.optimizer_args", found=text, why=why)
        if (setting := _SETTINGS.get(name)) is not None:
            why = _("{key} says that.", key=setting)
            raise RecipeError("RC002", key="train.optimizer_args", found=text, why=why)
        if name not in taken and not is_open:
            raise no_such("train.optimizer_args", name, [one for one in taken if one not in _SETTINGS])
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _package(name: str, train: Train) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        why = _("It needs a package: pip install {name} ({error})", name=name, error=error)
        raise RecipeError("RC002", key="train.optimizer", found=train.optimizer, why=why) from None


def _check_turning(train: Train, groups: Sequence[ParamGroup]) -> None:
    """Raises RecipeError (RC002): the method trains more than directions, or a setting would change their length."""
    if not all(group.directions for group in groups):
        why = _("It turns the vectors of new words (textual-inversion); other weights have no length to keep.")
        raise RecipeError("RC002", key="train.optimizer", found=train.optimizer, why=why)
    if train.weight_decay:
        why = _("The riemannian optimizer keeps the length of vectors, and weight decay shortens them.")
        raise RecipeError("RC002", key="train.weight_decay", found=train.weight_decay, why=why)
    if train.ema:
        why = _("The riemannian optimizer keeps the length of vectors, and their average is shorter than they are.")
        raise RecipeError("RC002", key="train.ema", found=train.ema, why=why)


class Riemannian(Optimizer):
    """Each row x = |x| u moves along the great circle down its gradient; |x| is what it was at the first step.

    The learning rate is an angle in radians: the gradient with respect to u, less the prior's pull, is projected onto
    the tangent space and divided by the running root mean square of its own size, so a typical step turns u by `lr`
    whatever the scale of the loss, and none by more than `lr / sqrt(1 - memory)`. The prior is a von Mises-Fisher
    distribution around the first direction, whose gradient is the constant `-prior * u0` (by default with the paper's
    concentration for SDXL). A row whose gradient is zero
    (its word was in no caption) stays as it is.
    """

    def __init__(self, params: Any, lr: float = 1e-2, *, prior: float = 1e-4, memory: float = 0.99) -> None:
        super().__init__(params, {"lr": lr, "prior": prior, "memory": memory})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. All state is tensors, one row for each vector."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._turn(param, group["lr"], group["prior"], group["memory"])
        return loss

    def _turn(self, param: torch.Tensor, lr: float, prior: float, memory: float) -> None:
        state = self.state[param]
        if not state:
            length_n1 = param.norm(dim=-1, keepdim=True)
            state["length"], state["first"] = length_n1, param / length_n1
            state["square"], state["seen"] = torch.zeros_like(length_n1), torch.zeros_like(length_n1)
        at_nD = param / param.norm(dim=-1, keepdim=True)
        gradient_nD = state["length"] * param.grad - prior * state["first"]
        gradient_nD -= (gradient_nD * at_nD).sum(-1, keepdim=True) * at_nD
        size_n1 = gradient_nD.norm(dim=-1, keepdim=True)
        moves_n1 = (param.grad != 0).any(-1, keepdim=True) & (size_n1 > 0)  # type: ignore[union-attr]
        state["seen"] += moves_n1
        state["square"] = torch.where(moves_n1, torch.lerp(size_n1.square(), state["square"], memory), state["square"])
        usual_n1 = (state["square"] / (1 - memory ** state["seen"])).sqrt()
        angle_n1 = lr * size_n1 / usual_n1
        turned_nD = angle_n1.cos() * at_nD - angle_n1.sin() * gradient_nD / size_n1
        turned_nD *= state["length"] / turned_nD.norm(dim=-1, keepdim=True)  # rounding must not add up
        param.copy_(torch.where(moves_n1, turned_nD, param))


def round_stochastically(value: Tensor, generator: torch.Generator) -> Tensor:
    """float32 to bfloat16: one of the two neighbours, the nearer the likelier, so that E[result] = value.

    Numbers that bfloat16 holds stay as they are, as do infinity and NaN. The generator, on the value's device, draws 16 bits
    for each number.
    """
    bits = value.contiguous().view(torch.int32)
    noise = torch.randint(_DROPPED + 1, bits.shape, generator=generator, dtype=torch.int32, device=bits.device)
    rounded = ((bits + noise) & ~_DROPPED).view(torch.float32)
    return torch.where(value.isfinite(), rounded, value).to(torch.bfloat16)


class StochasticRounding(Optimizer):
    """Any element-wise optimizer over bfloat16 weights: each is stepped as a float32 copy, one at a time.

    The state of the inner optimizer is kept here under the weight's own name, in float32; the random bits are a function
    of seed, step, and place in the list.
    """

    def __init__(
        self, rows: list[dict[str, Any]], inner: Callable[[list[dict[str, Any]]], Optimizer], seed: int
    ) -> None:
        super().__init__([{**row, "steps_done": 0} for row in rows], {})
        self._inner, self._seed = inner, seed

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure is not None else None
        for number, group in enumerate(self.param_groups):
            settings = {name: value for name, value in group.items() if name != "params"}
            for place, param in enumerate(group["params"]):
                if param.grad is None:
                    continue
                copy = nn.Parameter(param.float(), requires_grad=True)
                copy.grad = param.grad.float()
                inner = self._inner([{"params": [copy], **settings}])
                inner.state[copy] = self.state[param]
                inner.step()
                if param.dtype == torch.bfloat16:
                    seed = derive(self._seed, "rounding", group["steps_done"], number, place)
                    param.copy_(round_stochastically(copy, torch.Generator(param.device).manual_seed(seed)))
                else:
                    param.copy_(copy)
            group["steps_done"] += 1
        return loss

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`; unlike torch's own, moments stay in float32 under bfloat16 weights."""
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
            for number, param in zip(saved["params"], group["params"], strict=True):
                row = state_dict["state"].get(number, {})
                # torch counts steps on the CPU.
                moved = {k: v.to(param.device) for k, v in row.items() if isinstance(v, Tensor) and k != "step"}
                self.state[param] = row | moved
