"""`advise`: parse, call `tsuika.api`, show one recommendation and its alternatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Optional

import typer

from tsuika.cli import screen
from tsuika.cli.flags import BaseModel, Json
from tsuika.core.words import Lang

if TYPE_CHECKING:
    from rich.console import Console

_WORDS: Final[Mapping[str, Mapping[Lang, str]]] = {
    "title": {
        "en": "{pictures} pictures of {goal}, base: {base}",
        "ja": "{goal}の画像{pictures}枚、ベースモデル: {base}",
    },
    "goal.character": {"en": "a character", "ja": "キャラクター"},
    "goal.style": {"en": "a style", "ja": "画風"},
    "goal.object": {"en": "an object", "ja": "物"},
    "goal.concept": {"en": "a concept", "ja": "概念(構図・動作など)"},
    "recommended": {"en": "Recommended: {title}", "ja": "おすすめ: {title}"},
    "alternative": {"en": "Alternative {number}: {title}", "ja": "ほかの選択肢 {number}: {title}"},
    "time": {"en": "time", "ja": "時間"},
    "memory": {"en": "memory", "ja": "メモリ"},
    "file": {"en": "file", "ja": "ファイル"},
    "works": {"en": "works in", "ja": "使えるソフト"},
    "recipe": {"en": "start", "ja": "始めるには"},
    "time.measured": {
        "en": "at most {time} for {steps:,} steps (measured here: {step} a step{twice})",
        "ja": "{steps:,}ステップで最長{time}(このマシンで実測: 1ステップ{step}{twice})",
    },
    "time.scaled": {
        "en": "very roughly {time} at most for {steps:,} steps (from operations and this machine's speed{twice})",
        "ja": "{steps:,}ステップで最長およそ{time}(演算量とこのマシンの速度から見積もり{twice})",
    },
    "time.unknown": {
        "en": "{steps:,} steps at most; nothing was measured",
        "ja": "最大{steps:,}ステップ(何も測定していません)",
    },
    "twice": {
        "en": "; {trainings:g} trainings in all, for the overfitting guard",
        "ja": "、過学習ガードのため計{trainings:g}回分の学習",
    },
    "memory.counted": {"en": "about {memory:.1f} GB (counted)", "ja": "約{memory:.1f} GB(計算値)"},
    "memory.measured": {"en": "about {memory:.1f} GB (measured here)", "ja": "約{memory:.1f} GB(このマシンで実測)"},
    "why": {"en": "Why", "ja": "理由"},
    "against": {"en": "Against it", "ja": "気をつけること"},
    "combine": {"en": "Combining", "ja": "組み合わせ"},
    "rules": {"en": "Rules of thumb, and what was measured", "ja": "一般に言われる目安と、測定結果"},
    "left": {"en": "Not recommended", "ja": "おすすめしない方法"},
    "measured": {"en": "measured", "ja": "測定"},
    "published": {"en": "published", "ja": "文献"},
    "folklore": {"en": "hearsay", "ja": "通説"},
    "known": {"en": "fact", "ja": "事実"},
    "busy": {"en": "Looking at the pictures, and trying a few steps …", "ja": "画像を調べ、数ステップ試しています…"},
    "keep": {
        "en": "To keep the recipes: add --out FOLDER.",
        "ja": "レシピを保存するには --out フォルダー を付けてください。",
    },
}
_COLOURS: Final = {"measured": "green", "published": "cyan", "folklore": "yellow", "known": "dim"}


def advise(
    images: Annotated[Path, typer.Option("--images", help="Folder of training images; never changed.")],
    goal: Annotated[str, typer.Option("--goal", help="character | style | object | concept.")],
    base: BaseModel = "embedded",
    vram_gb: Annotated[
        Optional[float], typer.Option("--vram-gb", help="GPU memory it must fit into; default: this machine's.")
    ] = None,
    max_file_mb: Annotated[Optional[float], typer.Option("--max-file-mb", help="Largest file wished for.")] = None,
    program: Annotated[
        str, typer.Option("--for", help="Where it must work: A1111, Forge, ComfyUI, diffusers or tsuika.")
    ] = "",
    trigger: Annotated[str, typer.Option("--trigger", help="Trigger word.")] = "",
    class_word: Annotated[str, typer.Option("--class-word", help="Kind of thing: dog, character, style.")] = "",
    out: Annotated[Optional[Path], typer.Option("--out", help="Folder for the recipes (TOML).")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Try a few training steps for the time (seconds).")
    ] = True,
    json: Json = False,
) -> None:
    """Say which method suits your pictures, with a recipe to start from, and on what evidence."""
    from rich.console import Console

    with Console(stderr=True).status(_say("busy")):
        from tsuika import api

        found = api.advise(
            images,
            goal,
            base=base,
            vram_gb=vram_gb,
            max_file_mb=max_file_mb,
            program=program,
            trigger=trigger,
            class_word=class_word,
            device=device,
            measure=measure,
            out=out,
        )
    if json:
        screen.result(found, as_json=True)
    else:
        _show(found)


def _say(key: str, **values: object) -> str:
    return _WORDS[key][screen.language()].format(**values)


def _show(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, width=None if Console().is_terminal else 100)
    console.print(escape(_say("title", **{**found, "goal": _say(f"goal.{found['goal']}")})), style="bold")
    for note in found["notes"]:
        console.print(f"  {escape(note[screen.language()])}", style="dim")
    options = [found["recommendation"], *found["alternatives"]]
    for number, option in enumerate(options):
        console.print()
        _show_option(console, option, number)
    console.print()
    _list(console, _say("combine"), [(one["strength"], one[screen.language()]) for one in found["combine"]])
    _list(console, _say("rules"), [(one["strength"], one[screen.language()]) for one in found["rules_of_thumb"]])
    left = [
        (one["why"]["strength"], f"{one['title'][screen.language()]}: {one['why'][screen.language()]}")
        for one in found["not_recommended"]
    ]
    _list(console, _say("left"), left)
    if "recipe_file" not in options[0]:
        console.print(_say("keep"), style="dim")


def _show_option(console: Console, option: Mapping[str, Any], number: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    title = option["title"][screen.language()]
    words = _say("recommended", title=title) if number == 0 else _say("alternative", number=number, title=title)
    console.print(escape(words), style="bold green" if number == 0 else "bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")  # Japanese has no spaces to wrap at
    for key, value in _facts(option):
        table.add_row(f"  {_say(key)}", escape(value))
    console.print(table)
    shown = 3 if number == 0 else 1
    _list(console, _say("why"), [(one["strength"], one[screen.language()]) for one in option["reasons"]][: 2 * shown])
    _list(
        console, _say("against"), [(one["strength"], one[screen.language()]) for one in option["against"]][: 2 * shown]
    )


def _facts(option: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    twice = _say("twice", trainings=option["trainings"]) if option["trainings"] > 1 else ""
    seconds, step = option["seconds"], option["step_seconds"]
    known = {"time": _duration(seconds), "step": _duration(step)} if seconds is not None else {}
    yield "time", _say(f"time.{option['time_basis']}", steps=option["steps"], twice=twice, **known)
    yield "memory", _say(f"memory.{option['memory_basis']}", memory=option["memory_gb"])
    yield "file", _size(option["file_bytes"])
    yield "works", ", ".join(option["works_in"])
    if "recipe_file" in option:
        yield "recipe", f"tsuika train --recipe {option['recipe_file']} --out RUN"


def _list(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        return
    console.print(f"  {title}", style="italic")
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for strength, text in rows:
        colour = _COLOURS[strength]
        table.add_row("   ", f"[{colour}]{_say(strength):<9}[/{colour}]", escape(text))
    console.print(table)


def _duration(seconds: float) -> str:
    japanese = screen.language() == "ja"
    for size, en, ja in ((86400, "days", "日"), (3600, "h", "時間"), (60, "min", "分"), (1, "s", "秒")):
        if seconds >= 1.5 * size or size == 1:
            number = f"{seconds / size:.2g}" if seconds < 10 * size else f"{seconds / size:,.0f}"
            return f"{number}{ja}" if japanese else f"{number} {en}"
    raise AssertionError


def _size(size: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1000:.1f} KB"
