"""Runs under guard: who sees which picture, what is chosen, what is written, and that a stop changes no bit of it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import hashes, settings
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tiny_models import shallow, write_folder
from tsuika import config
from tsuika.config import Recipe
from tsuika.core.errors import FormatError, InterruptedRunError, RecipeError
from tsuika.core.events import Chosen, Event, Finished, Judged, Stepped, Warned, Written
from tsuika.core.safetensors import read_header
from tsuika.data.bank import Bank
from tsuika.data.split import split
from tsuika.formats import provenance
from tsuika.formats.provenance import Provenance
from tsuika.guard.judge import CHECKS_AT_LEAST, FIRST_CHECK, LOOK, WHOLE, Judge, Range
from tsuika.guard.probe import PATH, passes
from tsuika.guard.reading import Check, Ratios, Reading
from tsuika.training import folder as run_folder
from tsuika.training import guard_plan, guarded_run, run
from tsuika.training.preparation import Services


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarded")
    write_folder(shallow(), folder / "base", old_style=True)
    noise = np.random.default_rng(0)
    for count in (2, 3, 4, 10):
        pictures = folder / f"pictures-{count}"
        pictures.mkdir()
        for i in range(count):  # 64 px of large blocks, so that none resembles another
            blocks = noise.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST).save(pictures / f"{i}.png")
            (pictures / f"{i}.txt").write_text("a zuzu cat", encoding="utf-8")
    return folder


def recipe(place: Path, count: int, method: str = "lora", **more: Any) -> Recipe:
    keys = settings(
        method,
        train={"steps": 8, "batch_size": 2, "learning_rate": 1e-2, "schedule": "constant", **more.pop("train", {})},
    )
    keys |= {
        "method.name": method,
        "base.model": str(place / "base"),
        "data.images": str(place / f"pictures-{count}"),
        "data.trigger": "zuzu",
        "guard.mode": "on",
        **more,
    }
    return config.build(config.override({}, keys))


def begin(recipe: Recipe, out: Path, place: Path) -> Iterator[Event]:
    return run.train(recipe, run_folder.start(recipe, out), services(place))


def go_on(out: Path, place: Path) -> Iterator[Event]:
    return run.train(*run_folder.read(out), services(place), resume=True)


def services(place: Path) -> Services:
    return Services(Path("nowhere"), place / "cache")


def through(recipe: Recipe, out: Path, place: Path) -> list[Event]:
    return list(begin(recipe, out, place))


def of(events: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def proved(folder: Path) -> Provenance:
    """What the result's file says."""
    found = provenance.of(read_header(folder / "artifacts" / "result.safetensors").metadata)
    assert found is not None
    return found


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[frozenset[str], set[str]]:
    """Which pictures were trained on, by which pictures the bank has."""
    found: dict[frozenset[str], set[str]] = {}
    batch = Bank.batch

    def spying(self: Bank, *args: Any) -> Any:
        result = batch(self, *args)
        found.setdefault(frozenset(self.names), set()).update(result.names)
        return result

    monkeypatch.setattr(Bank, "batch", spying)
    return found


