"""The contact sheet of a check: all pictures on one self-contained HTML page, worst first, with their faults.

Knows Pillow and Jinja, and the check's report; measures nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from tsuika.core.errors import PictureError
from tsuika.core.files import write_text
from tsuika.core.words import Lang
from tsuika.data import check_words
from tsuika.data.check_report import CheckedPicture, Finding, Report
from tsuika.data.picture import open_picture
from tsuika.evaluate.inline import data_uri
from tsuika.methods import METHODS

THUMBNAIL_PX: Final = 224
SHOWN: Final = 600  # pictures; a page of more is slow to open
_LANGUAGES: Final[tuple[Lang, ...]] = ("en", "ja")
_WEIGHT: Final = {"unusable": 100, "look": 10, "note": 1}


def write(report: Report, file: Path) -> Path:
    """Write the page, whole or not at all; gives its path."""
    write_text(file, render(report))
    return file


def render(report: Report) -> str:
    """The page; it opens in the browser's language."""
    about: dict[str, list[Finding]] = {}
    for finding in report.findings:
        for name in finding.pictures:
            about.setdefault(name, []).append(finding)
    weights: dict[str, float] = {
        one.name: sum(_WEIGHT[found.level] for found in about.get(one.name, ())) for one in report.pictures
    }
    for kept, *others in report.duplicates:  # beside its copies
        weights[kept] = max(weights[kept], min(weights[name] for name in others) - 0.5)
    ordered = sorted(report.pictures, key=lambda one: -weights[one.name])
    return _template().render(
        report=report,
        pictures=[_card(picture, about.get(picture.name, [])) for picture in ordered[:SHOWN]],
        more=max(0, report.total - SHOWN),
        about_set=[finding for finding in report.findings if not finding.pictures],
        findings=report.findings,
        both=_both,
        what=lambda finding: _both(lambda lang: check_words.what(finding, lang)),
        why=lambda finding: _both(lambda lang: check_words.why(finding, lang)),
        todo=lambda finding: _both(lambda lang: check_words.todo(finding, lang)),
        headline=_both(lambda lang: check_words.headline(report, lang)),
        spread=lambda share: _both(lambda lang: check_words.spread(share, lang)),
        not_judged=[
            _both(lambda lang, key=key: check_words.NOT_JUDGED[key][lang])  # type: ignore[misc]
            for key in report.not_judged
        ],
        t=lambda en, ja: _both(lambda lang: {"en": en, "ja": ja}[lang]),
        methods={name: method.title for name, method in METHODS.items()},
    )


def _card(picture: CheckedPicture, findings: list[Finding]) -> dict[str, Any]:
    worst = min((("unusable", "look", "note").index(found.level) for found in findings), default=3)
    return {
        "picture": picture,
        "findings": findings,
        "level": ("unusable", "look", "note", "fine")[worst],
        "thumbnail": _thumbnail(picture),
        "same_as": next((f.values["of"].get(picture.name, "") for f in findings if f.code == "near-duplicate"), ""),
    }


def _thumbnail(picture: CheckedPicture) -> str:
    try:
        return data_uri(open_picture(picture.path), THUMBNAIL_PX)
    except PictureError:  # unreadable, or gone since it was checked
        return ""


def _both(words: Callable[[Lang], str]) -> Markup:
    """A sentence in every language; the page shows one."""
    part = Markup('<span class="t" lang="{}">{}</span>')
    return Markup("").join(part.format(lang, words(lang)) for lang in _LANGUAGES)


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files(__package__).joinpath("contact_sheet.html.j2").read_text(encoding="utf-8"))
