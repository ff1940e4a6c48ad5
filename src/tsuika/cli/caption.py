"""`tsuika caption`: parse, call `tsuika.api`, print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Optional

import typer

from tsuika.cli import early, layout, progress, screen
from tsuika.cli.flags import ClassWord, Device, Json
from tsuika.cli.language import local
from tsuika.core.texts import _, _n, listed

if TYPE_CHECKING:
    from tsuika.api.captioning import Captioned

TAGS_SHOWN: Final = 30


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
    if json:
        screen.result(done.to_dict(), as_json=True)
        return
    for line in _lines(done):
        screen.print_out(line)


def _lines(done: Captioned) -> Iterator[str]:
    for one in done.changed:
        yield one.name
        if one.before:
            yield layout.wrap(f"- {one.before}", first="    ", rest="      ")
        yield layout.wrap(f"+ {one.after}", first="    ", rest="      ")
    for name, reason in done.left_out.items():
        yield layout.wrap(local(_("left out {name}: {reason}", name=name, reason=reason)), first="", rest="  ")
    count = len(done.changed)
    yield ""
    if tags := [f"{tag} ({number})" for tag, number in done.tags.items() if number > 1][:TAGS_SHOWN]:
        yield _line(local(_("Most frequent tags and phrases: {tags}", tags=listed(tags))))
    yield _line(local(_n("{count} caption is new or changed.", "{count} captions are new or changed.", count)))
    if done.out:
        yield _line(local(_("Written to {out}; the originals were not changed.", out=done.out)))
    else:
        yield _line(local(_("Nothing was written. To write them beside linked copies of the images: --out FOLDER")))


def _line(text: str) -> str:
    return layout.wrap(text, first="", rest="  ")
