"""The note that neither the user nor the base has chosen a learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tsuika.api import training
from tsuika.config import Recipe
from tsuika.core.events import Event, Phase


@pytest.mark.parametrize(
    ("base", "settings", "told"),
    [
        ("model.safetensors", {}, True),
        ("model.safetensors", {"train.steps": 1200}, True),
        ("model.safetensors", {"train.learning_rate": 2e-4}, False),
        ("embedded", {}, False),
        ("embedded", {"train.learning_rate": 1e-4}, False),
    ],
)
@pytest.mark.parametrize("method", ["lora", "textual-inversion"])
def test_a_rate_that_nobody_chose_is_told(method: str, base: str, settings: dict[str, Any], told: bool) -> None:
    notes = list(training._usual(Recipe.of(method, base=base, images="photos", settings=settings)))
    assert [one.code for one in notes] == ["TR015"] * told
    for language in ("en", "ja"):
        assert all("tsuika advise --images photos" in one.words(language) for one in notes)
        assert all("tsuika find-rate" in one.words(language) for one in notes)


def test_it_stands_behind_the_first_event_and_the_run_is_closed_with_it() -> None:
    closed = []

    def run() -> Iterator[Event]:
        try:
            yield Phase("load")
            yield Phase("train")
        finally:
            closed.append(True)

    notes = list(training._usual(Recipe.of("lora", base=str(Path("x")), images="photos")))
    events = training._with_note(run(), notes)  # type: ignore[arg-type]
    assert [next(events), next(events)] == [Phase("load"), notes[0]]
    events.close()
    assert closed
