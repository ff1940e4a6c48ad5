"""Long texts in chunks as long as a text encoder reads, cut between words, as the A1111 web UI does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tsuika.core.types import Model

Count = Callable[[str], tuple[int, ...]]  # a text's tokens in each text encoder

COMMA_REACH: Final = 20  # tokens: a chunk ends at a comma if one is this near (A1111's "comma padding backtrack")


@dataclass(frozen=True)
class Word:
    """Text between spaces, its weight, and how many tokens each tokenizer makes of it."""

    text: str
    weight: float
    counts: tuple[int, ...]

    @property
    def longest(self) -> int:
        return max(self.counts)


def limit_of(model: Model) -> int:
    """Tokens in a chunk, without the two that begin and end it."""
    lengths = []
    for name, encoder in model.text_encoders.items():
        if not reads_in_chunks(encoder):
            continue
        config: Any = getattr(encoder, "config", None)
        longest = int(model.tokenizers[name.replace("text_encoder", "tokenizer")].model_max_length)
        # A tokenizer without a stated length says 10^30.
        lengths.append(min(longest, int(getattr(config, "max_position_embeddings", longest))))
    return min(lengths) - 2


def reads_in_chunks(encoder: Any) -> bool:
    """Whether a text encoder has so many places and no more, as CLIP; T5 takes a text whole."""
    return getattr(getattr(encoder, "config", None), "model_type", "") != "t5"


def texts(text: str, count: Count, limit: int) -> list[str]:
    """A plain text's chunks as texts; one that fits is left as it is."""
    if max(count(text)) <= limit:
        return [text]
    return [" ".join(word.text for word in chunk) for chunk in split([(text, 1.0)], count, limit)]


def split(parts: Iterable[tuple[str, float]], count: Count, limit: int) -> list[list[Word]]:
    """Chunks of at most `limit` tokens of text in parts with their weights; at least one chunk, perhaps empty."""
    chunks: list[list[Word]] = [[]]
    used = 0
    for word in _words(parts, count, limit):
        if used + word.longest > limit:
            carried = _after_comma(chunks[-1])
            chunks[-1] = chunks[-1][: len(chunks[-1]) - len(carried)]
            chunks.append(carried)
            used = sum(moved.longest for moved in carried)
            if used + word.longest > limit:
                chunks.append([])
                used = 0
        chunks[-1].append(word)
        used += word.longest
    return chunks


def _words(parts: Iterable[tuple[str, float]], count: Count, limit: int) -> list[Word]:
    """CLIP's tokens never reach over a space, so words may be counted one by one and joined again by spaces."""
    words: list[Word] = []
    for text, weight in parts:
        for word in text.split():
            words += [Word(piece, weight, count(piece)) for piece in _fit(word, count, limit)]
    return words


def _fit(text: str, count: Count, limit: int) -> list[str]:
    """Cut a word that is longer than a chunk (Japanese has no spaces) into pieces that are not."""
    if len(text) < 2 or max(count(text)) <= limit:
        return [text]
    cut = len(text) // 2
    for mark in "、。,.・":  # better there, if one is in the middle half
        found = text.find(mark, len(text) // 4, 3 * len(text) // 4)
        if found > 0:
            cut = found + 1
            break
    return _fit(text[:cut], count, limit) + _fit(text[cut:], count, limit)


def _after_comma(chunk: list[Word]) -> list[Word]:
    """The words to move to the next chunk so that this one ends at a comma; none if no comma is near."""
    tokens = 0
    for place in range(len(chunk) - 1, -1, -1):
        if chunk[place].text.endswith((",", "、")):
            return chunk[place + 1 :]
        tokens += chunk[place].longest
        if tokens > COMMA_REACH:
            break
    return []
