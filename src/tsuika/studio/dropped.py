"""How an image that was dropped says it was made, as the playground asks for it: its files are those of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Final

from tsuika.core.errors import RecipeError
from tsuika.core.files import sha256
from tsuika.families.vaes import BUILTIN, is_own
from tsuika.generation import png_info
from tsuika.generation.png_info import GenerationInfo
from tsuika.generation.prompt import TAGS, Tag, parse
from tsuika.methods import METHODS
from tsuika.studio import models, planning
from tsuika.studio.state import Studio

PLAIN: Final = ("negative", "seed", "steps", "cfg", "clip_skip", "model")
_TAG: Final = re.compile(r"\s*<(\w+):([^:<>]+)(?::[^<>]*)?>")


def made(studio: Studio, image: Path) -> dict[str, Any]:
    """What an image says, by the names of the playground's fields; empty where it says nothing.

    `cards` are files that were applied and are known here, with their strengths; `missing` names what is not known here, or is
    another file of the same name. The tags of those that are known are taken out of the prompt.

    Raises:
        ImageError: DS003, it is no image.
    """
    found, own = png_info.read(image)
    if found is None:
        return {}
    values = {name: getattr(found, name) for name in PLAIN}
    values["size"] = "{}x{}".format(*found.size_px) if found.size_px else ""
    missing = []
    if found.sampler in models.SAMPLERS:
        values["sampler"] = found.sampler
    elif found.sampler:
        missing.append(found.sampler)
    base = _base(studio, found)
    values |= {"base": base, "vae": _vae(studio, found, base)}
    if found.vae and not values["vae"]:
        missing.append(found.vae)
    every, cards, tags = models.artifacts(studio), [], set()
    for kind, name, strength, digest in _applied(found, own):
        file = _known(every, kind, name, digest)
        if file is None:
            missing.append(name)
        else:
            cards.append({**file, "strength": strength})
            tags.add((METHODS[kind].tag, name))

    def gone(match: re.Match[str]) -> str:
        return "" if (match[1].lower(), match[2]) in tags else match[0]

    values["prompt"] = _TAG.sub(gone, found.prompt).strip()
    plain = {name: value for name, value in values.items() if value not in (None, "")}
    return {**plain, "cards": cards, "missing": missing}


def _applied(found: GenerationInfo, own: Mapping[str, Any]) -> Iterator[tuple[str, str, float, str]]:
    """What was applied to the base: method, name, strength, and the beginning of a hash where there is one."""
    try:
        tags: tuple[Tag, ...] = parse(found.prompt).tags
    except RecipeError:
        # A tag that cannot be: it stays in the prompt, and drawing says what is wrong.
        tags = ()
    for tag in tags:
        # A card has one strength.
        if not TAGS[tag.kind].splits_strength or tag.text == tag.unet:
            yield TAGS[tag.kind].name, tag.name, tag.unet, found.lora_hashes.get(re.sub("[,:]", "", tag.name), "")
    # The text for A1111 does not say how strong an embedding was, and ours does.
    (words,) = (name for name, method in METHODS.items() if method.adds_words)
    for name, digest in found.ti_hashes.items():
        yield words, name, _strength(own, name), digest


def _strength(own: Mapping[str, Any], name: str) -> float:
    rows = own.get("artifacts")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and Path(str(row.get("file"))).stem == name:
            strength = row.get("strength")
            if isinstance(strength, int | float) and isfinite(strength):
                return float(strength)
    return 1.0


def _known(every: list[dict[str, str]], kind: str, name: str, digest: str) -> dict[str, str] | None:
    """The file of a name, and where the image tells its hash, of no other content."""
    named = (one for one in every if one["name"] == name and one["kind"] in ("", kind))
    for one in named:
        path = Path(one["file"])
        if not digest or _is_same(digest, path, tensors_only=kind == "lora"):
            return {**one, "kind": kind}
    return None


def _is_same(digest: str, path: Path, *, tensors_only: bool) -> bool:
    mine = png_info.short_hash(path, sha256(path) if path.is_file() else None, tensors_only=tensors_only) or ""
    return bool(mine) and (mine.startswith(digest) or digest.startswith(mine))


def _base(studio: Studio, found: GenerationInfo) -> str:
    """The base model of that name that is known here; empty: none. Programs write a name with or without its ending."""
    rows = [{"base": "embedded", "name": "embedded"}, *models.bases(studio)]
    rows += [
        {"base": one["file"], "name": Path(one["file"]).name}
        for one in models.artifacts(studio)
        if one["kind"] == "base"
    ]
    named = {one["base"] for one in rows if found.model and found.model in (one["name"], Path(one["name"]).stem)}
    return named.pop() if len(named) == 1 else ""


def _vae(studio: Studio, found: GenerationInfo, base: str) -> str:
    """The VAE as the playground names it: `builtin` where the image names none; empty: it is not known here."""
    if found.vae is None or found.vae == BUILTIN:
        return BUILTIN
    if is_own(found.vae):
        return found.vae if base and found.vae in planning.own_vaes(base) else ""
    for one in models.vaes(studio):
        path = Path(one["file"])
        if found.vae in (path.name, path.stem) and (
            not found.vae_hash or _is_same(found.vae_hash, path, tensors_only=False)
        ):
            return one["file"]
    return ""