def test_pictures_are_held_out_and_then_all_are_trained_on(place: Path, tmp_path: Path, seen: Any) -> None:
    train = {"schedule": "linear", "warmup": 0.0, "steps": 12}
    events = through(recipe(place, 10, train=train), tmp_path / "run", place)
    (chosen,) = of(events, Chosen)
    out = set(chosen.held_out)
    assert chosen.kind == "hold-out" and len(out) == 4
    look = next(trained for bank, trained in seen.items() if not out & bank)
    assert len(seen) == 2 and not look & out and len(look) == 6
    assert out <= seen[frozenset(f"{i}.png" for i in range(10))]
    at = events.index(chosen)
    before, after = of(events[:at], Stepped), of(events[at:], Stepped)
    assert [event.step for event in before] == list(range(1, before[-1].step + 1))
    planned = train["steps"]
    again = min(planned, round(chosen.look_step * 10 / 6), round(WHOLE * planned) - before[-1].step)
    assert before[-1].step <= LOOK * planned + 0.5
    assert after[-1].step == chosen.step == chosen.look_step + again, "on from the best step, as long as anew"
    whole = [event for event in after if event.step > chosen.look_step][-again:]
    assert [event.step for event in whole] == list(range(chosen.look_step + 1, chosen.step + 1))
    rates = [event.learning_rate for event in whole]
    assert {event.learning_rate for event in before} == {1e-2} == {rates[0]}, "where a look ends is not known yet"
    assert rates == sorted(set(rates), reverse=True)
    assert of(events, Finished)[-1].steps_done == chosen.step
    assert of(events, Judged) and {event.check["step"] for event in of(events, Judged)} <= {e.step for e in before}
    again = list(go_on(tmp_path / "run", place))
    assert of(again, Chosen) == [chosen] and of(again, Finished) == of(events, Finished) and not of(again, Stepped)
    split = json.loads((tmp_path / "run" / "guard" / "split.json").read_text())
    assert set(split["parts"][0]) == out
    told, rows = proved(tmp_path / "run"), [event.evidence for event in of(events, Judged)]
    assert (told.method, told.steps, told.images, told.stopped_by) == ("lora", chosen.step, 10, "steps")
    assert told.guard is not None and told.memorized is not None
    assert (told.guard.kind, told.guard.held_out, told.guard.folds, told.guard.all_images) == ("hold-out", 4, 0, True)
    assert (told.guard.best_step, told.guard.interval) == (chosen.look_step, "pictures")
    assert [row[0] for row in told.guard.curve] == [row["step"] for row in rows]
    means = [row["held_out"]["mean"] for row in rows]
    assert [row[1] for row in told.guard.curve] == pytest.approx(means, abs=1e-5)
    assert not [name for name in out if name in told.to_text()], "files name no image"


@pytest.mark.parametrize("method", ["lora", "textual-inversion", "dreambooth"])
def test_half_of_few_images_are_held_out_and_then_all_are_trained_on(
    place: Path, tmp_path: Path, seen: Any, method: str
) -> None:
    events = through(recipe(place, 4, method, train={"steps": 12, "learning_rate": 1e-3}), tmp_path / "run", place)
    (chosen,) = of(events, Chosen)
    everyone = frozenset(f"{i}.png" for i in range(4))
    assert chosen.kind == "hold-out" and len(chosen.held_out) == 2
    assert set(seen) == {everyone, everyone - set(chosen.held_out)}
    trial = of(events[: events.index(chosen)], Stepped)[-1].step
    again = min(12, 2 * chosen.look_step, round(WHOLE * 12) - trial)
    assert of(events, Finished)[-1].steps_done == chosen.step == chosen.look_step + again


def test_each_of_few_images_is_left_out_once(place: Path, tmp_path: Path, seen: Any) -> None:
    events = through(recipe(place, 4, train={"steps": 4}, **{"guard.folds": 4}), tmp_path / "run", place)
    (chosen,) = of(events, Chosen)
    everyone = frozenset(f"{i}.png" for i in range(4))
    assert [event.code for event in of(events, Warned)][:1] == ["GD016"]
    assert chosen.kind == "folds" and chosen.folds == 4 and set(chosen.held_out) == everyone
    assert set(seen) == {everyone, *(everyone - {name} for name in everyone)}
    assert all(trained <= bank for bank, trained in seen.items())
    labels = [(event.fold, event.folds) for event in of(events, Judged)]
    assert set(labels) == {(fold, 4) for fold in range(5)} and labels[-1] == (0, 4)
    rows = of(events, Judged)[-1].check["reading"]
    assert len(rows["held_out"]["mid"]) == 4 and len(rows["train"]["mid"]) == 4 * 3
    assert of(events, Judged)[-1].evidence["held_out"]["kind"] == "pictures"
    assert (told := proved(tmp_path / "run").guard) and (told.kind, told.held_out, told.folds) == ("folds", 4, 4)


