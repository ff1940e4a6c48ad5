"""Cut the embedded world's glyphs out of the Noto Color Emoji font into one atlas that ships with the package.

Run once, with the font installed (Debian: fonts-noto-color-emoji); the result is committed, so users need no font:
    python scripts/base/glyphs.py [path/to/NotoColorEmoji.ttf]
The font is under the SIL Open Font License 1.1 (src/tsuika/embedded/OFL.txt); so is the atlas.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from tsuika.embedded.things import KNOWN
from tsuika.embedded.world import ATLAS_COLUMNS, GLYPH_PX

OUT: Final = Path(__file__).parents[2] / "src/tsuika/embedded"
DEFAULT_FONT: Final = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
STRIKE_PX: Final = 109  # the only size of the font's bitmaps
RANGES: Final = ((0x1F300, 0x1F4FF), (0x1F680, 0x1F6FF), (0x1F900, 0x1FAFF))
NOT_A_THING: Final = re.compile(
    r"\b(FACE|HAND|HANDS|MOON|CLOCK|SQUARED?|CIRCLE|SIGN|SYMBOL|PERSON|PEOPLE|WOM[AE]NS?|M[AE]NS?|GIRL|BOY|FAMILY|BABY|"
    r"BREAST-FEEDING|BUSTS?|INDEX|HEARTS?|KISS|COUPLE|HAIR|EMOJI|FIST|FINGERS?|THUMBS|FLAGS?|NIGHT|SUNRISE|SUNSET|CITYSCAPE|GLOBE|"
    r"SELFIE|SHRUG|PREGNANT|ADULT|CHILD|DEAF|ELDER|DANCER|RUNNER|SURFER|SWIMMER|GOLFER|LIFTER|BICYCLIST|PEDESTRIAN|"
    r"MESSAGE|ENVELOPE|MAILBOX|ARROW|FOG|FOGGY|CLOUD|MILKY|FIREWORKS?|BUTTON|KEYCAP|BRIDE|POLICE OFFICER|WORKER|"
    r"PRINCE|PRINCESS|GUARDSMAN|HAIRCUT|MASSAGE|NOSE|EAR|EYES?|MOUTH|TONGUE|SKIER|SNOWBOARDER|LEG|FOOT|NO|RESTROOM|"
    r"CUSTOMS|PASSPORT|BAGGAGE|LUGGAGE|PLACE OF|WATER CLOSET|BATH|CROSSING|LITTER|POTABLE|MEDAL|RACING|CHART|CALENDAR|"
    r"CARD|PAGE|FOLDER|FILE|CLIPBOARD|MOBILE|SPEAKER|STATION|METRO|RAILWAY|TRAMWAY|CABLEWAY|ELEVATOR|COMBINING|CHESS|XIANGQI|CIRCLED|ROSETTE|PENNANT|POINTING|POO|RIFLE|LUNGS|LIP|CRUTCH)\b"
)
ANIMAL_FACE: Final = re.compile(r"^(MOUSE|COW|TIGER|HORSE|WOLF|HAMSTER|DRAGON|GIRAFFE|ZEBRA|KOALA)\b.*FACE$")


def strangers(taken: set[str]) -> list[tuple[int, str]]:
    """Things outside the vocabulary, by rule: pictures of objects, animals and food with a plain Unicode name."""
    found: list[tuple[int, str]] = []
    known = {thing.codepoint for thing in KNOWN}
    for low, high in RANGES:
        for codepoint in range(low, high + 1):
            title = unicodedata.name(chr(codepoint), "")
            if not title or codepoint in known or len(title.split()) > 3:
                continue
            if NOT_A_THING.search(title) and not ANIMAL_FACE.match(title):
                continue
            name = title.lower().removesuffix(" face")
            if name not in taken:
                taken.add(name)
                found.append((codepoint, name))
    return found


def cut(font: ImageFont.FreeTypeFont, codepoint: int) -> Image.Image | None:
    """The glyph alone, RGBA, trimmed and fitted into a GLYPH_PX square; None where the font has no colour bitmap."""
    canvas = Image.new("RGBA", (2 * STRIKE_PX, 2 * STRIKE_PX))
    ImageDraw.Draw(canvas).text((20, 20), chr(codepoint), font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None or len(canvas.crop(box).convert("RGB").getcolors(1 << 16) or ()) < 12:
        return None
    glyph = canvas.crop(box)
    scale = GLYPH_PX / max(glyph.size)
    glyph = glyph.resize((round(glyph.width * scale), round(glyph.height * scale)), Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (GLYPH_PX, GLYPH_PX))
    cell.paste(glyph, ((GLYPH_PX - glyph.width) // 2, (GLYPH_PX - glyph.height) // 2))
    return cell


def main() -> None:
    font = ImageFont.truetype(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_FONT, STRIKE_PX)
    taken = {word for thing in KNOWN for word in thing.words}
    rows = [(thing.codepoint, thing.name) for thing in KNOWN] + strangers(taken)
    cells = [(row, cell) for row in rows if (cell := cut(font, row[0])) is not None]
    lines = -(-len(cells) // ATLAS_COLUMNS)
    atlas = Image.new("RGBA", (ATLAS_COLUMNS * GLYPH_PX, lines * GLYPH_PX))
    for i, (_, cell) in enumerate(cells):
        atlas.paste(cell, (i % ATLAS_COLUMNS * GLYPH_PX, i // ATLAS_COLUMNS * GLYPH_PX))
    atlas.save(OUT / "glyphs.webp", lossless=True, quality=100, method=6)
    (OUT / "glyphs.json").write_text(json.dumps([row for row, _ in cells], indent=0) + "\n", encoding="utf-8")
    print(f"{len(cells)} glyphs, {len(KNOWN)} of them known, {(OUT / 'glyphs.webp').stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
