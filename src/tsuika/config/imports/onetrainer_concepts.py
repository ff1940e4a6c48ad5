"""OneTrainer's concepts: the folders of images, with their augmentation and captions (`ConceptConfig.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tsuika.config.imports.taking import (
    Imported,
    Read,
    Rule,
    Tables,
    Taking,
    dotted,
    flag,
    number,
    positive,
    side,
    tables,
)
from tsuika.core.texts import _


def square(value: Any) -> int | None:
    """The side of a square; several sizes, `512,768`, are trained in turn here."""
    return None if "," in str(value) else side(value)


_CONCEPT: Final[Mapping[str, Rule]] = {
    "path": Rule("data.images"),
    "loss_weight": Rule("data.weight", number),
    "image.enable_random_flip": Rule("data.flip", flag),
    "text.enable_tag_shuffling": Rule("data.shuffle_tags", flag),
    "image_variations": Rule("data.variants", positive),
}
_CONCEPT_NEUTRAL: Final = re.compile(
    r"(.*\.)?__version|name|seed|enabled|type|include_subdirectories|text_variations|balancing(_strategy)?|repeats|concept_stats.*"
    r"|validation_concept|image\.(random_.*_max_.*|resolution_override|enable_resolution_override|enable_random_rotate)"
    r"|text\.(prompt_(source|path)|tag_delimiter|keep_tags_count|tag_dropout_.+(?<!_enable)|caps_randomize_(?!enable).*)"
)


def is_concepts(content: Any) -> bool:
    """Whether it is a file of concepts."""
    return bool(tables(content)) and all("path" in one and ("text" in one or "image" in one) for one in tables(content))


def concepts(content: Any, _read: Read) -> Imported:
    """The folders of images."""
    taking = Taking()
    add_to(content, taking)
    return taking.done(_("concepts of OneTrainer"), {})


def add_to(content: Any, taking: Taking) -> None:
    """A set for every folder that is trained on."""
    used: list[Tables] = []
    for place, concept in enumerate(tables(content)):
        values = dotted(concept)
        if not flag(values.get("enabled", True)):
            continue
        kind = str(values.get("type", "VALIDATION" if flag(values.get("validation_concept")) else "STANDARD"))
        name = f"concepts[{place}]"
        if kind != "STANDARD":
            taking.lose(f"{name}.type", f"{kind} ({values.get('path')})")
            continue
        own = Taking()
        own.take(values, _CONCEPT, _CONCEPT_NEUTRAL)
        _concept(values, own)
        used.append(own.settings)
        taking.lost += [f"{name}.{lost}" for lost in own.lost]
    taking.divide(used)


def _whole_number(value: Any) -> float | int | None:
    found = number(value)
    return found if isinstance(found, int) and found > 0 else None


def _concept(values: Tables, own: Taking) -> None:
    """What means something only beside something else."""
    amount = values.get("balancing", values.get("repeats", 1))
    strategy = str(values.get("balancing_strategy", "REPEATS"))
    if strategy == "REPEATS" and _whole_number(amount):
        own.settings["data.repeats"] = _whole_number(amount)
    else:
        own.lose("balancing", f"{amount} {strategy}")
    source = values.get("text.prompt_source", "sample")
    own.lose(
        "text.prompt_source", f"{source} {values.get('text.prompt_path') or ''}".strip() if source != "sample" else None
    )
    if flag(values.get("text.enable_tag_shuffling")):
        own.settings["data.keep_tokens"] = number(values.get("text.keep_tags_count", 1))
        own.lose(
            "text.tag_delimiter",
            values.get("text.tag_delimiter") if values.get("text.tag_delimiter", ",") != "," else None,
        )
    if flag(values.get("image.enable_random_rotate")):
        own.settings["data.rotate_deg"] = number(values.get("image.random_rotate_max_angle"))
    if flag(values.get("image.enable_resolution_override")):
        override = values.get("image.resolution_override")
        own.settings |= {"data.size_px": size} if (size := square(override)) else {}
        own.lose("image.resolution_override", None if square(override) else override)
