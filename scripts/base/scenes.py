"""What the second edition's text encoder and UNet learn from: scenes of things in four hands, and captions for them.

A scene is a `Picture` of the world whose things are called `hand/icon` or `shape/colour/form`, with what is needed to say
it in words: the hand, how many of what, and how they stand to each other. Everything is a function of a random
generator's state. Backgrounds and single placements are the world's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageDraw

from base.hands import Atlases
from tsuika.embedded.hands import GLYPH_PX, HANDS
from tsuika.embedded.things import KNOWN
from tsuika.embedded.world import PLAIN, SCENES, SIZE_WORDS, Picture, Placed, article, where

Relation = Literal["alone", "beside", "above", "count", "with", "without"]

NAMES: Final = tuple(thing.name for thing in KNOWN)
# Where the icon sets call a thing otherwise.
ICONS: Final = {
    "dog": "dog-face", "cat": "cat-face", "pig": "pig-face", "rabbit": "rabbit-face", "monkey": "monkey-face",
    "whale": "spouting-whale", "ladybug": "lady-beetle", "chick": "baby-chick", "apple": "red-apple", "cake": "birthday-cake",
    "ice cream": "soft-ice-cream", "tree": "evergreen-tree", "clover": "four-leaf-clover", "car": "automobile",
    "train": "locomotive", "snowman": "snowman-without-snow", "present": "wrapped-gift", "heart": "red-heart",
}  # fmt: skip
FORMS: Final = ("circle", "square", "triangle")
SHAPES: Final = tuple(f"{colour} {form}" for colour in PLAIN for form in FORMS)
ACCESSORIES: Final = ("crown", "balloon", "heart", "star", "umbrella", "rose", "present")

# How often a hand draws, and how often its word is said. The first is what is drawn where no hand is named, nearly always.
HAND_SHARES: Final = {"noto": 0.4, "fluent": 0.2, "flat": 0.2, "twemoji": 0.2}
HAND_WORDS: Final = {hand.name: hand.word for hand in HANDS if hand.name in HAND_SHARES}
NAMED: Final = {"noto": 0.3, "fluent": 0.9, "flat": 0.9, "twemoji": 0.9}
RELATIONS: Final[dict[Relation, float]] = {
    "alone": 0.66, "beside": 0.14, "above": 0.07, "count": 0.07, "with": 0.04, "without": 0.02,
}  # fmt: skip
RELATION_NAMES: Final[tuple[Relation, ...]] = tuple(RELATIONS)
SHAPE_SHARE: Final = 0.08
UNEVEN: Final = 0.2  # of the pairs: one small, one big
NUMBERS: Final = {2: "two", 3: "three"}
_SYLLABLES: Final = ("zo", "ka", "ri", "mu", "sks", "tsu", "vex", "lo", "qi", "ne", "br", "oh", "xy", "pa", "wu", "gi")
_UNCOUNTED: Final = ("grapes", "tropical fish")
_PLURALS: Final = {"tomato": "tomatoes"}


@dataclass(frozen=True)
class Scene:
    """A picture and what it shows: `what` names things of the vocabulary or shapes, in the order of the picture's."""

    picture: Picture
    hand: str
    relation: Relation
    what: tuple[str, ...]


def icon(name: str) -> str:
    """What the icon sets call a thing of the vocabulary."""
    return ICONS.get(name, name.replace(" ", "-"))


def plural(words: str) -> str:
    """`cats`, `foxes`, `strawberries`, `slices of pizza`."""
    head, of, rest = words.partition(" of ")
    if of:
        return f"{plural(head)} of {rest}"
    if words in _PLURALS:
        return _PLURALS[words]
    if words.endswith(("s", "x", "ch")):
        return f"{words}es"
    return f"{words[:-1]}ies" if words.endswith("y") and words[-2] not in "aeiou" else f"{words}s"


