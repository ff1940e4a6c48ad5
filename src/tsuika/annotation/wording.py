"""How what a model says joins the captions that are there. Pure functions of texts."""

from __future__ import annotations

from collections.abc import Sequence

from tsuika.annotation import Mode
from tsuika.annotation.captioners import Said
from tsuika.annotation.tagger import comparable
from tsuika.data import caption


def joined(before: Sequence[str], said: Said, mode: Mode, trigger: str = "") -> tuple[str, ...]:
    """The captions of an image after the model has spoken; `before` has one a line, none where there is no caption.

    With `add`, every line gets the tags (or the sentence) that are not in it yet, at its end. The trigger word is put in
    front of lines that do not have it.
    """
    made = caption.normalise(said.text)
    # A model that finds nothing to say takes no caption away.
    lines = (
        [_added(line, said) for line in before] if mode == "add" and before else [made] if made else [*before] or [""]
    )
    trigger = caption.normalise(trigger)
    if not trigger:
        return tuple(filter(None, lines))
    return tuple(
        line if caption.has_word(line, trigger) else ", ".join(filter(None, (trigger, line))) for line in lines
    )


def _added(line: str, said: Said) -> str:
    if not said.tags:
        text = caption.normalise(said.text)
        return line if not text or text.casefold() in line.casefold() else ", ".join((line.rstrip(" ,"), text))
    there = {comparable(part) for part in line.split(",")}
    return ", ".join([line.rstrip(" ,"), *(tag for tag in said.tags if comparable(tag) not in there)])
