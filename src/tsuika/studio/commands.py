"""Any command of the command line from a form's values: an argument list, with paths that may be, and a place for results."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tsuika import config
from tsuika.core.errors import RecipeError
from tsuika.core.texts import _
from tsuika.methods import METHODS
from tsuika.studio import planning, uploads
from tsuika.studio.jobs import LIGHT, Job
from tsuika.studio.state import Studio

# They need no device.
ON_FILES: Final = frozenset({"inspect", "convert", "merge", "extract", "resize", "check"})
# Flags that a form does not have: where results go is up to the studio, and no code comes in from outside.
OURS: Final = frozenset({"out", "device", "overwrite", "method", "html", "artifacts", "set", "all"})


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
        if flag is None or value in ("", None, [], False) or (name in OURS and not _names_method(flag)):
            continue
        texts = _texts(studio, flag, value)
        if flag["flag"]:
            # In one piece, so that no value is taken for a flag.
            argv += [flag["flag"]] if flag["kind"] == "flag" else [f"{flag['flag']}={text}" for text in texts]
        else:
            last += texts
    lane = LIGHT if command[0] in ON_FILES else planning.lane(studio)
    if "device" in names:
        argv.append(f"--device={planning.device(studio, lane)}")
    if "out" in names:
        argv.append(f"--out={_out(studio, command, str(values.get('out', '')))}")
    argv.append("--json")
    return studio.jobs.add(command[0], [*argv, *(["--", *last] if last else [])], lane=lane, about=about)


def _texts(studio: Studio, flag: Mapping[str, Any], value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        text = str(one)
        if "\0" in text or len(text) > 10_000:
            raise RecipeError("RC015", key=flag["name"], found=text[:80], why=_("It is too large."), do="tsuika --help")
        if flag["name"] == "method" and text not in METHODS:
            raise RecipeError("RC015", key="method", found=text, why=", ".join(METHODS), do="tsuika --help")
        _check_paths(studio, flag, text)
        yield text


def _check_paths(studio: Studio, flag: Mapping[str, Any], text: str) -> None:
    """A path must lie in the roots that may be looked into; a recipe must name a method of ours.

    Raises:
        RecipeError: RC015, it does not.
    """
    path = Path(text.rpartition(":")[0] if text.rpartition(":")[0] and not Path(text).exists() else text)
    looks_like_path = flag["kind"] == "path" or "/" in text or "\\" in text
    if looks_like_path and (flag["kind"] == "path" or _is_there(path)) and not studio.picker.allowed(path):
        why = _("It is not in your home folder, in the studio's, or where the studio was started.")
        raise RecipeError("RC015", key=flag["name"], found=text, why=why, do="tsuika --help")
    if flag["name"] == "recipe":
        tables = config.read_tables(path)
        method = tables.get("method", {})
        if isinstance(method, dict) and method.get("name", "lora") not in METHODS:
            raise RecipeError("RC015", key="recipe", found=text, why=", ".join(METHODS), do="tsuika --help")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _out(studio: Studio, command: Sequence[str], name: str) -> Path:
    """Where the result goes: a new file of this name, else a new folder."""
    folder = studio.home.root / "results"
    if not name:
        return studio.home.root / "made" / "-".join([*command, secrets.token_hex(4)])
    safe = uploads.safe_name(name)
    if safe is None or "/" in safe:
        raise RecipeError("RC015", key="out", found=name, why=_("It is a name, not a path."), do="tsuika --help")
    if (folder / safe).exists():
        raise RecipeError("RC007", where=folder / safe)
    return folder / safe