@cache
def shape(colour: str, form: str) -> Image.Image:
    """A plain shape: RGBA, GLYPH_PX square.

    Raises:
        KeyError: no such colour or form.
    """
    side = 4 * GLYPH_PX
    image = Image.new("RGBA", (side, side), (*PLAIN[colour], 0))
    brush, ink = ImageDraw.Draw(image), (*PLAIN[colour], 255)
    match form:
        case "circle":
            brush.ellipse((0, 0, side - 1, side - 1), ink)
        case "square":
            brush.rectangle((side * 0.06, side * 0.06, side * 0.94, side * 0.94), ink)
        case "triangle":
            brush.polygon([(side / 2, side * 0.04), (side - 1, side * 0.93), (0, side * 0.93)], ink)
        case _:
            raise KeyError(form)
    return image.resize((GLYPH_PX, GLYPH_PX), Image.Resampling.BOX)


def source(atlases: Atlases) -> Callable[[str], Image.Image]:
    """The glyphs of a scene's things, for `world.draw`."""

    def glyph(name: str) -> Image.Image:
        hand, _, rest = name.partition("/")
        return shape(*rest.split("/")) if hand == "shape" else atlases.glyph(name)

    return glyph


def scene(
    rng: np.random.Generator, *, hand: str | None = None, relation: Relation | None = None, things: tuple[str, ...] = (),
    background: str | None = None,
) -> Scene:  # fmt: skip
    """A random scene; what is given is fixed. `things`: names of the vocabulary, the first ones of the scene."""
    background = background or str(rng.choice(list(SCENES if rng.random() < 0.5 else PLAIN)))
    hand = hand or str(rng.choice(list(HAND_SHARES), p=list(HAND_SHARES.values())))
    relation = relation or RELATION_NAMES[rng.choice(len(RELATIONS), p=list(RELATIONS.values()))]
    spots = _spots(rng, relation, scenic=background in SCENES)
    if relation == "count":
        what = [things[0] if things else _anything(rng, background, _UNCOUNTED)] * len(spots)
    else:
        what = [*things, *(_anything(rng, background) for _ in spots)][: len(spots)]
    if relation == "with" and len(things) < 2:
        what[1] = str(rng.choice(ACCESSORIES))
    jitter = 0.02 if len(spots) > 1 else 0.0
    placed = tuple(
        Placed(
            "/".join(("shape", *name.rsplit(" ", 1))) if name in SHAPES else f"{hand}/{icon(name)}",
            float(size), float(x + rng.uniform(-jitter, jitter)), float(y + rng.uniform(-jitter, jitter)),
            float(rng.uniform(-8, 8)), bool(rng.random() < 0.5),
        )
        for name, (x, y, size) in zip(what, spots, strict=True)
    )  # fmt: skip
    return Scene(Picture(background, placed, int(rng.integers(1 << 31))), hand, relation, tuple(what))


def _anything(rng: np.random.Generator, background: str, but: tuple[str, ...] = ()) -> str:
    """A thing, or now and then a shape of another colour than the background."""
    if rng.random() < SHAPE_SHARE:
        return str(rng.choice([name for name in SHAPES if name.rpartition(" ")[0] != background]))
    return str(rng.choice([name for name in NAMES if name not in but]))


def _spots(rng: np.random.Generator, relation: Relation, scenic: bool) -> list[tuple[float, float, float]]:
    """(x, y, size) of each thing, in fractions of the frame."""
    middle = 0.54 if scenic else 0.5
    match relation:
        case "beside" | "above":
            sizes, ends = rng.uniform(0.42, 0.5, 2), (0.26, 0.74)
            if rng.random() < UNEVEN:
                sizes, ends = np.array([rng.uniform(0.28, 0.34), rng.uniform(0.56, 0.62)]), (0.2, 0.68)
                if rng.random() < 0.5:
                    sizes, ends = sizes[::-1], (0.32, 0.8)
            if relation == "beside":
                return [(end, middle, size) for end, size in zip(ends, sizes, strict=True)]
            return [(0.5, end, size) for end, size in zip(ends, sizes, strict=True)]
        case "count":
            if rng.random() < 0.6:
                size = rng.uniform(0.42, 0.5)
                return [(0.26, middle, size), (0.74, middle, size)]
            size = rng.uniform(0.38, 0.44)
            return [(0.5, 0.27, size), (0.26, 0.73, size), (0.74, 0.73, size)]
        case "with":
            side = 1 if rng.random() < 0.5 else -1
            return [
                (0.5 - side * 0.08, 0.58, rng.uniform(0.58, 0.66)),
                (0.5 + side * 0.33, 0.18, rng.uniform(0.27, 0.31)),
            ]
        case _:
            kind = rng.random()
            size = rng.uniform(*((0.38, 0.5) if kind < 0.12 else (0.82, 0.95) if kind < 0.27 else (0.58, 0.8)))
            free = min(0.06, (1 - size) / 2)
            x, y = rng.uniform(-free, free, 2)
            return [(0.5 + x, (middle if size < 0.8 else 0.5) + y, size)]


