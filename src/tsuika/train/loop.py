"""`fit`: the one training loop, a generator of events. It knows no method, no family, no file.

Shapes: B pictures of this process in one micro-batch, C latent channels, H x W latents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tsuika.core.config import Recipe
from tsuika.core.errors import DivergedError
from tsuika.core.events import Stepped
from tsuika.core.seeds import derive, generator
from tsuika.core.types import Attachment, Batch, Conditioning, Lanes, Model
from tsuika.diffusion.schedule import add_noise, alphas_cumprod_T, stratified_timesteps
from tsuika.diffusion.targets import min_snr_weight, target
from tsuika.train import optim
from tsuika.train.checkpoint import State
from tsuika.train.penalize import Penalties

BatchSource = Callable[[int], Batch]  # global micro-batch number -> batch, a pure function
Conditioner = Callable[[Batch], Conditioning]

CAPTIONS: Final = 1024  # encoded ones that are held: 0.1 MB each (SD1) to 0.3 MB (SDXL). Shuffled tags are ever new


@dataclass
class Fit:
    """A training in progress: what `fit` advances and a saved state captures."""

    model: Model
    attachment: Attachment
    recipe: Recipe
    accelerator: Accelerator
    batch: BatchSource
    condition: Conditioner
    step: int = 0
    last_step: int = 0  # where `fit` ends; 0: the recipe's steps. The learning rate's schedule does not hang on it
    # From which step on the rate follows the recipe's schedule, down to the last step; until then it is steady. None: the
    # recipe's schedule over the recipe's steps.
    fall_from: int | None = None
    first_step: int = 0  # where this optimizer began
    average: dict[str, Tensor] = field(default_factory=dict)
    moving: bool = False  # whether a step has begun to change the weights and has not ended
    settled: bool = False  # whether the attachment already has the weights that will be written; nobody trains on

    def __post_init__(self) -> None:
        self.last_step = self.last_step or self.recipe.train.steps
        self.penalties = Penalties(self.recipe, self.attachment, two_parts=self.fall_from is not None)
        groups = self.attachment.param_groups()
        self.params = optim.trainable(groups)
        self.alphas_T = alphas_cumprod_T(self.model.scheduler_config).to(self.model.device)
        if (scaler := self.accelerator.scaler) is not None:  # fp16's loss scale that an earlier fit ended with
            scaler.load_state_dict(torch.amp.GradScaler(self.accelerator.device.type).state_dict())
        denoiser = _Denoiser(self.model, self.params)
        optimizer = optim.build(self.recipe.train, groups)
        self.denoiser, self.optimizer = self.accelerator.prepare(denoiser, optimizer)
        if hasattr(optimizer, "train"):  # schedule-free starts in its training state by hand
            optimizer.train()
        if self.recipe.train.ema and self.recipe.train.optimizer != "schedule-free":  # which averages by itself
            # In fp32: a hundredth of a small change is nothing in bf16, and the average would stand still.
            self.average = {
                name: value.to(torch.float32, copy=True) for name, value in self.attachment.tensors().items()
            }

    @property
    def rate(self) -> float:
        """The share (0..1) of the learning rate at the next step."""
        train, step = self.recipe.train, self.step
        if self.fall_from is None:
            return optim.rate(train, step)
        if step < self.fall_from:
            return optim.steady(train, step)
        return optim.falling(train, step - self.fall_from, self.last_step - self.fall_from)

    def begin_at(self, step: int, weights: Mapping[str, Tensor], last_step: int) -> None:
        """Go on from the weights of a step with a new optimizer, the rate falling to nothing at `last_step`."""
        self.step = self.first_step = self.fall_from = step
        self.last_step = last_step
        self.attachment.load(weights)
        for name in self.average:
            self.average[name].copy_(weights[name])

    def over(self) -> None:
        """Nobody trains on, nor reads its weights: let go of them. No other fit may be under way."""
        self.optimizer.zero_grad(set_to_none=True)
        self.attachment.detach()
        self.accelerator.free_memory()

    def state(self) -> State:
        """What a saved state must hold."""
        scaler = self.accelerator.scaler
        plain = scaler.state_dict() if scaler is not None else {}
        average = self.average
        if hasattr(self._inner, "eval"):  # schedule-free: what would be written is neither live nor kept
            with self.written_weights():
                average = {name: value.clone() for name, value in self.attachment.tensors().items()}
        return State(self.step, self.attachment.tensors(), self.optimizer.state_dict(), average, plain)

    def restore(self, state: State) -> None:
        """Go on from a saved state."""
        self.step = state.step
        self.attachment.load(state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        if self.accelerator.scaler is not None and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        for name, value in self.average.items():
            value.copy_(state.average[name])

    @property
    def _inner(self) -> Any:
        """The optimizer without accelerate's wrap."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    @contextmanager
    def written_weights(self) -> Iterator[None]:
        """The weights that will be written: averaged, or the schedule-free optimizer's own; nothing drops out.

        Afterwards training goes on with the same bits as if nobody had looked.
        """
        modules = [module for component in self.model.components.values() for module in component.modules()]
        modes = [(module, module.training) for module in modules]
        inner = self._inner
        lent = not self.settled and (
            hasattr(inner, "eval") or bool(self.average)
        )  # else they are the live ones, and need no copy
        live = {name: value.clone() for name, value in self.attachment.tensors().items()} if lent else {}
        if lent and hasattr(inner, "eval"):
            inner.eval()
        elif lent:
            self.attachment.load(self.average)
        for module in modules:
            module.training = False
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            if lent and hasattr(inner, "eval"):
                inner.train()
            if lent:
                self.attachment.load(live)


