"""Flags that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
BaseModel = Annotated[
    str, typer.Option("--base", help="embedded, a diffusers folder, a .safetensors/.ckpt file, or a hub id.")
]
Vae = Annotated[str, typer.Option("--vae", help="builtin (or builtin:NAME), a file, a folder, or a hub id.")]