@pytest.mark.parametrize(("more", "held_out"), [({}, 1), ({"guard.folds": 2}, 2), ({"guard.mode": "warn"}, 1)])
def test_without_a_refit_some_of_few_images_are_held_out(
    place: Path, tmp_path: Path, seen: Any, more: dict[str, Any], held_out: int
) -> None:
    """There is one training only, so nothing can be left out in turn."""
    what = recipe(place, 4, "textual-inversion", train={"steps": 4}, **{"guard.refit": False, **more})
    events = through(what, tmp_path / "run", place)
    (chosen,) = of(events, Chosen)
    assert chosen.kind == "hold-out" and len(chosen.held_out) == held_out
    assert list(map(len, seen)) == [4 - held_out]


def test_a_whole_model_learns_in_two_folds_one_after_another(place: Path, tmp_path: Path, seen: Any) -> None:
    what = recipe(place, 4, "dreambooth", train={"steps": 4, "learning_rate": 1e-4}, **{"guard.folds": 2})
    events = through(what, tmp_path / "run", place)
    (chosen,) = of(events, Chosen)
    assert chosen.kind == "folds" and chosen.folds == 2 and sorted(map(len, seen)) == [2, 2, 4]
    assert [event.code for event in of(events, Warned) if event.code == "GD029"]
    assert len(of(events, Judged)[-1].check["reading"]["held_out"]["mid"]) == 4
    assert of(events, Finished)[-1].steps_done == chosen.step
    assert not list((tmp_path / "run" / "guard").glob("look-*/step-*")), "states of a look that is over take room"


@pytest.mark.parametrize("change", ["gone", "other", "words"])
def test_a_run_does_not_go_on_with_other_pictures(place: Path, tmp_path: Path, change: str) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(place / "pictures-10", pictures)
    what = recipe(place, 10, "textual-inversion", **{"data.images": str(pictures)}, train={"checkpoint_every": 1})
    stream = begin(what, tmp_path / "run", place)
    next(event for event in stream if isinstance(event, Stepped))
    stream.close()  # type: ignore[attr-defined]
    if change == "gone":
        (pictures / "3.png").unlink()
    elif change == "other":
        shutil.copy(pictures / "4.png", pictures / "3.png")
    else:
        (pictures / "3.txt").write_text("a zuzu cat in the snow", encoding="utf-8")
    for _ in range(2):  # the second time as well
        stream = go_on(tmp_path / "run", place)
        if change == "words":
            noted = next(event for event in stream if isinstance(event, Warned) and event.code == "TR009")
            assert "3.png" in noted.words("en") and "3.png" in noted.words("ja")
            stream.close()  # type: ignore[attr-defined]
        else:
            with pytest.raises(InterruptedRunError, match=r"3\.png") as caught:
                list(stream)
            assert caught.value.code == "TR008"


def test_too_few_pictures_say_so_and_are_all_trained_on(place: Path, tmp_path: Path, seen: Any) -> None:
    events = through(recipe(place, 2), tmp_path / "run", place)
    assert "GD012" in [event.code for event in of(events, Warned)] and not of(events, Chosen)
    assert list(map(len, seen)) == [2] and of(events, Finished)[-1] == Finished("steps", 8)
    assert {event.verdict for event in of(events, Judged)} == {"go"}


def test_three_pictures_are_not_trusted_and_left_out_in_turn_all_the_same(place: Path, tmp_path: Path) -> None:
    events = through(recipe(place, 3, "textual-inversion", train={"steps": 4}), tmp_path / "run", place)
    assert [event.code for event in of(events, Warned)][:2] == ["GD012", "GD016"]
    (chosen,) = of(events, Chosen)
    assert chosen.folds == 3 and len(chosen.held_out) == 3
    assert of(events, Judged)[-1].evidence["held_out"]["kind"] == "draws"


