"""What every fit of a run stands on: model, pictures, settings; and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from accelerate import Accelerator

from tsuika.core.config import Recipe
from tsuika.core.events import Event, Started
from tsuika.core.rundir import RunDir
from tsuika.core.seeds import generator
from tsuika.core.types import Attachment, Batch, Conditioning, Lanes, Model, count_params
from tsuika.data.bank import Bank
from tsuika.data.manifest import Manifest
from tsuika.data.prior import Preserving
from tsuika.guard.memorise import Leaks, leaks
from tsuika.guard.probe import Probe, Subject, controls_for
from tsuika.methods import MethodSection, find
from tsuika.train.loop import Conditioner, Fit, conditioner
from tsuika.train.stage import Stage

LEAKS_ASKED: Final = 8  # captions

Pictures = Bank | Preserving


@dataclass
class Ground:
    """What every fit of a run stands on."""

    recipe: Recipe
    settings: MethodSection
    model: Model
    accelerator: Accelerator
    manifest: Manifest
    pictures: Pictures
    folder: RunDir
    after: Callable[[int, Fit], Iterator[Event]] = field(default=lambda step, run: iter(()))

    def checkpoint_gradients(self) -> None:
        """Keep fewer activations for the backward pass, where the recipe wishes it; for training, not for drawing."""
        if self.recipe.train.gradient_checkpointing:
            unet: Any = self.model.unet
            unet.enable_gradient_checkpointing()
            unet.train()  # diffusers checkpoints in training mode only; its UNets have no dropout

    def attach(self) -> Attachment:
        """Freshly initialised: the same numbers each time."""
        recipe = self.recipe
        attachment: Attachment = find(recipe.method.name).attach(
            self.model, self.settings, generator(recipe.train.seed, "init")
        )
        return attachment

    def fit(
        self,
        attachment: Attachment,
        names: Sequence[str] | None = None,
        read: Conditioner | None = None,
        *,
        steady: bool = False,
    ) -> Fit:
        """A training of an attachment on some of the pictures, or on all; `steady`: the rate does not fall by itself."""
        pictures = self.pictures if names is None else self.pictures.only(names)
        train = self.recipe.train
        return Fit(
            self.model,
            attachment,
            self.recipe,
            self.accelerator,
            batch=lambda number: pictures.batch(number, train.batch_size, train.seed),
            condition=read or conditioner(self.model, attachment, pictures.size_px_of),
            fall_from=train.steps if steady else None,
        )

    def reader(self, lanes: Lanes, lane: int, attachment: Attachment) -> Conditioner:
        """Captions as one lane's text encoders and words have them."""
        encode = conditioner(self.model, attachment, self.pictures.size_px_of)

        def read(batch: Batch) -> Conditioning:
            with lanes.alone(lane):
                return encode(batch)

        return read

    def subjects(self, names: Sequence[str]) -> list[Subject]:
        """Pictures to measure by."""
        if not names:
            return []
        keys = {sample.name: sample.sha256 for sample in self.manifest.samples}
        plain = {batch.names[0]: batch for batch in self.pictures.only(names).plain()}
        return [
            Subject(
                keys[name], plain[name].latents_BCHW[0], plain[name].captions[0], self.pictures.size_px_of(plain[name])
            )
            for name in names
        ]

    def probe(
        self, run: Fit, held_out: Sequence[str], train: Sequence[str], controls: int, *, few: bool = False
    ) -> Probe:
        """A probe on a fit, at half of the timesteps if `few`; `run`'s attachment must be at strength 1."""
        words = controls_for(self.recipe.data.class_word)[:controls]
        with run.written_weights():
            return Probe(
                self.model,
                run.attachment,
                self.subjects(held_out),
                self.subjects(train),
                controls=words,
                few=few,
                autocast=self.accelerator.autocast,
            )

    def leaks(self, run: Fit) -> Leaks:
        """What a few training captions call up out of pure noise; `run` has the weights that will be written."""
        train = self.subjects([sample.name for sample in self.manifest.samples])
        asked = list({one.caption: one for one in train}.values())[:LEAKS_ASKED]
        return leaks(self.model, run.attachment, train, asked=asked, autocast=self.accelerator.autocast)

    def stage(self, runs: Sequence[Fit], states: Sequence[Path], **more: Any) -> Stage:
        """The fits with their saved states."""
        train = self.recipe.train
        every = train.checkpoint_every or max(1, train.steps // 10)
        return Stage(runs, states, every, self.recipe.output.keep_states, **more)

    def started(self, run: Fit) -> Started:
        """The event that a run begins, or goes on."""
        return Started(
            self.recipe.method.name,
            self.model.facts.family,
            len(self.pictures),
            self.recipe.train.steps,
            run.step,
            count_params(run.params),
        )
