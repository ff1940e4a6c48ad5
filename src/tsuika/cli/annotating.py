"""`tsuika caption` and `tsuika mask`: parse, call `tsuika.api`, print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Optional

import typer

from tsuika.cli import early, layout, progress, screen
from tsuika.cli.flags import ClassWord, Device, Json
from tsuika.cli.language import local
from tsuika.core.texts import Text, _, _n, listed

if TYPE_CHECKING:
    from tsuika.api.captioning import Captioned
    from tsuika.api.masking import Masked

TAGS_SHOWN: Final = 30
NOTHING_WRITTEN: Final = _("Nothing was written. To write them beside linked copies of the images: --out FOLDER")


def caption(
    folder: Annotated[Path, typer.Argument(help=_("Folder of images; never changed."))],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help=_(
                "Captioning model, a folder or a Hugging Face model id: BLIP or GIT (sentences), or a WD tagger (tags)."
            ),
        ),
    ],
    mode: Annotated[
        str,
        typer.Option(
            "--mode", help=_("missing: images without a caption; replace: all; add: what a caption does not have yet.")
        ),
    ] = "missing",
    trigger: Annotated[
        str,
        typer.Option("--trigger", help=_("Trigger word, put in front of every caption that is written or added to.")),
    ] = "",
    class_word: ClassWord = "",
    threshold: Annotated[
        Optional[float],
        typer.Option("--threshold", help=_("Of a tagger: the least probability of a tag, 0 to 1; default: 0.35.")),
    ] = None,
    character_threshold: Annotated[
        Optional[float],
        typer.Option("--character-threshold", help=_("The same of the names of characters; default: 0.85.")),
    ] = None,
    exclude: Annotated[
        str, typer.Option("--exclude", help=_("Of a tagger: tags to leave out, with commas between them."))
    ] = "",
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help=_("New folder for the images and captions; without it captions are only shown.")),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """`tsuika caption`."""
    early.check(images=str(folder))
    import tsuika

    done = progress.watch(
        tsuika.caption(
            folder,
            model=model,
            mode=mode,
            trigger=trigger,
            class_word=class_word,
            threshold=threshold,
            character_threshold=character_threshold,
            exclude=[tag.strip() for tag in exclude.split(",") if tag.strip()],
            out=out,
            device=device or "auto",
        )
    )
    _tell(done, _captions(done), json)


def mask(
    folder: Annotated[Path, typer.Argument(help=_("Folder of images; never changed."))],
    text: Annotated[str, typer.Option("--text", help=_("What is to be learned, in a few words: a cat."))],
    model: Annotated[
        str, typer.Option("--model", help=_("CLIPSeg model, a folder or a Hugging Face model id."))
    ] = "CIDAS/clipseg-rd64-refined",
    mode: Annotated[
        str,
        typer.Option(
            "--mode", help=_("missing: images without a mask; replace: all; add: what a mask does not show yet.")
        ),
    ] = "missing",
    threshold: Annotated[
        float, typer.Option("--threshold", help=_("Least probability that the text is shown, 0 to 1."))
    ] = 0.3,
    grow_px: Annotated[int, typer.Option("--grow-px", help=_("Pixels around what is found that are shown, too."))] = 10,
    out: Annotated[
        Optional[Path],
        typer.Option("--out", help=_("New folder for the images and masks; without it nothing is written.")),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """`tsuika mask`."""
    early.check(images=str(folder))
    import tsuika

    done = progress.watch(
        tsuika.mask(
            folder,
            text=text,
            model=model,
            mode=mode,
            threshold=threshold,
            grow_px=grow_px,
            out=out,
            device=device or "auto",
        )
    )
    _tell(done, _masks(done), json)


def _tell(done: Captioned | Masked, lines: Iterator[str], as_json: bool) -> None:
    if as_json:
        screen.result(done.to_dict(), as_json=True)
        return
    for line in lines:
        screen.print_out(line)


def _captions(done: Captioned) -> Iterator[str]:
    for one in done.changed:
        yield one.name
        if one.before:
            yield layout.wrap(f"- {one.before}", first="    ", rest="      ")
        yield layout.wrap(f"+ {one.after}", first="    ", rest="      ")
    yield from _left_out(done)
    yield ""
    if tags := [f"{tag} ({number})" for tag, number in done.tags.items() if number > 1][:TAGS_SHOWN]:
        yield _line(_("Most frequent tags and phrases: {tags}", tags=listed(tags)))
    count = len(done.changed)
    yield _line(_n("{count} caption is new or changed.", "{count} captions are new or changed.", count))
    yield _line(_("Written to {out}; the originals were not changed.", out=done.out) if done.out else NOTHING_WRITTEN)


def _masks(done: Masked) -> Iterator[str]:
    for one in done.images:
        before = "–" if one.before is None else f"{one.before:.0%}"
        yield _line(f"{one.name}: {before} -> {one.after:.0%}")
    yield from _left_out(done)
    count = sum(one.before != one.after for one in done.images)
    yield _line(
        _n(
            "{count} mask is new or changed (share of the image that it shows).",
            "{count} masks are new or changed (share of the image that they show).",
            count,
        )
    )
    written = _("Written to {out}; the originals were not changed. To train with them: data.masks=auto", out=done.out)
    yield _line(written if done.out else NOTHING_WRITTEN)


def _left_out(done: Captioned | Masked) -> Iterator[str]:
    for name, reason in done.left_out.items():
        yield _line(_("left out {name}: {reason}", name=name, reason=reason))


def _line(text: str | Text) -> str:
    return layout.wrap(local(text), first="", rest="  ")
