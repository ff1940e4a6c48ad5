"""The named things of the embedded world. `KNOWN` (known.json: name and other words, by kind) is the vocabulary that the
embedded base was trained to draw; `NEW` things were shown to no part of it but the yardstick: they are what fine-tuning can
teach."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Final, NamedTuple

from tsuika.embedded.hands import new_things


class Thing(NamedTuple):
    """One drawable thing: the words for it (the first is its name), and its kind."""

    words: tuple[str, ...]
    kind: str

    @property
    def name(self) -> str:
        """The name the thing is looked up by."""
        return self.words[0]


KNOWN: Final[tuple[Thing, ...]] = tuple(
    Thing(tuple(words), kind)
    for kind, rows in json.loads(files(__package__).joinpath("known.json").read_text(encoding="utf-8")).items()
    for words in rows
)
NEW: Final[tuple[Thing, ...]] = tuple(Thing((name,), "object") for name in new_things())
