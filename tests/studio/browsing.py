"""The studio as a person meets it: the program started from its command line, and Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import tsuika

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
AXE = Path(__file__).parents[2] / "build/axe/package/axe.min.js"
SHOTS = Path(__file__).parents[2] / "build/studio-screens"
# Milliseconds. A machine that does much else needs more of them.
MINUTES = 60_000 * int(os.environ.get("PATIENCE", "1"))


def browser_path() -> str:
    """Where a Chromium is; without one, or without Playwright, the test is skipped."""
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install playwright)")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return found


@dataclass
class Program:
    """`tsuika studio`, running."""

    home: Path
    port: int = 0
    address: str = ""
    process: subprocess.Popen[str] | None = None
    started_s: float = 0.0

    def start(self) -> None:
        """Start it, again on the same port."""
        began = time.monotonic()
        command = [sys.executable, "-m", "tsuika", "--lang", "en", "studio", "--no-browser", "--home", str(self.home)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home.parent,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(tsuika.__file__).parents[1]),
                "XDG_CACHE_HOME": str(self.home.parent / "cache"),
                "COLUMNS": "300",
            },
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/\S*", line):
                self.address, self.port = found[0], int(found[1])
                break
        self.started_s = time.monotonic() - began

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)


@contextmanager
def studio(home: Path) -> Iterator[Program]:
    """The program in a home; closed at the end."""
    program = Program(home)
    program.start()
    try:
        yield program
    finally:
        if program.process is not None and program.process.poll() is None:
            program.process.send_signal(signal.SIGINT)
            try:
                program.process.wait(10)
            except subprocess.TimeoutExpired:
                program.process.kill()


@dataclass
class Visit:
    """A page that is open, and everything that went wrong on it."""

    page: Any
    program: Program
    troubles: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    clicks: int = 0

    def go(self, place: str = "#/") -> None:
        """Open a screen."""
        self.page.goto(f"http://127.0.0.1:{self.program.port}/{place}")

    def click(self, selector: str) -> None:
        """Click, and count it."""
        self.page.click(selector)
        self.clicks += 1


@contextmanager
def visiting(program: Program, **context: Any) -> Iterator[Visit]:
    """Chromium with the studio open; whatever a page complains about fails the test."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        settings = {"viewport": {"width": 1400, "height": 900}, "locale": "en-US", **context}
        page = browser.new_context(**settings).new_page()
        page.set_default_timeout(MINUTES / 2)
        visit = Visit(page, program)
        page.on("pageerror", lambda error: visit.troubles.append(str(error)))
        page.on("console", lambda said: visit.troubles.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda request: visit.hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
        page.goto(program.address)
        page.wait_for_selector("header.top")
        try:
            yield visit
        finally:
            browser.close()
