"""The four examples, measured: pictures drawn, trained, compared before and after, and all four in one picture.

    python bench/examples.py --work DIR [--only object,style] [--steps N] [--seeds 4]
    python bench/examples.py --work DIR --only hand-hypernetwork,hand-lora    # a hand that the base was never shown

Prints a Markdown table; DIR keeps the runs, the grids and what was measured. A run that is already there is not
trained again. Every figure is a mean over prompts, given as mean ± standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import style_distance
import tsuika
from tsuika import config, formats
from tsuika.core.events import Stepped, Warned
from tsuika.core.seeds import generator
from tsuika.core.types import Model
from tsuika.diffusion.objective import add_noise, alphas_cumprod_T, stratified_timesteps, target
from tsuika.embedded import examples, gadget, hands, mascot, sketch, world, yardstick
from tsuika.embedded.world import Picture
from tsuika.generation import compose, grid, pipeline
from tsuika.methods import METHODS

RECIPES = Path(__file__).parent.parent / "examples"
FIRST_SEED = 100
PER_BATCH = 8

Drawings = list[list[np.ndarray]]  # prompt by prompt, seed by seed


@dataclass(frozen=True)
class Figure:
    """One measured thing, seed by seed; `truth` is what true pictures get, where there are any."""

    name: str
    before: Sequence[float]
    after: Sequence[float]
    truth: Sequence[float] = ()


@dataclass(frozen=True)
class Example:
    """A recipe, the prompts it is compared on, and what is measured on their pictures."""

    recipe: str
    pictures: Callable[[], list[mascot.Illustration]]
    prompts: tuple[str, ...]
    shown: tuple[int, ...]  # rows of the grid
    figures: Callable[[Drawings, Drawings], list[Figure]]
    held_out: Callable[[], list[mascot.Illustration]]
    changed: Mapping[str, object] = field(default_factory=dict)  # settings of the recipe


def by_seed(rows: Sequence[Sequence[float]]) -> list[float]:
    """Prompts x seeds to one mean a seed."""
    return [float(value) for value in np.mean(np.asarray(rows), axis=0)]


def _subject_figures(
    prompts: Sequence[tuple[str, str, bool]], true: Sequence[mascot.Illustration], before: Drawings, after: Drawings
) -> list[Figure]:
    """Likeness to true pictures, and whether prompts with (True) and without the new word show what they ask for.

    A prompt is (background, known thing or nothing, whether it holds the new word).
    """
    references = [drawn.pixels for drawn in true]

    def likeness(side: Drawings, new: bool) -> list[float]:
        return by_seed([yardstick.likeness(row, references).tolist() for row, p in zip(side, prompts) if p[2] is new])

    def adherence(side: Drawings, new: bool) -> list[float]:
        rows = []
        for row, (background, thing, has_word) in zip(side, prompts):
            if has_word is new:
                scores = [yardstick.background_scores(row, background)]
                scores += [yardstick.thing_scores(row, thing)] if thing else []
                rows.append(torch.stack(scores).mean(0).tolist())
        return by_seed(rows)

    own = [float(yardstick.likeness([p], references[:i] + references[i + 1 :])[0]) for i, p in enumerate(references)]
    return [
        Figure("likeness to true held-out pictures", likeness(before, True), likeness(after, True), own),
        Figure("adherence to the prompt", adherence(before, True), adherence(after, True)),
        Figure("controls: adherence without the new word", adherence(before, False), adherence(after, False)),
        Figure("controls: likeness without the new word", likeness(before, False), likeness(after, False)),
    ]


def object_figures(before: Drawings, after: Drawings) -> list[Figure]:
    asked = [(p.background, p.thing, not p.thing) for p in gadget.TEST_PROMPTS]
    return _subject_figures(asked, gadget.held_out(), before, after)


def character_figures(before: Drawings, after: Drawings) -> list[Figure]:
    asked = [(p.background, p.companion, p.mascot) for p in mascot.TEST_PROMPTS]
    return _subject_figures(asked, mascot.held_out(seed=1), before, after)


STYLE_SCENES = sketch.scenes(20, 1, sketch.HELD_OUT)


def blobs(scene: Picture, size_px: int = mascot.PICTURE_PX) -> np.ndarray:
    """The picture in the hand that the base was never shown."""
    return world.draw(scene, size_px, hands.source(hands.UNSEEN))


def blob_pictures() -> list[mascot.Illustration]:
    """300 of the things that the style's pictures show, in that hand."""
    scenes = sketch.scenes(300, 0, sketch.TRAINED)
    return [
        mascot.Illustration(f"blob_{number:03d}", blobs(scene), sketch.caption(scene), scene.background)
        for number, scene in enumerate(scenes, 1)
    ]


