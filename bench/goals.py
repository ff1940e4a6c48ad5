"""The four goals of bench/methods on the embedded world: pictures to learn from, fresh ones to be judged by, prompts, scores.

Fresh pictures are of what somebody wants the result for: a character and an object in every place of the world, a style and
a concept on things that no training picture shows. The concept is an arrangement: three of a thing, each smaller than the
one below, standing on each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import style_distance
from tsuika.core.seeds import derive
from tsuika.embedded import gadget, mascot, sketch, world, yardstick
from tsuika.embedded.mascot import PICTURE_PX, Illustration
from tsuika.embedded.things import Thing
from tsuika.embedded.world import SCENES, SIZE_PX, Picture, Placed

Pixels = NDArray[np.uint8]  # (H, W, 3)

GOALS: Final = ("character", "object", "style", "concept")
TOWER: Final = "kasane"
STYLE_WORD: Final = "hanga"  # for the one method that needs a word
ENOUGH: Final = 240  # pictures that a set is taken from at random, so that any two sets are drawn alike
UNRELATED: Final = ("a dog in the snow", "a rocket at night", "a cake on a pink background", "a house in a meadow")


class Prompt(NamedTuple):
    """What is drawn and what a right answer shows: a place, and a known thing (or none)."""

    text: str
    background: str
    thing: str = ""


@dataclass(frozen=True)
class Goal:
    """Words and prompts of a goal. `seeds` pictures of each prompt are drawn."""

    name: str
    words: Mapping[str, str]  # of the recipe
    init: str  # what a new word starts from
    prompts: tuple[Prompt, ...]
    seeds: int


def tower(thing: str, background: str, rng: np.random.Generator) -> Picture:
    """Three of a thing on each other."""
    x, sizes = 0.5 + rng.uniform(-0.06, 0.06), rng.uniform(0.94, 1.06) * np.array([0.45, 0.34, 0.25])
    bottom, placed = 0.97 if background in SCENES else 0.95, []
    for size in sizes:
        tilt, step = rng.uniform(-6, 6), rng.uniform(-0.015, 0.015)
        placed.append(
            Placed(thing, float(size), float(x + step), float(bottom - size / 2), float(tilt), bool(rng.random() < 0.5))
        )
        bottom -= size * 0.86
    return Picture(background, tuple(placed), int(rng.integers(1 << 31)))


def _tower_caption(picture: Picture) -> str:
    return f"a {TOWER} {picture.things[0].thing} {world.where(picture.background)}"


def _scenes(things: Sequence[Thing], count: int, random: np.random.Generator) -> list[tuple[str, str]]:
    """(thing, background), both at random."""
    return [
        (things[int(random.integers(len(things)))].name, str(random.choice(world.BACKGROUNDS))) for _ in range(count)
    ]


def _spread(things: Sequence[Thing], count: int) -> list[tuple[str, str]]:
    """Some things and backgrounds, fixed: what is drawn."""
    return [(things[i * 5 % len(things)].name, world.BACKGROUNDS[i * 7 % len(world.BACKGROUNDS)]) for i in range(count)]


STYLE_SCENES: Final = sketch.scenes(20, 1, sketch.HELD_OUT)
SHOWN: Final = STYLE_SCENES[::2][:8]
TOWERS: Final = tuple(_spread(sketch.HELD_OUT, 8))

_GOALS: Final = (
    Goal(
        "character",
        {"data.trigger": mascot.TRIGGER, "data.class_word": mascot.CLASS_WORD},
        "robot",
        tuple(Prompt(mascot.TEST_PROMPTS[i].text, *mascot.TEST_PROMPTS[i][1:3]) for i in (0, 2, 3, 4)),
        2,
    ),
    Goal(
        "object",
        {"data.trigger": gadget.TRIGGER, "data.class_word": gadget.CLASS_WORD},
        "tomato",
        tuple(Prompt(*prompt) for prompt in gadget.TEST_PROMPTS[:4]),
        2,
    ),
    Goal(
        "style",
        {"data.trigger": "", "data.class_word": ""},
        "white",
        tuple(Prompt(sketch.caption(scene), scene.background, scene.things[0].thing) for scene in SHOWN),
        1,
    ),
    Goal(
        "concept",
        {"data.trigger": TOWER, "data.class_word": ""},
        "small",
        tuple(Prompt(f"a {TOWER} {thing} {world.where(place)}", place, thing) for thing, place in TOWERS),
        1,
    ),
)
BY_NAME: Final = {goal.name: goal for goal in _GOALS}


def with_word(goal: str, caption: str) -> str:
    """The caption for a method that learns a word; the style's pictures have none else."""
    return f"{caption}, {STYLE_WORD}" if goal == "style" else caption


