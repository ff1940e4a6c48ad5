"""`tsuika check`: parse, call `tsuika.api`, print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Optional

import typer

from tsuika.cli import early, labels, language, layout, progress, screen
from tsuika.cli.flags import BaseModel, ClassWord, Json, RecipeFile, Trigger
from tsuika.cli.language import local
from tsuika.core.errors import RecipeError
from tsuika.core.texts import Text, _, _n, listed

if TYPE_CHECKING:
    from tsuika.data.check_fix import Cleaned
    from tsuika.data.check_report import Captions, Finding, Report

NOT_USABLE: Final = 3  # exit status
NAMES_SHOWN: Final = 10
TAGS_SHOWN: Final = 12

_LEVELS: Final[Mapping[str, Text]] = {
    "unusable": _("not usable: {what}"),
    "look": _("please check: {what}"),
    "note": _("good to know: {what}"),
}
_FITS: Final[Mapping[str, Text]] = {
    "few": _("{method} {low}-{high}: too few"),
    "right": _("{method} {low}-{high}: right"),
    "many": _("{method} {low}-{high}: more than needed"),
}
_CHANGES: Final[Mapping[str, Text]] = {"turned": _("turned upright"), "cropped": _("bars cropped")}
# Findings about other files than images.
_OF_FILES: Final = ("caption-orphan", "caption-not-read", "not-read", "system-folder", "own-output", "mask-orphan")
_FIXES: Final = ("near-duplicate", "bars", "caption-encoding")


def check(
    folder: Annotated[Path, typer.Argument(help=_("Folder of images; never changed."))],
    fix: Annotated[
        bool, typer.Option("--fix", help=_("Write a cleaned copy to another folder; the originals stay as they are."))
    ] = False,
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help=_("Folder for --fix (default: FOLDER-checked), or a .tsv file for a list alone.")),
    ] = None,
    html: Annotated[
        Optional[Path], typer.Option("--html", help=_("Write a contact sheet, worst images first."))
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=_("Replace the --html file if it exists."))] = False,
    base: BaseModel = "",
    size: Annotated[
        int, typer.Option("--size", min=0, help=_("Training size in px; 0 = the size of the base model."))
    ] = 0,
    trigger: Trigger = "",
    class_word: ClassWord = "",
    recipe: RecipeFile = None,
    all_: Annotated[bool, typer.Option("--all", help=_("Name every image, however many."))] = False,
    json: Json = False,
) -> None:
    """`tsuika check`."""
    if out and not fix:
        raise RecipeError("RC005", found="--fix", do=f"tsuika check {folder} --fix --out {out}")
    early.check(images=str(folder))
    import tsuika
    from tsuika import config
    from tsuika.core import files
    from tsuika.data import check_fix

    # Before minutes are spent.
    if html:
        files.check_out(html, overwrite=overwrite)
    copy = out or folder.resolve().with_name(f"{folder.resolve().name}-checked")
    if fix:
        check_fix.may_write(folder, copy)
    words: dict[str, Any] = {
        "trigger": trigger,
        "class_word": class_word,
        "recipe": config.load(recipe) if recipe else None,
    }
    run = tsuika.check(folder, base=base or "embedded", detail=bool(base), size_px=size, **words)
    report = progress.watch(run)
    cleaned = progress.watch(tsuika.clean(report, copy)) if fix and report.usable else None
    if html:
        progress.watch(tsuika.contact_sheet(report, html, language.current(), overwrite=overwrite))
    if json:
        done: dict[str, Any] = report.to_dict()
        if cleaned:
            done["cleaned"] = cleaned
        if html:
            done["html"] = html
        screen.result(done, as_json=True)
    else:
        for line in _lines(report, cleaned, html, report.total if all_ else NAMES_SHOWN):
            screen.print_out(line)
    if not report.usable:
        raise typer.Exit(NOT_USABLE)


def _line(text: str, indent: str = "") -> str:
    return layout.wrap(local(text), first=indent, rest=f"{indent}  ")


def _lines(report: Report, cleaned: Cleaned | None, html: Path | None, shown: int) -> Iterator[str]:
    yield _line(report.headline)
    for finding in report.findings:
        yield from _finding(finding, shown)
    if not report.findings and report.usable:
        yield _line(_("No faults were found."))
    if report.usable:
        yield ""
        yield from map(_line, _facts(report))
    if html:
        yield _line(_("Contact sheet: {path}", path=html))
    if cleaned:
        yield from _cleaned(cleaned, shown)
    elif report.usable and any(one.code in _FIXES or one.level == "unusable" for one in report.findings):
        yield _line(_("For a cleaned copy: tsuika check {folder} --fix", folder=report.folder))


def _finding(finding: Finding, shown: int) -> Iterator[str]:
    yield ""
    yield _line(_LEVELS[finding.level].filled({"what": finding.what}))
    if finding.pictures:
        number = len(finding.pictures)
        are_images = finding.code not in _OF_FILES
        count = (
            _n("{count} image", "{count} images", number) if are_images else _n("{count} file", "{count} files", number)
        )
        yield _line(_("{count}: {names}", count=count, names=_names(finding.pictures, shown)), "    ")
    yield _line(finding.why, "    ")
    yield _line(_("-> {todo}", todo=finding.todo), "    ")


def _names(names: Sequence[str], shown: int) -> Text:
    if len(names) <= shown:
        return listed(names)
    return _("{names}, and {count} more (--all names them)", names=listed(names[:shown]), count=len(names) - shown)


def _facts(report: Report) -> Iterator[Text]:
    from tsuika.data.check_report import spread_word
    from tsuika.data.faults import NOT_JUDGED

    usable, variety = len(report.usable), report.variety
    sizes = listed(f"{one.width}x{one.height}: {one.count}" for one in report.sizes)
    yield _("Sizes in training ({size_px} px): {sizes}", size_px=report.size_px, sizes=sizes)
    large = listed(f"{side} px: {count}/{usable}" for side, count in report.large_enough.items())
    yield _("Large enough without enlarging: {large}", large=large)
    if report.captions.from_files:
        yield from _captions(report.captions, usable)
    if usable >= 4:
        spreads = {name: spread_word(getattr(variety, name)) for name in ("palette", "composition", "light")}
        yield _(
            "Variety (approximate): {different} different images, {backgrounds} backgrounds; colours {palette},"
            " composition {composition}, light {light}",
            different=variety.different,
            backgrounds=variety.backgrounds,
            **spreads,
        )
    fits = [_FITS[one.fit].filled({**vars(one), "method": labels.method(one.method)}) for one in report.methods]
    yield _("Number of images for each method (rule of thumb): {methods}", methods=listed(fits))
    if report.not_judged:
        yield _("Not judged: {reasons}", reasons=listed(NOT_JUDGED[key] for key in report.not_judged))


def _captions(captions: Captions, usable: int) -> Iterator[Text]:
    counts = {"count": captions.from_files, "different": captions.different}
    if captions.tokenizer:
        counts["longest"] = captions.longest_tokens
        yield _("Captions: {count} from files, {different} different; longest {longest} tokens", **counts)
    else:
        yield _("Captions: {count} from files, {different} different", **counts)
    if common := [f"{tag} ({count})" for tag, count in captions.tags.items() if count > 1][:TAGS_SHOWN]:
        yield _("Most frequent tags and phrases: {tags}", tags=listed(common))
    if captions.trigger:
        found = {"trigger": captions.trigger, "found": captions.with_trigger, "count": usable}
        yield _("Trigger word `{trigger}`: in {found} of {count} captions", **found)
    else:
        yield _("Trigger word: none given (with --trigger it is looked for)")


def _cleaned(cleaned: Cleaned, shown: int) -> Iterator[str]:
    from tsuika.data.faults import FAULTS

    if cleaned.kept:
        images = _n("{count} image", "{count} images", cleaned.kept)
        yield _line(
            _("Cleaned copy: {out} ({images}). The originals were not changed.", out=cleaned.out, images=images)
        )
    else:
        yield _line(_("List of what to leave out: {out}", out=cleaned.out))
    for left in cleaned.left_out[: max(shown, NAMES_SHOWN)]:
        about = {"name": left.name, "reason": FAULTS[left.code].what}
        kept = _("left out {name}: {reason} (kept: {instead})", **about, instead=left.instead)
        yield _line(kept if left.instead else _("left out {name}: {reason}", **about), "  ")
    if len(cleaned.left_out) > shown:
        yield _line(_("and {count} more", count=len(cleaned.left_out) - shown), "  ")
    for one in cleaned.mended[:shown]:
        about = {"name": one.name, "written": one.written, "changes": listed(map(_CHANGES.__getitem__, one.changes))}
        yield _line(_("saved again {name} -> {written}: {changes}", **about), "  ")
    if cleaned.recoded:
        yield _line(_("captions saved as UTF-8: {names}", names=_names(cleaned.recoded, shown)), "  ")
    if cleaned.to_look_at:
        yield _line(_("please check yourself: {names}", names=_names(cleaned.to_look_at, shown)), "  ")
