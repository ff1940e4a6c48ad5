"""The language of messages: by flag anywhere on the line, the environment, or the system."""

from __future__ import annotations

import ctypes
import locale
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tsuika.cli import language
from tsuika.core.errors import RecipeError


@pytest.fixture(autouse=True)
def nobody_asked() -> Iterator[None]:
    yield
    language.use(None)


@pytest.mark.parametrize(
    ("line", "rest", "wish"),
    [
        ("train lora", "train lora", "auto"),
        ("--lang ja train lora", "train lora", "ja"),
        ("train --lang ja lora", "train lora", "ja"),
        ("train lora --lang=ja", "train lora", "ja"),
        ("--lang en train lora --lang ja", "train lora", "ja"),
        ("train -- --lang ja", "train -- --lang ja", "auto"),
        ("train --lang", "train --lang", "auto"),
        ("train --language ja", "train --language ja", "auto"),
    ],
)
def test_the_flag_is_taken_off_the_line_wherever_it_is(line: str, rest: str, wish: str) -> None:
    assert language.requested(line.split()) == (rest.split(), wish)


@pytest.mark.parametrize(
    ("wish", "environment", "found"),
    [
        ("ja", {"LANG": "en_US.UTF-8"}, "ja"),
        ("en", {"LANG": "ja_JP.UTF-8"}, "en"),
        ("auto", {"LANG": "ja_JP.UTF-8"}, "ja"),
        ("auto", {"LANG": "en_US.UTF-8"}, "en"),
        ("auto", {"LANG": "de_DE.UTF-8"}, None),
        ("auto", {"LANG": "C.UTF-8"}, None),
        ("auto", {"LANG": "en_US.UTF-8", "LC_ALL": "ja_JP"}, "ja"),
        ("auto", {"LANG": "en_US.UTF-8", "TSUIKA_LANG": "ja"}, "ja"),
        ("auto", {"LANG": "ja_JP.UTF-8", "TSUIKA_LANG": "auto"}, "ja"),
    ],
)
def test_a_wish_comes_before_the_environment(wish: str, environment: dict[str, str], found: str | None) -> None:
    language.use(language.chosen(wish, environment))
    assert (language.asked(), language.current()) == (found, found or "en")


@pytest.mark.parametrize(("id_", "found"), [(0x0411, "ja"), (0x0409, "en"), (0x0407, None), (0x9999, None)])
def test_windows_is_asked_for_the_language_of_its_interface(
    id_: int, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel32 = SimpleNamespace(GetUserDefaultUILanguage=lambda: id_)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel32), raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    assert language.chosen("auto", {}) == found


def test_elsewhere_the_locale_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(locale, "getlocale", lambda: ("ja_JP", "UTF-8"))
    assert language.chosen("auto", {}) == "ja"
    monkeypatch.setattr(locale, "getlocale", lambda: (None, None))
    assert language.chosen("auto", {}) is None


def test_an_unknown_language_is_wrong_usage() -> None:
    with pytest.raises(RecipeError) as refused:
        language.chosen("xx", {})
    assert refused.value.code == "RC002" and "ja" in refused.value.part("why")
