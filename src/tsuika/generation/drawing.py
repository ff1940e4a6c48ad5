"""What is to be drawn, in one frozen value: what `generate` and `grid` are asked for, and what an axis changes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, get_type_hints

from tsuika.core import given
from tsuika.core.errors import RecipeError
from tsuika.core.sections import overrides
from tsuika.core.texts import _
from tsuika.core.types import Overrides
from tsuika.methods import METHODS

# The fields of a drawing that name artifacts, and the method that their files must be of; empty: any.
FLAGS: Final = {method.flag: method.name for method in METHODS.values() if method.flag} | {"artifact": ""}

PREDICTIONS: Final = ("auto", "epsilon", "v", "flow")
SWITCH: Final = ("auto", "on", "off")
LARGEST_SEED = 2**64 - 1  # that torch's generators take
NO_TEXT: Final = _("It is no text (UTF-8).")
MOST_STEPS = 1000  # as many as the noise schedules of all bases have


def is_text(text: str) -> bool:
    """Whether it is whole characters: half of one comes from bytes of a command line that are not UTF-8."""
    return not re.search("[\ud800-\udfff]", text)


@cache
def _kinds() -> dict[str, Any]:
    return get_type_hints(Drawing)


@dataclass(frozen=True)
class Drawing:
    """A request for an image. None and "" stand for the base's own.

    Artifacts are `FILE` or `FILE:STRENGTH`; `lora`, `embedding` and `hypernetwork` (`METHODS`' flags) refuse files of
    another method. Those that the prompts name are looked up below `artifacts` (None: `Library.of`).

    Attributes:
        prompt: with weights and editing as in A1111.
        negative: what should not be there.
        base: `embedded`, a diffusers folder, a single file or a hub id; a DreamBooth result is one too.
        vae: `builtin`, a file or a folder.
        tokenizer: a folder, for a single-file base.
        prediction: auto, epsilon, v or flow.
        zero_terminal_snr: auto, on or off.
        clip_skip: 1 is the last layer of the text encoder.
        lora: LoRA files.
        embedding: embedding files.
        hypernetwork: hypernetwork files.
        artifact: files of any method.
        method: addresses of methods from outside, whose artifacts may be used.
        strengths: in place of what is said elsewhere: (file stem or "" for all, value).
        artifacts: folder in which files that prompts name are looked up.
        seed: from 0 to `LARGEST_SEED`.
        steps: of the sampler, 1 to 1000.
        cfg: guidance scale.
        sampler: its name.
        size: WIDTHxHEIGHT in pixels.
        device: auto, cpu, cuda, ...
        precision: auto, bf16, fp16 or fp32.
    """

    prompt: str
    negative: str = ""
    base: str = "embedded"
    vae: str = "builtin"
    tokenizer: str = ""
    prediction: str = "auto"
    zero_terminal_snr: str = "auto"
    clip_skip: int = 1
    lora: tuple[str, ...] = ()
    embedding: tuple[str, ...] = ()
    hypernetwork: tuple[str, ...] = ()
    artifact: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    strengths: tuple[tuple[str, float], ...] = ()
    artifacts: Path | None = None
    seed: int = 0
    steps: int | None = None
    cfg: float | None = None
    sampler: str | None = None
    size: str = ""
    device: str = "auto"
    precision: str = "auto"

    @property
    def overrides(self) -> Overrides:
        """What is said about the base in place of its files."""
        return overrides(self.prediction, self.zero_terminal_snr, self.clip_skip)

    def __post_init__(self) -> None:
        """Refuse what cannot be before anything is loaded. Raises RecipeError: RC002, RC015."""
        for name, kind in _kinds().items():
            value = getattr(self, name)
            value = getattr(Drawing, name, value) if value is None else value
            object.__setattr__(self, name, given.named_fit(name, value, kind, "tsuika.Drawing"))
        for key, value, fits, why in (
            ("prompt", self.prompt, is_text(self.prompt), NO_TEXT),
            ("negative", self.negative, is_text(self.negative), NO_TEXT),
            ("seed", self.seed, 0 <= self.seed <= LARGEST_SEED, f"0 … {LARGEST_SEED}"),
            ("steps", self.steps, self.steps is None or 1 <= self.steps <= MOST_STEPS, f"1 … {MOST_STEPS}"),
            ("clip_skip", self.clip_skip, self.clip_skip >= 1, "1, 2, …"),
            ("prediction", self.prediction, self.prediction in PREDICTIONS, ", ".join(PREDICTIONS)),
            ("zero_terminal_snr", self.zero_terminal_snr, self.zero_terminal_snr in SWITCH, ", ".join(SWITCH)),
        ):
            if not fits:
                raise RecipeError("RC002", key=key, found=value, why=why)
