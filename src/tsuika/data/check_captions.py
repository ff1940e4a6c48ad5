"""What is wrong with a set's captions. Knows no pixels; the tokenizer is passed in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from tsuika.core.sections import Data
from tsuika.data import caption
from tsuika.data.check_report import Captions, Finding, Level, of_rows
from tsuika.data.manifest import Manifest, Sample

Tokenize = Callable[[str], Sequence[str]]  # a text's pieces, start and end not among them

TORN_PIECES: Final = 3  # a word of three pieces or more means hardly anything to the base
FEWEST: Final = 4  # captions, below which what they share is not reported
LONGEST_PHRASE: Final = 5
ALMOST_ALL: Final = 0.9  # share of captions
SHOWN: Final = 8
_WILDCARD: Final = re.compile(r"\{[^{}]*\|[^{}]*\}")  # sd-scripts, `enable_wildcard`
_STOP: Final = re.compile(r"[,;:.!?\n、。]+")
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# Words that are in most English sentences and name nothing.
_SMALL: Final = frozenset(
    _WORD.findall(
        "a an the of in on at to with and or by for from is are it its this that as up into over under some one"
    )
)


def check(
    manifest: Manifest, config: Data, tokenize: Tokenize | None, tokenizer: str, room: int
) -> tuple[Captions, list[Finding]]:
    """Counts, and findings; `room` is how many tokens the base reads at once."""
    samples, trigger = manifest.samples, caption.normalise(config.trigger)
    written = [sample for sample in samples if sample.caption_source != "built"]
    torn: dict[str, tuple[str, ...]] = {}
    longest: dict[str, int] = {}
    if tokenize:
        folded = [text.casefold() for sample in samples for text in sample.captions]
        for word in dict.fromkeys(word for text in folded for word in _WORD.findall(text)):
            pieces = tuple(piece.removesuffix("</w>") for piece in tokenize(word))
            if word.isascii() and not any(map(str.isdigit, word)) and len(pieces) >= TORN_PIECES:
                torn[word] = pieces
        longest = {sample.name: max(len(tokenize(text)) for text in sample.captions) for sample in samples}
    texts = [text for sample in written for text in sample.captions]
    common = phrases(texts, trigger, caption.normalise(config.class_word))
    without = tuple(sample.name for sample in samples if not sample.caption)
    has_trigger = [s for s in samples if trigger and all(caption.has_word(text, trigger) for text in s.captions)]
    facts = Captions(
        from_files=len(written),
        without=len(without),
        different=len({text for sample in samples for text in sample.captions}),
        trigger=trigger,
        with_trigger=sum(sample.caption_source != "file+trigger" for sample in has_trigger),
        tokenizer=tokenizer,
        longest_tokens=max(longest.values(), default=0),
        torn=torn,
        common=tuple(common),
        common_counts=common,
        tags=tags(texts),
    )
    findings = [*_read_oddly(manifest), *_missing(manifest, without, written), *_identical(written, len(samples))]
    if long := tuple(name for name, count in longest.items() if count > room):
        findings.append(Finding("caption-long", "note", long, {"tokens": max(longest.values()), "room": room}))
    if added := tuple(sample.name for sample in samples if sample.caption_source == "file+trigger"):
        values = {"trigger": trigger, "with_trigger": facts.with_trigger, "usable": len(samples)}
        findings.append(Finding("trigger-missing", "note", added, values))
    if common:
        findings.append(Finding("caption-common", "note", (), {"phrases": shown_phrases(common, len(texts))}))
    findings += _words_of(torn, trigger, written)
    return facts, findings


def _read_oddly(manifest: Manifest) -> list[Finding]:
    look, found = ("caption-unreadable", "caption-orphan", "caption-not-read", "caption-encoding"), []
    for code in (*look, "caption-both", "caption-lines"):
        if notes := [note for note in manifest.notes if note.code == code]:
            level: Level = "look" if code in look else "note"
            found.append(of_rows(code, level, notes, SHOWN))
    wild = tuple(s.name for s in manifest.samples if any(_WILDCARD.search(text) for text in s.captions))
    return found + ([Finding("caption-wildcard", "note", wild)] if wild else [])


def _missing(manifest: Manifest, without: tuple[str, ...], written: Sequence[Sample]) -> list[Finding]:
    samples = manifest.samples
    files = [sample.name for sample in samples if sample.caption_source == "built"]
    noted = {note.name for note in manifest.notes if note.code == "caption-empty"}
    empty = tuple(name for name in files if name in noted)
    built = tuple(name for name in files if name not in empty)
    found = []
    if empty:
        found.append(Finding("caption-empty", "look", empty))
    if len(without) == len(samples) > 1 and not empty:
        found.append(Finding("caption-none-all", "look"))
    elif none := tuple(name for name in without if name not in empty):
        found.append(Finding("caption-none", "look", none))
    elif built and written:
        found.append(Finding("caption-built", "note", built))
    return found


def _identical(written: Sequence[Sample], usable: int) -> list[Finding]:
    """Images that share a caption file's text; if all do, it is one finding about the set."""
    names: dict[str, list[str]] = {}
    for sample in written:
        names.setdefault(sample.caption.casefold(), []).append(sample.name)
    if len(names) == 1 and len(written) >= FEWEST and len(written) == usable:
        return [Finding("caption-all-identical", "look", (), {"caption": written[0].caption})]
    shared = {text: group for text, group in names.items() if len(group) > 1}
    if not shared:
        return []
    among = {name for group in shared.values() for name in group}
    in_order = tuple(sample.name for sample in written if sample.name in among)
    return [Finding("caption-identical", "note", in_order, {"groups": sorted(shared.values(), key=len, reverse=True)})]


