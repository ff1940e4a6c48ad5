"""`tsuika studio`, and the command line as data, for the studio's forms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Optional

import typer

from tsuika.cli import labels, screen
from tsuika.cli.flags import filled
from tsuika.core.errors import RecipeError
from tsuika.core.files import at_home
from tsuika.core.texts import Text, _, languages

# Commands that have screens of their own, or none.
ELSEWHERE: Final = frozenset({"studio", "resume", "status", "stop", "sample", "export", "publish", "settings"})
# By these words the help of a flag says that a file or folder can be picked for it.
PLACE: Final = re.compile(r"\b(files?|folders?|base model)\b", re.IGNORECASE)
# What a flag can be where its help names all of it; tests compare this with the help and with what the library takes.
CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "--dtype": ("fp16", "bf16", "fp32"),
    "--for": ("A1111", "Forge", "ComfyUI", "diffusers", "tsuika"),
    "--goal": ("character", "style", "object", "concept"),
    "--guard": ("on", "warn", "off"),
    "--mode": ("missing", "replace", "add"),
    "--prediction": ("auto", "epsilon", "v", "flow"),
    "--purpose": ("balanced", "texture", "colour"),
    "--to": ("kohya", "diffusers", "a1111", "native", "single-file"),
    "--zero-terminal-snr": ("auto", "on", "off"),
}
HIDDEN: Final = frozenset({"json", "help", "lang"})


def studio(
    context: typer.Context,
    host: Annotated[
        str, typer.Option("--host", help=_("Address to listen on; other than 127.0.0.1 only with a password."))
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help=_("Port; 0 = 7878, or the next free one."))] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help=_("Do not open the browser."))] = False,
    home: Annotated[
        Optional[Path],
        typer.Option("--home", help=_("Folder of projects, runs and results; default: tsuika, at home.")),
    ] = None,
    password_file: Annotated[
        Optional[Path], typer.Option("--password-file", help=_("File whose first line is the password."))
    ] = None,
) -> None:
    """`tsuika studio`."""
    from tsuika.studio.server import serve

    place = home or at_home("~/tsuika")
    # An account without a home, as containers have them.
    if home is None and not place.is_absolute():
        raise RecipeError("RC005", found="--home", do="tsuika studio --home DIR")
    serve(
        place,
        host=host,
        port=port,
        browser=not no_browser,
        password_file=password_file,
        commands=list(described(context.find_root().command)),
        labels={key: _texts(label) for key, label in labels.LABELS.items()},
        say=screen.say,
    )


def described(group: Any, before: Sequence[str] = ()) -> Iterator[Mapping[str, Any]]:
    """Every command with its flags, in every language."""
    for name, command in group.commands.items():
        path = [*before, name]
        if hasattr(command, "commands"):
            yield from described(command, path)
        elif path[0] not in ELSEWHERE:
            flags = [_flag(one) for one in command.params if one.name not in HIDDEN]
            yield {"command": path, "text": _texts(command.help), "flags": flags}


def _flag(parameter: Any) -> dict[str, Any]:
    from tsuika.methods import METHODS

    is_argument = not getattr(parameter, "opts", [""])[0].startswith("-")
    default = parameter.default if isinstance(parameter.default, str | int | float | bool) else None
    flag = "" if is_argument else parameter.opts[0]
    choices = tuple(METHODS) if is_argument and parameter.name == "method" else CHOICES.get(flag, ())
    kind = "flag" if getattr(parameter, "is_flag", False) else "choice" if choices else _kind(parameter)
    nothing = [] if default in choices or parameter.required else [""]
    return {
        "name": parameter.name,
        "flag": flag,
        "off": next(iter(parameter.secondary_opts), ""),
        "text": _texts(filled(getattr(parameter, "help", ""))),
        "kind": kind,
        "choices": [*nothing, *choices] if choices else [],
        "is_place": kind == "path" or (kind == "text" and bool(PLACE.search(str(parameter.help)))),
        "many": bool(parameter.multiple) or parameter.nargs != 1,
        "required": bool(parameter.required),
        "default": default,
    }


def _kind(parameter: Any) -> str:
    described = getattr(parameter, "type_descriptor", None)
    name = str(described.annotation) if described is not None else str(parameter.type.name)
    kinds = {"int": "whole", "float": "number", "Path": "path", "path": "path"}
    return next((kind for part, kind in kinds.items() if part in name), "text")


def _texts(text: object) -> dict[str, str]:
    message = text if isinstance(text, Text) else Text(str(text or ""))
    return {lang: message.to(lang) for lang in languages()}
