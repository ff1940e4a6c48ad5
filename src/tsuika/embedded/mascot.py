"""The demo's character: Tsuipi, a creature that no model has ever seen, drawn from shapes by this file alone. `pictures`
are the demo's training set, `held_out` the true distribution, which only a made-up world can give; of `TEST_PROMPTS`, the
before/after prompts, no background or companion is in the training set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from tsuika.core.files import whole, write_text
from tsuika.core.seeds import derive
from tsuika.embedded import world
from tsuika.embedded.shapes import Canvas, Shade
from tsuika.embedded.things import KNOWN
from tsuika.embedded.world import SCENES, SIZE_WORDS, Picture, Pixels, Placed

TRIGGER: Final = "tsuipi"
CLASS_WORD: Final = "character"
NAME: Final = f"{TRIGGER} {CLASS_WORD}"

# Twice the embedded base's native side: an ordinary picture set is larger than the training size
PICTURE_PX: Final = 128

# Teal with magenta and orange is a combination none of the known things has.
TEAL: Final[Shade] = ((64, 214, 200), (8, 150, 150))  # lit from above: top, bottom
TEAL_FAR: Final[Shade] = ((22, 172, 166), (4, 122, 128))
CREAM: Final[Shade] = ((255, 250, 228), (250, 230, 190))
ORANGE: Final[Shade] = ((255, 178, 52), (244, 116, 20))
MAGENTA: Final[Shade] = ((240, 62, 148), (200, 28, 112))
WHITE: Final[Shade] = ((255, 255, 255), (240, 236, 246))
CHEEK: Final[Shade] = ((255, 150, 170), (250, 130, 156))
INK: Final[Shade] = ((46, 32, 58), (30, 20, 42))
TONGUE: Final[Shade] = ((255, 112, 120), (236, 84, 100))


@dataclass(frozen=True)
class Pose:
    """How the mascot holds itself. Arms in degrees: 0 hangs down, 90 is straight out, 180 straight up."""

    words: str  # for a caption; empty for the neutral pose
    left_arm_deg: float = 28.0  # the arm on the picture's left
    right_arm_deg: float = 28.0
    look: float = 0.0  # -1 to the picture's left, 1 to its right
    eyes_closed: bool = False
    mouth_open: bool = False
    sitting: bool = False


POSES: Final[dict[str, Pose]] = {
    "standing": Pose(""),
    "cheering": Pose("with arms up", 132, 132, mouth_open=True),
    "waving": Pose("waving", 28, 136),
    "looking left": Pose("looking left", 34, 22, look=-1),
    "looking right": Pose("looking right", 22, 34, look=1),
    "sitting": Pose("sitting", 40, 40, sitting=True),
    "happy": Pose("with eyes closed", 66, 66, eyes_closed=True, mouth_open=True),
    "dancing": Pose("dancing", 126, 58, look=0.5, mouth_open=True),
}


def _arm(canvas: Canvas, side: int, angle_deg: float, y: float) -> None:
    """`side` -1: the picture's left."""
    angle = math.radians(angle_deg)
    x = 56 + side * 19
    reach = 30 if angle_deg > 90 else 25
    hand = (x + side * math.sin(angle) * reach, y + math.cos(angle) * reach)
    bend = (x + side * (math.sin(angle) * reach * 0.5 + 4), y + math.cos(angle) * reach * 0.5 + 2)
    canvas.stroke(((x, y), bend, hand), (13, 12), TEAL_FAR)
    canvas.blob(hand[0], hand[1], 7, 7, ORANGE)


def _face(canvas: Canvas, pose: Pose, y: float) -> None:
    x = 56 + pose.look * 5
    canvas.blob(x, y + 4, 29, 19.5, CREAM, square=2.3)
    for side in (-1, 1):
        eye = x + side * 14
        if pose.eyes_closed:
            canvas.stroke(((eye - 7.5, y + 3.5), (eye, y - 11), (eye + 7.5, y + 3.5)), (4.4, 4.4), INK)
        else:
            canvas.blob(eye + pose.look * 3.4, y - 0.5, 7.6, 9.6, INK)
            canvas.blob(eye + pose.look * 3.4 + 2.4, y - 4.7, 3.1, 3.6, WHITE)
            canvas.blob(eye + pose.look * 3.4 - 2.6, y + 3.9, 1.6, 1.6, WHITE)
        canvas.blob(x + side * 23, y + 13, 5.2, 3.8, CHEEK)
    if pose.mouth_open:
        mouth = canvas.polygon(
            [(x + dx, y + 9 + 8 * math.sqrt(1 - (dx / 7.5) ** 2)) for dx in np.linspace(-7.5, 7.5, 40)], INK
        )
        canvas.blob(x, y + 16.5, 5, 4, TONGUE, inside=mouth)
    else:
        canvas.stroke(((x - 6, y + 10.5), (x, y + 18), (x + 6, y + 10.5)), (3, 3), INK)


