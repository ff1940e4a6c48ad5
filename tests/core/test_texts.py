"""Every message is in every catalogue, with the same placeholders, and the compiled catalogues are those of the sources."""

import gettext
import string
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from tsuika.core.texts import LOCALE, Text, _, _n, languages, translated

SOURCE = LOCALE.parent
KEYWORDS = {"_": None, "_n": (1, 2)}
TRANSLATIONS = [language for language in languages() if language != "en"]


def _extracted() -> set[str]:
    method_map = [("**.py", "python"), ("**.j2", "jinja2")]
    found = extract_from_dir(SOURCE, method_map=method_map, keywords=KEYWORDS)
    return {msgid if isinstance(msgid, str) else msgid[0] for _file, _line, msgid, _comments, _context in found}


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
    extracted = _extracted()
    assert sorted(extracted - known) == []
    assert sorted(known - extracted) == []


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translations_have_the_placeholders_of_their_message(language: str) -> None:
    for message in _catalogue(language):
        if not message.id:
            continue
        ids = (message.id,) if isinstance(message.id, str) else message.id
        strings = (message.string,) if isinstance(message.string, str) else message.string
        wanted = set().union(*map(_placeholders, ids))
        for translation in strings:
            assert _placeholders(translation) == wanted, message.id


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_the_compiled_catalogue_is_that_of_the_source(language: str) -> None:
    path = LOCALE / language / "LC_MESSAGES/tsuika.mo"
    with path.open("rb") as stream:
        compiled = gettext.GNUTranslations(stream)
    for message in _catalogue(language):
        if message.id and isinstance(message.id, str):
            assert compiled.gettext(message.id) == message.string, f"{path} is old: run `make messages`"


def test_a_message_is_english_and_knows_its_parameters() -> None:
    text = _("{name} is {size} px wide", name="a.png", size=3)
    assert text == "a.png is 3 px wide"
    assert text.to("xx") == "a.png is 3 px wide"


def test_braces_without_parameters_are_plain_text() -> None:
    assert _("a {brace}") == "a {brace}"
    assert _("a {brace}").to("ja") == "a {brace}"


def test_number_decides_the_form() -> None:
    assert _n("{count} image", "{count} images", 1) == "1 image"
    assert _n("{count} image", "{count} images", 2).to("xx") == "2 images"


def test_parameters_are_translated_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Text("inner", {})
    monkeypatch.setattr(Text, "to", lambda self, lang: f"{lang}:{self.msgid}")
    assert translated({"x": inner, "y": 1}, "ja") == {"x": "ja:inner", "y": 1}
