"""What people see: progress and talk on stderr, results on stdout, errors as one block."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from tsuika.core.errors import TsuikaError, exhausted
from tsuika.core.events import (
    Chosen,
    Event,
    Finished,
    Judged,
    Phase,
    Previewed,
    Progress,
    Saved,
    Started,
    Stepped,
    Warned,
    Written,
)
from tsuika.core.messages import percent
from tsuika.core.plain import jsonable
from tsuika.core.words import Lang

_WORDS: dict[str, dict[Lang, str]] = {
    "load": {"en": "Loading the base model", "ja": "ベースモデルを読み込んでいます"},
    "pictures": {"en": "Looking at the pictures", "ja": "画像を調べています"},
    "encode": {"en": "Encoding the pictures", "ja": "画像をエンコードしています"},
    "class-pictures": {"en": "Drawing pictures of the class", "ja": "正則化画像を生成しています"},
    "look": {"en": "Training, and looking for the best step", "ja": "学習しながら、最良のステップを探しています"},
    "train": {"en": "Training", "ja": "学習中"},
    "variant": {"en": "Training one more of the range", "ja": "範囲内のほかのステップからも学習しています"},
    "preview": {"en": "Drawing previews", "ja": "プレビューを生成しています"},
    "compare": {"en": "Drawing before and after", "ja": "学習前と学習後の画像を生成しています"},
    "compare-settings": {"en": "Trying the settings", "ja": "設定を試しています"},
    "write": {"en": "Writing and checking the files", "ja": "ファイルを書き出して確認しています"},
    "report": {"en": "Writing the report", "ja": "レポートを作成しています"},
    "started": {
        "en": "{method} on {family}: {pictures} pictures, {trainable:,} weights to train, steps {first_step}-{steps}",
        "ja": "{family} で {method}: 画像 {pictures} 枚、学習する重み {trainable:,} 個、ステップ {first_step}〜{steps}",
    },
    "written": {
        "en": "wrote {path} ({format}); read back, it does the same (largest relative difference {largest_relative_error:.1e})",
        "ja": "{path} を書き出しました({format})。読み戻して同じ効果を確認済み(相対的な差は最大 {largest_relative_error:.1e})",
    },
    "grid": {"en": "Drawing the sheet", "ja": "比較表を作成しています"},
    "artifact": {
        "en": "{file}: {method}, strength {strength:g}, {matched} tensors matched, {unmatched} not",
        "ja": "{file}: {method}、強さ {strength:g}、対応したテンソル {matched} 個、対応しないもの {unmatched} 個",
    },
    "words": {"en": "; its words: {words}", "ja": "。呼び出す単語: {words}"},
    "conflict": {
        "en": "{first} and {second} both change {layers} layers, {example} among them: their effects add up",
        "ja": "{first} と {second} は同じ {layers} 層({example} など)を変えます。効果は足し合わされます",
    },
    "checked": {
        "en": "step {step:,}: held-out {held_out}, training {train}; best so far: step {best:,}",
        "ja": "ステップ{step:,}: 検証用 {held_out}、学習用 {train}。これまでの最良: ステップ{best:,}",
    },
    "checked.base": {
        "en": "step {step:,}: held-out {held_out}, training {train}; nothing better than the base yet",
        "ja": "ステップ{step:,}: 検証用 {held_out}、学習用 {train}。まだ学習前より良くなっていません",
    },
    "checked.blind": {
        "en": "step {step:,}: training {train}; no picture is held out",
        "ja": "ステップ{step:,}: 学習用 {train}(検証用画像はありません)",
    },
    "interval": {"en": "{mean} ({low} … {high})", "ja": "{mean}({low}〜{high})"},
    "chosen": {
        "en": "chosen for your file: step {balanced:,} (safe {safe:,}, likeness {likeness:,})",
        "ja": "ファイルに選んだステップ: {balanced:,}(安全 {safe:,}、再現重視 {likeness:,})",
    },
    "rate": {
        "en": "{rate:>8.2g}   step {step:,}: {held_out}{remark}",
        "ja": "{rate:>8.2g}   ステップ{step:,}: {held_out}{remark}",
    },
    "rate.diverged": {"en": "; diverged", "ja": "、発散"},
    "rate.left": {"en": "; left early", "ja": "、途中で打ち切り"},
    "trial": {"en": "trial {number} (of {total}): {params}", "ja": "試行{number}(全{total}件): {params}"},
    "trial.done": {"en": "step {step:,}: {value}", "ja": "ステップ{step:,}: {value}"},
    "trial.nothing": {"en": "nothing gained", "ja": "改善なし"},
    "trial.pruned": {"en": "given up", "ja": "途中で打ち切り"},
    "trial.diverged": {"en": "diverged", "ja": "発散"},
    "trial.failed": {"en": "failed", "ja": "失敗"},
    "trial.running": {"en": "running", "ja": "実行中"},
    "trial.best": {"en": "take this", "ja": "おすすめ"},
    "trial.near": {"en": "as good, within the error", "ja": "誤差の範囲で同等"},
    "searched": {
        "en": "Held-out loss against the base, ± one standard error. Train with: tsuika train --recipe {recipe} --out RUN",
        "ja": "検証用画像のロス(学習前との比較、± 標準誤差)です。学習するには: tsuika train --recipe {recipe} --out RUN",
    },
    "searched.nothing": {
        "en": "No trial was better on held-out pictures than the untrained base.",
        "ja": "検証用画像で学習前より良くなった試行はありません。",
    },
    "search.stopped": {
        "en": "Stopped; everything is saved. The same command goes on.",
        "ja": "止めました。すべて保存済みです。同じコマンドで続きから再開できます。",
    },
    "note": {"en": "note", "ja": "お知らせ"},
    "done": {"en": "Done. Look at {report}", "ja": "完了しました。{report} をご覧ください"},
    "stopped": {
        "en": "Stopped at step {step}; everything is saved. Go on with: tsuika resume {run}",
        "ja": "ステップ{step}で止めました。すべて保存済みです。続けるには: tsuika resume {run}",
    },
    "bug": {
        "en": "This is a bug of ours. The details are in {log}; please report it.",
        "ja": "tsuikaの不具合です。詳細は {log} にあります。不具合の報告をお願いします。",
    },
    "bug.unlogged": {
        "en": "This is a bug of ours: {error}. Its details could not be written anywhere; please report it.",
        "ja": "tsuikaの不具合です: {error}。詳細をどこにも書き出せませんでした。不具合の報告をお願いします。",
    },
}
_chosen: list[Lang] = ["en"]
_asked: list[Lang | None] = [None]  # for, by flag or environment
# What the parser complains of. By name, since typer brings its own copy of click or uses click itself, by version.
_Complaint: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def use_language(wish: str, environment: str) -> None:
    """Choose the language of messages; `auto` follows the environment."""
    if wish not in ("en", "ja", "auto"):
        raise typer.BadParameter("en, ja or auto")
    said = environment.lower()[:2] if wish == "auto" else wish
    _asked[0] = "ja" if said == "ja" else "en" if said == "en" else None
    _chosen[0] = _asked[0] or "en"


def language() -> Lang:
    """The language in use."""
    return _chosen[0]


def page_language() -> Lang | None:
    """That which a page opens in; None, which leaves it to the browser, where nobody has asked for one."""
    return _asked[0]


def say(key: str, **values: object) -> str:
    """A phrase in the language in use."""
    return _WORDS[key][language()].format(**values)


def print_out(text: str) -> None:
    """A result, on stdout."""
    sys.stdout.write(text + "\n")


def result(value: Mapping[str, Any], *, as_json: bool) -> None:
    """A command's result: one JSON object, or lines for people."""
    if as_json:
        print_out(json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False))
        return
    for key, item in value.items():
        if isinstance(item, Mapping):
            print_out(f"{key}:")
            for name, inner in item.items():
                print_out(f"  {name}: {inner}")
        elif isinstance(item, (list, tuple)):
            print_out(f"{key}: {', '.join(map(str, item))}" if len(str(item)) < 100 else f"{key}:")
            if len(str(item)) >= 100:
                for inner in item:
                    print_out(f"  {inner}")
        else:
            print_out(f"{key}: {item}" if "\n" not in str(item) else str(item))


