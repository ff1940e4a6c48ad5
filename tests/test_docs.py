"""What the pages say can be followed: links, anchors, command lines, settings, files and Python examples."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer

from tsuika import config
from tsuika.cli.main import app
from tsuika.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for place in ("*.md", "docs/**/*.md", "examples/*.md", "bench/**/*.md", "src/tsuika/embedded/*.md")
    for path in ROOT.glob(place)
)
# The log tells what was done with the program of its day.
CURRENT = [page for page in PAGES if not page.startswith("docs/log/")]
FENCE = re.compile(r"^ *```(?P<language>\w*)\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\]]*\])*\]\((?!\w+:)([^()\s]*)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@cache
def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def anchors(page: str) -> set[str]:
    """Anchors of a page's headings, as code hosts and the site make them."""
    found = set()
    for heading in HEADING.findall(FENCE.sub("", text(page))):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


def commands(page: str) -> Iterator[list[str]]:
    """Lines of the page's code blocks, as a shell would split them."""
    for fence in FENCE.finditer(text(page)):
        if fence["language"] in ("", "sh", "powershell"):
            for line in fence["body"].splitlines():
                words = shlex.split(line.strip(), comments=True) if line.strip().startswith(PROGRAMS) else []
                if words:
                    yield words


PROGRAMS = ("tsuika ", "python ", "accelerate ")


def arguments(words: list[str]) -> list[str] | None:
    """What comes after `tsuika` in a command line; None if it is not called."""
    if words[0] == "tsuika":
        return words[1:]
    if "-m" in words and words[words.index("-m") + 1] == "tsuika":
        return words[words.index("-m") + 2 :]
    return None


def parse(arguments: list[str]) -> None:
    """Parse a command line as the program does, without running anything."""
    command: click.Command = typer.main.get_command(app)
    context: click.Context | None = None
    while True:
        context = command.make_context(command.name, arguments, parent=context)
        if not isinstance(command, click.Group):
            return
        _, found, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command = found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for target in LINK.findall(SPAN.sub("", FENCE.sub("", text(page)))):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path.resolve().relative_to(ROOT).as_posix())):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", [page for page in CURRENT if any(map(arguments, commands(page)))])
def test_commands_can_be_given(page: str) -> None:
    for words in commands(page):
        given = arguments(words)
        if given is not None:
            try:
                parse(given)
            except click.ClickException as error:
                pytest.fail(f"{shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", CURRENT)
def test_settings_in_commands_exist(page: str) -> None:
    known = {setting.key for setting in config.settings()}
    given = re.findall(r"(?:--set|--over) '?([a-z_.]+)=", text(page))
    assert not [key for key in given if key not in known | {"key"}]


@pytest.mark.parametrize("page", CURRENT)
def test_commands_named_in_sentences_exist(page: str) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = re.findall(
        r"^(?:python -m )?tsuika (?:--lang \S+ )?([a-z][\w-]*)", "\n".join(SPAN.findall(text(page))), re.M
    )
    assert not set(named) - known


@pytest.mark.parametrize("page", CURRENT)
def test_files_that_are_named_exist(page: str) -> None:
    spans = SPAN.findall(FENCE.sub("", text(page)))
    ran = [word for words in commands(page) for word in words]
    missing = []
    for word in (word for span in [*spans, *ran] for word in span.split()):
        if re.match(r"(bench|scripts|docs|examples|src|tests)/[\w./-]+\.(py|md|toml|json|webp|svg)$", word):
            missing += [] if (ROOT / word).exists() else [word]
        elif re.match(r"test_\w+\.py$", word):
            missing += [] if any((ROOT / "tests").rglob(word)) else [word]
    for words in commands(page):
        if words[:2] == ["python", "-m"] and words[2].startswith("tsuika."):
            module = ROOT / "src" / words[2].replace(".", "/")
            missing += [] if module.with_suffix(".py").exists() or (module / "__main__.py").exists() else [words[2]]
    assert not missing


@pytest.mark.parametrize("page", CURRENT)
def test_python_examples_compile(page: str) -> None:
    for fence in FENCE.finditer(text(page)):
        if fence["language"] == "python":
            compile(fence["body"], page, "exec")


def test_every_function_is_in_the_reference() -> None:
    shown = set(re.findall(r"^::: tsuika\.(\w+)$", text("docs/reference/functions.md"), re.MULTILINE))
    exported = set(re.findall(r" as ([a-z]\w+)$", text("src/tsuika/__init__.pyi"), re.MULTILINE))
    assert exported <= shown


def test_every_experiment_is_in_the_index() -> None:
    index = text("docs/log/README.md")
    assert not [page for page in PAGES if re.match(r"docs/log/\d", page) and f"({Path(page).name})" not in index]


def test_pages_have_their_other_language() -> None:
    """A page with a Japanese twin leads to it at its top, and the other way round."""
    for page in PAGES:
        if page.endswith(".ja.md"):
            english = page.replace(".ja.md", ".md")
            if Path(page).stem == "settings.ja":
                continue
            assert f"[English]({Path(english).name})" in text(page), page
            assert f"[日本語]({Path(page).name})" in text(english), english


@pytest.mark.parametrize("page", ["README.md", "README.ja.md", "docs/methods.md", "docs/methods.ja.md"])
def test_pages_and_program_want_the_same_number_of_images(page: str) -> None:
    for name, method in METHODS.items():
        low, high = method.images
        (row,) = (line for line in text(page).splitlines() if re.match(rf"\| \[?`{name}`", line))
        assert re.search(rf"\| {low}[-〜]{high}枚? \|", row), row
