"""HTML pages that need no other file: one base template, texts in every language, images inside.

A page extends `base.html.j2` (style, language switch, dark mode, print). It opens in one language or in its reader's.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from functools import cache, reduce
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape
from PIL import Image

from tsuika.core.texts import Text, _, _n, in_language, languages

PNG_PX: Final = 128
"""The largest side of an image that is kept as PNG; larger ones become WebP."""


def spans(text: Text | Mapping[str, str]) -> Markup:
    """A message, or sentences by language (English for a missing one), as HTML of which the page shows one; `words` become code."""
    sentences = in_languages(text) if isinstance(text, Text) else text
    return Markup("").join(
        Markup('<span class="t" lang="{}">{}</span>').format(lang, marked(sentences.get(lang) or sentences["en"]))
        for lang in languages()
    )


def in_languages(text: Text) -> dict[str, str]:
    """A text by language, for JSON."""
    return {lang: text.to(lang) for lang in languages()}


def marked(sentence: str) -> Markup:
    """A sentence escaped, with `words in backticks` as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(sentence))))  # noqa: S704 - escaped just before


def template(package: str, name: str) -> Template:
    """A template of a package. It may extend or include others of that package and those of this one.

    In it `_` and `_n` make texts, which stand in the page in every language. Where a page cannot switch, as in an
    attribute, the filter `plain` gives a text in the language that the page opens in.
    """
    return _environment(package).get_template(name)


@cache
def _environment(package: str) -> Environment:
    folders = [files(package), files(__package__)]

    def source(name: str) -> str | None:
        found = (folder.joinpath(name) for folder in folders)
        return next((file.read_text(encoding="utf-8") for file in found if file.is_file()), None)

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(source),
        finalize=lambda value: spans(value) if isinstance(value, Text) else value,
    )
    # The translation of "English" is the name of the language translated to.
    environment.globals |= {"_": _, "_n": _n, "sentences": sentences, "languages": in_languages(_("English"))}
    environment.filters |= {"plain": _plain, "spans": spans, "size": size, "unbroken": unbroken}
    return environment


@pass_context
def _plain(context: Context, value: object) -> Any:
    return in_language(value, context.get("language") or "en")


def data_uri(image: Image.Image, side_px: int) -> str:
    """An image, at most `side_px` on its longer side, as a data URI."""
    small = image.copy()
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    kind = "png" if max(small.size) <= PNG_PX else "webp"
    if kind == "png":
        small.save(stream, format="PNG", optimize=True)
    else:
        small.save(stream, format="WEBP", quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def unbroken(paste: str) -> Markup:
    """Text to paste whose words do not break at their hyphens; what is copied stays the same."""
    return Markup("").join(
        Markup("<span>{}</span>").format(word) if word.strip() else word for word in re.split(r"(\s+)", paste)
    )


def duration(seconds: float) -> Text:
    """`3 min 12 s`."""
    if seconds < 10:
        return _("{seconds} s", seconds=f"{seconds:.1f}")
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return _("{hours} h {minutes} min", hours=hours, minutes=minutes)
    return _("{minutes} min {seconds} s", minutes=minutes, seconds=rest) if minutes else _("{seconds} s", seconds=rest)


def size(count: float) -> str:
    """Bytes for people, decimal: `4.2 MB`."""
    for unit in ("B", "kB", "MB"):
        if round(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def span_of(low: str, high: str) -> Text:
    """Both ends of a range: `0.3 … 0.5`."""
    return _("{low} … {high}", low=low, high=high)


def sentences(first: Text | str, *more: Text | str | None) -> Text:
    """Whole sentences one after the other, as a language sets them; None and empty ones are left out."""
    return reduce(lambda said, one: _("{first} {second}", first=said, second=one), filter(None, more), verbatim(first))


def verbatim(text: Text | str) -> Text:
    """A text that is the same in every language; a message as it is."""
    return text if isinstance(text, Text) else Text("{text}", {"text": text})
