"""The guard in the report: a run's events become curves and sentences that say what was measured, and no more."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tsuika import config
from tsuika.core.events import Chosen, Event, Finished, Judged, Phase, Previewed, Started, Stepped, Written, note, read
from tsuika.core.messages import MESSAGES
from tsuika.core.plain import jsonable
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.evaluation import report, report_guard, run_record
from tsuika.guard.judge import Judge
from tsuika.guard.reading import Check, Grid, Ratios, Reading, mean
from tsuika.pages.chart import plot

Value = Callable[[int], float]
STEPS = 600
EVIDENCE = report.ReportParts(base="embedded", device="cpu", example_prompt="a mycat")


def grid(value: float, pictures: int, timesteps: int) -> Grid:
    """`value` on average; pictures and timesteps differ."""
    return tuple(
        tuple(value + 0.01 * (i - (pictures - 1) / 2) + 0.004 * (k - (timesteps - 1) / 2) for k in range(timesteps))
        for i in range(pictures)
    )


def judged(
    held: Value,
    train: Value,
    *,
    pictures: int = 4,
    high: Value = lambda _: 0.01,
    steps: int = STEPS,
    on: bool = True,
    first: int = 50,
) -> list[Judged]:
    """The checks of a run with these curves, as they stand in `events.jsonl`."""
    judge, events = Judge(steps, 1e-3), []
    for step in range(first, steps + 1, 50):
        held_out = Ratios(grid(held(step), pictures, 6), grid(high(step), pictures, 2)) if pictures else Ratios()
        reading = Reading(held_out, Ratios(grid(train(step), 4, 6), grid(0.0, 4, 2)), 0.0002 * step, 0.001 * step)
        check = Check(step, reading, 0.5 * step / 50, step / 5)
        verdict = judge.update(check)
        evidence = jsonable(asdict(verdict.evidence))
        events.append(Judged(step, verdict.kind, verdict.code, dict(verdict.params), check.to_json(), evidence))
        if verdict.kind == "stop" and on:
            break
    return events


def u_shape(best: int, depth: float) -> Value:
    return lambda step: depth * ((min(step, 3 * best) / best - 1) ** 2 - 1)


OVERFITTED = judged(u_shape(200, 0.2), lambda step: -0.0015 * step, high=lambda step: 0.0006 * step)
HEALTHY = judged(lambda step: -0.2 * (1 - math.exp(-step / 200)), lambda step: -0.22 * (1 - math.exp(-step / 200)))
UNSEEN = judged(lambda _: 0.0, lambda step: -0.001 * step, pictures=0)
BROKEN = judged(lambda step: -0.1 if step < 200 else math.nan, lambda step: -0.1 if step < 200 else math.nan)
DIVERGED = judged(lambda step: 0.01 * step, lambda step: -0.01)
DRAWS = judged(u_shape(200, 0.2), lambda step: -0.0015 * step, pictures=2)
RUNS = {
    "overfitted": OVERFITTED,
    "healthy": HEALTHY,
    "unseen": UNSEEN,
    "broken": BROKEN,
    "diverged": DIVERGED,
    "draws": DRAWS,
}


def stepped(count: int, level: float = 0.4) -> list[Event]:
    return [Stepped(step, level + 0.1 * math.sin(12.9 * step), 1.0, 1e-3, 0.2) for step in range(1, count + 1)]


def chosen(events: Sequence[Judged], kind: str = "hold-out") -> Chosen:
    evidence = events[-1].evidence
    steps = {name: round(1.1 * step) for name, step in evidence["range"].items()}
    names = ("森の猫.png", "<b>cat</b> & dog.png", "a.png", "b.png")
    return Chosen(kind, evidence["best_step"], steps["balanced"], steps, "", {}, names, 4 if kind == "folds" else 0)


def told(
    tmp_path: Path,
    checks: Sequence[Judged],
    choice: Chosen | None = None,
    *,
    files: Iterable[str] = ("mycat",),
    settings: Sequence[tuple[str, Any]] = (),
) -> report.ReportData:
    """What the report says of a run with these checks; its events go through `events.jsonl` as they do in a run."""
    recipe = config.build(config.override({}, {"train.steps": STEPS, "output.name": "mycat", **dict(settings)}))
    stopped = bool(checks) and checks[-1].verdict == "stop" and recipe.guard.mode == "on"
    look = checks[-1].step if checks else 0
    events: list[Event] = [Started("lora", "sd1", 8, STEPS, 1, 100)]
    events += [event for pair in zip(stepped(look), map(at(checks).get, range(1, look + 1))) for event in pair if event]
    events += [choice, *stepped(choice.step, 0.3)] if choice else []
    events += [Written(f"artifacts/{name}.safetensors", "kohya", "ab" * 32, 1e-4) for name in files]
    events.append(Finished("guard" if stopped else "steps", choice.step if choice else look))
    log = tmp_path / "events.jsonl"
    log.write_text("\n".join(event.to_json() for event in events), encoding="utf-8")
    (tmp_path / "artifacts").mkdir(exist_ok=True)
    notes = run_record.RunRecord()
    for event in read(log)[0]:
        if isinstance(event, Written):
            (tmp_path / event.path).write_bytes(b"12")
        notes.add(event)
    return run_record.write_report(RunDir(tmp_path), recipe, notes, EVIDENCE)


def at(checks: Sequence[Judged]) -> dict[int, Judged]:
    return {event.step: event for event in checks}


def page(data: report.ReportData, language: str = "en") -> ElementTree.Element:
    """The guard's section, as XML: what is not well-formed raises."""
    html = report.render(data, language)
    section = html[html.rindex("<section", 0, html.index("Overfitting guard")) :]
    section = section[: section.index("</section>") + len("</section>")]
    return ElementTree.fromstring(re.sub(r"&(?!(amp|lt|gt|quot|#\d+);)", "&amp;", section))


