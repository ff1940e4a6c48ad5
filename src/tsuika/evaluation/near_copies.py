"""Images of a report, and what the memorization check has found about them, as plain values: no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from tsuika import pages
from tsuika.core.intervals import beyond_chance
from tsuika.core.texts import Text, _, _n
from tsuika.data.image import open_image
from tsuika.pages import sentences

if TYPE_CHECKING:
    from tsuika.guard.memorization import Memorization, Resemblance


ImageSource = Image.Image | Path  # in memory, or a file

# Of drawings that copied nothing, so many were taken for copies (docs/log/2026-11-21-does-it-copy.md). Of true images, which
# resemble each other less, it is 0.4 %.
FALSE_RATE: Final = 5 / 340
FALSE_VERDICTS: Final = 0.01  # share of results that copy nothing and are said to copy, at most


def are_copies(copies: int, drawings: int) -> bool:
    """Whether so many drawings taken for copies are more than chance, by the false rate of one."""
    return copies >= beyond_chance(drawings, FALSE_RATE, FALSE_VERDICTS)


def data_uri(image: ImageSource, side_px: int) -> str:
    """An image, at most `side_px` on its longer side, as a data URI. Raises UnusableError as `opened`."""
    return pages.data_uri(opened(image), side_px)


def opened(image: ImageSource) -> Image.Image:
    """An image to work on, read as for training: upright, sRGB, on white. Raises UnusableError: the file is gone or no image."""
    return open_image(image) if isinstance(image, Path) else image.convert("RGB").copy()


@dataclass(frozen=True)
class NearestImage:
    """A drawing and the training image (`image`, and its name) that it is nearest to.

    `resemblance` is by thumbnails (rows count drawings and training images), `likeness` by the encoder, with its own nearest
    image; `of_training`: the prompt is a training caption.
    """

    prompt: str
    seed: int
    drawing: ImageSource
    image_name: str
    image: ImageSource
    resemblance: Resemblance
    likeness: Resemblance | None = None
    of_training: bool = False

    @property
    def copies(self) -> bool:
        return self.resemblance.copies

    @property
    def rank(self) -> tuple[bool, float, str, int]:
        """Sorts the worst first."""
        return not self.copies, -self.resemblance.similarity, self.prompt, self.seed

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "picture": self.image_name,
            "of_training": self.of_training,
            "copies": self.copies,
            "similarity": self.resemblance.to_json(),
            "likeness": self.likeness and self.likeness.to_json(),
        }


@dataclass(frozen=True)
class MemorizationCheck:
    """The outcome of the check: pairs, the worst first, by an encoder (empty: by pixels alone), and from pure noise."""

    pairs: tuple[NearestImage, ...]
    encoder: str = ""
    memorization: Memorization | None = None

    @property
    def copies(self) -> int:
        return sum(pair.copies for pair in self.pairs)

    @property
    def asked_captions(self) -> bool:
        """Whether training captions were drawn, where copying shows first."""
        return any(pair.of_training for pair in self.pairs)

    @property
    def verdict(self) -> Text:
        """Whether there are copies, and how far that can be trusted."""
        count = len(self.pairs)
        chance = _(
            "{copies} of {drawings} drawings resemble a training image; that many may be chance.",
            copies=self.copies,
            drawings=count,
        )
        said = [
            _(
                "{copies} of the {drawings} drawings compared reproduce a training image, layout and all. Stop earlier, or"
                " train on more and more varied images.",
                copies=self.copies,
                drawings=count,
            )
            if are_copies(self.copies, count)
            else chance
            if self.copies
            else _n(
                "The {count} drawing compared does not reproduce a training image.",
                "None of the {count} drawings compared reproduces a training image.",
                count,
            ),
            _("Among them are drawings of training captions, where copying shows first.")
            if self.asked_captions
            else _(
                "No training caption was drawn, where copying shows first; so this says little of prompts that are worded"
                " like one."
            ),
        ]
        if self.memorization and self.memorization.recalled:
            said.append(
                _(
                    "{recalled} of the {asked} training captions tried call up a training image before the first step of a"
                    " drawing, out of pure noise: its layout is learned by heart.",
                    recalled=self.memorization.recalled,
                    asked=len(self.memorization.recalls),
                )
            )
        elif self.memorization:
            said.append(
                _(
                    "None of the {asked} training captions tried calls up a training image out of pure noise.",
                    asked=len(self.memorization.recalls),
                )
            )
        return sentences(*said)

    def to_dict(self) -> dict[str, Any]:
        return {
            "drawings": len(self.pairs),
            "copies": self.copies,
            "asked_captions": self.asked_captions,
            "encoder": self.encoder or None,
            "from_noise": self.memorization and self.memorization.to_json(),
            "pairs": [pair.to_dict() for pair in self.pairs],
        }
