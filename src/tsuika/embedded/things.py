"""The named things of the embedded world: which code points of Noto Color Emoji it knows, and by what words.

`KNOWN` is the vocabulary the embedded base was trained to draw. `strangers()` (chosen by rule from the same font) were
never shown to its UNet or text encoder: they are "new things" for fine-tuning, and they teach the VAE and the
yardstick that there is more in the world than the vocabulary.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple


class Thing(NamedTuple):
    """One drawable thing: its Unicode code point, the words for it (the first is its name), and its kind."""

    codepoint: int
    words: tuple[str, ...]
    kind: str

    @property
    def name(self) -> str:
        """The name the thing is looked up by."""
        return self.words[0]


def _things(kind: str, *rows: tuple[int, str]) -> tuple[Thing, ...]:
    return tuple(Thing(codepoint, tuple(words.split("|")), kind) for codepoint, words in rows)


KNOWN: Final[tuple[Thing, ...]] = (
    *_things(
        "animal",
        (0x1F436, "dog|puppy|dog face"),
        (0x1F431, "cat|kitten|cat face"),
        (0x1F98A, "fox|fox face"),
        (0x1F43B, "bear|bear face"),
        (0x1F43C, "panda|panda face"),
        (0x1F438, "frog|frog face"),
        (0x1F437, "pig|pig face"),
        (0x1F430, "rabbit|bunny|rabbit face"),
        (0x1F981, "lion|lion face"),
        (0x1F435, "monkey|monkey face"),
        (0x1F427, "penguin"),
        (0x1F989, "owl"),
        (0x1F422, "turtle|tortoise"),
        (0x1F420, "tropical fish|fish"),
        (0x1F433, "whale|spouting whale"),
        (0x1F419, "octopus"),
        (0x1F980, "crab"),
        (0x1F98B, "butterfly"),
        (0x1F41E, "ladybug|lady beetle"),
        (0x1F418, "elephant"),
        (0x1F424, "chick|baby chick"),
        (0x1F986, "duck"),
        (0x1F984, "unicorn|unicorn face"),
        (0x1F40C, "snail"),
    ),
    *_things(
        "food",
        (0x1F34E, "apple|red apple"),
        (0x1F34C, "banana"),
        (0x1F353, "strawberry"),
        (0x1F349, "watermelon"),
        (0x1F34D, "pineapple"),
        (0x1F955, "carrot"),
        (0x1F345, "tomato"),
        (0x1F347, "grapes"),
        (0x1F355, "pizza|slice of pizza"),
        (0x1F354, "hamburger|burger"),
        (0x1F369, "doughnut|donut"),
        (0x1F382, "cake|birthday cake"),
        (0x1F366, "ice cream|soft ice cream"),
        (0x1F951, "avocado"),
    ),
    *_things(
        "plant",
        (0x1F344, "mushroom|toadstool"),
        (0x1F335, "cactus"),
        (0x1F33B, "sunflower"),
        (0x1F339, "rose|red rose"),
        (0x1F332, "tree|evergreen tree"),
        (0x1F334, "palm tree|palm"),
        (0x1F340, "clover|four leaf clover"),
    ),
    *_things(
        "vehicle",
        (0x1F697, "car|red car|automobile"),
        (0x1F68C, "bus|blue bus"),
        (0x1F680, "rocket"),
        (0x26F5, "sailboat|boat"),
        (0x1F682, "train|steam locomotive"),
    ),
    *_things(
        "character",
        (0x1F47B, "ghost"),
        (0x1F916, "robot|robot face"),
        (0x26C4, "snowman"),
        (0x1F9F8, "teddy bear|teddy"),
        (0x1F383, "jack-o-lantern|halloween pumpkin"),
    ),
    *_things(
        "object",
        (0x1F3E0, "house|house building"),
        (0x1F388, "balloon|red balloon"),
        (0x26BD, "soccer ball|football"),
        (0x1F3C0, "basketball"),
        (0x1F381, "present|gift|wrapped present"),
        (0x2B50, "star|yellow star"),
        (0x2764, "heart|red heart"),
        (0x1F451, "crown"),
        (0x2602, "umbrella"),
    ),
)


@cache
def strangers() -> tuple[Thing, ...]:
    """Things outside the vocabulary, in the order of the glyph atlas that ships with the package."""
    rows = json.loads(files(__package__).joinpath("glyphs.json").read_text(encoding="utf-8"))
    return tuple(Thing(codepoint, (name,), "object") for codepoint, name in rows[len(KNOWN) :])


@cache
def by_name() -> dict[str, Thing]:
    """Every thing, known or stranger, under each of its words."""
    return {word: thing for thing in (*strangers(), *KNOWN) for word in thing.words}
