"""What an evaluation draws: prompts of what was trained, prompts that have nothing to do with it, training captions.

Those of `prompts.json` are plain scenes that every Stable Diffusion knows, or keep to the embedded base's vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from tsuika.config import prompt_lines
from tsuika.core.errors import RecipeError
from tsuika.core.sections import Preview
from tsuika.core.texts import _, article
from tsuika.data.subjects import Subject, named_in

Group = Literal["subject", "unrelated", "captions"]

CAPTIONS: Final = 4  # training captions that are drawn, for copies show there first


@dataclass(frozen=True)
class Asked:
    """A prompt; `about` are the places of its subjects among those of the recipe's sets."""

    text: str
    group: Group
    about: tuple[int, ...] = (0,)


def asked(
    subjects: Sequence[Subject],
    preview: Preview,
    captions: Sequence[Sequence[str]],
    *,
    embedded: bool,
    own: Path | None = None,
) -> tuple[Asked, ...]:
    """The prompts of an evaluation, in order, each once.

    Without `own`, the prompts of the recipe's previews, and for every subject that none of them is about scenes made from
    trigger and class word; where there is neither, its training captions stand in. `captions` are of each subject's training
    images, of which a few are drawn; `embedded`: the base is the one that ships with tsuika; `own`: a file with one prompt a
    line (`#` begins a comment, `{trigger}` stands for the trigger word, of several each in turn), of which those without a
    trigger word count as unrelated; if none is, the built-in ones are drawn.
    Raises RecipeError (RC005): the file is missing or has no prompt of a subject.
    """
    ready = _ready_made()["embedded" if embedded else "any"]
    triggers = [one.trigger for one in subjects if one.trigger] or [""]
    texts = _plain(prompt_lines.read(own, key="--prompts FILE") if own else preview.prompts, triggers)
    about: dict[str, tuple[int, ...]] = {text: places for text in texts if (places := named_in(text, subjects))}
    others = [text for text in texts if text not in about]
    if own and not about:
        missing = _("A prompt with `{trigger}`", trigger=triggers[0])
        do = _("Add a line: {subject}", subject=article(subjects[0].name))
        raise RecipeError("RC005", where=own, found=missing, do=do)
    drawn: dict[str, tuple[int, ...]] = {
        text: (place,) for place, texts in enumerate(captions) for text in few(texts, len(subjects))
    }
    for place, one in enumerate(subjects):
        if own or any(place in places for places in about.values()):
            continue
        if one.is_style:
            made = [f"{thing}, {one.name}" for thing in ready["styled"]]
        elif one.name:
            made = [f"{article(one.name)} {scene}" for scene in ready["scenes"]]
        else:
            made = few(captions[place], 1)
        about |= dict.fromkeys(made, (place,))
    taught = {word for one in subjects for word in one.class_word.casefold().split()}
    others = others or [text for text in ready["unrelated"] if not taught & set(text.split())][:4]
    groups: tuple[tuple[Group, dict[str, tuple[int, ...]]], ...] = (
        ("subject", about),
        ("unrelated", dict.fromkeys(others, ())),
        ("captions", drawn),
    )
    found: dict[str, Asked] = {}
    for group, rows in groups:
        for text, places in rows.items():
            found.setdefault(text, Asked(text, group, places))
    return tuple(found.values())


def few(captions: Sequence[str], subjects: int) -> list[str]:
    """Some of the captions of one of so many subjects, from beginning to end."""
    once = list(dict.fromkeys(text for text in captions if text))
    return once[:: max(1, -(-len(once) // max(1, CAPTIONS // subjects)))]


@cache
def _ready_made() -> dict[str, dict[str, list[str]]]:
    text = files(__package__).joinpath("prompts.json").read_text(encoding="utf-8")
    tables: dict[str, dict[str, list[str]]] = json.loads(text)
    return tables


def _plain(lines: Sequence[str], triggers: Sequence[str]) -> list[str]:
    """Prompts without the options behind them, for all are drawn alike; with `{trigger}` one for every trigger word."""
    prompts = [prompt_lines.parse(line).prompt for line in lines]
    return list(dict.fromkeys(text.replace("{trigger}", word) for text in prompts for word in triggers))


def without_subject(text: str, subjects: Iterable[Subject]) -> str:
    """The prompt as an encoder understands it that has never heard the trigger words: the class words alone."""
    for one in subjects:
        if one.trigger:
            instead = "" if one.class_word else "thing"
            text = re.sub(rf"(?<!\w){re.escape(one.trigger)}(?!\w)", instead, text, flags=re.IGNORECASE)
            text = re.sub(r"\s+", " ", text).strip()
    return text
