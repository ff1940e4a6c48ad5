"""`tsuika evaluate`: parse, call `tsuika.api`, show progress, the measurements and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Optional

import typer

from tsuika.cli import early, language, layout, progress, screen
from tsuika.cli.flags import Device, Json, numbers
from tsuika.cli.language import local
from tsuika.core.texts import Text, _, listed

_MEASURES: Final[Mapping[str, Text]] = {
    "fidelity": _("likeness {value}"),
    "adherence": _("adherence {value}"),
    "others": _("adherence of other prompts {value}"),
    "drift": _("drift {value}"),
    "diversity": _("diversity {value}"),
}


def evaluate(
    run: Annotated[
        Path,
        typer.Argument(help=_("Folder of a finished training run, or a file of weights, with --base and --images.")),
    ],
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            help=_(
                "Image encoder: embedded, or a Hugging Face model id or folder of a CLIP, SigLIP or DINOv2; default:"
                " embedded for the embedded base model, else none (copies and diversity only)."
            ),
        ),
    ] = "",
    prompts: Annotated[
        Optional[Path],
        typer.Option(
            "--prompts",
            help=_("File of your own prompts, one a line; those without the trigger word measure the drift."),
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help=_("Images for each prompt."))] = 4,
    strengths: Annotated[str, typer.Option("--strengths", help=_("Strengths to try."))] = "0.5,0.75,1",
    steps: Annotated[str, typer.Option("--steps", help=_("Kept steps to compare, e.g. 60,120; default: three."))] = "",
    images: Annotated[
        Optional[Path],
        typer.Option(
            "--images",
            help=_("Where the training images are now, if they were moved; of a file, images of what it should draw."),
        ),
    ] = None,
    base: Annotated[str, typer.Option("--base", help=_("Of a file: the base model that it is for."))] = "",
    trigger: Annotated[
        str, typer.Option("--trigger", help=_("Of a file: its trigger word, if the file does not name it."))
    ] = "",
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help=_("Of a file: the folder to write into; default: NAME-evaluation beside it.")),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """`tsuika evaluate`."""
    tried, kept = numbers(strengths, float, "--strengths"), numbers(steps, int, "--steps")
    is_file = run.is_file() or bool(base)
    early.check(*[run] if is_file else [], base=base, images=str(images or ""), run=None if is_file else run)
    import tsuika

    about: dict[str, Any] = {
        "own_prompts": prompts,
        "seeds": seeds,
        "strengths": tried,
        "steps": kept,
        "images": images,
        "base": base,
        "trigger": trigger,
        "out": out,
    }
    try:
        done = progress.watch(tsuika.evaluate(run, encoder=encoder, device=device, **about))
    except (KeyboardInterrupt, SystemExit):
        screen.say(_("Stopped; the images so far are kept. The same command goes on."))
        raise
    found = done.to_dict()
    if json:
        screen.result(found, as_json=True)
        return
    _show(found)
    for path in (done.page, done.numbers, *done.sheets):
        if path:
            screen.print_out(str(path))


def _show(found: Mapping[str, Any]) -> None:
    names = [name for name in _MEASURES if found["base"][name] is not None]
    screen.print_out(local(_("base model")))
    screen.print_out(layout.wrap(local(_measures(found["base"], names)), first="    ", rest="    "))
    for point in found["points"]:
        screen.print_out(local(_point(point)))
        screen.print_out(layout.wrap(local(_measures(point, names)), first="    ", rest="    "))
    note = _("In brackets: 95% confidence interval of the difference from the base model. See docs/evaluate.md.")
    screen.print_out(layout.wrap(local(note)))
    screen.print_out("")
    sentences = found["verdict"]["sentence"]
    screen.print_out(layout.wrap(sentences.get(language.current(), sentences["en"])))


def _point(point: Mapping[str, Any]) -> Text:
    about = {"name": point["state"], "step": point["step"], "strength": point["strength"]}
    if point["best"]:
        return _("{name}: step {step:,}, strength {strength:g} (best trade-off)", **about)
    if point["main"]:
        return _("{name}: step {step:,}, strength {strength:g} (the file as it is)", **about)
    return _("{name}: step {step:,}, strength {strength:g}", **about)


def _measures(point: Mapping[str, Any], names: list[str]) -> Text:
    shown = {name: _estimate(point[name]) for name in names}
    if (share := point.get("drift_share")) is not None:
        shown["drift"] = f"{100 * share:.0f}%"
    measured: list[Text] = [_MEASURES[name].filled({"value": value}) for name, value in shown.items()]
    copies = _("copies {count} of {total}", count=point["copies"], total=point["drawings"])
    return listed([*measured, copies])


def _estimate(value: Mapping[str, Any] | None) -> Text | str:
    if value is None:
        return "-"
    change, mean = value.get("difference"), f"{value['mean']:.3f}"
    if change is None or change["low"] is None:
        return mean
    return _("{mean} ({low} to {high})", mean=mean, low=_signed(change["low"]), high=_signed(change["high"]))


def _signed(value: float) -> str:
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text
