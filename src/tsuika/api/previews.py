"""What a run draws on its way: previews, and regularization images with the base's own settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from PIL import Image

from tsuika.api.models import defaults_of
from tsuika.config import Recipe, prompt_lines
from tsuika.config.prompt_lines import PromptLine
from tsuika.core.errors import ModelError
from tsuika.core.events import Previewed, Warned, note
from tsuika.core.texts import article
from tsuika.core.types import Model
from tsuika.data.manifest import Manifest
from tsuika.data.subjects import subjects_of
from tsuika.evaluation.prompts import few
from tsuika.generation import pipeline, png_info
from tsuika.training.prepared import Prepared
from tsuika.training.regularization_images import ClassRequest

MOST_AT_ONCE: Final = 8  # images


def draw(prepared: Prepared, step: int) -> Iterator[Previewed | Warned]:
    """Draw the recipe's previews into `samples/`, at fixed seeds; and some training captions, for the check on copying."""
    recipe, model = prepared.recipe, prepared.model
    settings, defaults = recipe.preview, defaults_of(model)
    common = settings.cfg or defaults.cfg
    requests = [(name, line, settings.num) for name, line in lines(recipe).items()]
    # Guidance makes copying stronger (arXiv:2509.25705): captions are drawn at the most of it that is in use.
    most = max(common, defaults.cfg)
    drawn_alone = captions(recipe, prepared.manifest)
    requests += [(text, PromptLine(text, text, negative="", cfg=most), 1) for text in drawn_alone]

    def alike(request: tuple[int, tuple[str, PromptLine, int]]) -> dict[str, Any]:
        """What is drawn together must have in common."""
        _number, (_called, line, num) = request
        return {
            "negative": settings.negative if line.negative is None else line.negative,
            "seed": settings.seed if line.seed is None else line.seed,
            "num": num,
            "steps": line.steps or settings.steps or defaults.steps,
            "cfg": common if line.cfg is None else line.cfg,
            "sampler": line.sampler or defaults.sampler,
            "size_px": line.size_px,
        }

    for how, group in ((how, list(group)) for how, group in groupby(enumerate(requests), alike)):
        texts = [line.prompt for _number, (_called, line, _num) in group]
        # Without gradients a step's images take less memory than in a step.
        at_once = min(MOST_AT_ONCE, max(how["num"], recipe.train.batch_size))
        pixels = pipeline.sample(model, texts, **how, defaults=defaults, batch_size=at_once)
        try:
            images = iter(pipeline.to_images(pixels))
        except ModelError as error:
            # A preview is no reason to end a training, which has its own eye on the weights.
            yield note(error.code)
            continue
        for number, (called, line, num) in group:
            for seed, image in zip(range(how["seed"], how["seed"] + num), images, strict=False):
                name = f"step-{step:06d}-{number:02d}-seed-{seed}.png"
                said = {key: how[key] for key in ("steps", "sampler", "cfg")}
                info = png_info.GenerationInfo(line.prompt, how["negative"], **said, seed=seed, size_px=image.size)
                png_info.write_png(prepared.folder.samples / name, image, info)
                yield Previewed(step, called, seed, f"samples/{name}")


class ClassImages:
    """Draws regularization images with the base's own settings."""

    def __call__(self, model: Model, request: ClassRequest) -> list[Image.Image]:
        """See `regularization_images.Draw`."""
        pixels = pipeline.sample(
            model,
            request.prompt,
            seed=request.seed,
            num=request.num,
            size_px=(request.size_px, request.size_px),
            defaults=defaults_of(model),
            batch_size=request.num,
        )
        return pipeline.to_images(pixels)

    def settings(self, model: Model) -> dict[str, Any]:
        """See `regularization_images.Draw`."""
        return asdict(defaults_of(model))


def with_file(recipe: Recipe) -> Recipe:
    """The recipe with the prompts of its file, so that it needs the file no more.

    Raises:
        RecipeError: the file cannot be read or holds none (RC005), or a prompt's options are not understood (RC002).
    """
    preview = recipe.preview
    for text in preview.prompts:
        prompt_lines.parse(text, key="preview.prompts")
    if not preview.file:
        return recipe
    read = prompt_lines.read(Path(preview.file), key="preview.file")
    own = preview.model_copy(update={"prompts": (*preview.prompts, *read), "file": ""})
    return recipe.model_copy(update={"preview": own})


def lines(recipe: Recipe) -> Mapping[str, PromptLine]:
    """The previews by what they are called: the prompt, or the whole line where others have the same prompt."""
    found: dict[str, PromptLine] = {}
    for text in _texts(recipe):
        line = prompt_lines.parse(text)
        found[line.text if line.prompt in found else line.prompt] = line
    return found


def prompts(recipe: Recipe) -> tuple[str, ...]:
    """What the previews are called."""
    return tuple(lines(recipe))


def _texts(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's prompts, with `{trigger}` for every trigger word; without any, the subject alone and in two places (each of
    several alone and in one), and its class without the trigger."""
    subjects = subjects_of(recipe.data)
    if recipe.preview.prompts or not any(one.name for one in subjects):
        words = [one.trigger for one in subjects if one.trigger] or [""]
        made = (prompt.replace("{trigger}", word) for prompt in recipe.preview.prompts for word in words)
        return tuple(dict.fromkeys(made))
    places = ("", " on the beach", " in the snow")[: 3 if len(subjects) == 1 else 2]
    shown = [f"{article(one.name)}{place}" for one in subjects if one.name for place in places]
    classes = [f"{article(one.class_word)} on the beach" for one in subjects if one.class_word and one.trigger]
    return tuple(dict.fromkeys([*shown, *classes]))


def captions(recipe: Recipe, manifest: Manifest) -> list[str]:
    """A few captions of every subject's training images that no preview draws anyhow: where copying shows first."""
    known, subjects = {"", *prompts(recipe)}, subjects_of(recipe.data)
    found: list[str] = []
    for one in subjects:
        texts = [sample.caption for sample in manifest.samples if sample.set in one.sets]
        found += few([text for text in texts if text not in known], len(subjects))
    return list(dict.fromkeys(found))
