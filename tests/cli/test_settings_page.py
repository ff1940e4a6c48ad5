"""The pages and the help are what the program says: settings, quick help, and two READMEs with the same commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tsuika.cli import settings_page
from tsuika.cli.main import app
from tsuika.config import settings

ROOT = Path(__file__).parents[2]
PAGES = {"en": ROOT / "docs/settings.md", "ja": ROOT / "docs/settings.ja.md"}
READMES = {"en": ROOT / "README.md", "ja": ROOT / "README.ja.md"}

# The promise of the command line's contract, as processor time, which a busy machine changes little. On a slow machine it is
# held against what the library of the command line takes by itself there (a fifth on the machine of the promise).
HELP_CPU_S = 0.3
HELP_OF_TYPER = 5.0
TRIES = 5
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate")


def program(*arguments: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "-m", "tsuika", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_settings_page_is_up_to_date(lang: str) -> None:
    page = PAGES[lang].read_text(encoding="utf-8")
    advice = f"write it again: tsuika settings --markdown --lang {lang} > docs/{PAGES[lang].name}"
    assert page.rstrip() == settings_page.markdown(lang).rstrip(), advice


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_every_setting_is_one_row_of_three_cells(lang: str) -> None:
    rows = [line for line in settings_page.markdown(lang).splitlines() if line.startswith("| `")]
    methods = dict.fromkeys(["", *(setting.method for setting in settings())])
    order = sorted(settings(), key=lambda setting: [*methods].index(setting.method))  # what all share comes first
    assert [re.match(r"\| `([^`]+)`", row)[1] for row in rows] == [setting.key for setting in order]
    assert all(row.count("|") == 4 for row in rows)


@pytest.mark.parametrize("arguments", [("--help",), ("train", "--help"), ("grid", "--help"), ("settings",)])
def test_help_loads_no_heavy_library(arguments: tuple[str, ...]) -> None:
    told = program(*arguments, python=("-X", "importtime")).stderr
    loaded = {line.rsplit("|", 1)[1].strip().partition(".")[0] for line in told.splitlines() if line.count("|") == 2}
    assert "tsuika" in loaded, "importtime told nothing"
    assert not loaded & {*HEAVY}


def test_help_is_quick() -> None:
    resource = pytest.importorskip("resource", reason="no processor time of child processes on Windows")

    def spent_s(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime

    times: list[tuple[float, float]] = []
    for _ in range(TRIES):
        times.append((spent_s("-m", "tsuika", "--help"), spent_s("-c", "import typer")))
        quickest, typer = (min(column) for column in zip(*times))
        if quickest < max(HELP_CPU_S, HELP_OF_TYPER * typer):
            return
    pytest.fail(f"processor seconds, beside typer's alone: {times}")


def commands(readme: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_both_readmes_show_the_same_commands() -> None:
    assert commands(READMES["en"]) == commands(READMES["ja"])
    assert commands(READMES["en"])


def test_the_readmes_commands_exist() -> None:
    known = {
        (command.name or command.callback.__name__).replace("_", "-")
        for command in app.registered_commands
        if command.callback
    } | {group.name for group in app.registered_groups}
    shown = {
        word for line in commands(READMES["en"]) for word in re.findall(r"\btsuika (?:--lang \w+ )?([a-z][\w-]*)", line)
    }
    assert shown <= known, shown - known
    keys = {setting.key for setting in settings()}
    named = {key for line in commands(READMES["en"]) for key in re.findall(r"--set '?([\w.]+)=", line)}
    assert named <= keys, named - keys
