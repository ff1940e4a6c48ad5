"""What a run looks like in a notebook: progress, loss curve, the guard's last check, previews; then its result."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from html import escape
from pathlib import Path
from typing import Final

from PIL import Image

from tsuika.core.events import Event, Judged, Phase, Previewed, Progress, Started, Stepped, Warned
from tsuika.core.messages import percent
from tsuika.pages import chart

UPDATE_EVERY_S: Final = 0.5
THUMBNAIL_PX: Final = 192
SHOWN_ROWS: Final = 50
SHOWN_IMAGES: Final = 24
IMAGE_SUFFIXES: Final = (".png", ".webp", ".jpg")
_STYLE: Final = "font:13px/1.6 system-ui,sans-serif;max-width:64em"


class Display:
    """The state of a run as far as its events tell, rendered as HTML."""

    def __init__(self, name: str) -> None:
        self._name, self._phase, self._done, self._total = name, "", 0, 0
        self._losses: list[float] = []
        self._check: Judged | None = None
        self._previews: list[Previewed] = []
        self._notes: list[Warned] = []
        self._shown_at = 0.0

    def update(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case Phase(name=name, total=total):
                self._phase, self._done, self._total = name, 0, total
            case Progress(done=done, total=total):
                self._done, self._total = done, total
            case Started(steps=steps, first_step=first):
                self._done, self._total = first, steps
            case Stepped(step=step, loss=loss):
                self._done = step
                self._losses.append(loss)
            case Judged():
                self._check = event
            case Previewed(step=step):
                self._previews = [*(one for one in self._previews if one.step == step), event]
            case Warned():
                self._notes.append(event)

    def due(self) -> bool:
        """Whether it is time to show the state again."""
        now = time.monotonic()
        if now - self._shown_at < UPDATE_EVERY_S:
            return False
        self._shown_at = now
        return True

    def html(self) -> str:
        """The state of a run that is not over."""
        parts = [f"<b>tsuika.{escape(self._name)}</b>", escape(self._phase)]
        if self._total:
            bar = f'<progress max="{self._total}" value="{self._done}" style="width:16em"></progress>'
            parts.append(f"{bar} {self._done:,}/{self._total:,}")
        if self._losses:
            parts.append(f"loss {self._losses[-1]:.4f}")
        if self._check is not None and (held_out := self._check.evidence["held_out"]) is not None:
            parts.append(f"held-out {percent(held_out['mean'])} (step {self._check.step:,})")
        notes = "".join(f"<div>[{escape(one.code)}] {escape(one.message)}</div>" for one in self._notes)
        return framed(" · ".join(filter(None, parts)) + _curve(self._losses) + notes)


def shown(value: object) -> str:
    """A result as HTML: its own, else its fields as a table, with the image files among them."""
    own = getattr(value, "_repr_html_", None)
    return own() if own is not None else framed(_cell(value))


def gallery(files: Iterable[Path], width_px: int = THUMBNAIL_PX) -> str:
    """Image files side by side, up to a width, inside the page itself."""
    return "".join(
        f'<img src="{_data_url(file, width_px)}" title="{escape(file.name)}" style="margin:2px;max-width:{width_px}px">'
        for file in list(files)[:SHOWN_IMAGES]
    )


def framed(html: str) -> str:
    """HTML in the common style."""
    return f'<div style="{_STYLE}">{html}</div>'


def _data_url(file: Path, width_px: int) -> str:
    stream = io.BytesIO()
    with Image.open(file) as image:
        image.thumbnail((2 * width_px, 2 * width_px))
        image.convert("RGB").save(stream, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _cell(value: object) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        return table({one.name: getattr(value, one.name) for one in fields(value)})
    if isinstance(value, Mapping):
        return table(value)
    if isinstance(value, Path) and value.suffix in IMAGE_SUFFIXES and value.is_file():
        return gallery([value])
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(one, Path) and one.suffix in IMAGE_SUFFIXES and one.is_file() for one in value):
            return gallery(value)
        more = f"<div>… {len(value) - SHOWN_ROWS:,} more</div>" if len(value) > SHOWN_ROWS else ""
        return "".join(f"<div>{_cell(one)}</div>" for one in value[:SHOWN_ROWS]) + more
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def table(values: Mapping[str, object]) -> str:
    """Names and values, empty ones left out."""
    rows = "".join(
        f'<tr><th style="text-align:left;vertical-align:top">{escape(str(name))}</th>'
        f'<td style="text-align:left">{_cell(value)}</td></tr>'
        for name, value in list(values.items())[:SHOWN_ROWS]
        if value not in (None, "", (), [], {})
    )
    return f"<table>{rows}</table>"


def _curve(losses: Sequence[float]) -> str:
    if len(losses) < 2 or (curve := chart.curve(losses)) is None:
        return ""
    line = 'fill="none" vector-effect="non-scaling-stroke"'
    return (
        '<svg viewBox="0 0 1000 300" preserveAspectRatio="none" style="display:block;width:32em;height:7em">'
        f'<path d="{curve.raw}" stroke="#bbb" stroke-width="1" {line}/>'
        f'<path d="{curve.smooth}" stroke="#2563eb" stroke-width="2" {line}/></svg>'
    )
