"""A command line in a text file (.sh, .bat, .ps1, .txt): what it starts, with which arguments. Nothing in it is run.

Lines go on behind `\\` (sh), `^` (cmd) or a backtick (PowerShell). Variables that the file itself sets are put in;
arguments with others are named. Arguments are as argparse reads them; those of `accelerate launch` stand before the script.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tsuika.config.imports.taking import Taking, number
from tsuika.core.errors import RecipeError
from tsuika.core.texts import Text, _

SUFFIXES: Final = (".sh", ".bat", ".cmd", ".ps1", ".txt")
# What a line ends with that goes on: by the file's suffix, else any of them.
_GOES_ON: Final = {".bat": r"\^", ".cmd": r"\^", ".ps1": "`", ".sh": r"\\"}
_PROGRAM: Final = re.compile(r"(?:[^=]*[\\/])?([\w-]+)\.py")
_COMMENT: Final = re.compile(r"\s*(#|::|@?rem\b)", re.IGNORECASE)
_SET: Final = re.compile(r"""\s*(?:(?:export|set)\s+|\$(?:env:)?)?"?([A-Za-z_]\w*)\s*=\s*(.*)""", re.IGNORECASE)
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}|\$env:(\w+)|\$(\w+)|%(\w+)%|!(\w+)!", re.IGNORECASE)
# Variables, commands in place of a value, and arguments handed on.
_UNKNOWN: Final = re.compile(r"\$[\w{(@*]|%\w+%|%\*|!\w+!|^@\w+$")
_SIGNS: Final = ";&|<>"
_DRIVE: Final = re.compile(r"(?<!\w)[A-Za-z]:\\")
# Letters of a line, and of a variable that is put in.
_LONGEST_LINE: Final = 20_000
_LONGEST_VALUE: Final = 1_000
# Arguments of `accelerate launch` that decide nothing of the result, or are looked at on their own.
_LAUNCHER: Final = re.compile(
    r"num_(cpu_threads_per_process|machines|processes)|nproc_per_node|nnodes|gpu_ids|multi_gpu|main_process_.*|machine_rank|same_network"
    r"|rdzv_.*|dynamo_.*|mixed_precision|max_restarts|monitor_interval|tee|role|standalone|quiet|cpu|u|m"
)


@dataclass(frozen=True)
class Script:
    """A text file with commands."""

    path: Path
    text: str


@dataclass(frozen=True)
class Command:
    """One command: the script that it starts, its arguments, how many processes run it, in which precision accelerate
    is told to compute, and what of it has no counterpart."""

    script: str
    values: dict[str, Any]
    processes: int
    precision: str
    lost: tuple[str, ...]

    def kind(self, program: str) -> Text:
        """What the file is."""
        return _("a command line of {program} ({script}.py)", program=program, script=self.script)


def commands(script: Script) -> Iterator[Command]:
    """Every command of the file that starts a Python script. Raises RecipeError: RC003, a quotation mark is not closed."""
    suffix = script.path.suffix.lower()
    marks = _GOES_ON.get(suffix, r"\\|(?<=\s)[\^`]")
    is_windows = suffix in (".bat", ".cmd", ".ps1") or bool(_DRIVE.search(script.text))
    known: dict[str, str] = {}
    # A line of arguments alone belongs to the command above it, marked or not.
    joined = re.sub(rf"(?:{marks})[ \t]*\r?\n|\r?\n(?=[ \t]*--[a-z])", " ", script.text)
    for line in joined.splitlines():
        if _COMMENT.match(line) or len(line) > _LONGEST_LINE:
            continue
        whole = _VARIABLE.sub(lambda match: known.get(_named(match), match[0]), line)
        setting = _SET.fullmatch(whole)
        if ".py" in whole:
            try:
                tokens = _split(whole, '"' if suffix in (".bat", ".cmd") else "\"'", is_windows=is_windows)
            except ValueError:
                raise RecipeError("RC003", where=script.path, why=_("A quotation mark is not closed.")) from None
            for part in _parts(tokens):
                places = [place for place, token in enumerate(part) if _PROGRAM.fullmatch(token)]
                if places:
                    setting = None
                    yield _command(part, places[0])
        if setting and len(value := setting[2].strip().rstrip(";").strip("\"'")) <= _LONGEST_VALUE:
            known[setting[1].casefold()] = value


def _named(match: re.Match[str]) -> str:
    return str(match[match.lastindex or 0]).casefold()


def _split(line: str, quotes: str, *, is_windows: bool) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=_SIGNS)
    lexer.whitespace_split, lexer.commenters, lexer.quotes = True, "", quotes
    if is_windows:
        lexer.escape = ""
    return [*lexer]


def _parts(tokens: Iterable[str]) -> Iterator[list[str]]:
    """The commands of a line, without the files that they read and write (`> log.txt`, `2>&1`)."""
    part: list[str] = []
    is_file = False
    for word in tokens:
        if word and not word.strip(_SIGNS):
            is_file = word[0] in "<>"
            if not is_file:
                yield part
                part = []
            elif word == ">&" and part[-1:] in (["1"], ["2"]):
                part.pop()
        elif not is_file or word.startswith("--"):
            part.append(word)
            is_file = False
        else:
            is_file = False
    yield part


def _command(tokens: list[str], place: int) -> Command:
    taking = Taking()
    launcher = _arguments(tokens[:place], taking, "")
    for name, value in launcher.items():
        if not _LAUNCHER.fullmatch(name):
            taking.lose(f"accelerate launch --{name}", " ".join(value) if isinstance(value, list) else value)
    values = _arguments(tokens[place + 1 :], taking, tokens[place])
    match = _PROGRAM.fullmatch(tokens[place])
    processes = number(launcher.get("num_processes", launcher.get("nproc_per_node", 1)))
    count = processes if isinstance(processes, int) and processes > 0 else 1
    return Command(
        match[1] if match else "", values, count, str(launcher.get("mixed_precision", "")), tuple(taking.lost)
    )


def _arguments(tokens: Iterable[str], taking: Taking, program: str) -> dict[str, Any]:
    """By name: text, a list where there are several, True where there is none. `program`: whose they are; what stands
    before all names is lost then."""
    found: dict[str, list[str]] = {}
    name, rest = "", iter(tokens)
    for token in rest:
        if token.startswith("#"):
            taking.lose("#", " ".join([token, *rest]))
        elif re.match(r"--?[A-Za-z]", token):
            name, equals, value = token.lstrip("-").partition("=")
            name = name.replace("-", "_")
            found[name] = [value] if equals else []
        elif name and not (program and token in ("$@", "%*", "$*")):
            found[name].append(token)
        elif program:
            taking.lose(program, token)
    for name, values in [*found.items()]:
        if any(map(_UNKNOWN.search, values)):
            taking.lose(name, " ".join(values))
            del found[name]
    return {name: values[0] if len(values) == 1 else values or True for name, values in found.items()}
