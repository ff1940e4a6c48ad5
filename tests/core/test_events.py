"""The log of a run, as it is read again."""

from __future__ import annotations

from pathlib import Path

from tsuika.core import events
from tsuika.core.events import Finished, Saved


def test_a_last_line_that_was_cut_anywhere_is_left_out(tmp_path: Path) -> None:
    whole = [Saved(3, "途中"), Finished("steps", 3)]
    first, second = (f"{event.to_json()}\n".encode() for event in whole)
    log = tmp_path / "events.jsonl"
    for end in range(len(first)):
        log.write_bytes(second + first[:end])
        assert events.read(log) == [whole[1]] or end == len(first) - 1
    log.write_bytes(second + first)
    assert events.read(log) == whole[::-1]
