"""The contact sheet of a check: all images on one self-contained HTML page, worst first, with their faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tsuika import pages
from tsuika.core.errors import ImageError
from tsuika.core.files import write_text
from tsuika.data.check_report import LEVELS, CheckedImage, Finding, Report, spread_word
from tsuika.data.faults import NOT_JUDGED
from tsuika.data.image import open_image
from tsuika.methods import METHODS

THUMBNAIL_PX: Final = 224
SHOWN: Final = 600  # a page with more images is slow to open
_WEIGHT: Final = {"unusable": 100.0, "look": 10.0, "note": 1.0}


def write(report: Report, file: Path, language: str = "") -> Path:
    """Write the page, whole or not at all; returns its path. It opens in `language`; empty: in the reader's own."""
    write_text(file, render(report, language))
    return file


def render(report: Report, language: str = "") -> str:
    about: dict[str, list[Finding]] = {}
    for finding in report.findings:
        for name in finding.pictures:
            about.setdefault(name, []).append(finding)
    weights = {one.name: sum(_WEIGHT[found.level] for found in about.get(one.name, ())) for one in report.pictures}
    # The image that is kept stands beside its copies.
    for kept, *others in report.duplicates:
        weights[kept] = max(weights[kept], min(weights[name] for name in others) - 0.5)
    ordered = sorted(report.pictures, key=lambda one: -weights[one.name])
    return pages.template(__package__, "contact_sheet.html.j2").render(
        language=language,
        report=report,
        cards=[_card(image, about.get(image.name, [])) for image in ordered[:SHOWN]],
        more=max(0, report.total - SHOWN),
        not_judged=NOT_JUDGED,
        spread_word=spread_word,
        titles={name: method.title for name, method in METHODS.items()},
    )


def _card(image: CheckedImage, findings: Sequence[Finding]) -> dict[str, Any]:
    try:
        thumbnail = pages.data_uri(open_image(image.path), THUMBNAIL_PX)
    except ImageError:
        thumbnail = ""  # unreadable, or gone since it was checked
    level = min((finding.level for finding in findings), key=LEVELS.index, default="fine")
    same_as = next((f.values["of"].get(image.name, "") for f in findings if f.code == "near-duplicate"), "")
    return {"image": image, "findings": findings, "level": level, "thumbnail": thumbnail, "same_as": same_as}