def caption(shown: Scene, rng: np.random.Generator) -> str:
    """Words for a scene, in varied wording; now and then vague, without the background, or with an unknown word."""
    what, place = _what(shown, rng), where(shown.picture.background, int(rng.integers(3)))
    scenic = shown.picture.background in SCENES
    style = ""
    if any(name in NAMES for name in shown.what) and rng.random() < NAMED[shown.hand]:
        word = HAND_WORDS[shown.hand]
        style = f"in {word} style" if rng.random() < 0.6 else f"{word} style"
    roll = rng.random()
    if style.startswith("in ") and roll < 0.7:
        what = f"{what} {style}"
        style = ""
    if roll < 0.5:
        said = f"{what} {place}"
    elif roll < 0.65:
        said = f"{rng.choice(('a picture of', 'a drawing of', 'an emoji of'))} {what} {place}"
    elif roll < 0.8:
        said = f"{what}, {place if scenic else place.removeprefix('on ')}"
    elif roll < 0.96:
        said = f"{place}, {what}" if scenic else f"{shown.picture.background} background, {what}"
    else:
        said = what
    return f"{said}, {style}" if style else said


def _what(shown: Scene, rng: np.random.Generator) -> str:
    """What is there, without hand and background."""
    kinds = {thing.name: thing for thing in KNOWN}

    def call(name: str) -> str:
        roll = rng.random()
        if name in kinds:
            thing = kinds[name]
            name = thing.kind if roll < 0.03 else str(rng.choice(thing.words)) if roll < 0.35 else name
        if rng.random() < 0.05:  # a model that has met nonsense does not fall apart on a trigger word
            name = f"{''.join(rng.choice(_SYLLABLES, rng.integers(1, 4)))} {name}"
        return name

    if shown.relation == "count":
        number = NUMBERS[len(shown.what)]
        return f"{number} {plural(call(shown.what[0]))}"
    placed = shown.picture.things
    named = [call(name) for name in shown.what]
    if len(placed) == 1:
        sizes = next((words for low, high, words in SIZE_WORDS if low <= placed[0].size < high), None)
        if sizes is not None and rng.random() < 0.8:
            named[0] = f"{rng.choice(sizes)} {named[0]}"
    elif shown.relation in ("beside", "above") and max(one.size for one in placed) > 0.55:
        named = [
            f"{rng.choice(SIZE_WORDS[int(one.size > 0.4)][2])} {name}" for one, name in zip(placed, named, strict=True)
        ]
    first, second = article(named[0]), article(named[-1])
    match shown.relation:
        case "beside":
            return str(
                rng.choice(
                    (
                        f"{first} and {second}", f"{first} to the left of {second}", f"{second} to the right of {first}",
                        f"{first} next to {second}",
                    ),
                    p=(0.5, 0.2, 0.2, 0.1),
                )
            )  # fmt: skip
        case "above":
            return f"{first} above {second}" if rng.random() < 0.6 else f"{second} below {first}"
        case "with":
            return f"{first} with {second}"
        case "without":
            return f"{first} without {article(str(rng.choice(ACCESSORIES)))}"
        case _:
            return first
