"""`--help` and wrong usage: in the person's language, within 80 columns, nothing of the parser's own English."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from babel.messages.pofile import read_po

from tsuika.cli import labels, language, layout, screen, usage
from tsuika.cli.main import app
from tsuika.core.texts import LOCALE, Text


def every_command() -> Iterator[tuple[str, ...]]:
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        yield from ((name, inner) for inner in getattr(command, "commands", ()))
        yield (name,)


def found(command: tuple[str, ...]) -> Any:
    one: Any = typer.main.get_command(app)
    for name in command:
        one = one.commands[name]
    return one


COMMANDS = [(), *every_command()]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "80")
    yield
    language.use(None)


def ended(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        screen.run(app, words)
    return int(left.value.code or 0)


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    screen.run(app, words)
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_help_fits_the_terminal(command: tuple[str, ...], lang: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, *command, "--help", "--lang", lang)
    assert page.startswith(("Usage: tsuika", "使い方: tsuika")[lang == "ja"])
    assert all(layout.width(line) <= 80 for line in page.splitlines())
    assert "--lang" in page and ("[default" not in page or lang == "en")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_is_in_the_catalogue(command: tuple[str, ...]) -> None:
    of = found(command)
    texts = [of.help, *(one.help for one in of.params if "--help" not in one.opts)]
    with (LOCALE / "ja/LC_MESSAGES/tsuika.po").open("rb") as stream:
        known = {message.id for message in read_po(stream)}
    assert [text for text in texts if text not in known] == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("train --stesp 3", "RC014"),
        ("train lora --steps x", "RC015"),
        ("generate --prompt a --out x --num 0", "RC015"),
        ("train lora --steps", "RC016"),
        ("advise --images a --goal object --vram-gb nan", "RC015"),
        ("generate --prompt a --out x --cfg inf", "RC015"),
        ("check a --out b", "RC005"),
        ("demo --steps 0", "RC002"),
        ("nope", "RC017"),
        ("check a b", "RC018"),
        ("check a --json=3", "RC019"),
        ("check", "RC005"),
        ("advise --images a", "RC005"),
        ("check a --lang xx", "RC002"),
        ("train lora --images a --set train.steps=x", "RC002"),
        ("evaluate a --strengths x", "RC002"),
    ],
)
def test_wrong_usage_is_one_block_and_status_2(line: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(*line.split()) == 2
    english = capsys.readouterr().err
    assert english.startswith(f"error[{code}] ") and "Traceback" not in english
    if "xx" not in line:
        assert ended(*line.split(), "--lang", "ja") == 2
        japanese = capsys.readouterr().err
        assert japanese.startswith(f"エラー[{code}] ") and "対処: " in japanese
        said = re.sub(r"`[^`]*`|--?[\w-]+|tsuika .*|[A-Z]{2,}\d*", "", japanese)
        assert not re.search(r"[A-Za-z]+ [a-z]+", said), said


@pytest.mark.parametrize(
    "words", [("check", ""), ("inspect", ""), ("export", "a", "--to", ""), ("generate", "--prompt", "", "--out", "")]
)
def test_an_empty_path_is_not_the_current_folder(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """As where a variable of the shell is not set."""
    assert ended(*words) == 2
    assert capsys.readouterr().err.startswith("error[RC016] ")


OPTIONS = [
    (*command, option)
    for command in every_command()
    for option in found(command).params
    if option.param_type_name == "option" and not option.is_flag
]


@pytest.mark.parametrize("words", OPTIONS, ids=lambda words: f"{' '.join(words[:-1])} {words[-1].opts[0]}")
def test_no_option_takes_the_value_of_an_unset_variable(words: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`--base "$BASE"` trained on the default, `--lora ""` was the current folder."""
    *command, option = words
    given = f"{option.opts[0]}="
    if option.name in usage.MAY_BE_EMPTY:
        assert option.opts[0] in ("--prompt", "--negative")
        return
    # What else is needed, so that this alone is wrong.
    others = [one for one in found(tuple(command)).params if one.required and one is not option]
    flags = [f"{one.opts[0]}=x" for one in others if one.param_type_name == "option"]
    arguments = ["x" for one in others if one.param_type_name == "argument"]
    assert ended(*command, *arguments, *flags, given) == 2
    # RC015 of a number.
    assert capsys.readouterr().err.startswith(("error[RC016]", "error[RC015]"))


def test_a_file_of_events_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for place, code in (("nowhere/a", "RS004"), ("file/a", "RC028"), (".", "RS004")):
        assert ended("doctor", "--events", str(tmp_path / place)) in (2, 5)
        said = capsys.readouterr().err
        assert said.startswith(f"error[{code}] ") and "Traceback" not in said


def test_the_nearest_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    ended("train", "--stesp", "3")
    assert "--steps" in capsys.readouterr().err


def test_nothing_to_do_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    ended("--lang", "ja")
    told = capsys.readouterr()
    assert "使い方: tsuika" in told.out + told.err


def test_doctor_has_a_name_for_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "doctor", "--lang", "ja").splitlines()
    labelled = [line for line in lines if not line.startswith("  ")]
    assert all(not line.isascii() or line.startswith("Python") for line in labelled)


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        ({"family": "sd1", "finished": True, "trigger": "", "steps": None}, ["モデルの種類: SD 1.x", "完了: はい"]),
        ({"words": ["a", "b"]}, ["単語: a、b"]),
        ({"captions": ["a.png: " + "x" * 60]}, ["キャプション:", "  a.png: " + "x" * 60]),
        ({"libraries": {"torch": Text("not installed")}}, ["ライブラリ:", "  torch: 入っていません"]),
        ({"largest_relative_error": 0.00012}, ["読み戻したときの相対的な差(最大): 1.2e-04"]),
    ],
)
def test_results_for_people(value: dict[str, object], lines: list[str]) -> None:
    language.use("ja")
    assert labels.lines(value).splitlines() == lines


def test_the_home_is_filled_in_where_a_path_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for words in (
        ("inspect", "~/x"),
        ("resume", "~/x"),
        ("check", "~/x"),
        ("train", "lora", "--images=~/x", "--out=~/y"),
    ):
        assert ended(*words) in (2, 3, 4, 8)
        # Wherever the line was broken.
        assert f"where:{tmp_path / 'x'}" in "".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("command", ["status", "stop", "sample", "resume", "publish --out=x", "export --to=x"])
def test_a_folder_without_a_run_is_wrong_usage(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 8, of a run that can go on, sent scripts that resume until it is over round for ever."""
    assert ended(*command.split(), str(tmp_path)) == 2
    assert capsys.readouterr().err.count("error[TR002] ") == 1


@pytest.mark.parametrize("given", ["nan", "0.5,inf", ",", "a"])
def test_numbers_of_a_flag_are_numbers(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("evaluate", "x", "--strengths", given) == 2
    assert "`--strengths`" in capsys.readouterr().err
