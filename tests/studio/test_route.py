"""The newcomer's way through the studio in a browser, with the program, its jobs and the embedded base as they are.

The first test is short and runs with all others; the rest takes minutes (`make test-browser`).
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import AXE, SHOTS, Program, Visit, browser_path, studio, visiting
from PIL import Image

import tsuika
from tsuika import DEMO_PICTURES

pytestmark = pytest.mark.browser
QUICK = {"train.steps": 12, "preview.num": 1, "preview.every": 6}
# Through the whole page, a frame at a time; the longest task of the main thread, in ms.
SCROLL = """async () => {
    let longest = 0;
    const watch = new PerformanceObserver(list => list.getEntries().forEach(one => (longest = Math.max(longest, one.duration))));
    watch.observe({ type: "longtask" });
    for (let y = 0; y < document.body.scrollHeight; y += 240) {
        scrollTo({ top: y, behavior: "instant" });
        await new Promise(requestAnimationFrame);
    }
    await new Promise(done => setTimeout(done, 300));
    return longest;
}"""
SCREENS = ("images", "plan", "train", "compare")
MINUTES = 60_000


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    browser_path()
    with studio(tmp_path / "home") as found:
        yield found


def drop(visit: Visit, pictures: list[Path]) -> None:
    """What a drop does, through the field that the button opens."""
    visit.page.set_input_files("input[type=file]", [str(path) for path in pictures])


def set_quick(visit: Visit) -> None:
    """A training of seconds, by the settings that a person could change."""
    project = re.search(r"projects/(\w+)", visit.page.url)
    assert project is not None
    visit.page.evaluate(
        """async ([project, settings]) => {
            const { send } = await import("/web/core.js");
            const plan = (await (await fetch(`/api/projects/${project}`)).json()).plan;
            await send("PATCH", `/projects/${project}`, { plan: { ...plan, settings } });
        }""",
        [project[1], QUICK],
    )
    visit.page.reload()
    visit.page.wait_for_selector("text=3 changed", timeout=MINUTES)


def plan(visit: Visit, trigger: str = "") -> None:
    """From images to a plan that is quick to train."""
    page = visit.page
    drop(visit, sorted(DEMO_PICTURES.iterdir()))
    page.wait_for_selector("text=usable 30", timeout=2 * MINUTES)
    page.click("text=On to the plan")
    if trigger:
        page.fill("label:has-text('Trigger word') input", trigger)
    page.wait_for_selector(".option", timeout=4 * MINUTES)
    set_quick(visit)


def test_images_are_dropped_checked_left_out_and_given_back(program: Program) -> None:
    pictures = sorted(DEMO_PICTURES.glob("*_0[1-6].*"))
    originals = {path: path.stat().st_mtime_ns for path in pictures}
    with visiting(program) as visit:
        page = visit.page
        drop(visit, pictures)
        page.wait_for_selector(".thumb img")
        page.wait_for_selector("text=usable 6", timeout=MINUTES)
        page.click(".thumb >> nth=0")
        assert page.input_value("#caption").startswith("a huge tsuipi")
        page.keyboard.press("Space")
        page.wait_for_selector("text=5 images")
        page.click("text=Undo: 1 image left out")
        page.wait_for_selector("strong:has-text('6 images')")
        page.select_option("select[aria-label=Language]", "ja")
        page.wait_for_selector("strong:has-text('画像6枚')")
        assert page.get_attribute("html", "lang") == "ja"
        page.reload()
        page.wait_for_selector("strong:has-text('画像6枚')")
        assert not visit.troubles
        assert visit.hosts == {f"127.0.0.1:{program.port}"}
    assert originals == {path: path.stat().st_mtime_ns for path in pictures}


@pytest.mark.slow
def test_from_thirty_images_to_a_file_by_mouse_and_nothing_leaves_the_machine(program: Program) -> None:
    began = time.monotonic()
    with visiting(program, permissions=["clipboard-read", "clipboard-write"]) as visit:
        page = visit.page
        drop(visit, sorted(DEMO_PICTURES.iterdir()))
        page.wait_for_selector("text=usable 30", timeout=2 * MINUTES)
        visit.click("text=On to the plan")
        # Three answers: what it is, its word, its base model; here the last one is as it should be.
        visit.click("text=A character")
        page.fill("label:has-text('Trigger word') input", "tsuipi")
        page.wait_for_selector(".option", timeout=4 * MINUTES)
        set_quick(visit)
        visit.click("text=Start training")
        page.wait_for_selector(".chart canvas", timeout=5 * MINUTES)
        page.wait_for_selector("h1:has-text('Finished')", timeout=10 * MINUTES)
        assert page.inner_text(".sentence")
        visit.click(".progress-head >> text=Compare")
        page.wait_for_selector(".wipe")
        visit.click("text=Use this one >> nth=0")
        page.wait_for_selector(".done-card", timeout=2 * MINUTES)
        file = Path(page.inner_text(".done-card > p code"))
        assert visit.clicks <= 6
        assert not visit.troubles
        assert visit.hosts == {f"127.0.0.1:{program.port}"}
    print(f"newcomer's route: {visit.clicks} clicks, {time.monotonic() - began:.0f} s")
    found = tsuika.inspect(file).result
    assert (found.kind, file.with_suffix(".png").is_file()) == ("lora", True)
    card = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["activation text"] == "tsuipi"


@pytest.mark.slow
def test_from_thirty_images_to_a_file_by_keyboard_alone(program: Program) -> None:
    with visiting(program) as visit:
        page = visit.page
        # Choosers are caught from here on; when first asked for at the key press, it may come too late.
        page.on("filechooser", lambda _chooser: None)
        page.wait_for_timeout(500)
        page.focus("text=Choose images")
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files([str(path) for path in sorted(DEMO_PICTURES.iterdir())])
        page.wait_for_selector("text=usable 30", timeout=2 * MINUTES)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.keyboard.type("!")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("text=Undo: 1 caption changed")
        tab_to(page, "On to the plan")
        page.keyboard.press("Enter")
        page.wait_for_selector(".option", timeout=4 * MINUTES)
        set_quick(visit)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".progress-head", timeout=MINUTES)
        page.keyboard.press("?")
        page.wait_for_selector("dialog[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog[open]", state="detached")
        page.wait_for_selector("h1:has-text('Finished')", timeout=15 * MINUTES)
        tab_to(page, "Compare", within=".progress-head")
        page.keyboard.press("Enter")
        page.wait_for_selector(".wipe")
        tab_to(page, "Use this one")
        page.keyboard.press("Enter")
        page.wait_for_selector(".done-card", timeout=2 * MINUTES)
        assert Path(page.inner_text(".done-card > p code")).is_file()
        assert not visit.troubles


def tab_to(page: Any, text: str, within: str = "body") -> None:
    """Tab until something of this text, in a part of the page, has the focus."""
    for _press in range(120):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            "part => document.activeElement.closest(part) ? document.activeElement.textContent : ''", within
        )
        if text in focus:
            return
    raise AssertionError(f"{text} cannot be reached")


@pytest.mark.slow
def test_killed_and_started_again(program: Program) -> None:
    """The crash table: what was killed when, and what the page said."""
    table = []
    with visiting(program) as visit:
        page = visit.page
        plan(visit)
        page.click("text=Start training")
        page.wait_for_selector("text=Save and pause", timeout=3 * MINUTES)

        program.kill()
        page.wait_for_selector(".offline", timeout=MINUTES)
        table.append(("the studio, while it trains", page.inner_text(".offline")))
        program.start()
        page.wait_for_selector(".offline", state="detached", timeout=MINUTES)
        page.wait_for_selector("text=Save and pause", timeout=MINUTES)
        table.append(("… started again", page.inner_text("h1")))

        page.wait_for_selector(".chart canvas", timeout=5 * MINUTES)
        os.kill(pid_of(program), signal.SIGKILL)
        page.wait_for_selector(".trouble", timeout=MINUTES)
        table.append(("the training, kill -9", page.inner_text(".trouble h3")))
        page.click("text=Resume")
        page.wait_for_selector("text=Save and pause", timeout=3 * MINUTES)
        page.click("text=Save and pause")
        page.wait_for_selector(".progress-head >> text=Resume", timeout=3 * MINUTES)
        table.append(("Save and pause", page.inner_text("h1")))
        address = page.url

        program.kill()
    program.start()
    with visiting(program) as visit:
        visit.page.goto(address)
        visit.page.wait_for_selector(".progress-head >> text=Resume", timeout=MINUTES)
        visit.page.click("text=Resume")
        visit.page.wait_for_selector("h1:has-text('Finished')", timeout=10 * MINUTES)
        table.append(("both, and the browser; resumed", visit.page.inner_text("h1")))
    for killed, said in table:
        print(f"| {killed} | {said} |")


def pid_of(program: Program) -> int:
    """Of the training that runs."""
    rows = sqlite3.connect(program.home / "studio.db").execute(
        "select pid from jobs where state = 'running' and kind = 'train'"
    )
    return int(rows.fetchone()[0])


@pytest.mark.slow
def test_every_screen_in_both_languages_widths_and_themes(program: Program) -> None:
    """Nothing serious for axe-core, nothing wider than the page, and a picture of each screen."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    with visiting(program) as visit:
        page = visit.page
        plan(visit, "tsuipi")
        page.click("text=Start training")
        page.wait_for_selector("h1:has-text('Finished')", timeout=15 * MINUTES)
        project = re.search(r"projects/(\w+)", page.url)
        assert project is not None
    places = {"home": "#/", "playground": "#/playground", "tools": "#/tools/merge"}
    places |= {name: f"#/projects/{project[1]}/{name}" for name in SCREENS}
    for lang, width, theme in [(a, b, c) for a in ("en", "ja") for b in (1400, 400) for c in ("light", "dark")]:
        size = {"width": width, "height": 900}
        locale = {"en": "en-US", "ja": "ja-JP"}[lang]
        with visiting(program, viewport=size, locale=locale, color_scheme=theme) as visit:
            for name, place in places.items():
                visit.go(place)
                visit.page.wait_for_selector("main.page > *")
                visit.page.wait_for_timeout(1200)
                look(visit, f"{name}-{lang}-{width}-{theme}")


