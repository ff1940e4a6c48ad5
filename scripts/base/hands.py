"""Every thing in every hand, drawn once: RGBA glyphs, one array file a hand."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image

from base.sources import HANDS, UNSEEN_HAND, Sources
from tsuika.core.files import whole
from tsuika.embedded.hands import GLYPH_PX

# Dozens of almost equal pictures each.
NOT_DRAWN: Final = re.compile(r"-oclock|-thirty|^keycap-|-button|-arrow|-moon$|^(wo)?man-|flag$|^input-|blood-type")
# Shown in no hand: new things, each with a true answer in five hands. The VAE, which goes on from the first edition's, has
# seen Noto's drawings of some of them there.
UNSEEN_THINGS: Final = (
    "alarm-clock", "anchor", "backpack", "boxing-glove", "carousel-horse", "castle", "croissant", "ferris-wheel", "goblin",
    "gorilla", "helicopter", "high-heeled-shoe", "honey-pot", "joystick", "kick-scooter", "koala", "lizard", "lollipop",
    "microscope", "moai", "pancakes", "pear", "poodle", "postbox", "santa-claus", "saxophone", "scorpion", "squid", "telescope",
    "tiger-face", "top-hat", "tractor", "trophy", "violin",
)  # fmt: skip


def svg(icons: dict[str, Any], name: str) -> str:
    """An icon as a square SVG file, centred, nothing cut off."""
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} width="{side}" height="{side}" viewBox="{box}">{icon["body"]}</svg>'


def render(icons: dict[str, Any], name: str) -> Image.Image:
    """RGBA, GLYPH_PX square: trimmed, so that the longer side fills it, as the world's own glyphs do."""
    import resvg_py

    drawn = resvg_py.svg_to_bytes(svg_string=svg(icons, name), width=2 * GLYPH_PX, height=2 * GLYPH_PX)
    picture = Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
    if (box := picture.getchannel("A").getbbox()) is not None:
        picture = picture.crop(box)
    scale = GLYPH_PX / max(picture.size)
    picture = picture.resize(
        (round(picture.width * scale) or 1, round(picture.height * scale) or 1), Image.Resampling.BOX
    )
    cell = Image.new("RGBA", (GLYPH_PX, GLYPH_PX))
    cell.paste(picture, ((GLYPH_PX - picture.width) // 2, (GLYPH_PX - picture.height) // 2))
    return cell


def make(folder: Path, sources: Sources, names: Iterable[str] | None = None) -> None:
    """Draw what `folder` does not hold yet: `names`, or every name that all hands have."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [hand for hand in (*HANDS, UNSEEN_HAND) if not (folder / f"{hand.name}.npy").exists()]
    if not missing:
        return
    icons = {hand.name: sources.icons(hand) for hand in (*HANDS, UNSEEN_HAND)}
    common = sorted(set.intersection(*(set(one["icons"]) for one in icons.values())))
    chosen = [name for name in common if not NOT_DRAWN.search(name)] if names is None else list(names)
    with whole(folder / "names.json") as path:
        path.write_text(json.dumps(chosen), encoding="utf-8")
    for hand in missing:
        with whole(folder / f"{hand.name}.npy") as path:
            cells = open_memmap(path, "w+", np.uint8, (len(chosen), GLYPH_PX, GLYPH_PX, 4))
            for i, name in enumerate(chosen):
                cells[i] = np.asarray(render(icons[hand.name], name))
            cells.flush()


class Atlases:
    """The glyphs that `make` has drawn into `folder`; `hand/thing` names one, in the pictures of the world too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: tuple[str, ...] = tuple(json.loads((folder / "names.json").read_text(encoding="utf-8")))
        self._index = {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _cells(self) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
        return {hand.name: np.load(self.folder / f"{hand.name}.npy", mmap_mode="r") for hand in (*HANDS, UNSEEN_HAND)}

    @property
    def shown(self) -> tuple[str, ...]:
        """The names that the VAE may be shown."""
        return tuple(name for name in self.names if name not in UNSEEN_THINGS)

    def glyph(self, name: str) -> Image.Image:
        """RGBA, GLYPH_PX square, of `hand/thing`.

        Raises:
            KeyError: there is no such hand or thing.
        """
        hand, _, thing = name.partition("/")
        return Image.fromarray(np.asarray(self._cells[hand][self._index[thing]]))