def style_figures(drawn: Callable[[Picture, int], np.ndarray], before: Drawings, after: Drawings) -> list[Figure]:
    """How near to true pictures of the style, and whether the thing is still the right one."""
    seeds = len(before[0])
    things = [scene.things[0].thing for scene in STYLE_SCENES]

    def true(first_seed: int) -> list[list[np.ndarray]]:
        return [
            [drawn(sketch.again(scene, first_seed + seed), world.SIZE_PX) for scene in STYLE_SCENES]
            for seed in range(seeds)
        ]

    truth, others = true(0), true(1000)
    references = list(zip(*truth))
    every = [picture for pictures in truth for picture in pictures]

    def columns(side: Drawings) -> list[list[np.ndarray]]:
        return [[row[seed] for row in side] for seed in range(seeds)]

    def distances(sets: list[list[np.ndarray]]) -> list[float]:
        return [style_distance.distance(pictures, every) for pictures in sets]

    def likeness(sets: list[list[np.ndarray]]) -> list[float]:
        return by_seed([yardstick.likeness(row, refs).tolist() for row, refs in zip(zip(*sets), references)])

    def recognised(sets: list[list[np.ndarray]]) -> list[float]:
        """Share of pictures that are nearest to the true pictures of their own thing, of 20."""
        return [
            float(
                np.mean([things[int(i)] == t for i, t in zip((yardstick.directions(p) @ centres.T).argmax(1), things)])
            )
            for p in sets
        ]

    centres = torch.stack([yardstick.directions(pictures).mean(0) for pictures in references])
    centres = torch.nn.functional.normalize(centres, dim=1)
    sides = columns(before), columns(after), others
    return [
        Figure("style distance", *map(distances, sides)),
        Figure("likeness to the true picture of the thing", *map(likeness, sides)),
        Figure("right thing of 20", *map(recognised, sides)),
    ]


def style_held_out(drawn: Callable[[Picture], np.ndarray]) -> list[mascot.Illustration]:
    scenes = [sketch.again(scene, 500 + i) for i in range(3) for scene in STYLE_SCENES]
    return [mascot.Illustration("", drawn(s), sketch.caption(s), s.background) for s in scenes]