def words(section: ElementTree.Element, language: str) -> str:
    """What the section says in a language."""
    parts: list[str] = []

    def walk(element: ElementTree.Element) -> None:
        if element.get("class") == "t" and element.get("lang") != language:
            return
        parts.append(element.text or "")
        for child in element:
            walk(child)
            parts.append(child.tail or "")

    walk(section)
    return re.sub(r"\s+", " ", " ".join(parts))


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("refit", [False, True])
def test_json_says_what_was_measured(tmp_path, name, refit):
    checks = RUNS[name]
    told(tmp_path, checks, chosen(checks) if refit else None)
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    guard = values["guard"]
    readings = [Check.from_json(event.check).reading for event in checks]
    for row, reading in zip(guard["curve"], [one for one in readings if len(one.held_out)], strict=True):
        true = mean(reading.held_out.mid)
        assert row["mean"] == (pytest.approx(true) if math.isfinite(true) else None)
    for row, reading in zip(guard["gaps"], readings, strict=True):
        if len(reading.held_out) and reading.held_out.finite:
            assert row["mid"] == pytest.approx(mean(reading.held_out.mid) - mean(reading.train.mid))
            assert row["high"] == pytest.approx(mean(reading.held_out.high) - mean(reading.train.high))
        assert row["drift"] == pytest.approx(reading.drift)
    assert [row["step"] for row in guard["train"]] == [
        event.step for event, one in zip(checks, readings, strict=True) if one.train.finite
    ]
    assert guard["overhead"] == pytest.approx(0.05)
    assert values["stopped_by"] == ("guard" if checks[-1].verdict == "stop" else "steps")
    assert guard["stopped_at"] == (checks[-1].step if checks[-1].verdict == "stop" else None)
    for language in ("en", "ja"):
        assert guard["sentence"][language] == checks[-1].words(language)
        assert MESSAGES[checks[-1].code].what.to(language).split("{")[0] in guard["sentence"][language]


def test_best_step_and_range_are_those_of_the_run_that_made_the_files(tmp_path):
    alone = told(tmp_path, OVERFITTED)
    look = OVERFITTED[-1].evidence
    assert (alone.best_step, alone.range) == (look["best_step"], look["range"])
    choice = chosen(OVERFITTED)
    refitted = told(tmp_path, OVERFITTED, choice)
    assert (refitted.best_step, refitted.range) == (choice.step, choice.range)
    assert len(refitted.losses) == choice.step
    assert len(refitted.look_losses) == OVERFITTED[-1].step
    assert max(refitted.losses) < 0.41 < max(refitted.look_losses)  # each run's own
    assert refitted.guard["best_step"] == look["best_step"]


def test_without_held_out_pictures_nothing_is_called_best(tmp_path):
    for choice in (
        None,
        replace(chosen(UNSEEN, "none"), code="GD012", params={"found": 2, "then": "All are trained on."}),
    ):
        data = told(tmp_path, UNSEEN, choice)
        assert data.best_step is None
        assert set(data.range.values()) == {None}
        assert data.guard["curve"] == [] and data.guard["train"] and data.guard["interval"] is None
        assert data.guard["split"]["kind"] == "none"
        text = words(page(data), "en")
        assert "No image was held out" in text
        assert "loss against the untrained base" not in text
        assert "Signs of memorizing" not in text
        assert "Change of prompts without the trigger word" in text
    assert "2" in data.guard["sentence"]["en"].split("too few")[0][-60:]


