"""The examiner of the second edition: it names the things, the hand and the background of a picture, each apart.

It learns from fresh renders alone and never sees a sample of the base, but knows the hand that the base has never seen.
Beside it the kernel distance to fresh renders, on features that see softness, which the names do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn

from base.common import load, train
from base.hands import Atlases
from base.plan import SAMPLING, Plan
from base.scenes import FORMS, HAND_WORDS, NAMES, Relation, Scene, scene, source
from base.sources import HANDS
from base.vae import to_pixels, to_signal
from base.yardstick import HAND_NAMES, disturb
from tsuika.embedded.world import BACKGROUNDS, PLAIN, SCENES, article, draw, where
from tsuika.embedded.yardstick import YardstickNet

CLASSES: Final = (*NAMES, *FORMS)  # of things; shapes of all colours are one


class Examiner(nn.Module):
    """The yardstick's trunk with heads of its own."""

    def __init__(self) -> None:
        super().__init__()
        encoder = YardstickNet()
        self.trunk, width = encoder.trunk, encoder.thing.in_features
        self.thing, self.hand, self.background = (
            nn.Linear(width, len(names)) for names in (CLASSES, HAND_NAMES, BACKGROUNDS)
        )

    def forward(self, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels in -1..1 at 64 px to logits of things, hands and backgrounds."""
        features = self.trunk(pixels_B3HW).mean(dim=(2, 3))
        return self.thing(features), self.hand(features), self.background(features)

    def features(self, pixels_B3HW: Tensor) -> Tensor:
        """Mean and deviation over the picture of what every block gives, the first ones, which see edges, included."""
        parts, x = [], pixels_B3HW
        for block in self.trunk:
            x = block(x)
            parts += [x.mean(dim=(2, 3)), x.std(dim=(2, 3))]
        return torch.cat(parts, 1)


def _classes(shown: Scene) -> list[int]:
    """Each class of thing that is there, once."""
    return sorted({CLASSES.index(name if name in NAMES else name.rpartition(" ")[2]) for name in shown.what})


def train_examiner(plan: Plan, work: Path, atlases: Atlases) -> Examiner:
    """Train it on scenes in five hands, disturbed as samples are, from the yardstick's trunk."""
    torch.manual_seed(plan.seed + 2)
    model, glyphs = Examiner(), source(atlases)
    if (yardstick := load(work / "yardstick.pt")) is None:
        raise FileNotFoundError(f"{work / 'yardstick.pt'}: no yardstick yet")
    trunk = {name.removeprefix("trunk."): v for name, v in yardstick["model"].items() if name.startswith("trunk.")}
    model.trunk.load_state_dict(trunk)

    def loss_of(rng: np.random.Generator) -> Tensor:
        scenes = [scene(rng, hand=HAND_NAMES[rng.integers(len(HAND_NAMES))]) for _ in range(plan.judge_batch)]
        pixels = to_signal(np.stack([disturb(draw(shown.picture, source=glyphs), rng) for shown in scenes]))
        wanted = torch.zeros(len(scenes), len(CLASSES))
        for row, shown in enumerate(scenes):
            wanted[row, _classes(shown)] = 1
        # A plain shape is drawn by no hand.
        hands = [HAND_NAMES.index(shown.hand) if set(shown.what) & set(NAMES) else -100 for shown in scenes]
        backgrounds = [BACKGROUNDS.index(shown.picture.background) for shown in scenes]
        things, hand, background = model(pixels)
        return (
            F.cross_entropy(things, wanted / wanted.sum(1, keepdim=True))
            + F.cross_entropy(hand, torch.tensor(hands))
            + F.cross_entropy(background, torch.tensor(backgrounds))
        )

    train(model, loss_of, plan, work, "examiner", plan.examiner_steps)
    return model.eval().requires_grad_(False)


def examiner(work: Path) -> Examiner:
    """The trained examiner.

    Raises:
        FileNotFoundError: the work has not come to it yet.
    """
    if (state := load(work / "examiner.pt")) is None:
        raise FileNotFoundError(f"{work / 'examiner.pt'}: no examiner yet")
    model = Examiner()
    model.load_state_dict(state["model"])
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Marks:
    """Per picture: is it right?"""

    things: NDArray[np.bool_]  # all of them, among as many best guesses
    hand: NDArray[np.bool_]
    background: NDArray[np.bool_]


@torch.no_grad()
def mark(judge: Examiner, pixels_BHW3: NDArray[np.uint8], scenes: Sequence[Scene]) -> Marks:
    """What of each picture is as its scene says."""
    parts = [judge(part) for part in to_signal(pixels_BHW3).split(64)]
    things, hand, background = (torch.cat(logits) for logits in zip(*parts, strict=True))
    order = things.argsort(1, descending=True).tolist()
    wanted = [_classes(shown) for shown in scenes]
    return Marks(
        np.array([set(guess[: len(names)]) == set(names) for guess, names in zip(order, wanted, strict=True)]),
        hand.argmax(1).numpy() == [HAND_NAMES.index(shown.hand) for shown in scenes],
        background.argmax(1).numpy() == [BACKGROUNDS.index(shown.picture.background) for shown in scenes],
    )


@torch.no_grad()
def kernel_distance(judge: Examiner, pixels_BHW3: NDArray[np.uint8], fresh_BHW3: NDArray[np.uint8]) -> float:
    """1000 x the unbiased squared MMD of two sets of pictures with KID's cubic kernel (Binkowski et al. 2018), on the
    examiner's features, each in units of its deviation over the fresh renders. About 0 for two sets of fresh renders."""
    x, y = (torch.cat([judge.features(part) for part in to_signal(p).split(64)]) for p in (pixels_BHW3, fresh_BHW3))
    centre, spread = y.mean(0), y.std(0).clamp_min(1e-6)
    x, y = (x - centre) / spread, (y - centre) / spread

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(1000 * (within(x) + within(y) - 2 * kernel(x, y).mean()))


def check_examiner(plan: Plan, work: Path, atlases: Atlases, count: int = 512) -> dict[str, float]:
    """Can it judge? Its marks on fresh renders, and the kernel distance of others: fresh, slightly soft, and softer."""
    judge, glyphs, rng = examiner(work), source(atlases), np.random.default_rng([plan.seed, 11])
    scenes = [scene(rng, hand=HAND_NAMES[i % len(HAND_NAMES)]) for i in range(2 * count)]
    pixels = np.stack([draw(shown.picture, source=glyphs) for shown in scenes])
    drawn = np.array([bool(set(shown.what) & set(NAMES)) for shown in scenes])
    several = np.array([len(_classes(shown)) > 1 for shown in scenes])
    marks = mark(judge, pixels, scenes)
    soft = {
        radius: np.stack(
            [np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(radius))) for p in pixels[:count]]
        )
        for radius in (0.4, 0.8)
    }
    return {
        "things_alone": float(marks.things[~several].mean()), "two_things": float(marks.things[several].mean()),
        "hand": float(marks.hand[drawn].mean()), "background": float(marks.background.mean()),
        "kid_fresh": kernel_distance(judge, pixels[:count], pixels[count:]),
        **{f"kid_blurred_{radius}px": kernel_distance(judge, some, pixels[count:]) for radius, some in soft.items()},
    }  # fmt: skip


