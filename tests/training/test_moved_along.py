"""The note that the class word, or unrelated prompts, have moved along with the trigger word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tsuika.config import Recipe
from tsuika.training import run


def told(of_class: float, of_others: float, *, safe: bool = True, **settings: Any) -> list[Any]:
    given = {"trigger": "zoka", "class_word": "monster"} | {
        key: settings.pop(key) for key in ("class_word",) if key in settings
    }
    recipe = Recipe.of("lora", images="photos", settings=settings, **given)
    prepared: Any = SimpleNamespace(recipe=recipe, moved=lambda _attachment: (of_class, of_others))
    return list(run._drifted(prepared, None, safe))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of_class", "of_others", "code"), [(0.1, 0.1, ""), (1.05, 0.67, "GD036"), (0.5, 0.0, "GD036"), (0.4, 0.5, "GD035")]
)
def test_beyond_a_limit_it_is_said_and_what_helps(of_class: float, of_others: float, code: str) -> None:
    notes = told(of_class, of_others)
    assert [one.code for one in notes] == [code] * bool(code)
    for one in notes:
        assert "`safe`" in one.words("en") and "--reg-images" in one.words("en") and "正則化画像" in one.words("ja")


def test_only_what_there_is_and_what_is_not_done_already_is_advised() -> None:
    (without,) = told(1.0, 0.0, safe=False)
    assert "safe" not in without.message and "--reg-images" in without.message
    (regularized,) = told(1.0, 0.0, **{"data.reg_generate": 100})
    assert "--reg-images" not in regularized.message
    assert [one.code for one in told(1.0, 0.6, class_word="drawing style")] == ["GD035"]