def test_without_a_guard_the_report_is_silent_about_it(tmp_path):
    data = told(tmp_path, [], settings=[("guard.mode", "off")])
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert values["guard"] is None and values["best_step"] is None and set(values["range"].values()) == {None}
    assert "Learned, or only memorized?" not in report.render(data)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_shows_the_numbers_that_were_measured(tmp_path, name, language):
    checks = RUNS[name]
    data = told(tmp_path, checks, chosen(checks) if name in ("overfitted", "healthy") else None)
    section = page(data, language)
    assert data.guard["sentence"][language] in words(section, language)
    rows = [[words(cell, language).strip() for cell in row] for row in section.iter("tr")][1:]
    assert [int(row[0].replace(",", "")) for row in rows] == [event.step for event in checks]
    for row, event in zip(rows, checks, strict=True):
        shown = [float(number) / 100 for number in re.findall(r"([+-][\d.]+) ?%", row[1])]
        held = event.evidence["held_out"] or {}
        true = [held.get(key) for key in ("mean", "low", "high")]
        assert shown == [pytest.approx(math.expm1(value), abs=6e-4) for value in true if value is not None]


@pytest.mark.parametrize("name", RUNS)
def test_curves_are_svg_within_their_frame(tmp_path, name):
    data = told(tmp_path, RUNS[name])
    drawn = report_guard.view(data.guard, data.losses)
    for one in filter(None, (drawn["curves"], drawn["gaps"])):
        for kind, path in one.lines:
            numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*(?=[ LMZh]|$)", path.replace("h.01", ""))]
            assert re.fullmatch(r"([ML]-?[\d.]+ -?[\d.]+(h\.01)?|Z)+", path), kind
            assert all(-150 <= y <= 450 for y in numbers[1::2])
            assert all(0 <= x <= 1000 for x in numbers[0::2])
        assert all(-1 <= place <= 101 for place, _ in (*one.x_ticks, *one.y_ticks))
    svgs = list(page(data).iter("svg"))
    assert len(svgs) == sum(one is not None for one in (drawn["curves"], drawn["gaps"]))
    assert all(svg.get("aria-label") for svg in svgs)


def test_marks_stand_at_their_steps():
    drawn = plot({"held": [(50, -10.0), (100, -20.0), (200, 5.0)]}, marks={"best": 100, "stop": None}, span=(50, 200))
    assert drawn.marks == {"best": 50.0}
    assert drawn.span == (25.0, 100.0)
    (path,) = [path for name, path in drawn.lines if name == "held"]
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]
    values = {float(label.rstrip("%")): place for place, label in drawn.y_ticks}
    slope = (values[0] - values[-20]) / 20  # percent of the height for a percent of loss
    assert (heights[0] - heights[1]) / 3 == pytest.approx(slope * 10, rel=0.01)
    assert drawn.zero == pytest.approx(values[0])


def test_a_line_that_leaves_the_frame_says_how_high_it_goes(tmp_path):
    checks = judged(lambda step: -0.02 if step < 300 else 0.003 * step, lambda step: -0.03)
    data = told(tmp_path, checks)
    top = max(100 * math.expm1(event.evidence["held_out"]["mean"]) for event in checks)
    assert f"{top:+.0f}%" in words(page(data), "en")
    assert min(place for place, _ in report_guard.view(data.guard, ())["curves"].y_ticks) >= 0


def test_no_number_no_curve():
    assert plot({"held": []}) is None
    assert plot({"held": [(1, None), (2, math.nan)]}) is None
    lonely = plot({"held": [(1, -5.0)]}, band=[(1, None, None)])
    assert {name for name, _ in lonely.lines} == {"held", "held dots"}


def test_the_interval_is_called_by_what_it_speaks_of(tmp_path):
    for checks, kind, other in ((OVERFITTED, "pictures", "draws"), (DRAWS, "draws", "pictures")):
        data = told(tmp_path, checks)
        assert data.guard["interval"] == kind
        text = words(page(data), "en")
        says = {"pictures": "images like these in general", "draws": "only of these very images"}
        assert says[kind] in text and says[other] not in text


