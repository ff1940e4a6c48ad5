"""The sheet: every picture where it belongs, every label readable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from tsuika.generation.grid import FONT_PX, VIEW_PX, choose_font, grid, machine_fonts, spelt

COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (200, 0, 200), (0, 200, 200)]


def pictures(size: tuple[int, int] = (64, 64)) -> list[Image.Image]:
    return [Image.new("RGB", size, color) for color in COLORS]


def box(sheet: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a colour; it must fill the box."""
    rows, columns = np.nonzero((np.asarray(sheet) == color).all(axis=-1))
    found = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    assert len(rows) == (found[2] - found[0]) * (found[3] - found[1])
    return found


def test_pictures_stand_in_rows_and_columns() -> None:
    sheet, warnings = grid(pictures(), ["strength 0", "strength 1"], ["one", "two", "three"], "title")
    assert warnings == []
    boxes = [box(sheet, color) for color in COLORS]
    for row in range(2):
        for column in range(3):
            left, top, right, bottom = boxes[3 * row + column]
            assert (right - left, bottom - top) == (192, 192)  # 64 px enlarged three times
            assert left == boxes[column][0]
            assert top == boxes[3 * row][1]
    assert boxes[0][0] < boxes[1][0] < boxes[2][0]
    assert boxes[0][1] < boxes[3][1]


def test_large_pictures_keep_their_size() -> None:
    sheet, _ = grid(pictures((VIEW_PX + 40, VIEW_PX)), ["", ""], ["", "", ""])
    left, top, right, bottom = box(sheet, COLORS[4])
    assert (right - left, bottom - top) == (VIEW_PX + 40, VIEW_PX)


def test_labels_are_drawn_beside_their_pictures_and_never_over_them() -> None:
    long = "a prompt that is much too long to stand over one small picture in a single line " * 2
    plain, _ = grid(pictures(), ["", ""], ["", "", ""])
    sheet, _ = grid(pictures(), [long, "b"], ["x", long, "averylongwordwithoutanyspacesinititself" * 2], "A title")
    assert sheet.width > plain.width
    assert sheet.height > plain.height
    for color in COLORS:
        left, top, right, bottom = box(sheet, color)  # a label over it would leave a hole
        assert (right - left, bottom - top) == (192, 192)
    left, top, right, _ = box(sheet, COLORS[1])
    over = np.asarray(sheet.convert("L"))[:top, left:right]
    assert (over < 128).any()


def test_a_missing_picture_leaves_a_hole() -> None:
    some: list[Image.Image | None] = [*pictures()]
    some[2] = None
    full, _ = grid(pictures(), ["a", "b"], ["1", "2", "3"])
    sheet, _ = grid(some, ["a", "b"], ["1", "2", "3"])
    assert sheet.size == full.size
    assert not (np.asarray(sheet) == COLORS[2]).all(axis=-1).any()


def test_wrong_count() -> None:
    with pytest.raises(ValueError, match="6 images for 2 rows x 2 columns"):
        grid(pictures(), ["a", "b"], ["1", "2"])
    with pytest.raises(ValueError, match="0 images"):
        grid([], [], [])


def test_latin_needs_no_font_of_the_machine() -> None:
    speller, warnings = choose_font(["strength 0.5, CFG: 7 (Euler a) <lora:x>"], fonts=[])
    assert warnings == []
    assert not speller.lacks


def test_without_a_font_japanese_is_spelt_and_said() -> None:
    speller, warnings = choose_font(["ツイカ", "犬 v1", "カッコ"], fonts=[])
    assert [warning.code for warning in warnings] == ["GN001"]
    assert "犬" in warnings[0].message
    assert speller.spell("ツイカ") == "tuika"
    assert speller.spell("犬 v1") == "U+72AC v1"
    sheet, told = grid(pictures(), ["ツイカ", "犬"], ["a", "b", "c"], fonts=[])
    assert [warning.code for warning in told] == ["GN001"]
    assert sheet.width > 3 * 192


def test_spelling_is_ascii() -> None:
    for character in "あアぁッんーヴ犬한é😀\u0301":
        assert spelt(character).isascii()
        assert spelt(character)


def test_a_font_of_the_machine_shows_japanese() -> None:
    labels = ["ついか犬、（正面）", "強さ 0.5 ァー"]
    speller, warnings = choose_font(labels)
    if warnings:
        pytest.skip("no font with kana on this machine")
    assert isinstance(speller.font, ImageFont.FreeTypeFont)
    drawn = {bytes(speller.font.getmask(character)) for character in "ついか犬強"}
    assert len(drawn) == 5  # five different glyphs: not five boxes
    assert speller.spell(labels[0]) == labels[0]


def test_a_damaged_font_is_passed_over(tmp_path: Path) -> None:
    bad = tmp_path / "NotoSansCJK-Regular.ttc"
    bad.write_bytes(b"no font")
    speller, warnings = choose_font(["犬"], fonts=[bad])
    assert [warning.code for warning in warnings] == ["GN001"]
    assert speller.font.getlength("a") == ImageFont.load_default(FONT_PX).getlength("a")


def test_fonts_for_japanese_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has: these lie in a user's own folder, and are no fonts at all."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".local/share/fonts/more"
    folder.mkdir(parents=True)
    names = ["AAA.ttf", "DejaVuSans.ttf", "NotoSansCJK-Bold.ttc", "NotoSansCJK-Regular.ttc", "NotoSerifCJK-Regular.TTC"]
    for name in (*names, "notes.txt"):
        (folder / name).touch()
    found = [path.name for path in machine_fonts() if folder in path.parents]
    assert found == [
        "NotoSansCJK-Regular.ttc",
        "NotoSansCJK-Bold.ttc",
        "NotoSerifCJK-Regular.TTC",
        "AAA.ttf",
        "DejaVuSans.ttf",
    ]
