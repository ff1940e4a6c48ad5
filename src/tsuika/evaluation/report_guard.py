"""What the guard saw: from its events to plain values for `report.json`, and from these to curves for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from tsuika.core.events import Chosen, Judged
from tsuika.core.texts import Text, _, _n, languages, listed
from tsuika.pages import sentences, span_of
from tsuika.pages.chart import plot

RANGE: Final = ("safe", "balanced", "likeness")
TITLES: Final = {"safe": _("Safe"), "balanced": _("Balanced"), "likeness": _("Likeness first")}
NAMES_SHOWN: Final = 6
_GAPS: Final = {"step": "step", "mid": "gap_mid", "high": "gap_high", "drift": "drift", "selectivity": "selectivity"}
_SUFFIXES: Final = (".safetensors", ".pt", ".yaml", ".json", ".png")
_THOUSANDFOLD: Final = math.log(1000)


def to_dict(judged: Sequence[Judged], chosen: Chosen | None, rule: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part `guard` of `report.json`; None if no guard was there. `rule` is the recipe's section `guard`.

    Losses are natural logarithms of their ratio to the base's loss on the same draws (-0.01: 1% better), gaps are
    differences of these, drift is a share. Steps are those of the run that was checked.
    """
    if not judged and chosen is None:
        return None
    rows = [event.evidence for event in judged]
    held = [row for row in rows if row["held_out"] is not None]
    last = judged[-1] if judged else None
    stopped = last is not None and last.verdict == "stop" and rule["mode"] == "on"
    return {
        "split": {
            "kind": chosen.kind if chosen else "hold-out" if held else "none",
            "held_out": list(chosen.held_out) if chosen else [],
            "folds": chosen.folds or None if chosen else None,
        },
        "curve": [{"step": row["step"], **row["held_out"]} for row in held],
        "interval": held[-1]["held_out"]["kind"] if held else None,
        "train": [{"step": row["step"], "mean": row["train"]} for row in rows if row["train"] is not None],
        "gaps": [{name: row[key] for name, key in _GAPS.items()} for row in rows],
        "alarms": [
            {
                "step": event.step,
                "verdict": event.verdict,
                "code": event.code,
                "sentence": {lang: event.words(lang) for lang in languages()},
            }
            for event in judged
            if event.verdict != "go"
        ],
        "best_step": held[-1]["best_step"] if held else None,
        "best": held[-1]["best"] if held else None,
        "optimism": held[-1].get("optimism") if held else None,
        "range": dict(held[-1]["range"]) if held else dict.fromkeys(RANGE),
        "stopped_at": last.step if last and stopped else None,
        "file": {
            "all_pictures": chosen.kind == "folds" or (rule["mode"] == "on" and rule["refit"]),
            "look_step": chosen.look_step,
            "best_step": chosen.step,
            "range": dict(chosen.range),
        }
        if chosen and held
        else None,
        "overhead": rows[-1]["overhead"] if rows else None,
        "sentence": {lang: _verdict(last, chosen, rule, lang) for lang in languages()},
        "rule": dict(rule),
    }


def by_fold(folds: Mapping[int, Sequence[Judged]]) -> list[dict[str, Any]]:
    """Of every training of a cross-validation, from fold 1, the curve of the images that it left out, as in `to_dict`."""
    found = []
    for fold, judged in sorted(folds.items()):
        rows = [one.evidence for one in judged if one.evidence["held_out"] is not None]
        if rows:
            curve = [
                {"step": row["step"], **{key: row["held_out"][key] for key in ("mean", "low", "high")}} for row in rows
            ]
            best_step = rows[-1]["best_step"]
            best = next((point for point in curve if point["step"] == best_step), None)
            ended = judged[-1].verdict == "stop"
            found.append({"fold": fold, "curve": curve, "best_step": best_step, "best": best, "stopped": ended})
    return found


def _verdict(last: Judged | None, chosen: Chosen | None, rule: Mapping[str, Any], lang: str) -> str:
    warned = _("The guard was set to warn only, so the run went on.")
    said = [
        last.words(lang) if last else "",
        warned if last and last.verdict == "stop" and rule["mode"] == "warn" else "",
        chosen.words(lang) if chosen and chosen.code and not (last and chosen.code == last.code) else "",
    ]
    return sentences(*[one for one in said if one] or [""]).to(lang)


def best(guard: Mapping[str, Any] | None) -> tuple[int | None, dict[str, int | None]]:
    """The best step and the range of the run that made the files; None for what nothing was held out to measure."""
    if guard is None or not guard["curve"]:
        return None, dict.fromkeys(RANGE)
    found = guard["file"] or guard
    return found["best_step"], {name: found["range"].get(name) for name in RANGE}


