"""What the searching commands print: a line for each rate or trial on stdout, and what to take; talk on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

import tsuika
from tsuika.cli import language
from tsuika.cli.main import app
from tsuika.core.errors import RecipeError
from tsuika.core.events import Event, Phase, note

CURVE = [
    {"step": 4, "mean": -0.01, "se": 0.001, "low": -0.012, "high": -0.008, "kind": "pictures"},
    {"step": 8, "mean": -0.05, "se": 0.01, "low": -0.08, "high": -0.02, "kind": "pictures"},
]
RATES = [
    {"rate": 1e-4, "diverged": False, "left": False, "safe": True, "curve": CURVE},
    {"rate": 1.0, "diverged": True, "left": False, "safe": False, "curve": []},
]
PARAMS = {"rate": "0.0001", "gain": "-4.9%", "after": 8, "steps": 8, "lowest": "0.0001", "highest": "1"}
ROW: dict[str, Any] = {
    "number": 0,
    "params": {"train.learning_rate": 1e-3, "method.rank": 8},
    "state": "done",
    "value": -0.2,
    "se": 0.01,
    "step": 80,
}


def rates(*_: Any, **__: Any) -> Iterator[Event]:
    yield note("GD023", rates="0.0001, 1", steps=8, measured=4, found=12)
    yield Phase("compare-settings", 8)
    yield tsuika.RateFound(1e-4, None, None, None, "held-out", 4, "GD021", PARAMS, RATES)


def trials(*_: Any, **__: Any) -> Iterator[Event]:
    for _turn in range(2):
        yield note("GD014", names="a.png, b.png")
    yield tsuika.TrialStarted(0, 3, ROW["params"])
    yield tsuika.TrialEnded(0, "done", -0.2, 0.01, 80)
    others = [{**ROW, "number": 1}, {**ROW, "number": 2, "state": "pruned", "value": None, "se": None}]
    yield tsuika.Searched(0, [0, 1], "out/best.toml", [ROW, *others])


@pytest.fixture(autouse=True)
def stood_in_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tsuika, "find_rate", rates)
    monkeypatch.setattr(tsuika, "search", trials)
    yield
    language.use(None)


def program(*words: str) -> Any:
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize(("lang", "word"), [("en", "diverged"), ("ja", "発散")])
def test_a_line_for_each_rate_and_what_to_take(lang: str, word: str) -> None:
    told = program("--lang", lang, "find-rate", "lora", "--rates", "1e-4,1")
    assert told.exit_code == 0
    first, second, *words = told.stdout.splitlines()
    assert "0.0001" in first and "-4.9%" in first and "8" in first
    assert word in second
    assert "--set train.learning_rate=0.0001" in " ".join(words)
    assert "GD023" in told.stderr


def test_json_is_one_object_on_stdout() -> None:
    found = json.loads(program("find-rate", "lora", "--json").stdout)
    assert found["rate"] == 1e-4 and found["rates"] == RATES and found["words"]
    searched = json.loads(program("search", "--out", "out", "--over", "method.rank=8,16", "--json").stdout)
    assert searched["best"] == 0 and len(searched["trials"]) == 3


@pytest.mark.parametrize("rates_", ["1e-4,x", "0", "11", "-1"])
def test_rates_that_are_none_are_wrong_usage(rates_: str) -> None:
    refused = program("find-rate", "lora", f"--rates={rates_}").exception
    assert isinstance(refused, RecipeError) and refused.code == "RC002" and refused.exit_status == 2


def test_the_table_names_the_best_and_its_equals_and_a_note_is_told_once() -> None:
    told = program("--lang", "en", "search", "--out", "out", "--over", "method.rank=8,16")
    assert told.exit_code == 0
    best, near, pruned, last = told.stdout.splitlines()
    assert "best" in best and "train.learning_rate=0.001, method.rank=8" in best and "± 1.0" in best
    assert "within chance" in near
    assert "stopped early" in pruned and "<-" not in pruned
    assert "tsuika train --recipe out/best.toml" in last
    assert told.stderr.count("GD014") == 1