def test_warn_stops_nothing_and_keeps_the_last_step(place: Path, tmp_path: Path, seen: Any) -> None:
    events = through(recipe(place, 10, **{"guard.mode": "warn"}), tmp_path / "run", place)
    (chosen,) = of(events, Chosen)
    assert list(map(len, seen)) == [8], "without a refit the held-out pictures stay out"
    assert of(events, Finished)[-1] == Finished("steps", 8) and of(events, Stepped)[-1].step == 8
    names = {Path(event.path).name for event in of(events, Written)}
    assert chosen.step == 8 or "result-balanced.safetensors" in names
    assert (told := proved(tmp_path / "run").guard) and not told.all_images, "the held-out images are still unseen"


def test_off_measures_nothing(place: Path, tmp_path: Path) -> None:
    events = through(recipe(place, 10, **{"guard.mode": "off"}), tmp_path / "run", place)
    assert not of(events, Judged) and not of(events, Chosen) and of(events, Finished)[-1].steps_done == 8
    assert (proved(tmp_path / "run").guard, proved(tmp_path / "run").memorized) == (None, None)


class Stopping(Judge):
    """Says stop at its third check after a step, and takes the first for the best."""

    def update(self, check: Any) -> Any:
        verdict = super().update(check)
        seen = [one.step for one in self.checks if one.step] or [0]
        self._range = Range(seen[0], seen[0], seen[min(1, len(seen) - 1)])
        kind = "stop" if len(seen) >= 3 else "go"
        verdict = replace(verdict, kind=kind, code="GD006", evidence=replace(verdict.evidence, range=self._range))
        self.verdicts[-1] = verdict
        return verdict


