"""`generate`: pictures of prompts, with artifacts at their strengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tsuika import formats
from tsuika.api.models import defaults_of, load
from tsuika.core.errors import RecipeError
from tsuika.core.files import sha256
from tsuika.generate import compose, pipeline, png_info
from tsuika.generate.prompt import parse
from tsuika.methods import METHODS
from tsuika.train import assemble


def generate(
    prompt: str,
    out: Path,
    *,
    negative: str = "",
    base: str = "embedded",
    lora: Sequence[str] = (),
    artifacts: Path = Path(),
    vae: str = "builtin",
    tokenizer: str = "",
    seed: int = 0,
    steps: int | None = None,
    cfg: float | None = None,
    sampler: str | None = None,
    size: str = "",
    num: int = 1,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, Any]:
    """Draw `num` pictures of a prompt with artifacts at their strengths; returns what was written and what matched.

    `lora` entries are `FILE` or `FILE:STRENGTH`; `<lora:NAME:0.8>` in the prompt works too, looked up in `artifacts`.

    Raises:
        TsuikaError: a file that is missing or made for another family, a size or sampler that cannot be.
    """
    parsed = parse(prompt)
    tagged = compose.from_tags(parsed.tags, [artifacts, artifacts / "runs"]) if parsed.tags else []
    wanted = [*(_wanted(text) for text in lora), *tagged]
    model = load(base, tokenizer=tokenizer, vae=vae, device=device, precision=precision)
    defaults = defaults_of(model)
    notes: list[str] = []
    with compose.compose(model, wanted, formats, METHODS, warn=lambda event: notes.append(event.message)) as together:
        pixels = pipeline.sample(
            model, parsed, negative=negative, seed=seed, num=num, steps=steps, cfg=cfg, sampler=sampler,
            size_px=_size(size), defaults=defaults, warn=lambda event: notes.append(event.message),
        )  # fmt: skip
        matched = {
            part.wanted.path.name: f"{len(part.matched)} tensors matched, {len(part.unmatched)} not"
            for part in together.parts
        }
    names = [*(f"<lora:{one.path.stem}:{one.strength:g}>" for one in (_wanted(text) for text in lora))]
    hashes = {one.path.stem: sha256(one.path)[:10] for one in wanted if one.path.is_file()}
    written: list[str] = []
    for i, picture in enumerate(pipeline.to_pictures(pixels)):
        path = out if num == 1 and out.suffix.lower() == ".png" else _numbered(out, seed + i)
        info = png_info.PictureInfo(
            " ".join([prompt, *names]), negative, steps=steps or defaults.steps, sampler=sampler or defaults.sampler,
            cfg=defaults.cfg if cfg is None else cfg, seed=seed + i, size_px=picture.size,
            model=Path(model.source).name, model_hash=(model.sha256 or "")[:10] or None, lora_hashes=hashes,
        )  # fmt: skip
        png_info.write_png(path, picture, info, {"base": base, "vae": vae})
        written.append(str(path))
    return {"pictures": written, "artifacts": matched, "notes": notes}


def _wanted(text: str) -> compose.Wanted:
    return compose.Wanted(*assemble.split_strength(text))


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise RecipeError("RC002", key="size", found=text, why="WIDTHxHEIGHT, e.g. 512x768")
    return int(width), int(height)


def _numbered(out: Path, seed: int) -> Path:
    folder = out.with_suffix("") if out.suffix.lower() == ".png" else out
    return folder / f"{seed:05d}.png"
