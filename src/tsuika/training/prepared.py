"""What is prepared before a run trains: model, images and settings; and the fits and probes that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from accelerate import Accelerator

from tsuika.config import Recipe
from tsuika.core.rundir import RunDir
from tsuika.core.seeds import generator
from tsuika.core.types import Artifact, Attachment, Batch, Model
from tsuika.data.bank import Bank
from tsuika.data.bucket import Bucket
from tsuika.data.manifest import Manifest
from tsuika.data.reg_images import RegularizedBank
from tsuika.data.subjects import Subject, subjects_of
from tsuika.guard.memorization import Memorization, measure_memorization
from tsuika.guard.probe import PATH, Probe, ProbedImage, class_prompts, controls_for
from tsuika.guard.reading import Ratios, Reading
from tsuika.methods import MethodSection, find
from tsuika.training.fit import Fit
from tsuika.training.loop import conditioner
from tsuika.training.preservation import Preservation
from tsuika.training.schedule import Schedule

CAPTIONS_TRIED: Final = 8  # for memorization
# Of what lies between two prompts: where those with the trigger word have moved less, no other is compared with them.
HARDLY: Final = 0.02

Images = Bank | RegularizedBank


@dataclass(frozen=True)
class Inputs:
    """Base and images, before anything is encoded."""

    recipe: Recipe
    settings: MethodSection  # the recipe's method, complete
    model: Model
    manifest: Manifest
    buckets: tuple[Bucket, ...]
    start: Artifact | None  # a result that the training goes on from


@dataclass(frozen=True)
class Moved:
    """How far a subject's prompts have moved, of what lies between two prompts, and by that how far others have."""

    subject: Subject
    own: float
    of_class: float  # its class word alone; 0 without one
    of_others: float  # prompts that are about none of the subjects


@dataclass(frozen=True)
class Prepared(Inputs):
    accelerator: Accelerator
    images: Images
    folder: RunDir
    under_way: list[Fit] = field(default_factory=list)  # the fit that was made last, if any: no two at once

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return bool(self.accelerator.is_main_process)

    def checkpoint_gradients(self) -> None:
        """Turn gradient checkpointing on where the recipe asks for it."""
        if self.recipe.train.gradient_checkpointing:
            unet: Any = self.model.unet
            unet.enable_gradient_checkpointing()
            unet.train()  # diffusers checkpoints in training mode only; its UNets have no dropout

    def attach(self) -> Attachment:
        """The method on the model, freshly initialised or as in the file to start from: the same numbers each time."""
        init = generator(self.recipe.train.seed, "init")
        attachment: Attachment = find(self.recipe.method.name).attach(self.model, self.settings, init, self.start)
        return attachment

    def fit(
        self, names: Sequence[str] | None = None, schedule: Schedule | None = None, attachment: Attachment | None = None
    ) -> Fit:
        """A training on some of the images (by default all), of a fresh attachment unless one is given."""
        images, train = self.images if names is None else self.images.only(names), self.recipe.train
        trained = self.attach() if attachment is None else attachment

        def batch(number: int) -> Batch:
            return images.batch(number, train.batch_size, train.seed)

        condition = conditioner(self.model, trained, images.size_px_of)
        preservation = None
        if self.recipe.regularize.output_preservation:
            of_base = conditioner(self.model, trained, images.size_px_of, of_base=True)
            preservation = Preservation(self.model, trained, subjects_of(self.recipe.data), condition, of_base)
        run = Fit(self.model, trained, self.recipe, self.accelerator, batch, condition, schedule, preservation)
        self.under_way[:] = [run]
        return run

    def clear_model(self) -> None:
        """Take off the model what a fit that was stopped has left there."""
        for run in self.under_way:
            if not run.ended:
                run.discard()
        self.under_way.clear()

    def subjects(self, names: Sequence[str]) -> list[ProbedImage]:
        if not names:
            return []
        keys = {sample.name: sample.sha256 for sample in self.manifest.samples}
        plain = {batch.names[0]: batch for batch in self.images.only(names).plain()}

        def subject(key: str, batch: Batch) -> ProbedImage:
            mask_B1HW = batch.mask_B1HW
            # Where a mask shows nothing, no error would be left to measure.
            mask_1HW = mask_B1HW[0] if mask_B1HW is not None and bool(mask_B1HW.any()) else None
            return ProbedImage(key, batch.latents_BCHW[0], batch.captions[0], self.images.size_px_of(batch), mask_1HW)

        return [subject(keys[name], plain[name]) for name in names]

    def probe(
        self,
        run: Fit,
        held_out: Sequence[str],
        trained_on: Sequence[str],
        controls: int,
        draws: tuple[int, int],
        first: int = 0,
    ) -> Probe:
        """A probe on a fit.

        `controls` are how many unrelated prompts are measured; `draws` and `first` as `Probe`. Strength must be 1.
        """
        prompts, autocast = self._controls()[:controls], self.accelerator.autocast
        sides = self.subjects(held_out), self.subjects(trained_on)
        with run.written_weights():
            return Probe(
                self.model, run.attachment, *sides, controls=prompts, draws=draws, first=first, autocast=autocast
            )

    def moved(self, attachment: Attachment) -> list[Moved]:
        """How far the finished weights have moved the class word of each subject alone, and unrelated prompts: by prompts with
        its trigger word. Nothing of subjects without one, and of those whose prompts have hardly moved."""
        subjects, autocast = subjects_of(self.recipe.data), self.accelerator.autocast
        controls = self._controls()[: len(PATH)]
        found = []
        for subject in subjects:
            image = next(one.name for one in self.manifest.samples if one.set in subject.sets)

            def own(word: str, image: str = image) -> Reading:
                shown = self.subjects([image])
                seen = Probe(
                    self.model, attachment, (), shown, controls=controls, own=class_prompts(word), autocast=autocast
                )
                return seen.measure(train=False)

            trained = own(subject.name) if subject.trigger else Reading(Ratios())
            whole = trained.own_drift or 0.0
            if whole >= HARDLY:
                of_class = own(subject.class_word).own_drift if subject.class_word else None
                found.append(Moved(subject, whole, (of_class or 0.0) / whole, (trained.drift or 0.0) / whole))
        return found

    def _controls(self) -> tuple[str, ...]:
        return controls_for(" ".join(one.class_word for one in subjects_of(self.recipe.data)))

    def memorization(self, attachment: Attachment) -> Memorization:
        """What the finished weights make of pure noise under a few training captions."""
        train = self.subjects([sample.name for sample in self.manifest.samples])
        asked = list({one.caption: one for one in train}.values())[:CAPTIONS_TRIED]
        return measure_memorization(self.model, attachment, train, asked=asked, autocast=self.accelerator.autocast)
