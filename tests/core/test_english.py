"""English for prompts."""

from __future__ import annotations

from tsuika.core.texts import article


def test_the_article_goes_by_the_sound() -> None:
    for word in ("dog", "unicorn", "European cat", "useful tool", "one-eyed cat", "ufo", "猫"):
        assert article(word) == f"a {word}"
    for word in ("object", "animal", "Owl", "umbrella", "ohwx dog", "uncle"):
        assert article(word) == f"an {word}"
