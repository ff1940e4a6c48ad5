"""Every message is in every catalogue, with the same placeholders, and nothing that reaches people stands elsewhere."""

from __future__ import annotations

import gettext
import pickle
import re
import string
import sys
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from tsuika.core.texts import LOCALE, Text, _, _n, languages, listed, translated

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import messages

SOURCE = LOCALE.parent
TRANSLATIONS = [language for language in languages() if language != "en"]
KANA_OR_KANJI = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
# Data, not texts.
# The name, punctuation for line breaks, a font's own name, marks between sentences of prompts.
ALLOWED = ("__init__.py", "cli/layout.py", "generation/grid.py", "families/chunks.py")


def _catalogue(language: str):
    with (LOCALE / language / "LC_MESSAGES/tsuika.po").open("rb") as stream:
        return read_po(stream)


def _placeholders(text: str) -> set[str]:
    try:
        return {name for _text, name, _spec, _conversion in string.Formatter().parse(text) if name is not None}
    except ValueError:  # braces of a text that is never filled
        return set()


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_no_message_is_missing_or_left_over(language: str) -> None:
    known = {one.id if isinstance(one.id, str) else one.id[0] for one in _catalogue(language) if one.id and one.string}
    extracted = messages.extracted().keys()
    assert sorted(extracted - known) == []
    assert sorted(known - extracted) == []


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translations_have_the_placeholders_of_their_message(language: str) -> None:
    for message in _catalogue(language):
        if not message.id:
            continue
        ids = (message.id,) if isinstance(message.id, str) else message.id
        strings = (message.string,) if isinstance(message.string, str) else message.string
        expected = set().union(*map(_placeholders, ids))
        for translation in strings:
            assert _placeholders(translation) == expected, message.id


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_the_compiled_catalogue_is_that_of_the_source(language: str) -> None:
    path = LOCALE / language / "LC_MESSAGES/tsuika.mo"
    with path.open("rb") as stream:
        compiled = gettext.GNUTranslations(stream)
    for message in _catalogue(language):
        if message.id and isinstance(message.id, str):
            assert compiled.gettext(message.id) == message.string, f"{path} is old: run `make setup`"


@pytest.mark.parametrize("call", ['_(f"{name} is red")', '_("a " + name)', "_(str(name))", '_n("one", name, 2)'])
def test_a_message_that_no_catalogue_can_hold_is_refused(call: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(f'name = "x"\ntext = {call}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"module\.py:2"):
        list(messages.calls(path))
    path.write_text('text = _("{name} is " "red", name=f"{1}", other=everyday(1, _("blue")))\n', encoding="utf-8")
    assert list(messages.calls(path)) == [("{name} is red",), ("blue",)]


def test_no_other_language_stands_in_the_code() -> None:
    files = [path for pattern in ("*.py", "*.j2") for path in SOURCE.rglob(pattern)]
    found = {
        str(path.relative_to(SOURCE).as_posix())
        for path in files
        if KANA_OR_KANJI.search(path.read_text(encoding="utf-8"))
    }
    assert sorted(name for name in found if name not in ALLOWED) == []


def test_a_message_is_english_and_knows_its_parameters() -> None:
    text = _("{name} is {size} px wide", name="a.png", size=3)
    assert text == "a.png is 3 px wide"
    assert text.to("xx") == "a.png is 3 px wide"


def test_braces_without_parameters_are_plain_text_until_they_are_filled() -> None:
    text = _("a {brace}")
    assert text == text.to("ja") == "a {brace}"
    assert text.filled({"brace": 1}).to("ja") == "a 1"
    with pytest.raises(KeyError):
        text.filled({})


def test_the_empty_message_is_empty_in_every_language() -> None:
    assert Text("").to("ja") == ""


def test_number_decides_the_form() -> None:
    assert _n("{count} image", "{count} images", 1) == "1 image"
    assert _n("{count} image", "{count} images", 2).to("xx") == "2 images"
    assert _n("{count} image", "{count} images", 2).to("ja") == "画像2枚"


def test_items_are_joined_by_the_comma_of_the_language() -> None:
    assert listed(["a", _n("{count} image", "{count} images", 2), "c"]).to("ja") == "a、画像2枚、c"
    assert listed("abc") == "a, b, c" and listed(["a"]) == "a" and listed([]) == ""
    assert listed(map(str, range(5000))).to("ja").count("、") == 4999


def test_a_text_can_go_to_another_process() -> None:
    text = _n("{count} image", "{count} images", 2)
    again = pickle.loads(pickle.dumps(text))
    assert again == text and again.to("ja") == text.to("ja")


def test_parameters_are_translated_along(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Text("inner", {})
    monkeypatch.setattr(Text, "to", lambda self, lang: f"{lang}:{self.msgid}")
    assert translated({"x": inner, "y": 1}, "ja") == {"x": "ja:inner", "y": 1}