def pictures(goal: str, count: int, seed: int) -> list[Illustration]:
    """A training set, drawn independently of others from one distribution."""
    random = np.random.default_rng(derive(seed, "bench methods", goal))
    if goal == "style":
        return _prints(_scenes(sketch.TRAINED, count, random), random)
    if goal == "concept":
        return _towers(_scenes(sketch.TRAINED, count, random), random)
    many = (mascot.pictures if goal == "character" else gadget.held_out)(max(ENOUGH, 2 * count), seed)
    return _named(goal, [many[row] for row in random.permutation(len(many))[:count]])


def fresh(goal: str, count: int, seed: int) -> list[Illustration]:
    """Pictures that nobody trains on."""
    random = np.random.default_rng(derive(seed, "bench methods, fresh", goal))
    if goal == "style":
        return _prints(_scenes(sketch.HELD_OUT, count, random), random)
    if goal == "concept":
        return _towers(_scenes(sketch.HELD_OUT, count, random), random)
    many = (mascot if goal == "character" else gadget).held_out(ENOUGH, 1000 + seed)
    return _named(goal, [many[row] for row in random.permutation(len(many))[:count]])


def _named(goal: str, drawn: Sequence[Illustration]) -> list[Illustration]:
    return [one._replace(name=f"{goal}_{i:03d}") for i, one in enumerate(drawn, 1)]


def _towers(scenes: Sequence[tuple[str, str]], random: np.random.Generator) -> list[Illustration]:
    drawn = []
    for thing, background in scenes:
        picture = tower(thing, background, random)
        drawn.append(Illustration("", world.draw(picture, PICTURE_PX), _tower_caption(picture), background, thing))
    return _named("concept", drawn)


def _prints(scenes: Sequence[tuple[str, str]], random: np.random.Generator) -> list[Illustration]:
    calm = world.World(max_tilt_deg=6.0, jitter=0.04, pairs=0.0)  # as sketch.scenes draws them
    drawn = []
    for thing, background in scenes:
        picture = calm.picture(random, thing=thing, background=background)
        drawn.append(Illustration("", sketch.stylise(picture), sketch.caption(picture), background, thing))
    return _named("style", drawn)


class Scores(NamedTuple):
    """What the yardstick makes of drawn pictures. `fidelity`: nearness to true ones (style: a distance, smaller is better)."""

    fidelity: float
    adherence: float  # is what else the prompt asks for there?


def scores(goal: str, drawn: Sequence[Pixels]) -> Scores:
    """Of the pictures of the goal's prompts, prompt by prompt."""
    one = BY_NAME[goal]
    asked = [prompt for prompt in one.prompts for _ in range(one.seeds)]
    if goal == "style":
        return _style_scores(drawn)
    if goal == "concept":
        return _tower_scores(drawn)
    references = [true.pixels for true in fresh(goal, 24, 7)]
    found = []
    for picture, prompt in zip(drawn, asked, strict=True):
        parts = [float(yardstick.background_scores([picture], prompt.background)[0])]
        parts += [float(yardstick.thing_scores([picture], prompt.thing)[0])] if prompt.thing else []
        found.append(np.mean(parts))
    return Scores(float(yardstick.likeness(drawn, references).mean()), float(np.mean(found)))


def _style_scores(drawn: Sequence[Pixels]) -> Scores:
    """Style distance, and the share of pictures that are nearest to the true prints of their own thing, of 20."""
    truth = [[sketch.stylise(sketch.again(scene, s), SIZE_PX) for s in range(4)] for scene in STYLE_SCENES]
    own = [prints for scene, prints in zip(STYLE_SCENES, truth, strict=True) if scene in SHOWN]
    centres = torch.stack([torch.nn.functional.normalize(yardstick.directions(p).mean(0), dim=0) for p in truth])
    nearest = (yardstick.directions(drawn) @ centres.T).argmax(1).tolist()
    right = [STYLE_SCENES[i].things[0].thing == scene.things[0].thing for i, scene in zip(nearest, SHOWN, strict=True)]
    return Scores(style_distance.distance(drawn, [one for prints in own for one in prints]), float(np.mean(right)))


