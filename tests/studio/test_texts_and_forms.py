"""The pages' texts in every language, and forms that are the recipe's own metadata."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from running import running
from typer.main import get_command

from tsuika import config
from tsuika.cli import studio as command_line
from tsuika.cli.main import app
from tsuika.core.texts import LOCALE, Text, languages
from tsuika.families import FAMILIES
from tsuika.generation.pipeline import SAMPLERS
from tsuika.methods import DEFAULT, METHODS
from tsuika.studio import catalogue, commands, forms, models, titles

GAPS = re.compile(r"\{(\w+)\}")


def every() -> list[tuple[str, str, str]]:
    """Language, English, and every form of its translation."""
    rows = []
    for lang in languages():
        for message, found in catalogue.catalogue(lang).items():
            rows += [(lang, message, text) for text in ([found] if isinstance(found, str) else found)]
    return rows


def test_every_language_has_the_same_texts_with_the_same_gaps() -> None:
    known = {lang: catalogue.catalogue(lang).keys() for lang in languages()}
    assert len(set(map(frozenset, known.values()))) == 1
    plurals = catalogue.messages()
    wrong = [
        (lang, message, text)
        for lang, message, text in every()
        if set(GAPS.findall(text)) != set(GAPS.findall(plurals[message] or message)) or not text
    ]
    assert not wrong


def test_every_text_of_the_pages_is_translated() -> None:
    assert (LOCALE / "ja/LC_MESSAGES/tsuika.mo").exists(), "make messages"
    same = {message for lang, message, text in every() if lang == "ja" and text == message}
    # Names, which are the same in Japanese.
    assert same <= {"VAE", "{done} / {total}"}, same


def test_the_form_has_every_setting_of_the_recipe_and_nothing_else() -> None:
    known, shown = [*config.settings()], forms.settings()["settings"]
    assert [(one.key, one.method) for one in known] == [(row["key"], row["method"]) for row in shown]
    for one, row in zip(known, shown, strict=True):
        assert row["text"]["en"] == str(one.help.text)
        assert row["text"]["ja"] != row["text"]["en"], one.key
        assert (row["unit"], row["level"]) == (one.help.unit, one.help.level)
        assert row["kind"] in {"flag", "whole", "number", "text", "choice", "list", "tables"}
        assert (row["kind"] == "choice") == bool(config.choices(one))
    limits = {row["key"]: row for row in shown}["train.warmup"]
    assert (limits["ge"], limits["lt"]) == (0, 1)
    json.dumps(shown)


def test_differences_are_those_from_the_methods_own_defaults() -> None:
    recipe = config.build({"method": {"name": "textual-inversion"}, "train": {"steps": 7}, "data": {"trigger": "sks"}})
    assert forms.differences(recipe) == {"train.steps": 7, "data.trigger": "sks"}


def test_the_playground_knows_the_samplers() -> None:
    assert set(models.SAMPLERS) == set(SAMPLERS)


def test_every_kind_of_job_has_a_title() -> None:
    every = {" ".join(one["command"]) for one in command_line.described(get_command(app))}
    # The demo is a training; the last two have screens and no form.
    assert titles.TITLES.keys() == every - (commands.RUNS - {"train"}) | {"export", "publish"}
    assert titles.title("new command") == dict.fromkeys(languages(), "new command")


def test_a_method_that_is_registered_shows_its_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "another", replace(DEFAULT, title=Text("Another method")))
    with running(tmp_path / "home") as here:
        added = here.ask("GET", "/api/artifacts")[1]["added"]
        known = {row["name"]: row["title"] for row in here.ask("GET", "/api/settings")[1]["methods"]}
    assert added["another"]["en"] == known["another"]["en"] == "Another method"


@pytest.mark.parametrize("path", sorted(catalogue.WEB.glob("*.js")), ids=lambda path: path.name)
def test_the_front_end_lists_no_method_sampler_or_family(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names = {*METHODS, *SAMPLERS, *(row.name for row in FAMILIES), *(row.facts.short_title for row in FAMILIES)}
    assert not [name for name in names if re.search(f"""["'`]{re.escape(name)}["'`]""", text)]


@pytest.mark.parametrize("path", sorted(catalogue.WEB.glob("*.js")), ids=lambda path: path.name)
def test_a_file_of_the_front_end_is_small_and_asks_nobody_else(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert "// @ts-check" in text
    assert not re.findall(r"https?://(?!www\.w3\.org)", text)
    assert not re.findall(r"innerHTML|dangerouslySet|\beval\(|new Function", text)


def test_notes_in_a_result_are_told_in_every_language() -> None:
    note = {"code": "CP005", "message": "in English", "params": {"count": 2, "names": "a, b"}}
    found = forms.in_every_language({"notes": [note], "deep": {"findings": [note]}, "n": 1})
    for shown in (found["notes"][0]["message"], found["deep"]["findings"][0]["message"]):
        assert "a, b" in shown["en"] and "2枚" in shown["ja"]
    assert found["n"] == 1