def note(warned: Warned) -> str:
    """A warning, in the language in use."""
    return f"{say('note')}[{warned.code}] {warned.words(language())}"


def checked(event: Judged) -> str:
    """A check of the guard, in one line: losses against the base's, with the held-out one's 95 % interval."""
    evidence = event.evidence
    held, best, train = evidence["held_out"], evidence["best_step"], percent(evidence["train"])
    if held is None:
        return say("checked.blind", step=event.step, train=train)
    words = interval(held)
    return say("checked" if best else "checked.base", step=event.step, held_out=words, train=train, best=best)


def interval(estimate: Mapping[str, Any]) -> str:
    """A loss against the base's, with its 95 % interval."""
    return say("interval", **{key: percent(estimate[key]) for key in ("mean", "low", "high")})


def told(value: Mapping[str, Any], *, as_json: bool) -> None:
    """A result with its notes, which go beside it."""
    if not as_json:
        for warned in value["notes"]:
            sys.stderr.write(note(warned) + "\n")
        value = {key: inner for key, inner in value.items() if key != "notes"}
    result(value, as_json=as_json)


def combined(value: Mapping[str, Any], *, as_json: bool) -> None:
    """The pictures that were drawn, and what was on the base."""
    if as_json:
        result(value, as_json=True)
        return
    for row in value["artifacts"]:
        words = say("words", words=", ".join(row["words"])) if row["words"] else ""
        sys.stderr.write(say("artifact", **row) + words + "\n")
    for row in value["conflicts"]:
        sys.stderr.write(say("conflict", **row) + "\n")
    for warned in value["notes"]:
        sys.stderr.write(note(warned) + "\n")
    for path in value["pictures"]:
        print_out(path)


