"""What the package holds of the making: the base, the yardstick, and the hands' atlases."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from safetensors.torch import save_file

from base.common import load
from base.export import export
from base.hands import UNSEEN_THINGS, Atlases
from base.plan import Plan
from base.scenes import NAMES, icon
from base.sources import HANDS, UNSEEN_HAND
from tsuika.core.files import whole, write_text
from tsuika.embedded.hands import ATLAS_COLUMNS, FOLDER, GLYPH_PX


def ship(plan: Plan, work: Path, package: Path, horizon: str) -> None:
    """Write base, yardstick and atlases over those of `package`; other decoders for the old latents go."""
    export(plan, work, package / "base", horizon)
    if (state := load(work / "yardstick.pt")) is None:
        raise FileNotFoundError(f"{work / 'yardstick.pt'}: no yardstick yet")
    with whole(package / "yardstick.safetensors") as path:
        save_file({name: value.half() for name, value in state["model"].items()}, path)
    _ship_atlases(Atlases(work / "hands"), package / FOLDER)


def _ship_atlases(atlases: Atlases, folder: Path) -> None:
    """One lossless WebP a hand, and the names in their order: those of the vocabulary and the new things."""
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
