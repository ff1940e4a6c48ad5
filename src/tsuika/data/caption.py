"""Captions: found beside the image, read, completed with the trigger word; dropout and tag shuffle as pure functions.

Rules, in order: `NAME.txt` wins over `NAME.caption`; an empty file counts as none; without a file the caption is
`TRIGGER CLASS`, or what a kohya folder is called. A caption file without the trigger word gets it in front:
`TRIGGER, caption`. With a template, an image without a file is called by the trigger word alone (which must learn what
the class word would say), in a new sentence at every visit.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsuika.core.sections import Data
from tsuika.core.texts import _
from tsuika.data.manifest import CaptionSource

if TYPE_CHECKING:
    import torch

SUFFIXES: Final = (".txt", ".caption")  # the first one found is used

# Sentences around a word, by `data.template`: neutral about place, quality and number of things. They name media in
# turn, so that the word need not mean one; a style's speak of drawings of any kind of thing.
TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    name: tuple(sentences)
    for name, sentences in json.loads(files(__package__).joinpath("templates.json").read_text(encoding="utf-8")).items()
}

_BYTE_ORDER_MARKS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_SENTENCE_END: Final = ".,;:!?。、,!?"


def decode(content: bytes) -> tuple[str, str]:
    """Text and the encoding it was read with: a byte order mark decides, else UTF-8, else cp932 (Windows, Japanese).

    Raises:
        UnicodeDecodeError: none of these.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding), encoding
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return content.decode("cp932"), "cp932"


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


def read(files: Mapping[str, Path]) -> tuple[str | None, list[tuple[str, str]]]:
    """The caption among an image's caption files (suffix -> path), and notes (code, words). None: there is none."""
    found = [files[suffix] for suffix in SUFFIXES if suffix in files]
    if not found:
        return None, []
    path = found[0]
    notes: list[tuple[str, str]] = []
    if len(found) > 1:
        notes.append(("caption-both", _("{file} is not used", file=found[1].name)))
    try:
        text, encoding = decode(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        return None, [*notes, ("caption-unreadable", f"{path.name}: {error}")]
    if encoding == "cp932":
        notes.append(("caption-cp932", path.name))
    return normalise(text) or None, notes


def complete(found: str | None, config: Data, folder_words: str = "") -> tuple[str, CaptionSource]:
    """The caption to train with; `folder_words` is what a kohya folder is called (`sks dog` of `10_sks dog`)."""
    trigger = normalise(config.trigger)
    if found is None:
        class_word = normalise(config.class_word)
        built = " ".join(filter(None, (trigger, class_word))) if config.template == "none" else trigger or class_word
        return built or normalise(folder_words), "built"
    if trigger and not has_word(found, trigger):
        return f"{trigger}, {found}", "file+trigger"
    return found, "file"


def shuffle_tags(caption: str, keep_tokens: int, generator: torch.Generator) -> str:
    """Comma-separated tags in random order, the first `keep_tokens` in place."""
    import torch

    tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
    kept, rest = tags[:keep_tokens], tags[keep_tokens:]
    order = torch.randperm(len(rest), generator=generator).tolist()
    return ", ".join([*kept, *(rest[i] for i in order)])


def drop(caption: str, share: float, generator: torch.Generator) -> str:
    """Empty in `share` of the draws, so that the unconditional branch of guidance is trained (Ho & Salimans 2022)."""
    import torch

    return "" if torch.rand((), generator=generator, dtype=torch.float64).item() < share else caption


def wordings(caption: str, source: CaptionSource, config: Data) -> tuple[str, ...]:
    """What an image can be called: its caption, or where no file says it, the template's sentences around it."""
    if source != "built" or not caption:
        return (caption,)
    return tuple(sentence.replace("{}", caption) for sentence in TEMPLATES[config.template])


def vary(caption: str, config: Data, generator: torch.Generator, source: CaptionSource = "file") -> str:
    """One visit's caption. Dropout is drawn first, so that switching template or shuffle on does not move it."""
    import torch

    varied = drop(caption, config.caption_dropout, generator)
    if len(choices := wordings(varied, source, config)) > 1:
        varied = choices[int(torch.randint(len(choices), (), generator=generator))]
    if varied and config.shuffle_tags:
        varied = shuffle_tags(varied, config.keep_tokens, generator)
    return varied