def _words_of(torn: Mapping[str, Sequence[str]], trigger: str, written: Sequence[Sample]) -> list[Finding]:
    """Words that the base does not know: torn ones, and other scripts, which CLIP reads byte by byte."""
    found = []
    if strange := {word: pieces for word, pieces in torn.items() if word != trigger.casefold()}:
        shown = [f"{word} ({'|'.join(pieces)})" for word, pieces in list(strange.items())[:SHOWN]]
        more = len(strange) - len(shown)
        words = ", ".join(shown) + (f" +{more}" if more else "")
        names = tuple(s.name for s in written if strange.keys() & set(_WORD.findall(" ".join(s.captions).casefold())))
        found.append(Finding("caption-torn", "note", names, {"words": words, "count_words": len(strange)}))
    if foreign := tuple(
        s.name for s in written if any(sign.isalpha() and ord(sign) > 0x24F for text in s.captions for sign in text)
    ):
        found.append(Finding("caption-foreign", "look", foreign))
    return found


def tags(captions: Iterable[str]) -> dict[str, int]:
    """In how many captions each tag (what stands between commas) is, the most frequent first."""
    counts = Counter(tag for text in captions for tag in dict.fromkeys(part.strip() for part in text.split(",")) if tag)
    return dict(counts.most_common())


def shown_phrases(common: Mapping[str, int], captions: int) -> str:
    """Phrases with the share of captions that they are in, for a sentence."""
    return ", ".join(f"“{one}” ({count}/{captions})" for one, count in [*common.items()][:SHOWN])


def phrases(captions: Sequence[str], trigger: str, class_word: str) -> dict[str, int]:
    """The longest phrases that are in almost every caption, with the number of captions; longer ones first.

    Trigger, class word and small words neither begin nor end one, and none reaches over a comma or the end of a sentence.
    """
    if len(captions) < FEWEST or len(set(captions)) < 2:
        return {}
    idle = {word for text in (trigger, class_word) for word in _WORD.findall(text.casefold())} | _SMALL
    listed = [[_WORD.findall(part) for part in _STOP.split(text.casefold())] for text in captions]
    found: dict[tuple[str, ...], int] = {}
    for length in range(LONGEST_PHRASE, 0, -1):
        counts = Counter(
            run for parts in listed for run in dict.fromkeys(run for words in parts for run in _runs(words, length))
        )
        for run, count in counts.items():
            naming = run[0] not in idle and run[-1] not in idle
            inside = any(run in _runs(longer, length) and count <= most for longer, most in found.items())
            if count >= ALMOST_ALL * len(captions) and naming and not inside:
                found[run] = count
    return {" ".join(run): count for run, count in found.items()}


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