class _Denoiser(nn.Module):
    """The model's forward with only the trained parameters as its own, so that accelerate spreads exactly these."""

    def __init__(self, model: Model, params: list[nn.Parameter]) -> None:
        super().__init__()
        self.trained = nn.ParameterList(params)
        self.run = model.denoise

    def forward(self, noisy_BCHW: Tensor, t_B: Tensor, cond: Conditioning) -> Tensor:
        output: Tensor = self.run(noisy_BCHW, t_B, cond)
        return output


@dataclass(frozen=True)
class Draws:
    """The random part of a step for its whole global batch, whatever the number of processes."""

    t_B: Tensor
    noise_BCHW: Tensor


def draw(recipe: Recipe, step: int, like_BCHW: Tensor, timesteps: int) -> Draws:
    """Stratified timesteps and noise of a micro-batch: a function of seed and micro-batch number."""
    source = generator(recipe.train.seed, "noise", step)
    shape = like_BCHW.shape
    t_B = stratified_timesteps(shape[0], timesteps, source)
    noise = torch.randn(shape, generator=source)
    if recipe.train.noise_offset:
        noise = noise + recipe.train.noise_offset * torch.randn(*shape[:2], 1, 1, generator=source)
    return Draws(t_B.to(like_BCHW.device), noise.to(like_BCHW.device))


def fit(run: Fit) -> Iterator[Stepped]:
    """Train from `run.step` to `run.last_step`, yielding `Stepped` after each step; close it to stop.

    Raises:
        DivergedError: a loss or gradient is not finite; the weights are still the last good ones.
    """
    yield from fit_together([run])


def fit_together(runs: Sequence[Fit], lanes: Lanes | None = None, at_once: int = 0) -> Iterator[Stepped]:
    """Train several attachments of one model in lockstep, in one forward pass; events are those of the last run.

    Each run has its own batches, optimizer, clipping and average, so each comes out as it would alone, but for rounding.

    Args:
        runs: at the same step, with as many steps and pictures in each.
        lanes: takes block i of a batch through the attachment of run i; None for a single run.
        at_once: runs in one forward pass at most, for less memory; 0: all of them.

    Raises:
        DivergedError: a loss or gradient of any of them is not finite; the weights are still the last good ones.
    """
    head = runs[-1]
    train, accelerator = head.recipe.train, head.accelerator
    while head.step < head.last_step:
        began = time.monotonic()
        torch.manual_seed(derive(train.seed, "dropout", head.step, accelerator.process_index))
        shares = [run.rate for run in runs]
        for run, share in zip(runs, shares, strict=True):
            for group in run.optimizer.param_groups:
                group["lr"] = group["base_lr"] * share
            run.optimizer.zero_grad(set_to_none=True)
        totals = [torch.zeros((), device=head.model.device) for _ in runs]
        for part in range(train.accumulate):
            for row, loss in enumerate(_backward(runs, lanes, part, at_once)):
                totals[row] += loss
        losses = [float(accelerator.reduce(total, "mean")) for total in totals]
        sizes = [_clip(run) for run in runs]
        for run in runs:
            run.moving = True
        for run, share in zip(runs, shares, strict=True):
            run.optimizer.step()
            run.penalties.apply(run.step, share, run.optimizer.param_groups)
            run.step += 1
            _follow(run)
        for run in runs:
            run.moving = False
        yield Stepped(head.step, losses[-1], sizes[-1], train.learning_rate * shares[-1], time.monotonic() - began)


def _clip(run: Fit) -> float:
    """Clip a run's gradients; returns their norm before."""
    norm = run.accelerator.clip_grad_norm_(run.params, run.recipe.train.clip_norm or float("inf"))
    size = float(norm) if norm is not None else 0.0
    if not _finite(size) and run.accelerator.mixed_precision != "fp16":  # fp16's scaler skips such a step by itself
        raise _diverged(run, run.batch(run.step * run.recipe.train.accumulate).names)
    return size


