"""Captions: completed with the trigger word; dropout, choice among several and tag shuffle as pure functions.

Without a caption file (`caption_files`) the caption is `TRIGGER CLASS`, or what a kohya folder is called. A caption
without the trigger word gets it in front: `TRIGGER, caption`. With a template, an image without a file is called by the
trigger word alone (which must learn what the class word would say), in a new sentence at every visit.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from tsuika.core.sections import Data
from tsuika.core.texts import Text, _
from tsuika.data.manifest import CaptionSource, Sample

if TYPE_CHECKING:
    import torch

# Sentences around a word, by `data.template`: neutral about place, quality and number of things. They name media in
# turn, so that the word need not mean one; a style's speak of drawings of any kind of thing.
TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    name: tuple(sentences)
    for name, sentences in json.loads(files(__package__).joinpath("templates.json").read_text(encoding="utf-8")).items()
}

# What several lines of a caption file are, by `data.caption_lines`.
LINES: Final[Mapping[str, Text]] = {
    "alternatives": _("Each line is a caption of its own, and training draws one of them at each step"),
    "first": _("The first line is the caption; the others are not used"),
    "join": _("The lines are joined to one caption"),
}
MOST_EXPANDED: Final = 256  # captions of one with `{a|b}` in it
_SENTENCE_END: Final = ".,;:!?。、,!?"


def normalise(text: str) -> str:
    """NFC; one line, where lines are joined by a comma unless they end in punctuation; single spaces."""
    lines = [" ".join(line.split()) for line in unicodedata.normalize("NFC", text).splitlines()]
    joined = ""
    for line in filter(None, lines):
        glue = "" if not joined else " " if joined[-1] in _SENTENCE_END else ", "
        joined += glue + line
    return joined


def has_word(caption: str, word: str) -> bool:
    """Whether `word` is in `caption` as a whole word, in any case (CLIP reads lower case).

    Scripts without spaces have no word ends: a word with such letters may be anywhere.
    """
    text, word = (unicodedata.normalize("NFC", part).casefold() for part in (caption, word))
    if not word.isascii():
        return word in text
    return re.search(rf"(?<![a-z0-9_]){re.escape(word)}(?![a-z0-9_])", text) is not None


def of_class(caption: str, trigger: str, class_word: str) -> str:
    """The caption as one of the class: the class word in place of the trigger word, or nothing where it stands there
    already. A caption without the trigger word is left as it is."""
    if not has_word(caption, trigger):
        return caption
    without = _replaced(caption, trigger, "")
    if has_word(without, class_word):
        return re.sub(r"^[\s,]+", "", re.sub(r"\s+(?=[\s,]|$)", "", without))
    return _replaced(caption, trigger, class_word)


def _replaced(text: str, word: str, by: str) -> str:
    before, after = (r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])") if word.isascii() else ("", "")
    return re.sub(f"{before}{re.escape(word)}{after}", lambda _match: by, text, flags=re.IGNORECASE)


def complete(found: Sequence[str], config: Data, folder_words: str = "") -> tuple[tuple[str, ...], CaptionSource]:
    """The captions to train with, alternatives to each other.

    Args:
        found: the lines of what a file says; empty: there is none.
        config: says what several lines mean (`caption_lines`), and trigger and class word.
        folder_words: what a kohya folder is called (`sks dog` of `10_sks dog`).
    """
    trigger = normalise(config.trigger)
    if not found:
        class_word = normalise(config.class_word)
        built = " ".join(filter(None, (trigger, class_word))) if config.template == "none" else trigger or class_word
        built = built or normalise(folder_words)
        return (_prefixed(built, config) if built and config.template == "none" else built,), "built"
    if config.caption_lines == "join":
        found = ["\n".join(found)]
    found = found[:1] if config.caption_lines == "first" else found
    if config.caption_wildcards:
        found = [line for wild in found for line in expanded(wild)]
    lines = tuple(dict.fromkeys(_prefixed(normalise(line), config) for line in found))
    if trigger and not all(has_word(line, trigger) for line in lines):
        return tuple(line if has_word(line, trigger) else f"{trigger}, {line}" for line in lines), "file+trigger"
    return lines, "file"


def expanded(caption: str) -> tuple[str, ...]:
    """The captions that one with `{red|blue}` stands for; of more than MOST_EXPANDED as many, spread at random."""
    parts = [part.split("|") for part in re.split(r"\{([^{}]*\|[^{}]*)\}", caption)]
    # Every second part was in braces; a bar outside of them means nothing.
    choices = [part if number % 2 else ["|".join(part)] for number, part in enumerate(parts)]
    count = math.prod(map(len, choices))
    if count <= MOST_EXPANDED:
        return tuple(map("".join, itertools.product(*choices)))
    draw = random.Random(caption)
    return tuple("".join(map(draw.choice, choices)) for _ in range(MOST_EXPANDED))


def plain(caption: str, config: Data) -> str:
    """The caption without marks of what is kept, and what belongs together, in it."""
    if config.keep_separator and config.keep_separator in caption:
        caption = ", ".join(tag for part in caption.split(config.keep_separator) for tag in _tags(part))
    return _parted(caption, config)


def change_tags(caption: str, config: Data, generator: torch.Generator) -> str:
    """Comma-separated tags in random order, with some left out, as far as the settings say so; those that are kept in place, those
    with the `secondary_separator` between them as one.

    Kept are the first `keep_tokens`, or with a `keep_separator` what stands before the first and behind the second one.
    """
    import torch

    if config.keep_separator and config.keep_separator in caption:
        front, middle, end = (_tags(part) for part in [*caption.split(config.keep_separator, 2), ""][:3])
    else:
        front, middle, end = (tags := _tags(caption))[: config.keep_tokens], tags[config.keep_tokens :], []
    if config.shuffle_tags:
        middle = [middle[i] for i in torch.randperm(len(middle), generator=generator).tolist()]
    if config.tag_dropout:
        shares = torch.rand(len(middle), generator=generator, dtype=torch.float64).tolist()
        trigger = normalise(config.trigger)
        taught = [bool(trigger) and has_word(tag, trigger) for tag in middle]
        rows = zip(middle, shares, taught, strict=True)
        middle = [tag for tag, share, stays in rows if stays or share >= config.tag_dropout]
    return _parted(", ".join([*front, *middle, *end]), config)


def _parted(caption: str, config: Data) -> str:
    """The caption with commas between the tags that belonged together."""
    if not config.secondary_separator or config.secondary_separator not in caption:
        return caption
    return ", ".join(filter(None, (part.strip() for part in caption.split(config.secondary_separator))))


def _tags(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def drop(caption: str, share: float, generator: torch.Generator) -> str:
    """Empty in `share` of the draws, so that the unconditional branch of guidance is trained (Ho & Salimans 2022)."""
    import torch

    return "" if torch.rand((), generator=generator, dtype=torch.float64).item() < share else caption


def wordings(sample: Sample, config: Data) -> tuple[str, ...]:
    """What an image can be called: its captions, or where no file says any, the template's sentences around it."""
    if sample.caption_source != "built" or not sample.caption:
        return sample.alternatives or (sample.caption,)
    # Without a template the caption has the prefix already.
    if config.template == "none":
        return (sample.caption,)
    return tuple(_prefixed(one.replace("{}", sample.caption), config) for one in TEMPLATES[config.template])


def _prefixed(text: str, config: Data) -> str:
    return " ".join(filter(None, (normalise(config.caption_prefix), text, normalise(config.caption_suffix))))


def vary(sample: Sample, config: Data, generator: torch.Generator) -> str:
    """One visit's caption. Dropout is drawn first, so that switching template or shuffle on does not move it."""
    import torch

    if not drop(sample.caption, config.caption_dropout, generator):
        return ""
    choices = wordings(sample, config)
    varied = choices[int(torch.randint(len(choices), (), generator=generator)) if len(choices) > 1 else 0]
    changes = config.shuffle_tags or config.tag_dropout or config.keep_separator or config.secondary_separator
    return change_tags(varied, config, generator) if changes else varied