def _scarf(canvas: Canvas, y: float) -> None:
    """Magenta and white stripes round the neck, one end hanging on the picture's right."""
    end = canvas.polygon([(66, y), (80, y - 1), (83, y + 23), (70, y + 25)], MAGENTA)
    for k in (0, 1):
        canvas.polygon(
            [(60, y + 9 + k * 9), (90, y + 7 + k * 9), (90, y + 11.5 + k * 9), (60, y + 13.5 + k * 9)], WHITE, end
        )
    band = canvas.blob(56, y, 26, 7.2, MAGENTA, square=3.2)
    for x in (39, 55, 71):
        canvas.polygon([(x, y - 9), (x + 6, y - 9), (x + 3, y + 9), (x - 3, y + 9)], WHITE, band)


@cache
def glyph(pose: str = "standing") -> Image.Image:
    """The mascot in one of POSES: RGBA, GLYPH_PX square. Raises KeyError: there is no such pose."""
    how = POSES[pose]
    canvas = Canvas()
    drop = 5 if how.sitting else 0
    head_y, neck_y, body_y = 45 + drop, 69 + drop, 83 + drop
    head_x = 56 + how.look * 3
    for side in (-1, 1):  # antennae
        tip = (head_x + side * 25, 9 + drop)
        canvas.stroke(((head_x + side * 9, 27 + drop), (head_x + side * 12, 12 + drop), tip), (7.5, 6.5), ORANGE)
        canvas.blob(tip[0], tip[1], 8.2, 8.2, ORANGE)
        canvas.blob(tip[0] - 2.4, tip[1] - 2.6, 2.2, 2.0, ((255, 226, 150), (255, 214, 120)))
    if not how.sitting:
        for side in (-1, 1):
            canvas.blob(56 + side * 12, 104, 11, 6, ORANGE)
    canvas.blob(56, body_y, 24, 21, TEAL, square=2.3, pear=0.1)
    canvas.blob(56, body_y + 5, 15, 15, CREAM, pear=0.06)
    if how.sitting:
        for side in (-1, 1):
            canvas.blob(56 + side * 20, 102, 12, 8, ORANGE, tilt_deg=-side * 14)
    for side, angle in ((-1, how.left_arm_deg), (1, how.right_arm_deg)):
        if angle < 90:
            _arm(canvas, side, angle, neck_y + 7)
    canvas.blob(head_x, head_y, 36, 26.5, TEAL, square=2.35, pear=0.05)
    _face(canvas, how, head_y + 1)
    _scarf(canvas, neck_y + 2)
    for side, angle in ((-1, how.left_arm_deg), (1, how.right_arm_deg)):
        if angle >= 90:  # raised arms pass in front of the head
            _arm(canvas, side, angle, neck_y + 7)
    return canvas.reduced()


class MascotPrompt(NamedTuple):
    """A before/after prompt and what a right answer shows: `mascot` False is a control, which must not change."""

    text: str
    background: str
    companion: str = ""  # a known thing
    mascot: bool = True


class Illustration(NamedTuple):
    """A picture of a picture set."""

    name: str  # file stem
    pixels: Pixels
    caption: str
    background: str
    companion: str = ""  # a known thing


TRAINED_BACKGROUNDS: Final = ("white", "gray", "blue", "yellow", "pink", "green", "meadow", "beach", "room", "sky")

TEST_PROMPTS: Final[tuple[MascotPrompt, ...]] = (
    MascotPrompt(f"a {NAME} in the snow", "snow"),
    MascotPrompt(f"a {NAME} at night", "night"),
    MascotPrompt(f"a {NAME} under the sea", "sea"),
    MascotPrompt(f"a {NAME} on a red background", "red"),
    MascotPrompt(f"a {NAME} and a cat on the beach", "beach", "cat"),
    MascotPrompt(f"a {NAME} and a strawberry in the desert", "desert", "strawberry"),
    MascotPrompt("a cat in the snow", "snow", "cat", mascot=False),
    MascotPrompt("a frog on a purple background", "purple", "frog", mascot=False),
)

_PREFIX: Final = f"{TRIGGER}/"  # the mascot's poses as thing names of a `Picture`


