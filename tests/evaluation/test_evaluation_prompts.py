"""What is drawn for an evaluation: prompts of the subject, unrelated ones, a few captions, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tsuika.config import build
from tsuika.core.errors import RecipeError
from tsuika.data.subjects import named_in, subjects_of
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
    return groups(asked(subjects_of(recipe.data), recipe.preview, [captions or []], embedded=embedded, own=own))


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
    with_class = subjects_of(build({"data": {"trigger": "zuzu", "class_word": "cat"}}).data)
    alone = subjects_of(build({"data": {"trigger": "zuzu"}}).data)
    assert without_subject("a Zuzu cat on a zuzuland", with_class) == "a cat on a zuzuland"
    assert without_subject("a zuzu at night", alone) == "a thing at night"
    assert without_subject("a zuzu", subjects_of(build({}).data)) == "a zuzu"


SETS = [
    {"images": "one", "trigger": "zuzu", "class_word": "cat"},
    {"images": "large/one", "trigger": "zuzu", "class_word": "cat", "size_px": 768},
    {"images": "two", "trigger": "kiki", "class_word": "house"},
    {"images": "three"},
]
CAPTIONS_OF_SETS = [[f"zuzu {i}" for i in range(9)], ["kiki at dawn"], ["a barn", "a mill"]]


def of_sets(prompts: list[str], own: Path | None = None) -> list[Asked]:
    recipe = build({"data": {"sets": SETS}, "preview": {"prompts": prompts}})
    return list(asked(subjects_of(recipe.data), recipe.preview, CAPTIONS_OF_SETS, embedded=False, own=own))


def test_every_subject_of_several_sets_is_asked_for_and_two_sets_of_one_are_one() -> None:
    drawn = of_sets([])
    about = {place: [one.text for one in drawn if one.group == "subject" and place in one.about] for place in range(3)}
    assert all(text.startswith("a zuzu cat ") for text in about[0]) and len(about[0]) == 6
    assert all(text.startswith("a kiki house ") for text in about[1]) and len(about[1]) == 6
    # It has no words: its captions stand in.
    assert about[2] == ["a barn", "a mill"]
    unrelated = [one.text for one in drawn if one.group == "unrelated"]
    assert unrelated and not any({"cat", "house", "zuzu", "kiki"} & set(text.split()) for text in unrelated)
    captions = [one for one in drawn if one.group == "captions"]
    assert {one.about for one in captions} == {(0,), (1,)}


def test_a_prompt_is_about_the_subjects_that_it_names(tmp_path: Path) -> None:
    drawn = {one.text: one for one in of_sets(["a {trigger} on the moon", "Kiki with a zuzu", "a dog"])}
    assert drawn["a zuzu on the moon"].about == (0,) and drawn["a kiki on the moon"].about == (1,)
    assert drawn["Kiki with a zuzu"].about == (0, 1) and drawn["a dog"].group == "unrelated"
    assert without_subject("Kiki with a zuzu", subjects_of(build({"data": {"sets": SETS}}).data)) == "with a"
    # What nobody asks about in a file of one's own is not drawn.
    own = tmp_path / "prompts.txt"
    own.write_text("a kiki at sea\n", encoding="utf-8")
    assert [one.text for one in of_sets([], own) if one.group == "subject"] == ["a kiki at sea"]


def test_without_a_trigger_word_the_class_word_tells_of_which_a_prompt_is() -> None:
    sets = [{"images": "a", "class_word": "cat"}, {"images": "b", "trigger": "zuzu", "class_word": "cat"}]
    found = subjects_of(build({"data": {"sets": sets}}).data)
    assert named_in("a cat", found) == (0,) and named_in("a zuzu cat", found) == (1,) and named_in("a dog", found) == ()
