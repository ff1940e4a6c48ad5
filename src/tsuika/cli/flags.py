"""Flags that several commands share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from tsuika.core.config import Recipe

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
BaseModel = Annotated[
    str, typer.Option("--base", help="embedded, a diffusers folder, a .safetensors/.ckpt file, or a hub id.")
]
Vae = Annotated[str, typer.Option("--vae", help="builtin (or builtin:NAME), a file, a folder, or a hub id.")]

# What makes a recipe.
Method = Annotated[str, typer.Argument(help="lora | textual-inversion | dreambooth | hypernetwork.")]
Images = Annotated[str, typer.Option("--images", help="Folder of training images; never changed.")]
Trigger = Annotated[str, typer.Option("--trigger", help="Trigger word.")]
ClassWord = Annotated[str, typer.Option("--class-word", help="Kind of thing: dog, character, style.")]
RecipeFile = Annotated[Optional[Path], typer.Option("--recipe", help="Recipe file (TOML).")]
Set = Annotated[Optional[list[str]], typer.Option("--set", help="Any setting: key=value (see: tsuika settings).")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]


def built(file: Path | None, flags: Mapping[str, object], settings: Sequence[str] | None) -> Recipe:
    """A recipe from its file, then flags by dotted key (empty ones were not given), then `--set`.

    Raises:
        RecipeError: the file or a setting is wrong.
    """
    from tsuika.core import config

    tables = config.read_tables(file) if file else {}
    tables = config.override(tables, {key: value for key, value in flags.items() if value not in ("", None)})
    tables = config.override(tables, dict(map(config.parse_assignment, settings or ())))
    return config.build(tables, where=str(file or ""))
