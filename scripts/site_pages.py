"""The pages of the documentation site, gathered from the repository: `python scripts/site_pages.py DIR`, then `mkdocs build`.

`docs/` as it is, with README, changelog, examples and the embedded base's card beside it. Links are turned to the places that
pages have there; links to files that are no pages (code, licences) become plain text.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Pages that do not lie in docs/, and where they go.
ELSEWHERE = {
    "README.md": "index.md",
    "README.ja.md": "index.ja.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "src/tsuika/embedded/CARD.md": "embedded-card.md",
    "bench/guard/README.md": "bench-guard.md",
}
LINK = re.compile(r"(?P<image>!?)(?<!\\)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)")
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
# The line that leads to the page in another language: the site has a switch for that.
OTHER_LANGUAGE = re.compile(r"^\[(日本語|English)\]\([^)]*\)\n+", re.MULTILINE)


def places() -> dict[str, str]:
    """Path in the repository -> path on the site, of pages and of pictures."""
    found = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "docs").rglob("*") if path.is_file()}
    return {**{name: name.removeprefix("docs/") for name in sorted(found)}, **ELSEWHERE}


def turned(text: str, source: str, to: dict[str, str]) -> str:
    """A page with its links as the site needs them."""

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match["target"].partition("#")
        # A picture may stand in the text.
        words = LINK.sub(link, match["text"])
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        place = to.get(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
        if place is None:
            return words
        # The plug-in for languages finds NAME.ja.md by NAME.md.
        new = posixpath.relpath(place, posixpath.dirname(to[source]) or ".").replace(".ja.md", ".md")
        return f"{match['image']}[{words}]({new}{'#' + anchor if anchor else ''})"

    parts = FENCE.split(OTHER_LANGUAGE.sub("", text, count=1))
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def main(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    to = places()
    for source, place in to.items():
        target = out / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".md":
            target.write_text(turned((ROOT / source).read_text(encoding="utf-8"), source, to), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / source, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
