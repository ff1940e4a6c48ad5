"""What a run sends to its loggers, by a tracker of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from accelerate.tracking import GeneralTracker
from PIL import Image
from runs import make_place, settings

from tsuika.api.training import train
from tsuika.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.events import Event, Judged, Phase, Previewed, Stepped, Warned
from tsuika.training import loggers


class Noted(GeneralTracker):
    """Keeps what it is told."""

    name = "noted"
    requires_logging_directory = True
    said: ClassVar[list[tuple[str, Any]]] = []
    fails_at: ClassVar[int] = 1000

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.said.append(("opened", (run_name, Path(logging_dir).name)))

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.said.append(("settings", values))

    def log(self, values: dict[str, Any], step: int | None = None, **_more: Any) -> None:
        if step == self.fails_at:
            raise ConnectionError("no network")
        self.said.append(("log", (step, values)))

    def log_images(self, values: dict[str, Any], step: int | None = None, **_more: Any) -> None:
        self.said.append(("image", (step, values)))

    def finish(self) -> None:
        self.said.append(("finished", None))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    monkeypatch.setattr(Noted, "said", [])
    return Noted.said


def logging(**more: Any) -> Recipe:
    return Recipe.of("lora", images="/home/me/photos", settings={"train.log_with": ["test_loggers:Noted"], **more})


def sent(recipe: Recipe, folder: Path, *events: Event, done: int = 0) -> list[Event]:
    with loggers.opened(recipe, folder, done) as opened:
        return [warned for event in events for warned in opened.send(event)]


def test_events_become_numbers_and_images_under_a_step_that_grows(tmp_path: Path, said: list[tuple[str, Any]]) -> None:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    judged = Judged(2, "go", "GD008", {}, {}, {"held_out": {"mean": -0.1}, "train": -0.2, "drift": None})
    events = (
        Phase("look"),
        Stepped(1, 0.5, 1.0, 1e-4, 0.1),
        Stepped(2, 0.4, 1.0, 1e-4, 0.1),
        judged,
        Phase("train"),
        Stepped(2, 0.3, 1.0, 1e-4, 0.1),
        Previewed(2, "a cat", 7, "a.png"),
    )
    assert not sent(logging(), tmp_path, *events, done=10)
    opened, told, *rest = said
    assert (
        opened == ("opened", (tmp_path.name, "logs"))
        and told[1]["train.learning_rate"] == logging().train.learning_rate
    )
    assert not any("/home/me" in str(value) for value in told[1].values()), "no path is sent"
    numbers = [one for kind, one in rest if kind == "log"]
    assert [
        (step, values.get("trial/loss"), values.get("train/loss"))
        for step, values in numbers
        if "guard/step" not in values
    ] == [(11, 0.5, None), (12, 0.4, None), (13, None, 0.3)]
    assert (12, {"guard/step": 2, "guard/held_out": -0.1, "guard/train": -0.2}) in numbers
    ((step, image),) = [one for kind, one in rest if kind == "image"]
    assert step == 13 and [*image] == ["preview/a cat/7"] and np.asarray(image["preview/a cat/7"]).shape == (1, 6, 8, 3)
    assert said[-1][0] == "finished"


def test_a_logger_that_fails_ends_no_run(
    tmp_path: Path, said: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noted, "fails_at", 2)
    steps = [Stepped(number, 0.5, 1.0, 1e-4, 0.1) for number in (1, 2, 3)]
    (warned,) = sent(logging(), tmp_path, *steps)
    assert isinstance(warned, Warned) and warned.code == "TR023" and "no network" in warned.message
    assert len([kind for kind, _one in said if kind == "log"]) == 1


def test_nothing_is_sent_unless_named_and_what_is_missing_is_told_before(
    tmp_path: Path, said: list[tuple[str, Any]]
) -> None:
    assert not sent(Recipe.of("lora"), tmp_path, Stepped(1, 0.5, 1.0, 1e-4, 0.1)) and not said
    with pytest.raises(RecipeError, match=r"tensorboard.*package\.module:CLASS"):
        loggers.check(["nothing"])
    with pytest.raises(RecipeError, match="pip install comet-ml"):
        loggers.check(["comet_ml"])
    with pytest.raises(RecipeError, match="no tracker"):
        loggers.check(["pathlib:Path"])


def test_a_run_logs_its_steps(tmp_path: Path, said: list[tuple[str, Any]]) -> None:
    base, pictures = make_place(tmp_path)
    keys = settings("lora", train={"log_with": ["test_loggers:Noted"], "steps": 2})
    list(train("lora", tmp_path / "run", images=pictures, base=base, trigger="zuzu", settings=keys))
    assert [one[0] for kind, one in said if kind == "log"] == [1, 2]
    assert said[-1] == ("finished", None)
    with pytest.raises(RecipeError, match="cannot be"):
        list(train("lora", tmp_path / "other", images=pictures, base=base, settings=keys | {"train.log_with": ["no"]}))
    assert not (tmp_path / "other").exists()
