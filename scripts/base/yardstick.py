"""The making of the embedded yardstick, which ships, and a question to it.

It learns from every hand, the one that the base has never seen included: it measures, and is not measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from base.common import load, train
from base.hands import UNSEEN_THINGS, Atlases
from base.plan import Plan
from base.scenes import NAMES, icon
from base.sources import HANDS, UNSEEN_HAND
from tsuika.embedded.things import Thing
from tsuika.embedded.world import BACKGROUNDS, Picture, Placed, World, draw
from tsuika.embedded.yardstick import YardstickNet, to_signal

HAND_NAMES: Final = tuple(hand.name for hand in (*HANDS, UNSEEN_HAND))


def disturb(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What samples do and renders do not: soften, shift the brightness, add noise."""
    image: NDArray[np.floating] = pixels.astype(np.float32)
    if rng.random() < 0.5:
        blurred = F.avg_pool2d(torch.from_numpy(image).permute(2, 0, 1)[None], 3, 1, 1)[0].permute(1, 2, 0).numpy()
        share = rng.uniform(0, 1)
        image = image * (1 - share) + blurred * share
    image = (
        (image - 128) * rng.uniform(0.85, 1.15)
        + 128
        + rng.uniform(-12, 12)
        + rng.normal(0, rng.uniform(0, 8), image.shape)
    )
    return np.clip(image, 0, 255).astype(np.uint8)


def train_yardstick(plan: Plan, work: Path, atlases: Atlases) -> YardstickNet:
    """Same thing, same direction: supervised contrastive over pairs of one thing on two backgrounds (Khosla et al. 2020)."""
    torch.manual_seed(plan.seed + 3)
    vocabulary = [icon(name) for name in NAMES]
    others = [name for name in atlases.shown if name not in vocabulary]
    world = World(things=(Thing(("none",), ""),), pairs=0, max_tilt_deg=15, jitter=0.1)
    encoder = YardstickNet()

    def loss_of(rng: np.random.Generator) -> Tensor:
        half = plan.judge_batch // 2
        icons = [vocabulary[i] for i in rng.choice(len(vocabulary), half // 2, replace=False)]
        icons += [others[i] for i in rng.choice(len(others), half - half // 2, replace=False)]
        glyphs = [f"{HAND_NAMES[rng.integers(len(HAND_NAMES))]}/{name}" for name in icons]
        pictures = [_beside(world.picture(rng, thing=glyph), vocabulary, rng) for glyph in glyphs * 2]
        pixels = to_signal([disturb(draw(picture, source=atlases.glyph), rng) for picture in pictures])
        unit, thing_logits, background_logits = encoder(pixels)
        scores = unit @ unit.T / 0.1
        scores.fill_diagonal_(-1e4)
        partner = (torch.arange(len(pictures)) + half) % len(pictures)
        present = torch.zeros_like(thing_logits)
        for row, picture in enumerate(pictures):
            for placed in picture.things:
                if (name := placed.thing.partition("/")[2]) in vocabulary:
                    present[row, vocabulary.index(name)] = 1
        backgrounds = torch.tensor([BACKGROUNDS.index(picture.background) for picture in pictures])
        return (
            F.cross_entropy(scores, partner)
            + 10 * F.binary_cross_entropy_with_logits(thing_logits, present)
            + 0.5 * F.cross_entropy(background_logits, backgrounds)
        )

    train(encoder, loss_of, plan, work, "yardstick", plan.yardstick_steps)
    return encoder.eval().requires_grad_(False)


def _beside(picture: Picture, vocabulary: list[str], rng: np.random.Generator) -> Picture:
    """The picture, now and then with its thing smaller and another one of the vocabulary next to it."""
    if rng.random() >= 0.15:
        return picture
    hand, name = HAND_NAMES[rng.integers(len(HAND_NAMES))], vocabulary[rng.integers(len(vocabulary))]
    xs = (0.26, 0.74) if rng.random() < 0.5 else (0.74, 0.26)
    pair = (Placed(picture.things[0].thing, 0.46, xs[0]), Placed(f"{hand}/{name}", 0.46, xs[1]))
    return Picture(picture.background, pair, picture.seed)


def question_yardstick(plan: Plan, work: Path, atlases: Atlases, pairs: int = 400) -> dict[str, float]:
    """Does it tell same thing from other thing with the background held equal? On things it never saw, and on known ones.

    AUC: the chance that a same-thing pair on different backgrounds is nearer than an other-thing pair of the same hand on the
    very same background.
    """
    if (state := load(work / "yardstick.pt")) is None:
        raise FileNotFoundError(f"{work / 'yardstick.pt'}: no yardstick yet")
    encoder = YardstickNet()
    encoder.load_state_dict(state["model"])
    encoder.eval()
    rng, world = np.random.default_rng([plan.seed, 12]), World(pairs=0)
    result: dict[str, float] = {}
    for label, icons in (("unseen", UNSEEN_THINGS), ("known", [icon(name) for name in NAMES])):
        same, other = [], []
        for _ in range(pairs):
            hand = HAND_NAMES[rng.integers(len(HAND_NAMES))]
            first, second = (f"{hand}/{icons[i]}" for i in rng.choice(len(icons), 2, replace=False))
            here, there = (str(name) for name in rng.choice(BACKGROUNDS, 2, replace=False))
            wanted = ((first, here), (first, there), (second, here))
            shown = [
                draw(world.picture(rng, thing=thing, background=ground), source=atlases.glyph)
                for thing, ground in wanted
            ]
            with torch.no_grad():
                unit = encoder(to_signal(shown))[0]
            same.append(float(unit[0] @ unit[1]))
            other.append(float(unit[0] @ unit[2]))
        result[f"{label}_same_mean"], result[f"{label}_other_mean"] = float(np.mean(same)), float(np.mean(other))
        result[f"{label}_auc"] = float(np.mean(np.array(same)[:, None] > np.array(other)[None]))
    return result
