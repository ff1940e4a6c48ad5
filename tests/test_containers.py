"""The container files: what they copy is there, is let through, and is enough; nothing builds them here."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FILES = sorted(one.name for one in ROOT.glob("Dockerfile*"))


def lines(name: str) -> list[str]:
    """Instructions of a file, each on one line."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / name).read_text(encoding="utf-8"))
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def copied(name: str) -> set[str]:
    """What of this folder comes into the image."""
    words = [line.split()[1:-1] for line in lines(name) if line.startswith("COPY ") and "--from" not in line]
    return {word for row in words for word in row}


def ignored(path: str) -> bool:
    """By `.dockerignore`, whose last line that fits decides."""
    found = False
    for line in lines(".dockerignore"):
        pattern = line.removeprefix("!")
        if fnmatch(path, pattern) or fnmatch(path.partition("/")[0], pattern) or fnmatch(path, f"*/{pattern[3:]}"):
            found = not line.startswith("!")
    return found


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_enough_to_build_the_package(name: str) -> None:
    found = copied(name)
    assert all((ROOT / one).exists() and not ignored(one) for one in found)
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {about["project"]["readme"], *about["project"]["license-files"], about["tool"]["hatch"]["version"]["path"]}
    needed |= {*about["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "hatch_build.py", "pyproject.toml"}
    assert not {one for one in needed if one.partition("/")[0] not in found or ignored(one)}
    extras = set(re.search(r"\.whl\)\[([\w,]+)\]", " ".join(lines(name)))[1].split(","))  # type: ignore[index]
    assert extras <= about["project"]["optional-dependencies"].keys()


@pytest.mark.parametrize("name", FILES)
def test_the_image_is_that_of_the_documentation(name: str) -> None:
    text = "\n".join(lines(name))
    assert text.rindex("\nUSER 1000") > text.rindex("\nRUN ")
    assert "VOLUME /data" in text and "EXPOSE 7878" in text
    # One release of torch for all.
    pinned = re.search(r"torch==[\d.]+", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert pinned and pinned[0] in text
    (python,) = {line.split()[1] for line in lines(name) if line.startswith("FROM ")}
    assert python == "python:3.12-slim-bookworm"


def test_nothing_else_is_sent_to_the_builder() -> None:
    assert {".git", ".venv", "runs", "tests", "build", "src/tsuika/__pycache__", "docs"} <= {
        one
        for one in (".git", ".venv", "runs", "tests", "build", "src/tsuika/__pycache__", "docs", "src")
        if ignored(one)
    }