def cells(events: Iterator[Event], *, as_json: bool) -> None:
    """Show a sheet as it is drawn; what is done is on it also when it is stopped."""
    from tsuika.api import CellDrawn, SheetWritten

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the sheet is written
    notes: list[Warned] = []
    drawn: list[CellDrawn] = []
    with closing(events):  # type: ignore[type-var]
        for event in events:
            match event:
                case Phase(name=name):
                    sys.stderr.write(say(name) + "\n")
                case Warned():
                    notes.append(event)
                    sys.stderr.write(note(event) + "\n")
                case CellDrawn():
                    drawn.append(event)
                    sys.stderr.write(f"{event.done:4}/{event.total}  {' · '.join(event.labels)}  {event.path}\n")
                case SheetWritten() if as_json:
                    result({"sheet": event.path, "cells": drawn, "notes": notes}, as_json=True)
                case SheetWritten():
                    print_out(event.path)


class Stop:
    """Ctrl+C and terminate end the run between two steps; a second one ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            raise SystemExit(128 + number)
        self.signal = number


def follow(events: Iterator[Event], run: Path, *, as_json: bool) -> None:
    """Show a run as it goes; at the end, its report as the result."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    is_first = os.environ.get("RANK", "0") == "0"  # of `accelerate launch`'s processes; the others are mute
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not is_first)
    stop, step, began, said = Stop(), 0, time.monotonic(), ""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
    )
    with Bar(*columns, console=console, transient=not console.is_terminal, disable=not console.is_terminal) as bar:
        task = None
        for event in events:
            match event:
                case Phase(name=name, total=total):
                    console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {say(name)}")
                    if task is not None:
                        bar.remove_task(task)
                    task = bar.add_task(say(name), total=total or None, note="") if total else None
                case Progress(done=done, total=total) if task is not None:
                    bar.update(task, completed=done, total=total)
                case Stepped():
                    step = event.step
                    if task is not None:
                        bar.update(
                            task,
                            completed=step,
                            note=f"loss {event.loss:.4f}  {1 / max(event.seconds, 1e-9):.1f} step/s",
                        )
                case Started():
                    console.print(f"          {say('started', **asdict(event))}")
                case Written():
                    console.print(f"          {say('written', **asdict(event))}")
                case Warned():
                    console.print(note(event), markup=False)
                case Judged():
                    console.print(f"          {checked(event)}", markup=False)
                    if event.verdict != "go" and event.code != said:  # the same alarm once
                        console.print(f"{say('note')}[{event.code}] {event.words(language())}", markup=False)
                        said = event.code
                case Chosen():
                    if event.code and event.code != said:
                        console.print(f"{say('note')}[{event.code}] {event.words(language())}", markup=False)
                    if event.kind != "none":
                        console.print(f"          {say('chosen', **event.range)}", markup=False)
                case Finished() | Saved() | Previewed() | _:
                    pass
            if stop.signal is not None and not isinstance(event, Finished):
                events.close()  # type: ignore[attr-defined]
                console.print(say("stopped", step=step, run=run))
                raise SystemExit(128 + stop.signal)
    report = run / "report.json"
    if not is_first:
        return
    if as_json:
        print_out(report.read_text(encoding="utf-8").strip())
    else:
        console.print(say("done", report=run / "report.html"))
        print_out(str(run))


def run(app: typer.Typer, arguments: list[str]) -> None:
    """Run the program and exit with its status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be no Unicode, or more than the terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = app(arguments, standalone_mode=False)
    except TsuikaError as error:
        sys.stderr.write(error.describe(language()) + "\n")
        raise SystemExit(error.exit_status) from None
    except typer.Exit as leave:
        raise SystemExit(leave.exit_code) from None
    except (typer.Abort, KeyboardInterrupt):
        raise SystemExit(130) from None
    except _Complaint as wrong:
        wrong.show()  # type: ignore[attr-defined]
        raise SystemExit(2) from None
    except Exception as error:  # noqa: BLE001 (the last line of defence: a bug becomes a log file and status 1)
        if ours := exhausted(error):
            sys.stderr.write(ours.describe(language()) + "\n")
            raise SystemExit(ours.exit_status) from None
        log = _logged(traceback.format_exc())
        sys.stderr.write((say("bug", log=log) if log else say("bug.unlogged", error=repr(error))) + "\n")
        raise SystemExit(1) from None
    if isinstance(status, int) and status:  # typer hands a status (130 of Ctrl+C, among others) back like a result
        raise SystemExit(status)


def _logged(text: str) -> Path | None:
    """The file that the details of a bug were written to: here, else where temporary files are; None: nowhere."""
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        with suppress(OSError):  # read-only, full, or gone
            log = folder() / "tsuika-error.log"
            log.write_text(text, encoding="utf-8", errors="backslashreplace")
            return log
    return None
