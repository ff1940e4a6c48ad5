"""README's picture from a finished demo: `python scripts/demo_picture.py RUN docs/pictures/demo.webp`.

On the left some of the images that the demo learns from; on the right its prompts, drawn before and after at one seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tsuika import DEMO_PICTURES

CELL_PX, GAP_PX, LINE_PX = 128, 6, 22
SEED = 102
# Previews by their number in the recipe, with what is written above them.
PROMPTS = {0: "in the snow", 1: "at night", 2: "under the sea", 3: "on red"}
INK, PAPER = "#444444", "#ffffff"


def main(run: Path, out: Path) -> None:
    font = ImageFont.load_default(15)
    step = max(int(path.name.split("-")[1]) for path in (run / "samples").glob("step-*.png"))
    left = 2 * CELL_PX + GAP_PX
    width = left + 4 * GAP_PX + 60 + len(PROMPTS) * (CELL_PX + GAP_PX)
    height = LINE_PX + 2 * (CELL_PX + GAP_PX)
    sheet = Image.new("RGB", (width, height), PAPER)
    write = ImageDraw.Draw(sheet)

    def put(path: Path, x: int, y: int, size: int) -> None:
        with Image.open(path) as image:
            sheet.paste(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC), (x, y))

    write.text((0, 2), "learnt from 30 images", INK, font)
    small = (CELL_PX - GAP_PX) // 2
    for number, path in enumerate(sorted(DEMO_PICTURES.glob("*.png"))[:16]):
        put(path, number % 4 * (small + GAP_PX), LINE_PX + number // 4 * (small + GAP_PX), small)
    for column, (prompt, words) in enumerate(PROMPTS.items()):
        x = left + 4 * GAP_PX + 60 + column * (CELL_PX + GAP_PX)
        write.text((x, 2), words, INK, font)
        for row, at in enumerate((0, step)):
            y = LINE_PX + row * (CELL_PX + GAP_PX)
            write.text((left + 4 * GAP_PX, y + CELL_PX // 2 - 8), ("before", "after")[row], INK, font)
            put(run / "samples" / f"step-{at:06}-{prompt:02}-seed-{SEED}.png", x, y, CELL_PX)
    sheet.save(out, quality=90, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
