"""English for prompts and captions, which are never translated."""

from __future__ import annotations

import re
from typing import Final

# Written with a vowel, spoken with a consonant.
_SPOKEN: Final = re.compile(r"uni|us[eu]|eu|one|once|ufo|uk|ewe", re.IGNORECASE)


def article(words: str) -> str:
    """With `a` or `an` in front: `a dog`, `an owl`, `a unicorn`."""
    is_vowel = words[:1].casefold() in tuple("aeiou") and not _SPOKEN.match(words)
    return f"an {words}" if is_vowel else f"a {words}"
