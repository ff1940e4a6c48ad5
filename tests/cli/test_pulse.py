"""A line now and then while a program works, from a thread of its own."""

from __future__ import annotations

import threading
import time

import pytest

from tsuika.cli import screen
from tsuika.cli.progress import Pulse


def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(screen, "say", lambda text: lines.append(text.to("en")))
    return lines


def wait_for(lines: list[str], count: int) -> None:
    deadline = time.monotonic() + 5
    while len(lines) < count and time.monotonic() < deadline:
        time.sleep(0.005)


def test_a_line_comes_without_any_event(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(monkeypatch)
    with Pulse(True, 0.02) as pulse:
        pulse.begin("Training", 300)
        pulse.reach(7)
        wait_for(lines, 2)
        pulse.begin("Loading")
        wait_for(lines, 4)
    assert lines[0].startswith("Training: 7/300 after ") and lines[-1].startswith("Loading: still at work after ")
    assert not any(thread.name == pulse._thread.name for thread in threading.enumerate())


def test_what_is_told_otherwise_puts_it_off_and_where_there_is_a_bar_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = said(monkeypatch)
    with Pulse(True, 30.0) as pulse, Pulse(False, 0.001) as silent:
        for one in (pulse, silent):
            one.begin("Training", 300)
            one.told()
        time.sleep(0.02)
    assert lines == []
