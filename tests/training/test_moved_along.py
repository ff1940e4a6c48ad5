"""The note that the class word, or unrelated prompts, have moved along with the trigger word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tsuika.config import Recipe
from tsuika.data.subjects import subjects_of
from tsuika.training import run
from tsuika.training.prepared import Moved, Prepared


def told(of_class: float, of_others: float, *, safe: bool = True, **settings: Any) -> list[Any]:
    given = {"trigger": "zoka", "class_word": "monster"} | {
        key: settings.pop(key) for key in ("class_word",) if key in settings
    }
    recipe = Recipe.of("lora", images="photos", settings=settings, **given)
    found = [Moved(one, 0.5, of_class, of_others) for one in subjects_of(recipe.data)]
    prepared: Any = SimpleNamespace(recipe=recipe, moved=lambda _attachment: found)
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


def test_every_set_is_looked_at_and_each_class_word_named_once() -> None:
    """On a tiny model: of three sets of two subjects, what `moved` measures, and what is said of it."""
    sets = [
        {"images": "a", "trigger": "zoka", "class_word": "monster"},
        {"images": "b", "trigger": "kiki", "class_word": "house"},
        {"images": "c", "trigger": "kiki", "class_word": "house", "size_px": 128},
    ]
    recipe = Recipe.of("lora", settings={"data.sets": sets})
    subjects = subjects_of(recipe.data)
    assert [one.sets for one in subjects] == [("a",), ("b", "c")]
    rows = [Moved(subjects[0], 0.9, 0.1, 0.6), Moved(subjects[1], 0.1, 0.8, 2.0)]
    prepared: Any = SimpleNamespace(recipe=recipe, moved=lambda _attachment: rows)
    (one,) = run._drifted(prepared, None, True)  # type: ignore[arg-type]
    assert one.code == "GD036" and "`house`" in one.message and "`kiki`" in one.message
    # Beside the trigger word that has moved most, not beside one that has hardly been learnt.
    rows[1] = Moved(subjects[1], 0.1, 0.2, 2.0)
    (one,) = run._drifted(prepared, None, True)  # type: ignore[arg-type]
    assert one.code == "GD035" and "`zoka`" in one.message and "60%" in one.message


def test_the_class_word_of_the_second_set_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [
        {"images": "a", "trigger": "zoka", "class_word": "monster"},
        {"images": "b", "trigger": "kiki", "class_word": "dog"},
    ]
    asked: list[tuple[Any, Any]] = []

    class Seen:
        def __init__(self, *_parts: Any, controls: Any, own: Any, **_more: Any) -> None:
            self.own = own
            asked.append((own[0], controls))

        def measure(self, train: bool) -> Any:
            moved = {"a zoka monster": 0.5, "a kiki dog": 0.4, "a monster": 0.05, "a dog": 0.3}
            return SimpleNamespace(own_drift=moved[self.own[0]], drift=0.1)

    monkeypatch.setattr("tsuika.training.prepared.Probe", Seen)
    samples = [SimpleNamespace(name=f"{name}/1.png", set=name) for name in ("a", "b")]
    shown: list[str] = []

    def pictures(names: list[str]) -> list[str]:
        shown.extend(names)
        return names

    parts: Any = SimpleNamespace(
        recipe=Recipe.of("lora", settings={"data.sets": sets}),
        accelerator=SimpleNamespace(autocast=None),
        manifest=SimpleNamespace(samples=samples),
        model=None,
        subjects=pictures,
    )
    parts._controls = lambda: Prepared._controls(parts)
    found = Prepared.moved(parts, None)  # type: ignore[arg-type]
    assert [round(one.of_class, 6) for one in found] == [0.1, 0.75]
    assert shown == ["a/1.png", "a/1.png", "b/1.png", "b/1.png"]
    assert all("dog" not in text.split() for _own, controls in asked for text in controls)
