"""`tsuika evaluate`: parse, call `tsuika.api`, show progress, the table and the verdict."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from tsuika.cli import screen
from tsuika.cli.flags import Json
from tsuika.core.events import Event, Phase, Progress, Warned
from tsuika.core.words import Lang

_WORDS: dict[str, dict[Lang, str]] = {
    "load": {"en": "Loading the base model", "ja": "ベースモデルを読み込んでいます"},
    "pictures": {"en": "Looking at the training pictures", "ja": "学習用画像を調べています"},
    "evaluate": {"en": "Drawing", "ja": "画像を生成しています"},
    "report": {"en": "Measuring done; writing", "ja": "測定が終わりました。書き出しています"},
    "base": {"en": "base", "ja": "ベース"},
    "steps": {"en": "step", "ja": "ステップ"},
    "strength": {"en": "strength", "ja": "強さ"},
    "fidelity": {"en": "likeness", "ja": "再現度"},
    "adherence": {"en": "adherence", "ja": "忠実さ"},
    "others": {"en": "others", "ja": "ほかのプロンプト"},
    "drift": {"en": "drift", "ja": "ほかへの影響"},
    "diversity": {"en": "diversity", "ja": "多様さ"},
    "copies": {"en": "copies", "ja": "丸写し"},
    "best": {"en": "best trade", "ja": "おすすめ"},
    "main": {"en": "as it is", "ja": "このまま"},
    "legend": {
        "en": "In brackets: 95 % interval of the difference from the base. What each number means: docs/evaluate.md",
        "ja": "かっこ内はベースモデルとの差の95%区間です。数値の意味: docs/evaluate.ja.md",
    },
    "stopped": {
        "en": "Stopped; what is drawn is kept. The same command goes on.",
        "ja": "止めました。生成した画像は残っています。同じコマンドで続きから再開できます。",
    },
}


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            help="What measures: embedded, or a hub id or folder of a CLIP, SigLIP, DINOv2, ...; default: embedded for the "
            "embedded base, else none (copies and diversity only).",
        ),
    ] = "",
    prompts: Annotated[
        Optional[Path],
        typer.Option(
            "--prompts", help="File of your own prompts, one a line; without the trigger word: unrelated ones."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Pictures a prompt.")] = 4,
    strengths: Annotated[str, typer.Option("--strengths", help="Strengths to try.")] = "0.5,0.75,1",
    steps: Annotated[str, typer.Option("--steps", help="Kept steps to compare, e.g. 60,120; default: three.")] = "",
    images: Annotated[
        Optional[Path], typer.Option("--images", help="Where the training pictures are now, if they were moved.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    json: Json = False,
) -> None:
    """Measure what a run was worth: likeness, adherence, diversity, drift and copies against the base, with a verdict."""
    values = _numbers(strengths, float, "--strengths")
    kept = _numbers(steps, int, "--steps")
    from tsuika import api

    events = api.evaluate(
        run,
        encoder=encoder,
        own_prompts=prompts,
        seeds=seeds,
        strengths=values,
        steps=kept,
        images=images,
        device=device,
    )
    _follow(events, as_json=json)


def _numbers(text: str, kind: type, flag: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(text, param_hint=flag) from None


def _say(key: str) -> str:
    return _WORDS[key][screen.language()]


def _follow(events: Iterator[Event], *, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from tsuika.api import Evaluated

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    try:
        with closing(events), Bar(*columns, console=console, disable=not console.is_terminal) as bar:  # type: ignore[type-var]
            task = None
            for event in events:
                match event:
                    case Phase(name=name, total=total):
                        console.print(_say(name), markup=False)
                        task = bar.add_task(_say(name), total=total) if total else None
                    case Progress(done=done, total=total) if task is not None:
                        bar.update(task, completed=done)
                        if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
                            console.print(f"{done:5}/{total}", markup=False)
                    case Warned():
                        console.print(screen.note(event), markup=False)
                    case Evaluated() if as_json:
                        screen.result(event.evaluation, as_json=True)
                    case Evaluated():
                        _show(event.evaluation)
                        for path in (event.page, event.numbers, *event.sheets):
                            if path:
                                screen.print_out(path)
                    case _:
                        pass
    except (KeyboardInterrupt, SystemExit):
        sys.stderr.write(_say("stopped") + "\n")
        raise


def _show(found: Mapping[str, Any]) -> None:
    """The table, with the verdict below it."""
    names = [
        name for name in ("fidelity", "adherence", "others", "drift", "diversity") if found["base"][name] is not None
    ]
    head = ["", _say("steps"), _say("strength"), *map(_say, names), _say("copies"), ""]
    rows = [head, [_say("base"), "", "", *(_cell(found["base"], name) for name in names), _copies(found["base"]), ""]]
    for point in found["points"]:
        marks = [_say(mark) for mark in ("best", "main") if point[mark]]
        rows.append(
            [
                point["state"],
                f"{point['step']:,}",
                f"{point['strength']:g}",
                *(_cell(point, name) for name in names),
                _copies(point),
                ", ".join(marks),
            ]
        )
    widths = [max(_width(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [text + " " * (wide - _width(text)) for text, wide in zip(row, widths, strict=True)]
        screen.print_out("  ".join(cells).rstrip())
    screen.print_out(_say("legend"))
    screen.print_out("")
    screen.print_out(found["verdict"]["sentence"][screen.language()])


def _cell(point: Mapping[str, Any], name: str) -> str:
    from tsuika.evaluate.evaluation import signed

    value = point[name]
    if value is None:
        return "–"
    change = value.get("difference")
    text = f"{value['mean']:.3f}" if name == "drift" else f"{value['mean']:.2f}"
    if change is None or change["low"] is None:
        return text
    return f"{text} ({signed(change['low'])} … {signed(change['high'])})"


def _copies(point: Mapping[str, Any]) -> str:
    return f"{point['copies']}/{point['drawings']}"


def _width(text: str) -> int:
    """Columns on a terminal: kana and kanji take two."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
