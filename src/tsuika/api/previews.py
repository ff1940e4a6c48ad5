"""What a run draws on its way: previews, and regularization images with the base's own settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from PIL import Image

from tsuika.api.models import defaults_of
from tsuika.config import Recipe
from tsuika.core.events import Previewed
from tsuika.core.texts import article
from tsuika.core.types import Model
from tsuika.data.manifest import Manifest
from tsuika.generation import pipeline, png_info
from tsuika.training.prepared import Prepared
from tsuika.training.regularization_images import Request

CAPTIONS: Final = 4  # training captions that are drawn beside the previews, once each


def draw(prepared: Prepared, step: int) -> Iterator[Previewed]:
    """Draw the recipe's previews into `samples/`, at fixed seeds; and some training captions, for the check on copying."""
    recipe, model = prepared.recipe, prepared.model
    settings, defaults = recipe.preview, defaults_of(model)
    cfg = settings.cfg or defaults.cfg
    requests = [(prompt, settings.num, cfg) for prompt in prompts(recipe)]
    # Guidance makes copying stronger (arXiv:2509.25705): captions are drawn at the most of it that is in use.
    requests += [(caption, 1, max(cfg, defaults.cfg)) for caption in captions(recipe, prepared.manifest)]
    for number, (prompt, num, cfg) in enumerate(requests):
        pixels = pipeline.sample(
            model,
            prompt,
            seed=settings.seed,
            num=num,
            steps=settings.steps or None,
            cfg=cfg,
            defaults=defaults,
            batch_size=8,
        )
        for i, image in enumerate(pipeline.to_images(pixels)):
            name = f"step-{step:06d}-{number:02d}-seed-{settings.seed + i}.png"
            info = png_info.GenerationInfo(
                prompt,
                steps=settings.steps or defaults.steps,
                sampler=defaults.sampler,
                cfg=cfg,
                seed=settings.seed + i,
                size_px=image.size,
            )
            png_info.write_png(prepared.folder.samples / name, image, info)
            yield Previewed(step, prompt, settings.seed + i, f"samples/{name}")


class ClassImages:
    """Draws regularization images with the base's own settings."""

    def __call__(self, model: Model, request: Request) -> list[Image.Image]:
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


def prompts(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's prompts; without any, the subject alone and in two places, and its class without the trigger."""
    data, others = recipe.data.first, [*recipe.data.each().values()][1:]
    subject, *more = (" ".join(word for word in (one.trigger, one.class_word) if word) for one in (data, *others))
    if recipe.preview.prompts or not subject:
        return tuple(prompt.replace("{trigger}", data.trigger) for prompt in recipe.preview.prompts)
    control = (f"{article(data.class_word)} on the beach",) if data.class_word and data.trigger else ()
    of_sets = [article(text) for text in dict.fromkeys(more) if text and text != subject]
    return (*(f"{article(subject)}{place}" for place in ("", " on the beach", " in the snow")), *of_sets, *control)


def captions(recipe: Recipe, manifest: Manifest) -> list[str]:
    """A few captions of the training images that no preview draws anyhow: where copying shows first."""
    known = {"", *prompts(recipe)}
    texts = [text for text in dict.fromkeys(sample.caption for sample in manifest.samples) if text not in known]
    return texts[:: max(1, -(-len(texts) // CAPTIONS))]