STYLE_PROMPTS = tuple(map(sketch.caption, STYLE_SCENES))
STYLE_SHOWN = (0, 2, 4, 9, 11, 15, 17, 18)
_CHARACTER_PROMPTS = tuple(prompt.text for prompt in mascot.TEST_PROMPTS)
EXAMPLES = {
    "object": Example(
        "object-textual-inversion",
        examples.SETS["object-5"],
        tuple(p.text for p in gadget.TEST_PROMPTS),
        tuple(range(6)),
        object_figures,
        gadget.held_out,
    ),
    "character-dreambooth": Example(
        "character-dreambooth",
        examples.SETS["character-15"],
        _CHARACTER_PROMPTS,
        tuple(range(8)),
        character_figures,
        lambda: mascot.held_out(seed=1),
    ),
    "character-lora": Example(
        "character-lora",
        examples.SETS["character-30"],
        _CHARACTER_PROMPTS,
        tuple(range(8)),
        character_figures,
        lambda: mascot.held_out(seed=1),
    ),
    "style": Example(
        "style-hypernetwork",
        examples.SETS["style-300"],
        STYLE_PROMPTS,
        STYLE_SHOWN,
        partial(style_figures, sketch.stylise),
        partial(style_held_out, sketch.stylise),
    ),
}
HAND = Example(
    "style-hypernetwork",
    blob_pictures,
    STYLE_PROMPTS,
    STYLE_SHOWN,
    partial(style_figures, blobs),
    partial(style_held_out, blobs),
)
# At equal steps; the LoRA's rate is that of bench/methods.
LORA = {"method": {"name": "lora", "rank": 32}, "train.learning_rate": 1.75e-3}
MORE = {"hand-hypernetwork": HAND, "hand-lora": replace(HAND, changed=LORA)}


def train(name: str, work: Path, steps: int | None) -> tuple[Path, float]:
    """The run of an example's recipe and its seconds; one that is finished is taken as it is."""
    example, run = (EXAMPLES | MORE)[name], work / name
    seconds_file = work / f"{name}.seconds"
    if seconds_file.is_file():
        return run, float(seconds_file.read_text())
    folder = work / "pictures" / name
    folder.mkdir(parents=True, exist_ok=True)
    mascot.write(folder, example.pictures())
    tables = config.read_tables(RECIPES / f"{example.recipe}.toml")
    tables = config.override(tables, example.changed)
    tables = config.override(tables, {"data.images": str(folder), "preview.num": 0})
    if steps:
        tables = config.override(tables, {"train.steps": steps})
    began, losses = time.monotonic(), []
    for event in tsuika.train(config.build(tables), run):
        if isinstance(event, Stepped):
            losses.append(event.loss)
            if event.step % 50 == 0:
                print(f"  {name} step {event.step}: loss {np.mean(losses[-50:]):.4f}", flush=True)
        elif isinstance(event, Warned):
            print(f"  {event}")
    seconds = time.monotonic() - began
    seconds_file.write_text(f"{seconds:.1f}")
    return run, seconds


def result_of(run: Path) -> Path:
    """The written result: a checkpoint's folder, or the artifact's file."""
    checkpoints = [path.parent for path in run.glob("artifacts/*/model_index.json")]
    return checkpoints[0] if checkpoints else next(p for p in sorted(run.glob("artifacts/*.safetensors")))


@contextmanager
def model_with(parts: Sequence[tuple[Path, float]]) -> Iterator[Model]:
    """The embedded base, or the checkpoint among `parts` in its place, with the others at their strengths."""
    checkpoint = next((str(path) for path, _ in parts if (path / "model_index.json").is_file()), "embedded")
    model = tsuika.load(checkpoint)
    wanted = [compose.Requested(path, strength) for path, strength in parts if str(path) != checkpoint]
    with compose.compose(model, wanted, formats, METHODS):
        yield model


def draw(model: Model, prompts: Sequence[str], seeds: int) -> Drawings:
    defaults = pipeline.defaults_for(model, tsuika.EMBEDDED)
    pixels = pipeline.sample(model, list(prompts), seed=FIRST_SEED, num=seeds, defaults=defaults, batch_size=PER_BATCH)
    pictures = [np.asarray(picture) for picture in pipeline.to_images(pixels)]
    return [pictures[i : i + seeds] for i in range(0, len(pictures), seeds)]