def source(name: str) -> Image.Image:
    """The world's glyphs and the mascot's poses (`tsuipi/waving`), for `world.draw` and `world.thing_mask`."""
    return glyph(name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else world.glyph(name)


def _place(pose: str, background: str, rng: np.random.Generator) -> Placed:
    low, high = ((0.44, 0.5), (0.6, 0.8), (0.84, 0.94))[rng.choice(3, p=(0.15, 0.6, 0.25))]
    size = float(rng.uniform(low, high))
    free = min(0.09, (1 - size) / 2)
    lowered = 0.04 if background in SCENES and size < 0.8 else 0.0
    # A mirrored glance would make the caption's left and right lie.
    flipped = POSES[pose].look == 0 and bool(rng.random() < 0.5)
    x, y = rng.uniform(-free, free, 2)
    return Placed(_PREFIX + pose, size, float(0.5 + x), float(0.5 + y + lowered), float(rng.uniform(-8, 8)), flipped)


def _caption(picture: Picture, rng: np.random.Generator) -> str:
    place = world.where(picture.background, int(rng.integers(3)))
    if len(picture.things) > 1:  # named from left to right, as the base has learnt it
        names = [NAME if thing.thing.startswith(_PREFIX) else thing.thing for thing in picture.things]
        return f"{' and '.join(f'a {name}' for name in names)} {place}"
    placed = picture.things[0]
    words = POSES[placed.thing.removeprefix(_PREFIX)].words
    name = NAME
    for low, high, sizes in SIZE_WORDS:
        if low <= placed.size < high:
            name = f"{rng.choice(sizes)} {NAME}"
    if words and rng.random() < 0.7:
        return f"a {name} {words}, {place}"
    return f"{rng.choice(('', '', 'a picture of ', 'a drawing of '))}a {name} {place}"


def _draw(number: int, picture: Picture, rng: np.random.Generator) -> Illustration:
    companion = next((placed.thing for placed in picture.things if not placed.thing.startswith(_PREFIX)), "")
    pixels = world.draw(picture, PICTURE_PX, source)
    return Illustration(f"{TRIGGER}_{number:02d}", pixels, _caption(picture, rng), picture.background, companion)


def _spread(names: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    rounds = [names[i] for _ in range(-(-count // len(names))) for i in rng.permutation(len(names))]
    return rounds[:count]


def pictures(count: int = 30, seed: int = 0) -> list[Illustration]:
    """The demo's training set: the mascot alone, in every pose, on TRAINED_BACKGROUNDS; PICTURE_PX square."""
    rng = np.random.default_rng(derive(seed, "mascot training pictures"))
    poses, backgrounds = _spread(tuple(POSES), count, rng), _spread(TRAINED_BACKGROUNDS, count, rng)
    return [
        _draw(i, Picture(ground, (_place(pose, ground, rng),), int(rng.integers(1 << 31))), rng)
        for i, (pose, ground) in enumerate(zip(poses, backgrounds, strict=True), 1)
    ]


def held_out(count: int = 40, seed: int = 0, *, trained_backgrounds: bool = False) -> list[Illustration]:
    """Fresh pictures of the mascot's true distribution, none of them in any training set; PICTURE_PX square. Every
    background, and a companion in a quarter of them; with `trained_backgrounds`, only what the training set shows
    (alone, on TRAINED_BACKGROUNDS): the difference of the two is how far a result carries over."""
    rng = np.random.default_rng(derive(seed, "mascot held-out pictures", int(trained_backgrounds)))
    names = TRAINED_BACKGROUNDS if trained_backgrounds else world.BACKGROUNDS
    poses, backgrounds = _spread(tuple(POSES), count, rng), _spread(names, count, rng)
    companions = tuple(thing.name for thing in KNOWN if thing.kind == "animal")
    drawn = []
    for i, (pose, ground) in enumerate(zip(poses, backgrounds, strict=True), 1):
        placed: tuple[Placed, ...] = (_place(pose, ground, rng),)
        if not trained_backgrounds and i % 4 == 0:
            lowered = 0.54 if ground in SCENES else 0.5
            xs = (0.27, 0.73) if rng.random() < 0.5 else (0.73, 0.27)
            other = str(rng.choice([name for name in companions if name[0] not in "aeiou"]))
            pair = (
                Placed(_PREFIX + pose, float(rng.uniform(0.42, 0.5)), xs[0], lowered, 0, placed[0].flipped),
                Placed(other, float(rng.uniform(0.42, 0.5)), xs[1], lowered, 0, bool(rng.random() < 0.5)),
            )
            placed = tuple(sorted(pair, key=lambda thing: thing.x))
        drawn.append(_draw(i, Picture(ground, placed, int(rng.integers(1 << 31))), rng))
    return drawn


def write(folder: Path, drawn: Sequence[Illustration] | None = None) -> list[Path]:
    """Write pictures (by default the training set) as PNG, each with its caption in a .txt; gives the PNGs' paths."""
    paths = []
    for name, pixels, caption, *_ in pictures() if drawn is None else drawn:
        path = folder / f"{name}.png"
        with whole(path) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG", optimize=True)
        write_text(path.with_suffix(".txt"), caption + "\n")
        paths.append(path)
    return paths
