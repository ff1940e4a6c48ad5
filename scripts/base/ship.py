"""The hands' atlases as the package ships them: the things of the vocabulary and the unseen ones, in every hand."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from base.hands import UNSEEN_THINGS, Atlases
from base.scenes import NAMES, icon
from base.sources import HANDS, UNSEEN_HAND
from tsuika.core.files import whole, write_text
from tsuika.embedded.hands import ATLAS_COLUMNS
from tsuika.embedded.world import GLYPH_PX


def ship_atlases(atlases: Atlases, folder: Path) -> None:
    """One lossless WebP a hand, and the names in their order."""
    icons = [*(icon(name) for name in NAMES), *UNSEEN_THINGS]
    rows = -(-len(icons) // ATLAS_COLUMNS)
    for hand in (*HANDS, UNSEEN_HAND):
        page = Image.new("RGBA", (ATLAS_COLUMNS * GLYPH_PX, rows * GLYPH_PX))
        for i, name in enumerate(icons):
            row, column = divmod(i, ATLAS_COLUMNS)
            page.paste(atlases.glyph(f"{hand.name}/{name}"), (column * GLYPH_PX, row * GLYPH_PX))
        with whole(folder / f"{hand.name}.webp") as path:
            page.save(path, "WEBP", lossless=True, quality=100, method=6)
    names = {"known": NAMES, "new": [name.replace("-", " ").removesuffix(" face") for name in UNSEEN_THINGS]}
    write_text(folder / "names.json", json.dumps(names, indent=0) + "\n")
