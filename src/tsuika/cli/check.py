"""`check`: parse, call `tsuika.api`, print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Optional

import typer

from tsuika.cli import screen
from tsuika.cli.flags import BaseModel, ClassWord, Json, RecipeFile, Trigger
from tsuika.core.words import Lang

if TYPE_CHECKING:
    from rich.console import Console

    from tsuika.data.check_fix import Cleaned
    from tsuika.data.check_report import Report

NOT_USABLE: Final = 3  # exit status
NAMES_SHOWN: Final = 10

_WORDS: Final[dict[str, dict[Lang, str]]] = {
    "pictures": {"en": "Looking at the pictures", "ja": "画像を調べています"},
    "compare": {"en": "Comparing them with each other", "ja": "画像どうしを比べています"},
    "fault": {"en": "Fault", "ja": "問題"},
    "names": {"en": "Pictures", "ja": "画像"},
    "why": {"en": "Why, and what to do", "ja": "理由と対処"},
    "unusable": {"en": "not usable", "ja": "使えません"},
    "look": {"en": "to look at", "ja": "要確認"},
    "note": {"en": "note", "ja": "お知らせ"},
    "whole": {"en": "the set", "ja": "全体"},
    "more": {"en": "and {count} more (--all names them)", "ja": "ほか{count}枚(--all ですべて表示)"},
    "none": {"en": "No faults were found.", "ja": "問題は見つかりませんでした。"},
    "sizes": {"en": "Sizes in training ({size_px} px): {sizes}", "ja": "学習時のサイズ分け({size_px} px): {sizes}"},
    "large": {"en": "Large enough for: {large}", "ja": "拡大せずに使える枚数: {large}"},
    "variety": {
        "en": "Variety (approximate): {different} different pictures, {backgrounds} backgrounds; "
        "colours {palette}, composition {composition}, light {light}",
        "ja": "バリエーション(目安): 異なる画像 {different}枚、背景 {backgrounds}種類。"
        "色は{palette}、構図は{composition}、明るさは{light}",
    },
    "captions": {
        "en": "Captions: {from_files} from files, {different} different; trigger `{trigger}` in {with_trigger}; "
        "longest {longest} tokens",
        "ja": "キャプション: ファイルから {from_files}件、異なるもの {different}件。"
        "トリガーワード `{trigger}` あり {with_trigger}件。最長 {longest}トークン",
    },
    "methods": {"en": "Pictures wanted (rules of thumb): {methods}", "ja": "学習方法ごとの目安の枚数: {methods}"},
    "few": {"en": "too few", "ja": "足りません"},
    "right": {"en": "right", "ja": "ちょうどよい"},
    "many": {"en": "more than needed", "ja": "十分(多め)"},
    "not_judged": {"en": "Not judged: {words}.", "ja": "判断していないこと: {words}。"},
    "sheet": {"en": "Contact sheet: {path}", "ja": "一覧ページ: {path}"},
    "hint": {
        "en": "A cleaned copy: tsuika check {folder} --fix",
        "ja": "整理したコピーを作るには: tsuika check {folder} --fix",
    },
    "cleaned": {
        "en": "Cleaned copy: {out} ({kept} pictures). The originals were not changed.",
        "ja": "整理したコピー: {out}({kept}枚)。元の画像は変更していません。",
    },
    "listed": {"en": "List of what to leave out: {out}", "ja": "除外リスト: {out}"},
    "left": {"en": "left out {name}: {reason}", "ja": "除外 {name}: {reason}"},
    "instead": {"en": " (kept: {instead})", "ja": "(残したもの: {instead})"},
    "turned": {"en": "turned upright", "ja": "向きを修正"},
    "cropped": {"en": "bars cropped", "ja": "帯を切り落とし"},
    "mended": {"en": "saved anew {name} → {written}: {changes}", "ja": "保存し直し {name} → {written}: {changes}"},
    "recoded": {"en": "captions saved as UTF-8: {names}", "ja": "UTF-8で保存し直したキャプション: {names}"},
    "yours": {"en": "left for you to look at: {names}", "ja": "ご自身での確認が必要な画像: {names}"},
}


def check(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures; never changed.")],
    fix: Annotated[
        bool, typer.Option("--fix", help="Write a cleaned copy to another folder; the originals stay as they are.")
    ] = False,
    out: Annotated[
        Optional[Path], typer.Option("--out", help="Of --fix: the folder (FOLDER-checked), or a .tsv for a list alone.")
    ] = None,
    html: Annotated[Optional[Path], typer.Option("--html", help="Write a contact sheet, worst pictures first.")] = None,
    base: BaseModel = "embedded",
    size: Annotated[int, typer.Option("--size", min=0, help="Training size in px; 0: the base's own.")] = 0,
    trigger: Trigger = "",
    class_word: ClassWord = "",
    recipe: RecipeFile = None,
    all_: Annotated[bool, typer.Option("--all", help="Name every picture, however many.")] = False,
    json: Json = False,
) -> None:
    """Look for faults in a folder of pictures: unreadable, small, blurred, near-duplicates, captions, variety."""
    from tsuika import api
    from tsuika.core import config
    from tsuika.data import check_fix

    copy = out or folder.resolve().with_name(f"{folder.resolve().name}-checked")
    if fix:
        check_fix.may_write(folder, copy)  # before minutes are spent
    with _Bar() as bar:
        report = api.check(
            folder,
            base=base,
            size_px=size,
            trigger=trigger,
            class_word=class_word,
            recipe=config.load(recipe) if recipe else None,
            progress=bar.show,
        )
    cleaned = None
    if fix and report.usable:
        cleaned = api.clean(report, copy)
    if html:
        api.contact_sheet(report, html, screen.language())
    if json:
        done: dict[str, Any] = report.to_dict()
        if cleaned:
            done["cleaned"] = cleaned
        if html:
            done["html"] = html
        screen.result(done, as_json=True)
    else:
        _print(report, cleaned, html, NAMES_SHOWN if not all_ else report.total)
    if not report.usable:
        raise typer.Exit(NOT_USABLE)


class _Bar:
    """Progress on stderr, where that is a terminal."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, Any] = {}
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, name: str, done: int, total: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(_say(name), total=total)
        self._bar.update(self._tasks[name], completed=done, total=total)