def role(path: str, paths: Sequence[str]) -> str:
    """`safe`, `balanced` or `likeness` for a file NAME-safe and so on beside a NAME; empty for the NAME itself."""
    names = {_name(other) for other in paths}
    for one in RANGE:
        if _name(path).removesuffix(f"-{one}") in names - {_name(path)}:
            return one
    return ""


def _name(path: str) -> str:
    file = PurePosixPath(path)
    return file.stem if file.suffix in _SUFFIXES else file.name


def view(guard: Mapping[str, Any], losses: Sequence[float]) -> dict[str, Any]:
    """What the page shows of the part `guard` of `report.json`; `losses` are those of the run that was checked."""
    curve, steps = guard["curve"], guard["range"]
    curves = plot(
        {
            "train": [(row["step"], _percent(row["mean"])) for row in guard["train"]],
            "held": [(row["step"], _percent(row["mean"])) for row in curve],
        },
        band=[(row["step"], _percent(row["low"]), _percent(row["high"])) for row in curve],
        losses=losses,
        marks={"best": guard["best_step"] or None, "stop": guard["stopped_at"]},
        span=(steps["safe"], steps["likeness"]) if steps["safe"] != steps["likeness"] else None,
        cap=any(_is_number(row["mean"]) and row["mean"] < 0 for row in curve),
    )
    gaps = plot(
        {
            "drift": [(row["step"], 100 * row["drift"]) for row in guard["gaps"] if row["drift"] is not None],
            "mid": [(row["step"], _percent(row["mid"])) for row in guard["gaps"]],
            "high": [(row["step"], _percent(row["high"])) for row in guard["gaps"]],
        }
    )
    return {
        "cards": _cards(guard),
        "curves": curves,
        "gaps": gaps,
        "rows": _rows(guard),
        "split": sentences(_split(guard), _trained_on(guard)),
        "reading": _reading(guard, curves.highest if curves else None),
        "marks": {
            "best": _("best: {step}", step=f"{guard['best_step'] or 0:,}"),
            "stop": _("stopped: {step}", step=f"{guard['stopped_at'] or 0:,}"),
        },
    }


def _cards(guard: Mapping[str, Any]) -> list[dict[str, Any]]:
    named: dict[int, list[str]] = {}
    for name, step in best(guard)[1].items():
        if step is not None:
            named.setdefault(step, []).append(name)
    finished = guard["file"] is not None and guard["file"]["all_pictures"]
    why = {
        "safe": _(
            "The earliest step that cannot be told from the best. It leaves the base model most of its freedom: try it if"
            " other prompts suffer."
        ),
        "balanced": _(
            "Held-out images were best at step {step}; finished on all images. Begin with this one.",
            step=f"{guard['best_step'] or 0:,}",
        )
        if finished and not _gives_start_back(guard)
        else _("The best step on images that were not trained on. Begin with this one."),
        "likeness": _("The latest step before the guard gave a warning: nearer to your images, less varied."),
    }
    return [
        {
            "step": step,
            "names": [TITLES[name] for name in names],
            "why": why["balanced" if "balanced" in names else names[0]],
            "chosen": "balanced" in names,
        }
        for step, names in named.items()
    ]


def _split(guard: Mapping[str, Any]) -> Text:
    split = guard["split"]
    names = split["held_out"]
    if split["kind"] == "none" or not guard["curve"]:
        return _(
            "No image was held out, so nothing here can tell learning from memorizing: the curve is of training images only."
        )
    if split["kind"] == "folds":
        return _(
            "Cross-validation with {folds} folds: in as many trainings, every image was left out once. The curves are"
            " averages over them.",
            folds=split["folds"] or len(names),
        )
    if not names:
        return _("Some images were held out, and the guard measured on them.")
    shown = listed(names[:NAMES_SHOWN])
    if (more := len(names) - NAMES_SHOWN) > 0:
        shown = _("{names} and {count} more", names=shown, count=more)
    return _n(
        "{count} image was held out, and the guard measured on it: {names}.",
        "{count} images were held out, and the guard measured on them: {names}.",
        len(names),
        names=shown,
    )


