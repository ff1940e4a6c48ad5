"""A training in progress: what the loop advances and a saved state captures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tsuika.config import Recipe
from tsuika.core.types import Attachment, Batch, Conditioning, Model
from tsuika.diffusion.objective import objective
from tsuika.training import optim
from tsuika.training.checkpoint import State
from tsuika.training.penalties import Penalties
from tsuika.training.preservation import Preservation
from tsuika.training.schedule import Schedule

BatchSource = Callable[[int], Batch]  # global micro-batch number -> batch, a pure function
Conditioner = Callable[[Batch], Conditioning]


class Fit:
    """The training of one attachment: weights, optimizer, average, and the number of steps done."""

    def __init__(
        self,
        model: Model,
        attachment: Attachment,
        recipe: Recipe,
        accelerator: Accelerator,
        batch: BatchSource,
        condition: Conditioner,
        schedule: Schedule | None = None,
        preservation: Preservation | None = None,
    ) -> None:
        """Begin at the schedule's first step (by default the recipe's), with the weights on the attachment and a fresh optimizer."""
        self.model, self.attachment, self.recipe, self.accelerator = model, attachment, recipe, accelerator
        self.batch, self.condition, self._preservation = batch, condition, preservation
        self.schedule = schedule or Schedule.of(recipe.train)
        self.step = self.schedule.first
        self.between_steps, self.ended = True, False
        self.penalties = Penalties(recipe, attachment, self.schedule.total)
        groups = attachment.param_groups()
        self.params = [param for group in groups for param in group.params]
        self.objective = objective(model.prediction, model.scheduler_config, model.device)
        if (scaler := accelerator.scaler) is not None:
            # An earlier fit has left its loss scale (fp16) there.
            scaler.load_state_dict(torch.amp.GradScaler(accelerator.device.type).state_dict())
        optimizer = optim.build(recipe.train, groups)
        self.denoiser, self.optimizer = accelerator.prepare(_Denoiser(model, self.params), optimizer)
        if hasattr(optimizer, "train"):
            optimizer.train()  # schedule-free does not start in its training state
        self.average: dict[str, Tensor] = {}
        # Schedule-free averages by itself.
        if recipe.train.ema and recipe.train.optimizer != "schedule-free":
            # In fp32: a hundredth of a small change is nothing in bf16, and the average would stand still.
            self.average = {name: value.to(torch.float32, copy=True) for name, value in attachment.tensors().items()}

    def predict(self, noisy_BCHW: Tensor, t_B: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The outputs for a micro-batch, and how far those for the class are from the base's (B,) where that counts."""
        cond = self.condition(batch)
        if self._preservation is None:
            return self.denoiser(noisy_BCHW, t_B, cond), None
        return self._preservation.predict(self.denoiser, noisy_BCHW, t_B, batch, cond)

    def set_rate(self, share: float) -> None:
        """Set the optimizer's learning rates to a share (0..1) of their full values."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * share

    def clip_gradients(self) -> Tensor:
        """Clip the gradients to the recipe's norm; returns their norm before, a float32 scalar on the device."""
        norm: Tensor | None = self.accelerator.clip_grad_norm_(self.params, self.recipe.train.clip_norm or float("inf"))
        return torch.zeros((), device=self.model.device) if norm is None else norm.float()

    def advance(self, share: float) -> None:
        """One step of the optimizer at a share of the learning rate, then the penalties and the average."""
        self.between_steps = False
        self.optimizer.step()
        self.penalties.apply(self.step, share, self.optimizer.param_groups)
        self.step += 1
        if self.average:
            done = self.step - self.schedule.first
            # Early steps count more, so that the average is not held back by the start.
            update_ema(self.average, self.attachment.tensors(), min(self.recipe.train.ema, (1 + done) / (10 + done)))
        self.between_steps = True

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the weights, and the average, before the first step."""
        self.attachment.load(weights)
        for name, value in self.average.items():
            value.copy_(weights[name])

    def state(self) -> State:
        """Live tensors, not copies. After the last step without the optimizer's, unless it averages the weights."""
        scaler = self.accelerator.scaler
        plain = scaler.state_dict() if scaler is not None else {}
        average = self.average
        if hasattr(self._inner, "eval"):
            # Schedule-free: what would be written is neither live nor kept.
            with self.written_weights():
                average = {name: value.clone() for name, value in self.attachment.tensors().items()}
        over = self.step >= self.schedule.last and not hasattr(self._inner, "eval")
        optimizer = {} if over else self.optimizer.state_dict()
        return State(self.step, self.attachment.tensors(), optimizer, average, plain)

    def restore(self, state: State) -> None:
        self.step = state.step
        self.attachment.load(state.weights)
        if state.optimizer:
            self.optimizer.load_state_dict(state.optimizer)
        if self.accelerator.scaler is not None and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        for name, value in self.average.items():
            value.copy_(state.average[name])

    @contextmanager
    def written_weights(self) -> Iterator[None]:
        """Within, the attachment has the weights that would be written (averaged, or schedule-free's), without dropout.

        Afterwards training goes on to the same bits.
        """
        components = self.model.components.values()
        modes = [(module, module.training) for component in components for module in component.modules()]
        averages = bool(self.average) or hasattr(self._inner, "eval")
        live = {name: value.clone() for name, value in self.attachment.tensors().items()} if averages else {}
        self._evaluate()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            if hasattr(self._inner, "eval"):
                self._inner.train()
            if averages:
                self.attachment.load(live)

    def finish(self) -> Attachment:
        """End the training; returns the attachment with the weights to be written, the model in evaluation mode."""
        self._evaluate()
        self._release()
        return self.attachment

    def discard(self) -> None:
        """End the training, take the attachment off and let go of all memory. No other fit may be under way."""
        self._release()
        self.attachment.detach()

    def _release(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.free_memory()
        self.average, self.ended = {}, True
        del self.optimizer, self.denoiser

    def _evaluate(self) -> None:
        """Load the weights that would be written, and turn dropout off."""
        if hasattr(self._inner, "eval"):
            self._inner.eval()
        elif self.average:
            self.attachment.load(self.average)
        for component in self.model.components.values():
            component.eval()

    @property
    def _inner(self) -> Any:
        return getattr(self.optimizer, "optimizer", self.optimizer)


class _Denoiser(nn.Module):
    """The model's forward pass with only the trained parameters as its own, so that Accelerate spreads these alone."""

    def __init__(self, model: Model, params: list[nn.Parameter]) -> None:
        super().__init__()
        self.trained = nn.ParameterList(params)
        self.run = model.denoise

    def forward(self, noisy_BCHW: Tensor, t_B: Tensor, cond: Conditioning) -> Tensor:
        output: Tensor = self.run(noisy_BCHW, t_B, cond)
        return output


def update_ema(average: Mapping[str, Tensor], live: Mapping[str, Tensor], decay: float) -> None:
    """Move the average (float32) a share of 1 - decay towards the live weights, in place."""
    names = list(average)
    torch._foreach_lerp_([average[name] for name in names], [live[name].float() for name in names], 1 - decay)
