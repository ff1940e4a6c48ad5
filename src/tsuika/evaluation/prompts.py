"""What an evaluation draws: prompts of what was trained, prompts that have nothing to do with it, training captions.

Those of `prompts.json` are plain scenes that every Stable Diffusion knows, or keep to the embedded base's vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from tsuika.config import prompt_lines
from tsuika.core.errors import RecipeError
from tsuika.core.sections import Data, Preview
from tsuika.core.texts import _, article

Group = Literal["subject", "unrelated", "captions"]

CAPTIONS: Final = 4  # training captions that are drawn, for copies show there first


@dataclass(frozen=True)
class Asked:
    text: str
    group: Group


def asked(
    data: Data, preview: Preview, captions: Sequence[str], *, embedded: bool, own: Path | None = None
) -> tuple[Asked, ...]:
    """The prompts of an evaluation, in order, each once.

    Without `own`, the prompts of the recipe's previews if it has any, else scenes made from trigger and class word; where
    there is neither, training captions stand in. `captions` are of the training images, of which a few are drawn; `embedded`:
    the base is the one that ships with tsuika; `own`: a file with one prompt a line (`#` begins a comment, `{trigger}` stands
    for the trigger word), of which those without the trigger word count as unrelated; if none is, the built-in ones are drawn.
    Raises RecipeError (RC005): the file is missing or has no prompt of the subject.
    """
    ready = _ready_made()["embedded" if embedded else "any"]
    subject = " ".join(word for word in (data.trigger, data.class_word) if word)
    texts = _read(own, data.trigger) if own else _plain(preview.prompts, data.trigger)
    about = [text for text in texts if not data.trigger or re.search(_word(data.trigger), text, re.IGNORECASE)]
    others = [text for text in texts if text not in about]
    if own and not about:
        missing = _("A prompt with `{trigger}`", trigger=data.trigger)
        do = _("Add a line: {subject}", subject=article(subject))
        raise RecipeError("RC005", where=own, found=missing, do=do)
    if not about and subject:
        if "style" in data.class_word.casefold().split():
            about = [f"{thing}, {subject}" for thing in ready["styled"]]
        else:
            about = [f"{article(subject)} {scene}" for scene in ready["scenes"]]
    drawn = list(dict.fromkeys(text for text in captions if text))
    drawn = drawn[:: max(1, -(-len(drawn) // CAPTIONS))]
    about = about or drawn
    taught = set(data.class_word.casefold().split())
    others = others or [text for text in ready["unrelated"] if not taught & set(text.split())][:4]
    groups: tuple[tuple[Group, list[str]], ...] = (("subject", about), ("unrelated", others), ("captions", drawn))
    found: dict[str, Asked] = {}
    for group, texts in groups:
        for text in texts:
            found.setdefault(text, Asked(text, group))
    return tuple(found.values())


@cache
def _ready_made() -> dict[str, dict[str, list[str]]]:
    text = files(__package__).joinpath("prompts.json").read_text(encoding="utf-8")
    tables: dict[str, dict[str, list[str]]] = json.loads(text)
    return tables


def _read(path: Path, trigger: str) -> list[str]:
    return list(dict.fromkeys(_plain(prompt_lines.read(path, key="--prompts FILE"), trigger)))


def _plain(lines: Sequence[str], trigger: str) -> list[str]:
    """Prompts without the options behind them: all are drawn alike."""
    return [prompt_lines.parse(line).prompt.replace("{trigger}", trigger) for line in lines]


def _word(word: str) -> str:
    return rf"(?<!\w){re.escape(word)}(?!\w)"


def without_subject(text: str, data: Data) -> str:
    """The prompt as an encoder understands it that has never heard the trigger word: the class word alone."""
    if not data.trigger:
        return text
    instead = "" if data.class_word else "thing"
    plain = re.sub(_word(data.trigger), instead, text, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", plain).strip()