def _tower_scores(drawn: Sequence[Pixels]) -> Scores:
    """Likeness to true towers of the same thing less likeness to the thing alone; and whether the place is the right one."""
    rng, gaps, places = np.random.default_rng(5), [], []
    calm = world.World(max_tilt_deg=6.0, jitter=0.04, pairs=0.0)
    for picture, (thing, background) in zip(drawn, TOWERS, strict=True):
        many = [world.draw(tower(thing, background, rng)) for _ in range(4)]
        alone = [world.draw(calm.picture(rng, thing=thing, background=background)) for _ in range(4)]
        gaps.append(float(yardstick.likeness([picture], many)[0] - yardstick.likeness([picture], alone)[0]))
        places.append(float(yardstick.background_scores([picture], background)[0]))
    return Scores(float(np.mean(gaps)), float(np.mean(places)))


def true_pictures(goal: str, seed: int) -> list[Pixels]:
    """Right answers to the goal's prompts, as the world draws them."""
    rng = np.random.default_rng(derive(seed, "bench methods, right answers"))
    if goal == "style":
        return [sketch.stylise(sketch.again(scene, 900 + seed), SIZE_PX) for scene in SHOWN]
    if goal == "concept":
        return [world.draw(tower(thing, background, rng)) for thing, background in TOWERS]
    one, many = BY_NAME[goal], (mascot if goal == "character" else gadget).held_out(ENOUGH, 2000 + seed)
    found: list[Pixels] = []
    for prompt in one.prompts:
        matching = [d for d in many if d.background == prompt.background and d.companion in ("", prompt.thing)]
        matching.sort(key=lambda d: d.companion != prompt.thing)
        found += [d.pixels for d in matching[: one.seeds]]
    return found


def _joint_picture(scene: str, background: str, rng: np.random.Generator) -> Picture:
    """The character alone, or with the object beside it."""
    pose = str(rng.choice(list(mascot.POSES)))
    doll = f"{mascot.TRIGGER}/{pose}"
    lowered = 0.54 if background in SCENES else 0.5
    if scene == "print":
        placed: tuple[Placed, ...] = (
            Placed(doll, float(rng.uniform(0.65, 0.85)), 0.5, lowered, float(rng.uniform(-6, 6))),
        )
    else:
        sizes = rng.uniform(0.42, 0.5, 2)
        placed = (
            Placed(doll, float(sizes[0]), 0.27, lowered, float(rng.uniform(-6, 6))),
            Placed(gadget.TRIGGER, float(sizes[1]), 0.73, lowered, float(rng.uniform(-6, 6))),
        )
    return Picture(background, placed, int(rng.integers(1 << 31)))


def _joint_source(name: str) -> Image.Image:
    return gadget.glyph() if name == gadget.TRIGGER else mascot.source(name)


def _joint_pixels(scene: str, picture: Picture, size_px: int) -> Pixels:
    if scene == "print":
        return sketch.stylise(picture, size_px, _joint_source)
    return world.draw(picture, size_px, _joint_source)


def _joint_caption(scene: str, background: str) -> str:
    more = "" if scene == "print" else f" and a {gadget.TRIGGER}"
    return f"a {mascot.NAME}{more} {world.where(background)}"


def joint(scene: str, count: int, seed: int) -> list[Illustration]:
    """Fresh pictures that need two results: `print`, the character as a print; `both`, character and object."""
    rng = np.random.default_rng(derive(seed, "bench methods, joint", scene))
    drawn = []
    for _ in range(count):
        background = str(rng.choice(world.BACKGROUNDS))
        pixels = _joint_pixels(scene, _joint_picture(scene, background, rng), PICTURE_PX)
        drawn.append(Illustration("", pixels, _joint_caption(scene, background), background))
    return _named(scene, drawn)


JOINT_BACKGROUNDS: Final = ("snow", "night", "red", "desert")


def joint_prompts(scene: str) -> list[str]:
    return [_joint_caption(scene, background) for background in JOINT_BACKGROUNDS]


def joint_scores(scene: str, drawn: Sequence[Pixels]) -> Scores:
    """Fidelity: likeness to true pictures of the scene. Adherence: of a print, its style distance; else its place."""
    rng = np.random.default_rng(11)
    truth = [
        _joint_pixels(scene, _joint_picture(scene, background, rng), SIZE_PX)
        for background in JOINT_BACKGROUNDS
        for _ in range(4)
    ]
    likeness = float(yardstick.likeness(drawn, truth).mean())
    if scene == "print":
        return Scores(likeness, style_distance.distance(drawn, truth))
    asked = [background for background in JOINT_BACKGROUNDS for _ in range(len(drawn) // len(JOINT_BACKGROUNDS))]
    places = [float(yardstick.background_scores([p], b)[0]) for p, b in zip(drawn, asked, strict=True)]
    return Scores(likeness, float(np.mean(places)))
