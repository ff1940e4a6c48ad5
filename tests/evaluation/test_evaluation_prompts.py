"""What is drawn for an evaluation: prompts of the subject, unrelated ones, a few captions, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tsuika.config import build
from tsuika.core.errors import RecipeError
from tsuika.evaluation.prompts import CAPTIONS, Asked, asked, without_subject


def groups(drawn: tuple[Asked, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"subject": [], "unrelated": [], "captions": []}
    for one in drawn:
        found[one.group].append(one.text)
    return found


def ask(
    captions: list[str] | None = None, own: Path | None = None, embedded: bool = False, **tables: Any
) -> dict[str, list[str]]:
    recipe = build({"data": {"trigger": "zuzu", "class_word": "cat"}} | tables)
    return groups(asked(recipe.data, recipe.preview, captions or [], embedded=embedded, own=own))


@pytest.mark.parametrize("embedded", [True, False])
def test_without_a_word_from_the_user_there_is_something_to_ask(embedded: bool) -> None:
    found = ask([f"zuzu {i}" for i in range(30)], embedded=embedded)
    assert len(found["subject"]) == 6 and all(text.startswith("a zuzu cat") for text in found["subject"])
    assert len(found["unrelated"]) >= 3 and not any(
        "zuzu" in text or "cat" in text.split() for text in found["unrelated"]
    )
    assert 1 <= len(found["captions"]) <= CAPTIONS


def test_a_style_is_asked_for_on_other_things() -> None:
    found = ask(data={"trigger": "zuzu", "class_word": "style"})
    assert all(text.endswith(", zuzu style") for text in found["subject"])


def test_the_recipes_prompts_come_first_and_none_twice() -> None:
    prompts = ["a {trigger} on the moon", "a zuzu on the moon", "a dog on the moon"]
    found = ask(["a zuzu on the moon", "a zuzu at home"], preview={"prompts": prompts})
    assert found == {
        "subject": ["a zuzu on the moon"],
        "unrelated": ["a dog on the moon"],
        "captions": ["a zuzu at home"],
    }


def test_ones_own_prompts(tmp_path: Path) -> None:
    own = tmp_path / "prompts.txt"
    own.write_text("\ufeff# mine\n\na {trigger} in Kyoto\n 京都の zuzu \na dog\na dog\nzuzus\n", encoding="utf-8")
    found = ask(own=own)
    assert found["subject"] == ["a zuzu in Kyoto", "京都の zuzu"] and found["unrelated"] == ["a dog", "zuzus"]
    own.write_text("a dog\n", encoding="utf-8")
    with pytest.raises(RecipeError) as none:
        ask(own=own)
    assert none.value.code == "RC005" and none.value.where == str(own)
    with pytest.raises(RecipeError):
        ask(own=tmp_path / "gone.txt")


def test_without_trigger_and_class_captions_stand_in() -> None:
    assert ask(["one", "two", ""], data={})["subject"] == ["one", "two"]


def test_an_encoder_never_reads_the_trigger_word() -> None:
    with_class = build({"data": {"trigger": "zuzu", "class_word": "cat"}}).data
    alone = build({"data": {"trigger": "zuzu"}}).data
    assert without_subject("a Zuzu cat on a zuzuland", with_class) == "a cat on a zuzuland"
    assert without_subject("a zuzu at night", alone) == "a thing at night"
    assert without_subject("a zuzu", build({}).data) == "a zuzu"