def _trained_on(guard: Mapping[str, Any]) -> Text | None:
    if (file := guard["file"]) is None:
        return None
    if _gives_start_back(guard):
        return _("Your file is the one from which the training went on, unchanged.")
    if not file["all_pictures"]:
        return _("Your file was trained without them.")
    if file["best_step"] == file["look_step"]:
        return _("Your file is trained on all images.")
    step, look = f"{file['best_step']:,}", f"{file['look_step']:,}"
    if guard["split"]["kind"] != "folds":
        return _(
            "From step {look} on, the best without these images, your file was trained on all of them, to step {step}, while"
            " the learning rate fell.",
            look=look,
            step=step,
        )
    if guard["rule"]["mode"] == "on" and guard["rule"]["refit"]:
        return _(
            "Your file is trained on all images, to step {step}; over the last two thirds of that the learning rate fell."
            " The folds were at their best at step {look}, at a constant rate.",
            step=step,
            look=look,
        )
    return _(
        "Your file is trained on all images, to step {step}: with more images it takes a little longer than the {look} steps"
        " that were best without some.",
        step=step,
        look=look,
    )


def _gives_start_back(guard: Mapping[str, Any]) -> bool:
    """Whether the run went on from a file, which was measured as step 0, and no step was better."""
    return bool(guard["curve"]) and guard["curve"][0]["step"] == 0 and (guard["file"] or guard)["best_step"] == 0


def _reading(guard: Mapping[str, Any], highest: float | None) -> Text | None:
    value, step = guard["best"] or {}, f"{guard['best_step'] or 0:,}"
    said: list[Text] = []
    if highest is not None:
        said.append(_("A line leaves the frame at the top; it rises to {value}.", value=f"{highest:+.0f}%"))
    if guard["interval"] == "pictures":
        said.append(
            _("The band is a 95% interval for images like these in general, from how much the held-out ones differ.")
        )
    elif guard["interval"]:
        said.append(
            _(
                "The band speaks only of these very images at other noise levels: fewer than 4 held-out images are too few"
                " to speak of others."
            )
        )
    if guard["interval"]:
        said.append(_("It holds for each step by itself, not for all of them at once."))
    if guard["interval"] and guard["file"] is not None and guard["file"]["all_pictures"]:
        said.append(
            _("No number here is of the written file itself: after it was finished, no image was left to test it on.")
        )
    if guard["interval"] and guard["split"]["kind"] == "folds":
        said.append(_("It allows for the folds sharing most of their images."))
    if guard["best_step"] and _is_number(value.get("mean")):
        shown: dict[str, object] = {"step": step, "value": loss_change(value["mean"])}
        if _is_number(value.get("low")) and _is_number(value.get("high")):
            text = _(
                "At step {step} the loss is {value} (95%: {interval}).",
                interval=span_of(loss_change(value["low"]), loss_change(value["high"])),
                **shown,
            )
        else:
            text = _("At step {step} the loss is {value}.", **shown)
        said.append(text)
        if _is_number(guard.get("optimism")):
            much = f"{100 * guard['optimism']:.1f}"
            said.append(
                _(
                    "The step was chosen on these very images, so the value is about {points} points too good.",
                    points=much,
                )
            )
    elif _gives_start_back(guard):
        said.append(_("No step was better than the file from which the training went on."))
    elif guard["best_step"] == 0:
        said.append(_("No step was better than the untrained base."))
    if _is_number(guard["overhead"]):
        share = f"{100 * guard['overhead']:.1f}%"
        said.append(_("The guard's checks took {share} of the training time.", share=share))
    return sentences(*said) if said else None


def _rows(guard: Mapping[str, Any]) -> list[tuple[Text | str, ...]]:
    """Of each check step, held-out and training loss, both gaps and drift; a dash for what was not measured."""
    held = {row["step"]: row for row in guard["curve"]}
    trained = {row["step"]: row["mean"] for row in guard["train"]}
    return [
        (
            f"{row['step']:,}",
            _interval(held.get(row["step"])),
            loss_change(trained.get(row["step"])),
            loss_change(row["mid"]),
            loss_change(row["high"]),
            f"{100 * row['drift']:.1f}%" if _is_number(row["drift"]) else "–",
        )
        for row in guard["gaps"]
    ]


def _interval(row: Mapping[str, Any] | None) -> Text | str:
    if row is None:
        return "–"
    mean = loss_change(row["mean"])
    if not (_is_number(row["low"]) and _is_number(row["high"])):
        return mean
    return _("{value} ({interval})", value=mean, interval=span_of(loss_change(row["low"]), loss_change(row["high"])))


def loss_change(log_ratio: float | None) -> Text | str:
    """A log ratio of losses as people read it: `-1.4%`; a dash for none, and above a thousandfold only that it is."""
    if log_ratio is None or not math.isfinite(log_ratio):
        return "–"
    if log_ratio >= _THOUSANDFOLD:
        return "> 1000×"
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(100 * math.expm1(log_ratio), 1) + 0.0:+.1f}%"


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _percent(value: float | None) -> float | None:
    return 100 * math.expm1(min(value, 50.0)) if value is not None and math.isfinite(value) else None
