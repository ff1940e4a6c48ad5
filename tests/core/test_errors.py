"""Messages: both languages say the same things, and every error shows where, why and what to do."""

from __future__ import annotations

import json
import string

import pytest

from tsuika.core.errors import ModelError, TsuikaError
from tsuika.core.events import note
from tsuika.core.messages import MESSAGES
from tsuika.core.words import Words


def _placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("code", MESSAGES)
def test_english_and_japanese_have_the_same_parts(code: str) -> None:
    en, ja = MESSAGES[code]["en"], MESSAGES[code]["ja"]
    assert en.keys() == ja.keys() == {"what", "why", "do"}
    assert all(_placeholders(en[part]) == _placeholders(ja[part]) for part in en)
    assert en["what"] and not ja["what"].isascii()


def test_an_error_says_what_where_why_do_in_both_languages() -> None:
    error = ModelError("MD003", where="a.safetensors", why="it ends after 8 bytes")
    assert error.describe("en").splitlines() == [
        "error[MD003] The file is damaged or not complete", "  where: a.safetensors", "  why: it ends after 8 bytes",
        "  do: Download or copy it again.",
    ]  # fmt: skip
    assert error.describe("ja").startswith("エラー[MD003]") and "対処:" in error.describe("ja")
    assert error.exit_status == 4


def test_an_unknown_code_is_a_bug() -> None:
    with pytest.raises(KeyError):
        TsuikaError("XX999")


def test_what_goes_into_a_message_can_have_two_languages() -> None:
    why = Words("it ends after 8 bytes", "8バイトで終わっています")
    error, told = ModelError("MD003", where="a", why=why), note("EV005", why=why)
    assert why == "it ends after 8 bytes" and Words("cat.png").ja == "cat.png"
    assert why in error.describe("en") and why.ja not in error.describe("en")
    assert why.ja in error.describe("ja") and why not in error.describe("ja")
    assert why in told.message and why.ja in told.words("ja")
    assert json.loads(told.to_json())["params"] == {"why": why}
