"""What the drawing commands print: results on stdout, talk on stderr, in the language in use."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tsuika.api import CellDrawn, SheetWritten
from tsuika.cli import screen
from tsuika.core.events import Event, Phase, note

CELL = CellDrawn(1, 2, ("seed 1", "ついか犬"), (0, 0), 1, "out/cells/000-000.png")
USED = {
    "file": "a.pt", "method": "textual-inversion", "strength": 0.5, "text_strength": None, "matched": 3, "unmatched": 1,
    "unmatched_first": ["x"], "layers": 0, "words": ["tsuipi"], "sha256": None,
}  # fmt: skip
DRAWN = {
    "pictures": ["a.png"], "artifacts": [USED], "refused": [], "notes": [note("GN003", found="<x:1>")],
    "conflicts": [{"first": "a", "second": "b", "layers": 7, "example": "unet.x"}],
}  # fmt: skip


@pytest.fixture
def japanese() -> Iterator[None]:
    screen.use_language("ja", "")
    yield
    screen.use_language("en", "")


def events() -> Iterator[Event]:
    yield Phase("grid", 2)
    yield CELL
    yield SheetWritten("out/grid.png", 1, 2)


def test_cells_as_they_come_and_the_sheet_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    screen.cells(events(), as_json=False)
    told = capsys.readouterr()
    assert told.out == "out/grid.png\n"
    assert "1/2" in told.err
    assert "ついか犬" in told.err


def test_cells_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    screen.cells(events(), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["sheet"] == "out/grid.png"
    assert told["cells"][0]["labels"] == ["seed 1", "ついか犬"]


def test_ctrl_c_closes_the_sheet() -> None:
    closed = []

    def interrupted() -> Iterator[Event]:
        try:
            yield Phase("grid", 2)
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        screen.cells(interrupted(), as_json=False)
    assert closed


@pytest.mark.usefixtures("japanese")
def test_the_combination_in_japanese(capsys: pytest.CaptureFixture[str]) -> None:
    screen.combined(DRAWN, as_json=False)
    told = capsys.readouterr()
    assert told.out == "a.png\n"
    for words in ("強さ 0.5", "呼び出す単語: tsuipi", "同じ 7 層", "お知らせ[GN003]", "対応していません"):
        assert words in told.err


def test_the_combination_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    screen.combined(DRAWN, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["artifacts"] == [USED]
    assert told["notes"][0]["code"] == "GN003"