def _say(key: str, **values: object) -> str:
    return _WORDS[key][screen.language()].format(**values)


def _print(report: Report, cleaned: Cleaned | None, html: Path | None, shown: int) -> None:
    from rich.console import Console

    from tsuika.data.faults import NOT_JUDGED

    lang = screen.language()
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 120)

    def line(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    line(report.headline.to(lang))
    if report.findings:
        _table(report, console, shown)
    elif report.usable:
        line(_say("none"))
    if report.usable:
        _facts(report, line)
    if report.not_judged and report.usable:
        line(_say("not_judged", words="; ".join(NOT_JUDGED[key].to(lang) for key in report.not_judged)))
    if html:
        line(_say("sheet", path=html))
    if cleaned:
        _cleaned(cleaned, line, shown)
    elif any(finding.code in _FIXES or finding.level == "unusable" for finding in report.findings) and report.usable:
        line(_say("hint", folder=report.folder))


_FIXES: Final = ("near-duplicate", "bars", "caption-cp932")


def _table(report: Report, console: Console, shown: int) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lang = screen.language()
    styles = {"unusable": "bold red", "look": "yellow", "note": "dim"}
    table = Table(box=box.SIMPLE_HEAD, show_lines=True, expand=True, pad_edge=False)
    table.add_column(_say("fault"), ratio=3, min_width=16, overflow="fold")
    table.add_column(_say("names"), ratio=3, overflow="fold")
    table.add_column(_say("why"), ratio=6, overflow="fold")
    for finding in report.findings:
        head = Text(finding.what.to(lang), style=styles[finding.level])
        head.append(f"\n{_say(finding.level)}" + (f" · {len(finding.pictures)}" if finding.pictures else ""), "dim")
        reason = Text(finding.why.to(lang))
        reason.append(f"\n→ {finding.todo.to(lang)}", "cyan")
        table.add_row(head, Text(_names(finding.pictures, shown) or _say("whole")), reason)
    console.print(table)


def _names(names: Sequence[str], shown: int) -> str:
    listed = ", ".join(names[:shown])
    return f"{listed}, {_say('more', count=len(names) - shown)}" if len(names) > shown else listed


def _facts(report: Report, line: Any) -> None:
    from tsuika.data.check_report import spread_word

    lang, variety, captions = screen.language(), report.variety, report.captions
    sizes = ", ".join(f"{one.width}x{one.height}: {one.count}" for one in report.sizes)
    line(_say("sizes", size_px=report.size_px, sizes=sizes))
    usable = len(report.usable)
    large = ", ".join(f"{side} px: {count}/{usable}" for side, count in report.large_enough.items())
    line(_say("large", large=large))
    if captions.from_files:
        with_trigger = captions.with_trigger if captions.trigger else "–"
        longest = captions.longest_tokens if captions.tokenizer else "–"
        counts = {"from_files": captions.from_files, "different": captions.different, "longest": longest}
        line(_say("captions", **counts, trigger=captions.trigger or "–", with_trigger=with_trigger))
    if usable >= 4:
        spreads = {key: spread_word(getattr(variety, key)).to(lang) for key in ("palette", "composition", "light")}
        line(_say("variety", different=variety.different, backgrounds=variety.backgrounds, **spreads))
    methods = ", ".join(f"{one.method} {one.low}–{one.high}: {_say(one.fit)}" for one in report.methods)
    line(_say("methods", methods=methods))


def _cleaned(cleaned: Cleaned, line: Any, shown: int) -> None:
    from tsuika.data.faults import FAULTS

    lang = screen.language()
    line(_say("cleaned", out=cleaned.out, kept=cleaned.kept) if cleaned.kept else _say("listed", out=cleaned.out))
    for left in cleaned.left_out[: max(shown, NAMES_SHOWN)]:
        reason = FAULTS[left.code].what.to(lang)
        instead = _say("instead", instead=left.instead) if left.instead else ""
        line("  " + _say("left", name=left.name, reason=reason) + instead)
    if len(cleaned.left_out) > shown:
        line("  " + _say("more", count=len(cleaned.left_out) - shown))
    for one in cleaned.mended[:shown]:
        changes = ", ".join(map(_say, one.changes))
        line("  " + _say("mended", name=one.name, written=one.written, changes=changes))
    if cleaned.recoded:
        line("  " + _say("recoded", names=_names(cleaned.recoded, shown)))
    if cleaned.to_look_at:
        line("  " + _say("yours", names=_names(cleaned.to_look_at, shown)))