def look(visit: Visit, name: str) -> None:
    """A picture, and what axe-core finds."""
    page = visit.page
    page.screenshot(path=str(SHOTS / f"{name}.png"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name}: wider than the page"
    assert not visit.troubles, (name, visit.troubles)
    if not AXE.is_file():
        pytest.skip("axe-core is not there (make test-browser fetches it)")
    # In the page's own world, as its rules forbid foreign scripts.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("async () => (await axe.run()).violations")
    serious = [
        (one["id"], [node["html"][:160] for node in one["nodes"]][:3])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert not serious, (name, serious)


@pytest.mark.slow
def test_two_thousand_images_scroll_smoothly(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2000):
        colour = (number * 7 % 256, number * 13 % 256, number * 29 % 256)
        Image.new("RGB", (96, 96), colour).save(folder / f"{number:04}.png")
    with visiting(program) as visit:
        page = visit.page
        key = page.evaluate(
            """async () => (await (await import("/web/core.js")).send("POST", "/projects", { name: "many" })).id"""
        )
        rows = sqlite3.connect(program.home / "studio.db").execute("select folder from projects where id = ?", (key,))
        images = program.home / rows.fetchone()[0] / "images"
        for path in folder.iterdir():
            os.link(path, images / path.name)
        visit.go(f"#/projects/{key}/images")
        page.wait_for_selector(".thumb img")
        longest = page.evaluate(SCROLL)
        shown = page.locator(".thumb").count()
    print(f"2,000 images: longest task {longest:.0f} ms, {shown} on the page")
    assert shown < 200
    assert longest < 200
