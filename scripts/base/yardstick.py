"""The making of the embedded yardstick, which ships, and a question to it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tsuika.embedded.things import KNOWN, strangers
from tsuika.embedded.world import BACKGROUNDS, Picture, Placed, World, draw
from tsuika.embedded.yardstick import Encoder, to_signal

HELD_BACK = 60  # strangers that the yardstick never sees in training, to test it on
SEED, BATCH, RATE = 71, 64, 2e-3


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


def train_yardstick(work: Path, steps: int) -> None:
    """Same thing, same direction: supervised contrastive over pairs of one thing on two backgrounds (Khosla et al. 2020)."""
    torch.manual_seed(7)
    encoder = Encoder()
    everything = (*KNOWN, *strangers()[:-HELD_BACK])
    world = World(things=everything, max_tilt_deg=15, jitter=0.1)
    known = {thing.name: i for i, thing in enumerate(KNOWN)}

    def loss_of(rng: np.random.Generator) -> Tensor:
        half = BATCH // 2
        things = [KNOWN[i] for i in rng.choice(len(KNOWN), half // 2, replace=False)]
        things += [
            everything[i] for i in len(KNOWN) + rng.choice(len(everything) - len(KNOWN), half // 2, replace=False)
        ]
        pictures = [world.picture(rng, thing=thing.name) for thing in things * 2]
        beside = rng.random(len(pictures)) < 0.15  # another thing next to it, smaller
        for i in np.flatnonzero(beside):
            own = pictures[i].things[0]
            other = KNOWN[rng.integers(len(KNOWN))].name
            left, right = Placed(own.thing, 0.46, 0.26), Placed(other, 0.46, 0.74)
            pictures[i] = Picture(
                pictures[i].background, (left, right) if rng.random() < 0.5 else (right, left), pictures[i].seed
            )
        pixels = to_signal([disturb(draw(picture), rng) for picture in pictures])
        unit, thing_logits, background_logits = encoder(pixels)
        scores = unit @ unit.T / 0.1
        scores.fill_diagonal_(-1e4)
        partner = (torch.arange(len(pictures)) + half) % len(pictures)
        present = torch.zeros_like(thing_logits)
        for row, picture in enumerate(pictures):
            for placed in picture.things:
                if placed.thing in known:
                    present[row, known[placed.thing]] = 1
        backgrounds = torch.tensor([BACKGROUNDS.index(picture.background) for picture in pictures])
        return (
            F.cross_entropy(scores, partner)
            + 10 * F.binary_cross_entropy_with_logits(thing_logits, present)
            + 0.5 * F.cross_entropy(background_logits, backgrounds)
        )

    optimizer = torch.optim.AdamW(encoder.parameters(), lr=RATE, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
    began, losses = time.monotonic(), []
    for step in range(steps):
        loss = loss_of(np.random.default_rng([SEED, step]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(float(loss))
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - began
            print(f"yardstick {step + 1}/{steps} loss {np.mean(losses[-100:]):.3f} {seconds:.0f} s", flush=True)
    weights = {key: value.half() for key, value in encoder.state_dict().items()}
    save_file(weights, work / "yardstick.safetensors")


def question_yardstick(work: Path, pairs: int = 400) -> dict[str, float]:
    """Does it tell same thing from other thing with the background held equal? On things it never saw, and on known ones.

    AUC: the chance that a same-thing pair on different backgrounds is nearer than an other-thing pair on the very same
    background.
    """
    encoder = Encoder()
    encoder.load_state_dict({k: v.float() for k, v in load_file(work / "yardstick.safetensors").items()})
    encoder.eval()
    rng = np.random.default_rng(999)
    result: dict[str, float] = {}
    for label, things in (("unseen", strangers()[-HELD_BACK:]), ("known", KNOWN)):
        world = World(things=things)
        same, other = [], []
        for _ in range(pairs):
            first, second = rng.choice(len(things), 2, replace=False)
            places = rng.choice(BACKGROUNDS, 2, replace=False)
            a = world.picture(rng, thing=things[first].name, background=str(places[0]))
            b = world.picture(rng, thing=things[first].name, background=str(places[1]))
            c = world.picture(rng, thing=things[second].name, background=str(places[0]))
            with torch.no_grad():
                unit = encoder(to_signal([draw(a), draw(b), draw(c)]))[0]
            same.append(float(unit[0] @ unit[1]))
            other.append(float(unit[0] @ unit[2]))
        result[f"{label}_same_mean"], result[f"{label}_other_mean"] = float(np.mean(same)), float(np.mean(other))
        result[f"{label}_auc"] = float(np.mean(np.array(same)[:, None] > np.array(other)[None]))
    return result