@pytest.mark.parametrize(
    ("count", "method", "refit"),
    [
        (10, "lora", True),
        pytest.param(4, "lora", True, marks=pytest.mark.slow),
        (4, "textual-inversion", True),
        (10, "dreambooth", True),
        (10, "dreambooth", False),
    ],
)
def test_stopped_and_gone_on_to_the_same_bits(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, method: str, refit: bool
) -> None:
    """The generator is closed at a check, between two and in the refit; everything is read from disk again."""
    monkeypatch.setattr(guarded_run, "Judge", Stopping)
    monkeypatch.setattr(guarded_run, "SEVERAL_BYTES", guarded_run.SEVERAL_BYTES if refit else 0)
    train = {"checkpoint_every": 2, "learning_rate": 1e-3, "steps": 6}
    what = recipe(
        place,
        count,
        method,
        train=train,
        **{"guard.refit": refit, "guard.folds": 2 * (count < 10), "guard.range": True},
    )
    calm = through(what, tmp_path / "calm", place)
    assert of(calm, Finished)[-1].stopped_by == "guard"
    out = tmp_path / "disturbed"
    events: list[Event] = []
    for sitting in range(4):
        stream = go_on(out, place) if sitting else begin(what, out, place)
        left = (1, 3, 2, 1000)[sitting]  # steps of this sitting
        for event in stream:
            events.append(event)
            left -= isinstance(event, Stepped)
            if not left:
                break
        stream.close()  # type: ignore[attr-defined]
        if isinstance(events[-1], Finished):
            break
    assert of(events, Finished)[-1] == of(calm, Finished)[-1]
    assert of(events, Chosen)[-1] == of(calm, Chosen)[-1]
    heard = [{event.step for event in of(some, Judged)} for some in (events, calm)]
    assert heard[0] == heard[1], "a check whose event was not taken is told again"
    for part in ("artifacts", "guard/kept"):
        assert hashes(out / part) == hashes(tmp_path / "calm" / part)
    written = {Path(event.path).name for event in of(calm, Written)}
    chosen = of(calm, Chosen)[-1]
    several = refit and chosen.range["likeness"] != chosen.step  # a large model's best step alone is kept
    likeness = {"result-likeness.safetensors"} if several else set()
    assert {"result.safetensors", *likeness} <= written


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_without_a_refit_the_best_steps_weights_are_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Those of a run that ends there, on the pictures that were not held out; also of a model too large to keep often."""
    monkeypatch.setattr(guarded_run, "Judge", Stopping)
    monkeypatch.setattr(guarded_run, "SEVERAL_BYTES", 0 if method == "dreambooth" else guarded_run.SEVERAL_BYTES)
    train = {"learning_rate": 1e-3, "warmup": 0.0}
    events = through(recipe(place, 10, method, train=train, **{"guard.refit": False}), tmp_path / "run", place)
    (chosen,) = of(events, Chosen)
    best = of(events, Finished)[-1].steps_done
    assert best == chosen.step == chosen.look_step < of(events, Stepped)[-1].step
    kept = sorted((tmp_path / "run" / "guard" / "kept").glob("*"))
    assert len(kept) == (1 if method == "dreambooth" else len(set(chosen.range.values())))
    inside = place / f"inside-{method}"
    shutil.copytree(place / "pictures-10", inside, ignore=lambda *_: [*chosen.held_out])
    more = {"data.images": str(inside), "guard.mode": "off"}
    through(recipe(place, 10, method, train={**train, "steps": best}, **more), tmp_path / "plain", place)
    one, other = (load_file(tmp_path / name / "artifacts" / "result.safetensors") for name in ("run", "plain"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class GettingWorse(Judge):
    """Sees every step worse than the one before."""

    def update(self, check: Any) -> Any:
        held = check.reading.held_out
        worse = replace(held, mid=tuple(tuple(value + check.step for value in row) for row in held.mid))
        return super().update(replace(check, reading=replace(check.reading, held_out=worse)))


@pytest.mark.parametrize("refit", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_that_makes_its_start_worse_gives_the_start_back(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: bool
) -> None:
    """With a word; the guard has measured it, and another file is refused when the run goes on."""
    first = through(recipe(place, 2, **{"guard.mode": "off", "train.steps": 1}), tmp_path / "first", place)
    file = tmp_path / "start.safetensors"
    shutil.copy(next(tmp_path / "first" / Path(event.path) for event in of(first, Written)), file)
    monkeypatch.setattr(guarded_run, "Judge", GettingWorse)
    what = recipe(place, 10, **{"guard.refit": refit}, train={"steps": 4})
    tables = what.model_dump(mode="json")
    tables["method"] = {"name": "lora", "start": str(file)}
    what = config.build(tables)
    drawn: list[torch.Tensor] = []

    def preview(prepared: Any, step: int) -> Iterator[Any]:
        model = prepared.model
        noisy = torch.ones(1, 4, 8, 8)
        drawn.append(model.denoise(noisy, torch.tensor([500]), model.encode_text(["zuzu"])).detach())
        yield from ()

    shown = replace(services(place), preview=preview)
    what = what.model_copy(update={"preview": what.preview.model_copy(update={"num": 1})})
    events = list(run.train(what, run_folder.start(what, tmp_path / "run"), shown))
    codes = [event.code for event in of(events, Warned)]
    assert "TR021" in codes and "GD040" in codes and "GD017" not in codes
    (chosen,) = of(events, Chosen)
    assert chosen.look_step == chosen.step == 0 == of(events, Finished)[-1].steps_done
    assert next(event.check["step"] for event in of(events, Judged)) == 0
    assert torch.allclose(drawn[0], drawn[-1], atol=1e-6), "the previews at first are the start's"
    one, other = (load_file(path) for path in (file, tmp_path / "run" / "artifacts" / "result.safetensors"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    weights = load_file(file)
    save_file({name: value * 2 for name, value in weights.items()}, file, safe_open(file, "pt").metadata())
    with pytest.raises(FormatError, match="goes on from") as error:
        list(go_on(tmp_path / "run", place))
    assert error.value.code == "TR011"


class TakingTheLast(Stopping):
    """Says stop at its third check, and takes that for the best."""

    def update(self, check: Any) -> Any:
        verdict = super().update(check)
        self._range = Range(check.step, check.step, check.step)
        return verdict


@pytest.mark.parametrize("method", ["textual-inversion", pytest.param("lora", marks=pytest.mark.slow)])
def test_after_folds_the_result_goes_on_from_half_of_their_step(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """To which a training on all images has brought it; to the same bits after stops."""
    monkeypatch.setattr(guarded_run, "Judge", TakingTheLast)
    train = {"learning_rate": 1e-3, "warmup": 0.0, "steps": 8, "schedule": "linear", "checkpoint_every": 1}
    what = recipe(place, 4, method, train=train, **{"train.ema": 0.0, "guard.folds": 2})
    events = through(what, tmp_path / "calm", place)
    (chosen,) = of(events, Chosen)
    assert chosen.look_step == 3 and chosen.step == 9 == of(events, Finished)[-1].steps_done
    at = events.index(chosen)
    trial, after = of(events[:at], Stepped), of(events[at:], Stepped)
    assert [event.step for event in trial] == [1, 2, 3] * 2
    assert [event.step for event in after] == [1, 2, 3, *range(4, 10)], "from half of 6 steps, 6 more"
    assert {event.learning_rate for event in [*trial, *after[:3]]} == {1e-3}
    rates = [event.learning_rate for event in after[3:]]
    assert rates == pytest.approx([1e-3 * left / 6 for left in range(6, 0, -1)])
    assert not list((tmp_path / "calm" / "guard").glob("look-*/*")), "states of a trial run that is over take room"
    out = tmp_path / "disturbed"
    for left in (
        2,
        2,
        4,
        3,
        1000,
    ):  # in the first fold, in the second, in the training on all images, while the rate falls
        stream = go_on(out, place) if out.exists() else begin(what, out, place)
        for event in stream:
            left -= isinstance(event, Stepped)
            if not left:
                break
        stream.close()  # type: ignore[attr-defined]
    assert isinstance(event, Finished) and event == of(events, Finished)[-1]
    for part in ("artifacts", "guard/look"):
        assert hashes(out / part) == hashes(tmp_path / "calm" / part)


class StoppingFirstFoldEarly(Judge):
    """The first judge says stop at its first check after a step, all others never before their fourth."""

    made = 0

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.number = StoppingFirstFoldEarly.made
        StoppingFirstFoldEarly.made += 1

    def update(self, check: Any) -> Any:
        verdict = super().update(check)
        stops = sum(one.step > 0 for one in self.checks) >= (1 if self.number == 0 else 4)
        self._range = Range(check.step, check.step, check.step)
        verdict = replace(
            verdict,
            kind="stop" if stops else "go",
            code="GD006" if stops else "GD008",
            evidence=replace(verdict.evidence, range=self._range),
        )
        self.verdicts[-1] = verdict
        return verdict


def test_a_fold_that_stops_early_goes_on_until_all_can_be_judged_together(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_run, "Judge", StoppingFirstFoldEarly)
    monkeypatch.setattr(StoppingFirstFoldEarly, "made", 0)
    train = {"learning_rate": 1e-3, "steps": 8}
    what = recipe(place, 4, "textual-inversion", train=train, **{"guard.folds": 2})
    events = through(what, tmp_path / "run", place)
    (chosen,) = of(events, Chosen)
    trial = [event.step for event in of(events[: events.index(chosen)], Stepped)]
    checked = [event.step for event in of(events, Judged)]
    assert chosen.look_step == 4, "the step at which the common judge stops"
    assert trial == [1, 1, 2, 3, 4, 2, 3, 4] and checked[-4:] == [1, 2, 3, 4]


@pytest.mark.parametrize("overhead", [0.01, 0.04, 0.2])
@pytest.mark.parametrize("steps", [800, 3000, 20_000])
@pytest.mark.parametrize("held_out", [1, 2, 3, 12])
def test_checks_keep_to_their_budget_or_to_the_least_that_is_of_use(overhead: float, steps: int, held_out: int) -> None:
    made = config.build({"train": {"steps": steps}, "guard": {"overhead": overhead}})
    plan = guard_plan.budget(made, held_out, 20, steps)
    sides = passes(plan.held_out, plan.draws[0]) + passes(plan.trained_on, plan.draws[1])
    a_check, of_base = sides + 2 * plan.controls, sides + 2 * plan.controls * len(PATH)
    spent = (of_base + a_check * len(plan.steps)) / (steps * made.train.batch_size * guard_plan.STEP_PASSES)
    assert plan.held_out == held_out, "what is held out is measured"
    assert plan.steps[0] <= FIRST_CHECK and plan.steps[-1] == steps and 1 <= plan.controls <= guard_plan.CONTROLS
    assert plan.draws[0] == 6 or held_out >= 4, "an interval over one timestep says nothing"
    each = zip((plan.held_out, plan.trained_on), plan.draws, strict=True)
    assert all(images * draws >= 6 for images, draws in each), "the images of a side have all timesteps together"
    assert spent <= overhead or len(plan.steps) <= CHECKS_AT_LEAST
    wider = [later / earlier for earlier, later in pairwise(plan.steps[:-1])]
    assert not wider or min(wider) >= 1.2


@pytest.mark.parametrize("patience", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("base", ["", "some/base"])
@pytest.mark.parametrize("method", ["lora", "dreambooth", "hypernetwork"])
@pytest.mark.parametrize("held_out", [4, 8, 12])
def test_the_default_plans_wait_as_long_as_the_patience_says(
    method: str, base: str, held_out: int, patience: float
) -> None:
    """A best step that a stop can wait from, any of the plan's: the judge stops at the first check after the patience."""
    tables = {"method": {"name": method}, "guard": {"patience": patience}}
    made = config.build(tables | ({"base": {"model": base}} if base else {}))
    steps = guard_plan.budget(made, held_out, 40, made.train.steps).steps
    ratio = max(later / earlier for earlier, later in pairwise(steps[3:-1]))
    for best in (step for step in steps[:-2] if 0.2 * steps[-1] <= step <= steps[-1] / (1 + patience) / ratio):
        judge = Judge(steps[-1], 1e-4, patience, check_steps=steps)
        for step in steps:
            row = (-0.1 + 0.1 * abs(math.log(step / best)),)
            if judge.update(Check(step, Reading(Ratios((row,) * 4), Ratios(((-0.1,),) * 4)))).kind == "stop":
                break
        # Steps are whole.
        assert (1 + patience) * best <= step <= max(1 + patience, 1.5 * 1.02) * ratio * best + 2
        assert patience != 0.5 or step <= 1.53 * best + 2


@pytest.mark.parametrize("count", range(4, 10))
@pytest.mark.parametrize("folds", [2, 3, 4])
def test_all_pictures_are_trained_on_as_much_longer_as_a_fold_has_fewer(count: int, folds: int) -> None:
    """By a power of all pictures to a fold's, on average, however unevenly they are dealt."""
    parted = split([(f"{i}.png",) for i in range(count)], 0, folds=folds)
    plain, whole = (guard_plan.GuardPlan("folds", parted, growth=growth) for growth in (1.0, 2.0))
    more = folds / (folds - 1)
    assert plain.longer(300, 10_000) == round(300 * more) and whole.longer(300, 10_000) == round(300 * more**2)
    assert plain.longer(300, 301) == 301 and plain.longer(0, 301) == 0
    assert parted.overlap == pytest.approx(1 / (count - count / folds)), "by the images that a fold trains on"


def test_a_batch_that_nobody_can_share_is_refused(place: Path) -> None:
    with pytest.raises(RecipeError):
        recipe(place, 4, **{"guard.folds": -1})
