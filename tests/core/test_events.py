"""The log of a run, as it is read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsuika.core import events
from tsuika.core.events import Finished, Saved
from tsuika.core.files import write_text


def test_a_last_line_that_was_cut_anywhere_is_left_out(tmp_path: Path) -> None:
    whole = [Saved(3, "途中"), Finished("steps", 3)]
    first, second = (f"{event.to_json()}\n".encode() for event in whole)
    log = tmp_path / "events.jsonl"
    for end in range(len(first)):
        log.write_bytes(second + first[:end])
        assert events.read(log) == ([whole[1]], bool(end)) or end == len(first) - 1
    log.write_bytes(second + first)
    assert events.read(log) == (whole[::-1], 0)


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "Saved", "step": "three", "path": "x"}',
        '{"event": "Saved", "step": 3}',
        '{"event": "Unknown"}',
        '{"event": ["Saved"]}',
        "[]",
        "null",
        "3",
        "{}",
        "\x00\x00",
        '{"event": "Stepped", "step": {}}',
        "[" * 10000,
    ],
)
def test_lines_that_are_no_events_are_counted(line: str, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text(f"{line}\n{Saved(3, 'x').to_json()}\n", encoding="utf-8")
    assert events.read(log) == ([Saved(3, "x")], 1)


def test_a_name_that_is_no_unicode_can_be_logged_and_read_again(tmp_path: Path) -> None:
    event = Saved(3, "\udc83.png")
    log = tmp_path / "events.jsonl"
    log.write_text(event.to_json() + "\n", encoding="utf-8")
    assert events.read(log) == ([event], 0)
    write_text(tmp_path / "page.html", event.path)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "\\udc83.png"