def test_a_guard_that_only_warns_has_stopped_nothing(tmp_path):
    checks = judged(u_shape(200, 0.2), lambda step: -0.0015 * step, on=False)
    assert sum(event.verdict == "stop" for event in checks) > 1
    data = told(tmp_path, checks, settings=[("guard.mode", "warn")])
    assert data.guard["stopped_at"] is None and data.stopped_by == "steps"
    for language in ("en", "ja"):
        assert _("The guard was set to warn only, so the run went on.").to(language) in data.guard["sentence"][language]


def test_files_of_the_range_are_called_so_and_the_main_one_is_used(tmp_path):
    choice = replace(chosen(OVERFITTED), range={"safe": 150, "balanced": 220, "likeness": 330})
    data = told(tmp_path, OVERFITTED, choice, files=("mycat-safe", "mycat-likeness", "mycat"))
    html = report.render(data)
    files = html[html.index("Your files") :]
    for name in ("mycat-safe", "mycat-likeness", "mycat"):
        assert f"artifacts/{name}.safetensors" in files
    assert "&lt;lora:mycat:1&gt;" in files
    assert "lora:mycat-safe" not in files
    shown = [
        (code.text, place)
        for place, card in enumerate(page(data).findall(".//div[@class='range']/div"))
        for code in card.iter("code")
    ]
    assert shown == [("mycat-safe.safetensors", 0), ("mycat.safetensors", 1), ("mycat-likeness.safetensors", 2)]


@pytest.mark.parametrize(
    ("path", "paths", "role"),
    [
        ("artifacts/a-safe.safetensors", ["artifacts/a.safetensors", "artifacts/a-safe.safetensors"], "safe"),
        ("artifacts/a-likeness/", ["artifacts/a.safetensors", "artifacts/a-likeness/"], "likeness"),
        ("artifacts/v1.5-safe/", ["artifacts/v1.5/", "artifacts/v1.5-safe/"], "safe"),
        ("artifacts/a-balanced.pt", ["artifacts/a.pt", "artifacts/a-balanced.pt"], "balanced"),
        ("artifacts/a-safe.safetensors", ["artifacts/a-safe.safetensors"], ""),  # it is just called so
        ("artifacts/a.safetensors", ["artifacts/a.safetensors", "artifacts/a-safe.safetensors"], ""),
    ],
)
def test_roles_of_files(path, paths, role):
    assert report_guard.role(path, paths) == role


def test_names_of_pictures_cannot_become_markup(tmp_path):
    section = page(told(tmp_path, OVERFITTED, chosen(OVERFITTED)))
    assert "<b>cat</b> & dog.png" in words(section, "en")
    assert not list(section.iter("b"))


def test_a_run_that_is_resumed_counts_its_checks_once():
    notes = run_record.RunRecord()
    for event in [*OVERFITTED[:4], *OVERFITTED[2:]]:
        notes.add(event)
    assert notes.judged == OVERFITTED
    looked, choice = stepped(100), chosen(OVERFITTED)
    for sitting in (stepped(60), stepped(60)[30:]):  # killed at step 40, before its state was saved and after
        notes = run_record.RunRecord()
        for event in [*looked, choice, *stepped(40), choice, *sitting]:
            notes.add(event)
        assert len(notes.look_losses) == 100
        assert len(notes.losses) == 60


def test_images_a_second_count_what_lies_between_the_steps(monkeypatch):
    """Checks and saved states, not previews; of what was done before a stop, the steps alone."""
    clock = [0.0]
    monkeypatch.setattr(run_record.time, "monotonic", lambda: clock[0])
    notes = run_record.RunRecord()
    # Read from the run folder: no time passes.
    for event in (Phase("train", 4), *stepped(2)):
        notes.add(event)
    before = notes.step_seconds
    notes.add(Phase("train", 4))
    for now, event in ((1.0, stepped(3)[2]), (9.0, Phase("preview")), (20.0, Phase("train", 4))):
        clock[0] = now
        notes.add(event)
    for clock[0], event in zip((21.0, 26.0), stepped(5)[3:]):
        notes.add(event)
    step = stepped(1)[0].seconds
    assert before == 2 * step
    assert notes.step_seconds == pytest.approx(before + 2 * step + 5.0)


def test_before_and_after_shows_the_step_that_was_kept_not_the_highest():
    previews = [Previewed(step, "a cat", 1, f"{step}.png") for step in (0, 100, 200, 150)]
    (row,) = run_record.before_after(previews, Path())
    assert row.before == (Path("0.png"),)
    assert row.after == (Path("150.png"),)


