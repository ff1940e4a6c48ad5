"""What the sets of images teach: sets with the same trigger and class word teach the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsuika.core.sections import Data
from tsuika.data.caption import has_word


@dataclass(frozen=True)
class Subject:
    """One thing that is taught, and the sets that teach it, as `Data.each` calls them."""

    data: Data  # of the first of its sets
    sets: tuple[str, ...]

    @property
    def trigger(self) -> str:
        return self.data.trigger.strip()

    @property
    def class_word(self) -> str:
        return self.data.class_word.strip()

    @property
    def name(self) -> str:
        """Both words, as prompts have them; empty where there is neither."""
        return " ".join(filter(None, (self.trigger, self.class_word)))

    @property
    def is_style(self) -> bool:
        return "style" in self.class_word.casefold().split()


def subjects_of(data: Data) -> tuple[Subject, ...]:
    """What is taught, in the order of the sets; there is always one."""
    found: dict[tuple[str, str], Subject] = {}
    for name, own in data.each().items():
        words = own.trigger.strip().casefold(), own.class_word.strip().casefold()
        before = found.get(words)
        found[words] = Subject(before.data, (*before.sets, name)) if before else Subject(own, (name,))
    return tuple(found.values())


def named_in(text: str, subjects: Sequence[Subject]) -> tuple[int, ...]:
    """Which of the subjects a prompt is about, by trigger word; by class word those that have no trigger word, where it has
    none of the others. The only one there is, where that has no trigger word."""
    found = tuple(i for i, one in enumerate(subjects) if one.trigger and has_word(text, one.trigger))
    bare = [i for i, one in enumerate(subjects) if not one.trigger]
    if found or not bare:
        return found
    return (0,) if len(subjects) == 1 else tuple(i for i in bare if _has_class(text, subjects[i]))


def _has_class(text: str, one: Subject) -> bool:
    return bool(one.class_word) and has_word(text, one.class_word)
