"""Any command of the command line from a form's values: an argument list, with paths that may be, and a place for results."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tsuika import config
from tsuika.core.errors import RecipeError
from tsuika.core.files import at_home
from tsuika.core.texts import _
from tsuika.methods import DEFAULT, METHODS
from tsuika.studio import planning, uploads
from tsuika.studio.jobs import LIGHT, Job
from tsuika.studio.state import Studio

# They need no device.
ON_FILES: Final = frozenset({"inspect", "convert", "merge", "extract", "resize", "check", "doctor"})
# Flags that a form does not have: where results go is up to the studio, and no code comes in from outside.
OURS: Final = frozenset({"out", "device", "overwrite", "method", "html", "artifacts", "all_"})
# Their folder is a run folder, which has screens of its own.
RUNS: Final = frozenset({"demo", "train"})
# What may stand around a path in a value: `base=A,B` of a grid, `preview.file=A` of a setting.
AROUND: Final = re.compile(r"[=,]")


def forms(studio: Studio) -> list[dict[str, Any]]:
    """The commands, without what is up to the studio; `writes` says that a file name is asked for."""
    rows = []
    for one in studio.commands:
        flags = [flag for flag in one["flags"] if flag["name"] not in OURS or _names_method(flag)]
        writes = any(flag["name"] == "out" for flag in one["flags"])
        rows.append({**one, "flags": flags, "writes": writes})
    return rows


def _names_method(flag: Mapping[str, Any]) -> bool:
    """An argument that names a method, unlike the flag that loads one from outside."""
    return flag["name"] == "method" and not flag["flag"]


def start(studio: Studio, command: Sequence[str], values: Mapping[str, Any], about: Mapping[str, Any]) -> Job:
    """Run a command with a form's values.

    Raises:
        RecipeError: RC017, there is no such command; RC015, a value that cannot be.
    """
    known = next((one for one in studio.commands if one["command"] == [*command]), None)
    if known is None:
        raise RecipeError("RC017", found=" ".join(command), do="tsuika --help")
    names = {flag["name"]: flag for flag in known["flags"]}
    argv: list[str] = [*command]
    last: list[str] = []
    for name, value in values.items():
        flag = names.get(name)
        if flag is None or value in ("", None, []) or (name in OURS and not _names_method(flag)):
            continue
        if flag["kind"] == "flag":
            argv += [
                one for one in (flag["flag"] if value else flag["off"],) if one and bool(value) != bool(flag["default"])
            ]
            continue
        texts = _texts(studio, flag, value)
        if flag["flag"]:
            # In one piece, so that no value is taken for a flag.
            argv += [f"{flag['flag']}={text}" for text in texts]
        else:
            last += texts
    lane = LIGHT if command[0] in ON_FILES else planning.lane(studio)
    if "device" in names:
        argv.append(f"--device={planning.device(studio, lane)}")
    # Where its result is, the page does not say.
    kind, run, about = " ".join(command), None, {name: value for name, value in about.items() if name != "out"}
    if "out" in names:
        # A training that is only checked makes no folder.
        makes_run = command[0] in RUNS and not values.get("dry_run")
        out = _out(studio, command, str(values.get("out", "")), "runs" if makes_run else "results")
        argv.append(f"--out={out}")
        run, kind = (out, "train") if makes_run else (None, kind)
        about["out"] = out.relative_to(studio.home.root).as_posix()
    argv += ["--json", *(["--", *last] if last else [])]
    return studio.jobs.add(kind, argv, lane=lane, run=run, about=about)


def _texts(studio: Studio, flag: Mapping[str, Any], value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        text = str(one)
        if "\0" in text or len(text) > 10_000:
            raise RecipeError("RC015", key=flag["name"], found=text[:80], why=_("It is too large."), do="tsuika --help")
        if flag["name"] == "method" and text not in METHODS:
            raise RecipeError("RC015", key="method", found=text, why=", ".join(METHODS), do="tsuika --help")
        studio.picker.refuse_outside(flag["name"], text, is_path=flag["kind"] == "path")
        for part in AROUND.split(text)[1:]:
            studio.picker.refuse_outside(flag["name"], part)
        if flag["flag"] == "--set" and _names_code(text):
            raise RecipeError("RC015", key="set", found=text, why=", ".join(METHODS), do="tsuika settings")
        if flag["name"] == "recipe":
            _check_recipe(studio.home.root / at_home(text))
        yield text


def _check_recipe(path: Path) -> None:
    """See that a recipe names a method of ours: one from outside is code.

    Raises:
        RecipeError: RC015, it does not.
    """
    method = config.read_tables(path).get("method", {})
    if isinstance(method, dict) and method.get("name", DEFAULT.name) not in METHODS:
        raise RecipeError("RC015", key="recipe", found=path, why=", ".join(METHODS), do="tsuika --help")


def _names_code(assignment: str) -> bool:
    """Whether a setting names a method of a recipe, which may be one from outside; the form has a field for ours."""
    return config.parse_assignment(assignment)[0].replace("-", "_").partition(".")[::2] in (
        ("method", ""),
        ("method", "name"),
    )


def _out(studio: Studio, command: Sequence[str], name: str, place: str) -> Path:
    """Where the result goes: a new file or folder of this name in a folder of the home, else a new folder."""
    folder = studio.home.root / place
    if not name:
        inside = folder if place == "runs" else studio.home.root / planning.MADE
        return inside / "-".join([*command, secrets.token_hex(4)])
    safe = uploads.safe_name(name)
    if safe is None or "/" in safe:
        raise RecipeError("RC015", key="out", found=name, why=_("It is a name, not a path."), do="tsuika --help")
    if (folder / safe).exists():
        raise RecipeError("RC007", where=folder / safe, do=_("Choose another name."))
    return folder / safe
