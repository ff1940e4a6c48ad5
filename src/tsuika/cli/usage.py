"""`--help` and wrong usage in the person's language: what the parser would say in English, said by us."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer
import typer.core

from tsuika.cli import layout
from tsuika.cli.flags import filled
from tsuika.cli.language import local
from tsuika.core.errors import RecipeError, ResourceError, TsuikaError
from tsuika.core.files import at_home
from tsuika.core.texts import Text, _, listed

LANGUAGE: Final = _("Language of messages: en, ja or auto. It works anywhere on the line.")
# What the parser complains of. By name, since typer brings its own copy of click or uses click itself, by version.
Complaint: Final[type[Exception]] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
_HELP: Final = _("Show this message and exit.")
_VALUES: Final[Mapping[str, Text]] = {
    "int": _("<whole number>"),
    "float": _("<number>"),
    "str": _("<text>"),
    "list": _("<text>"),
    "path": _("<path>"),
}
MAY_BE_EMPTY: Final = ("prompt", "negative", "key")
_NAMES: Final = 30  # a longer name of an option has its help below it


class _Helpful:
    """With help in the language in use."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))


class Command(_Helpful, typer.core.TyperCommand):
    """A command with help in the language in use."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As ever, but for empty values (of an unset variable of the shell), which would be the current folder or the
        default, and numbers that are none. Raises RecipeError: RC015, RC016."""
        given = self.make_parser(ctx).parse_args(args=[*args])[0]
        rest = super().parse_args(ctx, args)
        about: dict[str, Any] = {"do": f"{ctx.command_path} --help"}
        for one in self.get_params(ctx):
            raw, value = given.get(one.name), ctx.params.get(one.name)
            if "" in (raw if isinstance(raw, list | tuple) else (raw,)) and one.name not in MAY_BE_EMPTY:
                raise RecipeError("RC016", found=_name(one), **about)
            if isinstance(value, float) and not math.isfinite(value):
                raise RecipeError("RC015", key=_name(one), found=value, why=_("Give a finite number."), **about)
            if isinstance(value, Path):
                ctx.params[one.name] = at_home(value)
        return rest


class Group(_Helpful, typer.core.TyperGroup):
    """Commands with help in the language in use."""


def page(command: Any, ctx: Any) -> str:
    """The help of a command: its usage, what it does, and its arguments, options and commands."""
    parameters = command.get_params(ctx)
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option"]
    commands = getattr(command, "commands", {})
    pieces = [_("[OPTIONS]"), *map(_piece, arguments), *([_("COMMAND ...")] if commands else [])]
    line = " ".join([ctx.command_path, *map(local, pieces)])
    blocks = [layout.wrap(local(_("Usage: {line}", line=line)), rest="  ")]
    blocks += [layout.wrap(local(text), first="  ", rest="  ") for text in (command.help, command.epilog) if text]
    rows = [(_option(one, ctx), _meaning(one)) for one in options]
    if not any("--lang" in one.opts for one in options):
        rows.insert(len(rows) - 1, (f"--lang {local(_VALUES['str'])}", local(LANGUAGE)))
    blocks += _section(_("Arguments:"), [(_name(one), _meaning(one)) for one in arguments])
    blocks += _section(_("Options:"), rows)
    blocks += _section(_("Commands:"), [(name, local(one.help or "")) for name, one in commands.items()])
    return "\n\n".join(blocks) + "\n"


def _section(title: Text, rows: list[tuple[str, str]]) -> list[str]:
    names = [layout.width(name) for name, _meaning in rows if layout.width(name) <= _NAMES]
    indent = " " * (max(names, default=0) + 4)
    lines = []
    for name, meaning in rows:
        first = f"  {name}"
        if layout.width(first) + 2 > len(indent):
            lines.append(first)
            first = ""
        lines.append(layout.wrap(meaning, first=layout.pad(first, len(indent)), rest=indent).rstrip())
    return ["\n".join([local(title), *lines])] if rows else []


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper())


def _piece(argument: Any) -> str:
    many = " ..." if argument.nargs == -1 else ""
    return f"{_name(argument)}{many}" if argument.required else f"[{_name(argument)}{many}]"


def _option(option: Any, ctx: Any) -> str:
    record = option.get_help_record(ctx)
    return re.sub(r"<([a-z]+)[^>]*>", lambda kind: local(_VALUES.get(kind[1], kind[0])), record[0] if record else "")


def _meaning(parameter: Any) -> str:
    default = parameter.default
    text = local(_HELP if "--help" in parameter.opts else filled(parameter.help))
    if parameter.required:
        return local(_("{text} [required]", text=text))
    if isinstance(default, (int, float, str, Path)) and not isinstance(default, bool) and str(default):
        return local(_("{text} [default: {default}]", text=text, default=default))
    return text


def explained(error: Exception) -> TsuikaError | None:
    """The error of ours for a complaint of the parser; None for the help that it shows where there are no arguments."""
    complaint: Any = error
    if type(error).__name__ == "NoArgsIsHelpError":
        return None
    context, message = complaint.ctx, str(complaint.message)
    do = f"{context.command_path} --help" if context else "tsuika --help"
    parameter = getattr(complaint, "param", None)
    name = complaint.param_hint if getattr(complaint, "param_hint", None) else _name(parameter) if parameter else ""
    match type(error).__name__:
        case "NoSuchOption":
            near = listed(complaint.possibilities or ())
            why = _("Did you mean {nearest}?", nearest=near) if near else Text("")
            return RecipeError("RC014", found=complaint.option_name, why=why, do=do)
        case "MissingParameter":
            return RecipeError("RC005", found=name, do=do)
        case "BadOptionUsage":
            if "requires" in message:
                return RecipeError("RC016", found=complaint.option_name, do=do)
            return RecipeError("RC019", why=_("`{option}` takes no value.", option=complaint.option_name), do=do)
        case "BadParameter":
            # Pydantic is slow to import, and help is quick.
            from tsuika.core.section import reason

            cause: Any = error.__cause__
            if denied := re.search(r"'(.*)' is not (?:readable|writable)", message):
                return ResourceError("RS003", where=denied[1], why=os.strerror(errno.EACCES))
            if not hasattr(cause, "errors"):
                return RecipeError("RC019", where=name, why=message, do=do)
            details = cause.errors()[0]
            return RecipeError("RC015", key=name, found=details["input"], why=reason(details), do=do)
    if unknown := re.match(r"No such command '(.*?)'", message):
        return RecipeError("RC017", found=unknown[1], do=do)
    if extra := re.match(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        return RecipeError("RC018", found=extra[1], do=do)
    return RecipeError("RC019", why=message, do=do)
