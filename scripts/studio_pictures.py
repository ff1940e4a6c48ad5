"""The studio's pictures in docs, from what `make test-browser` has seen: `python scripts/studio_pictures.py`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
SCREENS = ("images", "plan", "train", "compare", "playground")
WIDTH_PX, HEIGHT_PX = 1120, 720

for lang, ending in (("en", ""), ("ja", "-ja")):
    for name in SCREENS:
        with Image.open(ROOT / f"build/studio-screens/{name}-{lang}-1400-light.png") as screen:
            small = screen.convert("RGB").resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS)
        small.save(ROOT / f"docs/pictures/studio-{name}{ending}.webp", quality=80, method=6)
