"""What the check on copying has found, as plain values: the report shows them, and knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tsuika.evaluate.inline import PictureSource

if TYPE_CHECKING:
    from tsuika.guard.memorization import Leaks, Resemblance


@dataclass(frozen=True)
class Pair:
    """A drawing and the training picture that it is nearest to."""

    prompt: str
    seed: int
    drawing: PictureSource
    picture: str  # the training picture's name
    image: PictureSource  # and the picture
    resemblance: Resemblance  # by thumbnails; rows count drawings and training pictures
    likeness: Resemblance | None = None  # by the encoder: its own nearest picture
    of_training: bool = False  # the prompt is a training caption

    @property
    def copies(self) -> bool:
        return self.resemblance.copies

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without the pictures."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "picture": self.picture,
            "of_training": self.of_training,
            "copies": self.copies,
            "similarity": self.resemblance.to_json(),
            "likeness": self.likeness and self.likeness.to_json(),
        }


@dataclass(frozen=True)
class Lookalikes:
    """What the end check has found; the worst pair first."""

    pairs: tuple[Pair, ...]
    encoder: str = ""  # what made the likenesses; empty: nothing, pixels alone were compared
    leaks: Leaks | None = None  # what training captions call up from pure noise, where that was measured

    @property
    def copies(self) -> int:
        """How many drawings copy a training picture."""
        return sum(pair.copies for pair in self.pairs)

    @property
    def asked_captions(self) -> bool:
        """Whether training captions were drawn, where copying shows first."""
        return any(pair.of_training for pair in self.pairs)

    def as_dict(self) -> dict[str, Any]:
        """For `report.json`."""
        return {
            "drawings": len(self.pairs),
            "copies": self.copies,
            "asked_captions": self.asked_captions,
            "encoder": self.encoder or None,
            "from_noise": self.leaks and self.leaks.to_json(),
            "pairs": [pair.as_dict() for pair in self.pairs],
        }
