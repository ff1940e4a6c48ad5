"""`tsuika mask`: parse, call `tsuika.api`, print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from tsuika.cli import early, layout, progress, screen
from tsuika.cli.flags import Device, Json
from tsuika.cli.language import local
from tsuika.core.texts import Text, _, _n

if TYPE_CHECKING:
    from tsuika.api.masking import Masked


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
    if json:
        screen.result(done.to_dict(), as_json=True)
        return
    for line in _lines(done):
        screen.print_out(layout.wrap(local(line), first="", rest="  "))


def _lines(done: Masked) -> Iterator[str | Text]:
    for one in done.images:
        before = "–" if one.before is None else f"{one.before:.0%}"
        yield f"{one.name}: {before} -> {one.after:.0%}"
    for name, reason in done.left_out.items():
        yield _("left out {name}: {reason}", name=name, reason=reason)
    count = sum(one.before != one.after for one in done.images)
    yield _n(
        "{count} mask is new or changed (share of the image that it shows).",
        "{count} masks are new or changed (share of the image that they show).",
        count,
    )
    if done.out:
        yield _("Written to {out}; the originals were not changed. To train with them: data.masks=auto", out=done.out)
    else:
        yield _("Nothing was written. To write them beside linked copies of the images: --out FOLDER")
