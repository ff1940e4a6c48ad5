"""What tells copies from other pictures: how alike altered copies are, and how alike different pictures are.

    python bench/duplicates.py [--photos FOLDER]

FOLDER holds one folder of photographs per subject; the mascot and the embedded world are always measured.
Prints the numbers that the thresholds of `tsuika.data.dedupe` stand on.
"""

from __future__ import annotations

import argparse
import io
import random
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from tsuika.core.events import drained
from tsuika.data.dedupe import Thumbnail, Windows, pair_events, similarities
from tsuika.embedded import mascot, world


def altered(image: Image.Image, draw: random.Random) -> Mapping[str, Image.Image]:
    """Copies of a picture as people make them."""
    width, height = image.size

    def jpeg(quality: int) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream).convert("RGB")

    def crop(area: float) -> Image.Image:
        aspect = draw.uniform(max(area, 0.8), min(1 / area, 1.25)) ** 0.5
        w, h = min(1.0, area**0.5 * aspect), min(1.0, area**0.5 / aspect)
        x, y = draw.uniform(0, 1 - w), draw.uniform(0, 1 - h)
        return image.crop((round(x * width), round(y * height), round((x + w) * width), round((y + h) * height)))

    def mirror(one: Image.Image) -> Image.Image:
        return one.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    return {
        "exact": image,
        "JPEG 30": jpeg(30),
        "resized to 40 %": image.resize((width * 2 // 5, height * 2 // 5)),
        "squashed": image.resize((width, height * 17 // 20)),
        "mirrored": mirror(image),
        "crop 90 %": crop(0.9),
        "crop 75 %": crop(0.75),
        "crop 60 %": crop(0.6),
        "crop 60 %, mirrored": mirror(crop(0.6)),
        "brighter 1.4": ImageEnhance.Brightness(image).enhance(1.4),
        "darker 0.6": ImageEnhance.Brightness(image).enhance(0.6),
        "crop 65 %, brighter": ImageEnhance.Brightness(crop(0.65)).enhance(1.15),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--each", type=int, default=2, help="pictures of each set that are altered")
    options = parser.parse_args()
    sets: dict[str, list[Image.Image]] = {}
    for folder in sorted(options.photos.iterdir()) if options.photos else []:
        sets[folder.name] = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))]
    sets["mascot"] = [Image.fromarray(one.pixels) for one in mascot.pictures(30)]
    rng, made = np.random.default_rng(0), world.World()
    sets["world"] = [Image.fromarray(world.draw(made.picture(rng))) for _ in range(30)]
    print(
        "| different pictures of | pairs | looked at closely | most alike: colours, detail | joined |\n|---|---|---|---|---|"
    )
    for name, images in [*sets.items(), ("all sets", [image for some in sets.values() for image in some])]:
        began = time.monotonic()
        found = drained(pair_events([Thumbnail(image) for image in images]))
        most = max((one[2] for one in found), key=lambda one: min(one.colours, one.detail), default=None)
        joined = ", ".join(f"{i}-{j}" for i, j, one in found if one.same)
        print(
            f"| {name} | {len(images) * (len(images) - 1) // 2} | {len(found)} | {most and f'{most.colours:.2f}, {most.detail:.2f}'} "
            f"| {joined or 'none'} | {time.monotonic() - began:.1f} s",
            flush=True,
        )
    print("\n| copy | found | least alike: first sight | colours | detail |\n|---|---|---|---|---|")
    draw, rows, boxes = random.Random(0), {}, Windows()
    for images in sets.values():
        for image in images[: options.each]:
            whole = Thumbnail(image)
            for name, copy in altered(image, draw).items():
                part = Thumbnail(copy)
                scores = whole.windows(boxes) @ part.whole_2D.T
                place, mirrored = np.unravel_index(scores.argmax(), scores.shape)
                (found,) = similarities([part], [whole], [bool(mirrored)], boxes.boxes_N4[[place]])
                rows.setdefault(name, []).append((scores.max(), found))
    for name, row in rows.items():
        print(
            f"| {name} | {sum(one.same for _, one in row)} of {len(row)} | {min(score for score, _ in row):.2f} "
            f"| {min(one.colours for _, one in row):.2f} | {min(one.detail for _, one in row):.2f} |"
        )


if __name__ == "__main__":
    main()