def test_the_page_says_what_the_file_was_trained_on(tmp_path):
    choice = chosen(OVERFITTED)
    says = {
        "alone": "that were best without some",
        "folds": "The folds were at their best",
        "went on": "was trained on all of them",
        "gone": "Your file was trained without them",
    }
    for settings, kind, key in (
        ((), "hold-out", "went on"),
        ((("guard.refit", False),), "hold-out", "gone"),
        ((("guard.mode", "warn"),), "hold-out", "gone"),
        ((("guard.mode", "warn"),), "folds", "alone"),
        ((), "folds", "folds"),
    ):
        data = told(tmp_path, OVERFITTED, replace(choice, kind=kind, folds=4), settings=settings)
        text = words(page(data), "en")
        assert [name for name, sentence in says.items() if sentence in text] == [key]
    same = replace(choice, step=choice.look_step)
    assert "Your file is trained on all images." in words(page(told(tmp_path, OVERFITTED, same)), "en")


def test_steps_that_are_the_same_share_a_card(tmp_path):
    for steps, cards in (((220, 220, 330), 2), ((220, 220, 220), 1), ((150, 220, 220), 2), ((150, 220, 330), 3)):
        named = dict(zip(("safe", "balanced", "likeness"), steps))
        section = page(told(tmp_path, OVERFITTED, replace(chosen(OVERFITTED), range=named)))
        shown = section.findall(".//div[@class='range']/div")
        assert len(shown) == cards
        assert sum(card.get("class") == "chosen" for card in shown) == 1
        for name in ("safe", "balanced", "likeness"):
            assert report_guard.TITLES[name] in words(section, "en")


def test_a_file_of_the_last_step_is_not_called_the_best(tmp_path):
    data = told(tmp_path, OVERFITTED, chosen(OVERFITTED), files=("mycat", "mycat-balanced"))
    late = replace(data, steps_done=STEPS)
    for one, is_last in ((late, True), (data, False)):
        section = page(one)
        (card,) = section.findall(".//div[@class='range']/div[@class='chosen']")
        assert ("mycat.safetensors" in [code.text for code in card.iter("code")]) != is_last
        assert ("The file without an ending in its name holds the last step" in words(section, "en")) == is_last


def test_warnings_are_told_in_both_languages(tmp_path):
    told(tmp_path, OVERFITTED)
    warned = note("GD012", found=2, then="All of them are trained on.")
    notes = run_record.RunRecord(
        warned=[warned], started=Started("lora", "sd1", 3, 4, 1, 100), finished=Finished("steps", 4)
    )
    data = run_record.write_report(RunDir(tmp_path), config.build({}), notes, EVIDENCE)
    html = report.render(data)
    for language in ("en", "ja"):
        assert f'lang="{language}">{warned.words(language)}</span>' in html
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["warnings"] == [
        {"code": "GD012", "message": warned.words("en"), "message_ja": warned.words("ja")}
    ]


def test_many_names_are_counted_not_listed(tmp_path):
    choice = replace(chosen(OVERFITTED), held_out=tuple(f"{i:03}.png" for i in range(20)))
    text = words(page(told(tmp_path, OVERFITTED, choice)), "en")
    assert "20 images" in text and "and 14 more" in text and "019.png" not in text


def test_events_come_back_out_of_their_lines(tmp_path: Path):
    choice = chosen(OVERFITTED)
    log = tmp_path / "events.jsonl"
    log.write_text(choice.to_json() + "\n" + OVERFITTED[0].to_json() + "\n", encoding="utf-8")
    back, _lost = read(log)
    assert back[0] == replace(choice, held_out=list(choice.held_out))
    assert back[1] == OVERFITTED[0]


@pytest.mark.parametrize("refit", [True, False])
def test_a_start_that_is_given_back_is_called_so(refit: bool) -> None:
    rule = config.Recipe.of("lora", settings={"guard.refit": refit}).guard.model_dump()
    for slope, is_start in ((0.0005, True), (-0.0001, False)):
        events = judged(lambda step: -0.1 + slope * step, lambda step: -0.1 - 0.0001 * step, first=0)  # noqa: B023
        guard = report_guard.to_dict(events, chosen(events), rule)
        assert guard is not None
        page = report_guard.view(guard, [])
        said = f"{page['split']} {page['reading']} {[card['why'] for card in page['cards']]}"
        assert ("unchanged" in said) == is_start and "untrained base" not in said
        assert "finished on all images" not in said or not is_start
