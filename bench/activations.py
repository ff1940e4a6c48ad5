"""What a training step on one picture keeps and computes, for each family and the embedded base: `advice.activations.KNOWN`.

python bench/activations.py
"""

from __future__ import annotations

import json

from tsuika.advice.activations import count
from tsuika.api import EMBEDDED
from tsuika.families import FAMILIES


def main() -> None:
    print("embedded", count(json.loads((EMBEDDED / "unet" / "config.json").read_text()), 64, 4), flush=True)
    for family in FAMILIES:
        geometry = family.geometry(family.facts.prediction)
        print(family.facts.family, count(geometry.unet, geometry.native_size_px), flush=True)


if __name__ == "__main__":
    main()