def _backward(runs: Sequence[Fit], lanes: Lanes | None, part: int, at_once: int) -> list[Tensor]:
    """Forward and backward of a micro-batch of each run; returns this process's share of each step's loss."""
    numbers = [run.step * run.recipe.train.accumulate + part for run in runs]
    batches = [run.batch(number) for run, number in zip(runs, numbers, strict=True)]
    losses: dict[int, Tensor] = {}
    sizes: dict[torch.Size, list[int]] = {}
    for row, batch in enumerate(batches):
        sizes.setdefault(batch.latents_BCHW.shape, []).append(row)
    most = at_once or len(runs)
    together = [same[i : i + most] for same in sizes.values() for i in range(0, len(same), most)]
    for rows in together:  # pictures of one size
        with lanes.route(rows) if lanes is not None else nullcontext():
            joined = _losses(
                [runs[row] for row in rows], [numbers[row] for row in rows], [batches[row] for row in rows]
            )
            runs[rows[0]].accelerator.backward(torch.stack(joined).sum())
        losses |= zip(rows, (loss.detach() for loss in joined), strict=True)
    return [losses[row] for row in range(len(runs))]


def _losses(runs: Sequence[Fit], numbers: Sequence[int], batches: Sequence[Batch]) -> list[Tensor]:
    """The weighted loss of each run on its micro-batch, in one forward pass."""
    head = runs[0]
    accelerator, alphas_T = head.accelerator, head.alphas_T
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    draws = [
        draw(run.recipe, number, batch.latents_BCHW, len(alphas_T))
        for run, number, batch in zip(runs, numbers, batches, strict=True)
    ]
    parts = [Batch(b.latents_BCHW[mine], b.captions[mine], b.names[mine], b.weight_B[mine]) for b in batches]
    latents = torch.cat([batch.latents_BCHW for batch in parts])
    noise = torch.cat([one.noise_BCHW[mine] for one in draws])
    t_B = torch.cat([one.t_B[mine] for one in draws])
    a_B = alphas_T[t_B]
    with accelerator.autocast():
        cond = Conditioning.join([run.condition(batch) for run, batch in zip(runs, parts, strict=True)])
        output = head.denoiser(add_noise(latents, noise, a_B), t_B, cond)
    error_B = (output.float() - target(head.model.prediction, latents, noise, a_B)).pow(2).flatten(1).mean(1)
    losses = []
    for run, batch, whole, error, a in zip(
        runs, parts, batches, error_B.chunk(len(runs)), a_B.chunk(len(runs)), strict=True
    ):
        train = run.recipe.train
        weight_B = min_snr_weight(run.model.prediction, a, train.min_snr_gamma) * batch.weight_B
        loss = (error * weight_B).mean() / train.accumulate
        if not _finite(float(accelerator.reduce(loss.detach(), "mean"))):
            raise _diverged(run, _not_finite(run, error, whole.names))
        losses.append(loss)
    return losses


def _not_finite(run: Fit, error_B: Tensor, names: tuple[str, ...]) -> tuple[str, ...]:
    """The pictures, of all processes, whose error is not finite; all of them where only their mean is not."""
    bad = (~torch.isfinite(run.accelerator.gather(error_B.detach()))).tolist()  # process by process
    shares = run.accelerator.num_processes
    ordered = [name for i in range(shares) for name in names[i::shares]]
    return tuple(name for name, is_bad in zip(ordered, bad, strict=True) if is_bad) or names


def _follow(run: Fit) -> None:
    """Move the average after the weights; early steps count more, so that it is not held back by the start."""
    if run.average:
        done = run.step - run.first_step
        decay = min(run.recipe.train.ema, (1 + done) / (10 + done))
        live = run.attachment.tensors()
        names = list(run.average)
        torch._foreach_lerp_([run.average[n] for n in names], [live[n].float() for n in names], 1 - decay)


def _finite(value: float) -> bool:
    return value - value == 0


def _diverged(run: Fit, pictures: tuple[str, ...]) -> DivergedError:
    return DivergedError(
        "TR001",
        step=run.step + 1,
        pictures=", ".join(pictures),
        kept=run.step,
        rate=f"{run.recipe.train.learning_rate / 3:.2g}",
    )


def conditioner(model: Model, attachment: Attachment, size_px: Callable[[Batch], tuple[int, int]]) -> Conditioner:
    """Captions to conditioning; encoded once each where no text role trains, the latest `CAPTIONS` of them."""
    trains_text = any(role.startswith("text.") for role in attachment.trains)
    held: dict[Any, Conditioning] = {}

    def encode(batch: Batch) -> Conditioning:
        size = size_px(batch)
        if trains_text:
            return model.encode_text(batch.captions, size_px=size)
        for caption in dict.fromkeys(batch.captions):
            if (caption, size) in held:
                held[caption, size] = held.pop((caption, size))  # to the end: the first are the longest unused
            else:  # by itself: its bits must not hang on which others were missing, as after a resume
                with torch.no_grad():
                    held[caption, size] = model.encode_text([caption], size_px=size)
        found = Conditioning.join([held[caption, size] for caption in batch.captions])
        while len(held) > CAPTIONS:
            del held[next(iter(held))]
        return found

    return encode
