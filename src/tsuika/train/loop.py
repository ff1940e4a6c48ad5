"""`fit`: the one training loop, a generator of events. It knows no method, no family, no file.

Shapes: B pictures of this process in one micro-batch, C latent channels, H x W latents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tsuika.core.config import Recipe
from tsuika.core.errors import DivergedError
from tsuika.core.events import Event, Stepped
from tsuika.core.seeds import derive, generator
from tsuika.core.types import Attachment, Batch, Conditioning, Model
from tsuika.diffusion.schedule import add_noise, alphas_cumprod_T, stratified_timesteps
from tsuika.diffusion.targets import min_snr_weight, target
from tsuika.train import optim
from tsuika.train.checkpoint import State

BatchSource = Callable[[int], Batch]  # global micro-batch number -> batch, a pure function
Conditioner = Callable[[Batch], Conditioning]


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
    average: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups = self.attachment.param_groups()
        self.params = optim.trainable(groups)
        self.alphas_T = alphas_cumprod_T(self.model.scheduler_config).to(self.model.device)
        denoiser = _Denoiser(self.model, self.params)
        optimizer = optim.build(self.recipe.train, groups)
        self.denoiser, self.optimizer = self.accelerator.prepare(denoiser, optimizer)
        if hasattr(optimizer, "train"):  # schedule-free starts in its training state by hand
            optimizer.train()
        if self.recipe.train.ema and self.recipe.train.optimizer != "schedule-free":  # which averages by itself
            self.average = {name: value.clone() for name, value in self.attachment.tensors().items()}

    def state(self) -> State:
        """What a saved state must hold."""
        scaler = self.accelerator.scaler
        plain = scaler.state_dict() if scaler is not None else {}
        return State(self.step, self.attachment.tensors(), self.optimizer.state_dict(), self.average, plain)

    def restore(self, state: State) -> None:
        """Go on from a saved state."""
        self.step = state.step
        self.attachment.load(state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        if self.accelerator.scaler is not None and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        for name, value in state.average.items():
            self.average[name].copy_(value)

    @contextmanager
    def written_weights(self) -> Iterator[None]:
        """The weights that will be written: averaged, or the schedule-free optimizer's own; nothing drops out.

        Afterwards training goes on with the same bits as if nobody had looked.
        """
        modules = [module for component in self.model.components.values() for module in component.modules()]
        modes = [(module, module.training) for module in modules]
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        lent = hasattr(inner, "eval") or bool(self.average)  # else they are the live ones, and need no copy
        live = {name: value.clone() for name, value in self.attachment.tensors().items()} if lent else {}
        if hasattr(inner, "eval"):
            inner.eval()
        elif self.average:
            self.attachment.load(self.average)
        for module in modules:
            module.training = False
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            if hasattr(inner, "eval"):
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


def fit(run: Fit) -> Iterator[Event]:
    """Train from `run.step` to the recipe's last step, yielding `Stepped` after each; close it to stop.

    Raises:
        DivergedError: a loss or gradient is not finite; the weights are still the last good ones.
    """
    train, accelerator = run.recipe.train, run.accelerator
    while run.step < train.steps:
        began = time.monotonic()
        torch.manual_seed(derive(train.seed, "dropout", run.step, accelerator.process_index))
        share = optim.rate(train, run.step)
        for group in run.optimizer.param_groups:
            group["lr"] = group["base_lr"] * share
        run.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=run.model.device)
        for part in range(train.accumulate):
            total += _backward(run, run.step * train.accumulate + part)
        loss = float(accelerator.reduce(total, "mean"))
        norm = accelerator.clip_grad_norm_(run.params, train.clip_norm or float("inf"))
        size = float(norm) if norm is not None else 0.0
        if not _finite(size) and accelerator.mixed_precision != "fp16":  # fp16's scaler skips such a step by itself
            raise _diverged(run, run.batch(run.step * train.accumulate).names)
        run.optimizer.step()
        run.step += 1
        _follow(run)
        yield Stepped(run.step, loss, size, train.learning_rate * share, time.monotonic() - began)


def _backward(run: Fit, number: int) -> Tensor:
    """Forward and backward of one micro-batch; returns this process's share of the step's loss."""
    train, accelerator = run.recipe.train, run.accelerator
    batch = run.batch(number)
    draws = draw(run.recipe, number, batch.latents_BCHW, len(run.alphas_T))
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    latents, noise, t_B = batch.latents_BCHW[mine], draws.noise_BCHW[mine], draws.t_B[mine]
    a_B = run.alphas_T[t_B]
    mine_only = Batch(latents, batch.captions[mine], batch.names[mine], batch.weight_B[mine])
    with accelerator.autocast():
        output = run.denoiser(add_noise(latents, noise, a_B), t_B, run.condition(mine_only))
    error_B = (output.float() - target(run.model.prediction, latents, noise, a_B)).pow(2).flatten(1).mean(1)
    weight_B = min_snr_weight(run.model.prediction, a_B, train.min_snr_gamma) * mine_only.weight_B
    loss = (error_B * weight_B).mean() / train.accumulate
    if not _finite(float(accelerator.reduce(loss.detach(), "mean"))):
        bad = (~torch.isfinite(accelerator.gather(error_B.detach()))).tolist()  # process by process
        names = [name for i in range(accelerator.num_processes) for name in batch.names[i :: accelerator.num_processes]]
        named = tuple(name for name, is_bad in zip(names, bad, strict=True) if is_bad)
        raise _diverged(run, named or batch.names)
    accelerator.backward(loss)
    done: Tensor = loss.detach()
    return done


def _follow(run: Fit) -> None:
    """Move the average after the weights; early steps count more, so that it is not held back by the start."""
    if run.average:
        decay = min(run.recipe.train.ema, (1 + run.step) / (10 + run.step))
        live = run.attachment.tensors()
        names = list(run.average)
        torch._foreach_lerp_([run.average[n] for n in names], [live[n] for n in names], 1 - decay)


def _finite(value: float) -> bool:
    return value - value == 0


def _diverged(run: Fit, pictures: tuple[str, ...]) -> DivergedError:
    return DivergedError(
        "TR001", step=run.step + 1, pictures=", ".join(pictures), kept=run.step,
        rate=f"{run.recipe.train.learning_rate / 3:.2g}",
    )  # fmt: skip


def conditioner(model: Model, attachment: Attachment, size_px: Callable[[Batch], tuple[int, int]]) -> Conditioner:
    """Captions to conditioning; encoded once each where no text role trains."""
    trains_text = any(role.startswith("text.") for role in attachment.trains)
    held: dict[Any, Conditioning] = {}

    def encode(batch: Batch) -> Conditioning:
        size = size_px(batch)
        if trains_text:
            return model.encode_text(batch.captions, size_px=size)
        missing = [caption for caption in dict.fromkeys(batch.captions) if (caption, size) not in held]
        if missing:
            with torch.no_grad():
                fresh = model.encode_text(missing, size_px=size)
            for row, caption in enumerate(missing):
                held[caption, size] = fresh[row : row + 1]
        return Conditioning.join([held[caption, size] for caption in batch.captions])

    return encode