def held_out_loss(model: Model, drawn: Sequence[mascot.Illustration], seeds: int) -> list[float]:
    """Mean squared error of the prediction on pictures never trained on, with noise and timesteps fixed by the seed."""
    small = yardstick.to_signal([one.pixels for one in drawn])
    alphas_T = alphas_cumprod_T(model.scheduler_config)
    losses = []
    with torch.no_grad():
        weights = next(model.unet.parameters())
        latents = model.encode_images(small.to(weights.dtype)).float()
        cond = model.encode_text([one.caption for one in drawn])
        for seed in range(seeds):
            source = generator(seed, "held-out loss")
            t_B = stratified_timesteps(len(drawn), len(alphas_T), source)
            noise = torch.randn(latents.shape, generator=source)
            a_B = alphas_T[t_B]
            output = model.denoise(add_noise(latents, noise, a_B).to(weights.dtype), t_B, cond).float()
            losses.append(float((output - target(model.prediction, latents, noise, a_B)).pow(2).mean()))
    return losses


def write_grid(path: Path, prompts: Sequence[str], before: Drawings, after: Drawings, seeds: int) -> None:
    names = [
        *(f"before, seed {FIRST_SEED + i}" for i in range(seeds)),
        *(f"after, seed {FIRST_SEED + i}" for i in range(seeds)),
    ]
    cells = [Image.fromarray(p) for b, a in zip(before, after) for p in (*b[:seeds], *a[:seeds])]
    grid.grid(cells, prompts, names)[0].save(path)


def measure(name: str, work: Path, steps: int | None, seeds: int) -> list[Figure]:
    """Train, draw, measure and write the grid of one example."""
    example = (EXAMPLES | MORE)[name]
    run, seconds = train(name, work, steps)
    sides, losses = [], []
    for parts in ([], [(result_of(run), 1.0)]):
        with model_with(parts) as model:
            sides.append(draw(model, example.prompts, seeds))
            losses.append(held_out_loss(model, example.held_out(), seeds))
    figures = [*example.figures(*sides), Figure("held-out loss", *losses)]
    rows = list(example.shown)
    write_grid(
        work / f"{name}.png",
        [example.prompts[i] for i in rows],
        *([side[i] for i in rows] for side in sides),
        min(seeds, 4),
    )
    record = {figure.name: vars(figure) for figure in figures} | {"seconds": seconds}
    (work / f"{name}.json").write_text(json.dumps(record, indent=1))
    return figures


COMBINED = "a tsuipi character and a daruma on the beach"
STRENGTHS = {"character-dreambooth": 1.0, "object": 1.0, "style": 0.8, "character-lora": 0.5}


def combined(work: Path, seeds: int) -> None:
    """One prompt with nothing, each result alone, and all four stacked."""
    all_four = [(result_of(work / name), strength) for name, strength in STRENGTHS.items()]
    rows = {"base": [], **dict(zip(STRENGTHS, [[one] for one in all_four])), "all four": all_four}
    cells = []
    for parts in rows.values():
        with model_with(parts) as model:
            cells += [Image.fromarray(picture) for picture in draw(model, [COMBINED], seeds)[0]]
    columns = [f"seed {FIRST_SEED + i}" for i in range(seeds)]
    grid.grid(cells, list(rows), columns, COMBINED)[0].save(work / "combined.png")


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if len(values) else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="", help=f"comma-separated: {', '.join(EXAMPLES | MORE)}")
    parser.add_argument("--steps", type=int, help="training steps; default: the recipe's")
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    names = options.only.split(",") if options.only else list(EXAMPLES)
    table = ["| example | figure | before | after | true pictures |", "|---|---|---|---|---|"]
    for name in names:
        for figure in measure(name, options.work, options.steps, options.seeds):
            cells = " | ".join(map(spread, (figure.before, figure.after, figure.truth)))
            table.append(f"| {name} | {figure.name} | {cells} |")
        table.append(
            f"| {name} | seconds, pictures to written files | – | {(options.work / f'{name}.seconds').read_text()} | – |"
        )
    if all((options.work / f"{name}.seconds").is_file() for name in STRENGTHS):
        combined(options.work, options.seeds)
    print("\n".join(table))


if __name__ == "__main__":
    main()
