"""`tsuika publish`: parse, call `tsuika.api`, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from tsuika.cli import language, layout, progress, screen
from tsuika.cli.flags import Json
from tsuika.cli.language import local
from tsuika.cli.runs import RunFolder
from tsuika.core.texts import _, _n


def publish(
    run: RunFolder,
    to: Annotated[
        str, typer.Option("--to", help=_("USER/NAME on the Hugging Face hub; without it nothing is uploaded."))
    ] = "",
    out: Annotated[
        Optional[Path], typer.Option("--out", help=_("New folder for what is uploaded, and civitai.md to paste from."))
    ] = None,
    licence: Annotated[
        str,
        typer.Option("--licence", help=_("Licence of the result: openrail++, creativeml-openrail-m, cc-by-4.0, ...")),
    ] = "",
    private: Annotated[bool, typer.Option("--private", help=_("Make a repository that only you can see."))] = False,
    which: Annotated[str, typer.Option("--which", help=_("Which result: safe, balanced or likeness."))] = "balanced",
    base: Annotated[
        str, typer.Option("--base", help=_("The base model's name on the hub, where you trained on a file."))
    ] = "",
    with_captions: Annotated[
        bool,
        typer.Option("--with-captions", help=_("Leave tags of captions and names of folders in the files' metadata.")),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help=_("Replace files of the repository that are called the same."))
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=_("Upload nothing: print the card and the files that would be uploaded."))
    ] = False,
    json: Json = False,
) -> None:
    """`tsuika publish`."""
    import tsuika

    if to and not licence and sys.stdin.isatty() and not json:
        screen.say(
            _("Which licence? For example openrail++ (SDXL and its relatives) or creativeml-openrail-m (SD 1.x):")
        )
        licence = input().strip()
    found = progress.watch(
        tsuika.publish(
            run,
            to=to,
            out=out,
            licence=licence,
            private=private,
            which=which,
            base=base,
            with_captions=with_captions,
            overwrite=overwrite,
            dry_run=dry_run,
            language=language.asked(),
        )
    )
    if json:
        screen.result(found, as_json=True)
        return
    if not found.url and not out:
        screen.print_out(found.card)
    for file in found.files:
        screen.print_out(f"{layout.pad(file.path, 40)}  {file.size_bytes:,} B")
    count = len(found.files)
    if found.url:
        said = _n("{count} file is uploaded: {url}", "{count} files are uploaded: {url}", count, url=found.url)
    else:
        said = _n("{count} file; nothing was uploaded.", "{count} files; nothing was uploaded.", count)
    screen.print_out(layout.wrap(local(said), first="", rest="  "))
