"""What a training run proved, carried by the file that it wrote: JSON under `tsuika.provenance` in the metadata.

It names no folder, no image, no caption and no person. A file can claim anything: `tsuika evaluate` measures again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tsuika.core.messages import percent
from tsuika.core.texts import Text, _, _n

KEY: Final = "tsuika.provenance"
VERSION: Final = 1
_STRICT: Final = ConfigDict(strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class GuardRecord:
    """What the guard measured on images that were held out of a trial run, and chose.

    Losses are natural logarithms of their ratio to the base's on the same draws: -0.01 is 1 % better.

    Attributes:
        kind: `hold-out` or `folds`.
        held_out: images that were held out; all of them with folds.
        folds: trial runs; 0 with one.
        curve: of each check its step, the mean, and the ends of its 95 % interval, None where one draw gives none.
        interval: `pictures` where it speaks of more images like these, `draws` where of these at other timesteps.
        best_step: of the trial run; 0 is the base.
        optimism: by about how much the best step looks too good, as these images have chosen it; None if not known.
        all_images: whether the file has gone on with the held-out images as well, so that no number is of the file itself.
    """

    kind: str
    held_out: int
    folds: int
    curve: tuple[tuple[int, float, float | None, float | None], ...]
    interval: str
    best_step: int
    optimism: float | None
    all_images: bool


@dataclass(frozen=True, config=_STRICT)
class Provenance:
    """How a file came to be.

    Attributes:
        version: of this form; others are not read.
        method: its name.
        steps: of the training that made the weights.
        images: that it was trained on.
        base: `name` of the base's file, its `sha256` where it is known, and what it `predicts`.
        stopped_by: `steps`, `guard`, `diverged` or `user`.
        guard: None where nothing was held out.
        memorized: training images that the result repeats, as far as the guard looked for them; None where it did not.
        programs: versions of `tsuika`, `torch` and others.
    """

    version: int
    method: str
    steps: int
    images: int
    base: dict[str, str]
    stopped_by: str
    guard: GuardRecord | None
    memorized: int | None
    programs: dict[str, str]

    @property
    def words(self) -> tuple[Text, ...]:
        """Sentences for people: what was trained, and what the guard proved of it."""
        base = self.base.get("name") or self.base.get("predicts", "")
        trained = _n(
            "{steps:,} steps on {count} image, on {base}.",
            "{steps:,} steps on {count} images, on {base}.",
            self.images,
            steps=self.steps,
            base=base,
        )
        return (trained, *self._guarded(), *self._repeated())

    def _guarded(self) -> Iterator[Text]:
        if (guard := self.guard) is None:
            yield _("Nothing was held out to measure it by.")
            return
        best = next((row for row in guard.curve if row[0] == guard.best_step), None)
        if best is None:
            yield _("No step was better than the base model on images that were held out.")
            return
        _step, mean, low, high = best
        yield _n(
            "Loss on {count} held-out image at the best step, beside the base model: {change} (95%: {low} to {high}).",
            "Loss on {count} held-out images at the best step, beside the base model: {change} (95%: {low} to {high}).",
            guard.held_out,
            change=percent(mean),
            low=percent(low),
            high=percent(high),
        )
        if guard.all_images:
            yield _("The file has then gone on with all images.")

    def _repeated(self) -> Iterator[Text]:
        if self.memorized is not None:
            found = _n("It repeats {count} training image.", "It repeats {count} training images.", self.memorized)
            yield found if self.memorized else _("It repeats no training image.")

    def to_text(self) -> str:
        """As it stands in a file; the same values give the same text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def carried(facts: Mapping[str, str]) -> dict[str, str]:
    """What an artifact's facts say of its training, as a file's metadata has it; empty for nothing."""
    return {KEY: facts[KEY]} if KEY in facts else {}


def of(metadata: Mapping[str, str]) -> Provenance | None:
    """What a file's metadata says of its training; None if nothing.

    Raises:
        ValueError: what stands there is damaged, or of a later version.
    """
    if (text := metadata.get(KEY)) is None:
        return None
    try:
        found = TypeAdapter(Provenance).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if found.version != VERSION:
        raise ValueError(f"version: {found.version} ≠ {VERSION}")
    return found
