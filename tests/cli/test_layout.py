"""Wrapped lines: within the width, nothing lost, no mark alone, no number cut."""

from __future__ import annotations

import pytest

from tsuika.cli import layout

JAPANESE = (
    "検証用画像のロスは0.58です。キャラクターの学習率(learning rate)を「3分の1」にしてみてください: "
    "--set train.learning_rate=0.0001、または 1,600 枚まで増やします。"
)
ENGLISH = "A very long sentence with (brackets) that should, of course, wrap: --set train.learning_rate=0.0001."


@pytest.mark.parametrize("text", [JAPANESE, ENGLISH])
@pytest.mark.parametrize("wide", [30, 41, 60, 80])
def test_lines_fit_and_nothing_is_lost(text: str, wide: int) -> None:
    lines = layout.wrap(text, first="* ", rest="  ", wide=wide).split("\n")
    assert all(layout.width(line) <= wide for line in lines)
    assert "".join(line[2:] for line in lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("wide", range(24, 80))
def test_kinsoku(wide: int) -> None:
    lines = layout.wrap(JAPANESE, wide=wide).split("\n")
    assert not any(line[0] in "、。)」:,.ー" for line in lines)
    assert not any(line[-1] in "(「" for line in lines)
    whole = ("0.58", "キャラクター", "train.learning_rate=0.0001", "1,600")
    assert all(any(word in line for line in lines) for word in whole)


def test_a_word_longer_than_the_line_is_not_cut() -> None:
    assert layout.wrap("see /a/very/long/path/of/a/file.png", wide=10) == "see\n/a/very/long/path/of/a/file.png"


def test_kana_and_kanji_take_two_columns() -> None:
    assert (layout.width("画像a"), layout.width("が"), layout.width("か\u3099")) == (5, 2, 2)
    assert layout.pad("画像", 6) == "画像  " and layout.pad("1", 3, right=True) == "  1"


def test_a_table_wraps_its_last_column() -> None:
    rows = [("画像", "1", "とても長い説明なので折り返されます"), ("b", "10", "short")]
    wrapped = "画像   1  とても長い説明\n          なので折り返さ\n          れます\nb     10  short"
    assert layout.table(rows, right=[1], wide=24) == wrapped
    assert layout.table([]) == ""


def test_without_a_terminal_lines_have_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    assert layout.columns() == 80
