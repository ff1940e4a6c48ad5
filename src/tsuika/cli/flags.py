"""Flags that several commands share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import typer

from tsuika.core.texts import Text, _, listed

if TYPE_CHECKING:
    from tsuika.config import Recipe

_Number = TypeVar("_Number", int, float)

Json = Annotated[bool, typer.Option("--json", help=_("Print one JSON object on stdout and nothing else there."))]
BaseModel = Annotated[
    str,
    typer.Option(
        "--base",
        help=_("Base model: embedded, a diffusers folder, a .safetensors or .ckpt file, or a Hugging Face model id."),
    ),
]
Vae = Annotated[
    str, typer.Option("--vae", help=_("VAE: builtin or builtin:NAME, a file, a folder, or a Hugging Face model id."))
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=_("Replace the --out file if it exists."))]

# What makes a recipe.
Method = Annotated[str, typer.Argument(help=_("Method: {methods} or {last_method}."))]
Images = Annotated[str, typer.Option("--images", help=_("Folder of training images; never changed."))]
Trigger = Annotated[str, typer.Option("--trigger", help=_("Trigger word."))]
ClassWord = Annotated[
    str, typer.Option("--class-word", help=_("Class word, what kind of thing it is: dog, character, style."))
]
RecipeFile = Annotated[
    Optional[Path], typer.Option("--recipe", help=_("Recipe file (TOML), or settings of another program."))
]
Set = Annotated[Optional[list[str]], typer.Option("--set", help=_("Any setting as key=value (see: tsuika settings)."))]
Device = Annotated[str, typer.Option("--device", help=_("Device: auto, cpu, cuda, cuda:1, mps."))]


def filled(help: object) -> Text:
    """The help of a flag, with the names of the methods where it lists them: they are imported when it is shown."""
    text = help if isinstance(help, Text) else Text(str(help or ""))
    if "{methods}" not in text:
        return text
    from tsuika.methods import METHODS

    *names, last = METHODS
    return text.filled({"methods": listed(names), "last_method": last})


def built(method: str, file: Path | None, settings: Sequence[str] | None, **flags: object) -> Recipe:
    """A recipe from its file, then the method and flags (`config.FLAGS`), then `--set`.

    Raises:
        RecipeError: the file or a setting is wrong.
    """
    from tsuika.config import Recipe, parse_assignment

    return Recipe.of(method, file=file, settings=dict(map(parse_assignment, settings or ())), **flags)


def numbers(text: str, kind: type[_Number], flag: str) -> tuple[_Number, ...]:
    """The numbers of a flag such as `0.5,0.75,1`.

    Raises:
        RecipeError: RC002, one of them is no finite number, or there is none but commas.
    """
    from tsuika.core.errors import RecipeError

    try:
        found = tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if (text and not found) or not all(map(math.isfinite, found)):
        example = "60,120" if kind is int else "0.5,0.75,1"
        why = _("Give numbers with commas between them, for example {example}.", example=example)
        raise RecipeError("RC002", key=flag, found=text, why=why)
    return found


def options_of(build: Callable[..., object]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command so that it takes the options of `build`, and what `build` makes of them as its first argument.

    Both need annotations that are evaluated: their module does not postpone them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def call(**given: Any) -> None:
            command(build(**{name: given.pop(name) for name in options}), **given)

        options = inspect.signature(build).parameters
        _first, *own = inspect.signature(command).parameters.values()
        every = sorted((*options.values(), *own), key=lambda one: one.default is not one.empty)
        # What typer reads; `wraps` has copied the command's own.
        call.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in every}
        return call

    return decorate