def questions(count: int, seed: int = 5) -> list[Scene]:
    """What is asked of the base: every thing, hand and background in turn; a fifth are pictures of two things."""
    rng, asked = np.random.default_rng(seed), []
    hands, order = [hand.name for hand in HANDS], rng.permutation(len(NAMES))
    for i in range(count):
        name, places = NAMES[order[i % len(NAMES)]], tuple(SCENES if i // len(NAMES) % 2 else PLAIN)
        relation: Relation = "beside" if i % 5 == 4 else "alone"
        things = (name, str(rng.choice([other for other in NAMES if other != name])))[: 1 + (relation == "beside")]
        asked.append(
            scene(
                rng,
                hand=hands[(i + i // len(NAMES)) % 4],
                relation=relation,
                things=things,
                background=str(rng.choice(places)),
            )
        )
    return asked


def prompt(asked: Scene) -> str:
    """`a cat and a dog in glossy style on the beach`."""
    what = " and ".join(article(name) for name in asked.what)
    return f"{what} in {HAND_WORDS[asked.hand]} style {where(asked.picture.background)}"


def exam(
    work: Path, base: Path, atlases: Atlases, count: int, sheet: Path | None = None, columns: int = 32
) -> dict[str, Any]:
    """Judge samples at the base's defaults, drawn by diffusers' own pipeline from a folder."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    asked, pictures = questions(count), []
    for start in range(0, count, 16):
        part = asked[start : start + 16]
        with torch.autocast("cpu", torch.bfloat16):
            drawn = pipeline(
                [prompt(one) for one in part], num_inference_steps=SAMPLING["steps"], guidance_scale=SAMPLING["cfg"],
                generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))], output_type="pt",
            ).images  # fmt: skip
        pictures.append(to_pixels(drawn.float() * 2 - 1))
    pixels, judge = np.concatenate(pictures), examiner(work)
    fresh = np.stack([draw(one.picture, source=source(atlases)) for one in asked])
    marks, several = mark(judge, pixels, asked), np.array([one.relation == "beside" for one in asked])
    if sheet is not None:
        rows = [np.concatenate(list(pixels[i : i + columns]), 1) for i in range(0, count - columns + 1, columns)]
        Image.fromarray(np.concatenate(rows)).save(sheet)
    by_thing = {name: marks.things[[one.what[0] == name for one in asked]] for name in NAMES}
    weakest = sorted((float(right.mean()), name) for name, right in by_thing.items() if len(right))[:12]
    return {
        "samples": count, "things": float(marks.things[~several].mean()), "two_things": float(marks.things[several].mean()),
        "hand": float(marks.hand.mean()), "background": float(marks.background.mean()),
        "kid": kernel_distance(judge, pixels, fresh), "weakest": {name: share for share, name in weakest},
    }  # fmt: skip
