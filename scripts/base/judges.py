"""The two judges of the embedded base, and questions to them: the yardstick (ships) and the examiner (stays home).

The examiner never sees a sample of the base: it is a classifier of thing and background apart, trained on renders alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tsuika.embedded.things import KNOWN, Thing, strangers
from tsuika.embedded.world import BACKGROUNDS, PLAIN, SCENES, Picture, Placed, World, article, draw, where
from tsuika.embedded.yardstick import Encoder, to_signal

HELD_BACK = 60  # strangers that the yardstick never sees in training, to test it on


@dataclass(frozen=True)
class Drill:
    """How a judge is trained."""

    seed: int
    steps: int
    batch: int = 64
    learning_rate: float = 2e-3


def _train(encoder: Encoder, drill: Drill, loss_of: object, work: Path, name: str) -> None:
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=drill.learning_rate, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, drill.learning_rate, drill.steps, pct_start=0.1)
    began, losses = time.monotonic(), []
    for step in range(drill.steps):
        loss = loss_of(np.random.default_rng([drill.seed, step]))  # type: ignore[operator]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss))
        if (step + 1) % 100 == 0:
            print(
                f"{name} {step + 1}/{drill.steps} loss {np.mean(losses[-100:]):.3f} {time.monotonic() - began:.0f} s",
                flush=True,
            )
    save_file({key: value.half() for key, value in encoder.state_dict().items()}, work / f"{name}.safetensors")


def _disturb(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
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
    encoder, drill = Encoder(), Drill(seed=71, steps=steps)
    everything = (*KNOWN, *strangers()[:-HELD_BACK])
    world = World(things=everything, max_tilt_deg=15, jitter=0.1)
    known = {thing.name: i for i, thing in enumerate(KNOWN)}

    def loss_of(rng: np.random.Generator) -> Tensor:
        half = drill.batch // 2
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
        pixels = to_signal([_disturb(draw(picture), rng) for picture in pictures])
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

    _train(encoder, drill, loss_of, work, "yardstick")


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


def train_examiner(work: Path, steps: int) -> None:
    """Name the known thing and the background of a fresh render."""
    torch.manual_seed(8)
    encoder, drill, world = Encoder(), Drill(seed=83, steps=steps), World(pairs=0, max_tilt_deg=12, jitter=0.1)

    def loss_of(rng: np.random.Generator) -> Tensor:
        pictures = [world.picture(rng) for _ in range(drill.batch)]
        pixels = to_signal([_disturb(draw(picture), rng) for picture in pictures])
        _, thing_logits, background_logits = encoder(pixels)
        names = [thing.name for thing in KNOWN]
        things = torch.tensor([names.index(picture.things[0].thing) for picture in pictures])
        backgrounds = torch.tensor([BACKGROUNDS.index(picture.background) for picture in pictures])
        return F.cross_entropy(thing_logits, things) + F.cross_entropy(background_logits, backgrounds)

    _train(encoder, drill, loss_of, work, "examiner")


def examiner(work: Path) -> Encoder:
    """The trained examiner."""
    encoder = Encoder()
    encoder.load_state_dict({k: v.float() for k, v in load_file(work / "examiner.safetensors").items()})
    return encoder.eval().requires_grad_(False)


def exam_questions(per_thing: int, seed: int = 5) -> list[tuple[Thing, str]]:
    """(thing, background) over the whole vocabulary; backgrounds in turn, plain and scenic alike."""
    rng = np.random.default_rng(seed)
    questions: list[tuple[Thing, str]] = []
    for thing in KNOWN:
        scenes, plains = rng.permutation(list(SCENES)), rng.permutation(list(PLAIN))
        for i in range(per_thing):
            places = scenes if i % 2 else plains
            questions.append((thing, str(places[i // 2 % len(places)])))
    return questions


def mark(
    judge: Encoder, pictures: list[NDArray[np.uint8]], questions: list[tuple[Thing, str]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Per picture: is the thing right, is the background right."""
    with torch.no_grad():
        _, things, backgrounds = judge(to_signal(pictures))
    names = [thing.name for thing in KNOWN]
    wanted_things = np.array([names.index(thing.name) for thing, _ in questions])
    wanted_backgrounds = np.array([BACKGROUNDS.index(background) for _, background in questions])
    return things.argmax(1).numpy() == wanted_things, backgrounds.argmax(1).numpy() == wanted_backgrounds


def exam(
    work: Path, base: Path, per_thing: int, cfg: float, steps: int = 25, sheet: Path | None = None
) -> dict[str, object]:
    """Judge samples over the whole vocabulary, drawn by diffusers' own pipeline from the exported folder."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    questions = exam_questions(per_thing)
    pictures: list[NDArray[np.uint8]] = []
    for start in range(0, len(questions), 16):
        part = questions[start : start + 16]
        prompts = [f"{article(thing.name)} {where(background)}" for thing, background in part]
        seeds = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        with torch.autocast("cpu", torch.bfloat16):
            drawn = pipeline(
                prompts, num_inference_steps=steps, guidance_scale=cfg, generator=seeds, output_type="np"
            ).images
        pictures += list((np.clip(drawn, 0, 1) * 255).round().astype(np.uint8))
    right_thing, right_background = mark(examiner(work), pictures, questions)
    if sheet is not None:
        columns = 16
        page = Image.new("RGB", (columns * 66, -(-len(pictures) // columns) * 66), "white")
        for i, picture in enumerate(pictures):
            page.paste(Image.fromarray(picture), (i % columns * 66 + 1, i // columns * 66 + 1))
        page.save(sheet)
    by_thing = right_thing.reshape(len(KNOWN), per_thing).mean(1)
    weakest = {KNOWN[i].name: float(by_thing[i]) for i in np.argsort(by_thing)[:12]}
    return {
        "samples": len(pictures), "cfg": cfg, "steps": steps, "things_right": float(right_thing.mean()),
        "backgrounds_right": float(right_background.mean()), "weakest": weakest,
    }  # fmt: skip
