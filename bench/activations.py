"""What a training step on one picture keeps and computes, for each family and the embedded base: `advice/activations.json`.

python bench/activations.py
"""

from __future__ import annotations

import json
from dataclasses import asdict

from tsuika import EMBEDDED
from tsuika.advice.activations import count
from tsuika.families import FAMILIES


def main() -> None:
    embedded = json.loads((EMBEDDED / "unet" / "config.json").read_text())
    found = {"embedded": asdict(count(embedded, 64, 4))}
    for family in FAMILIES:
        geometry = family.geometry(family.facts.prediction)
        found[family.facts.family] = asdict(count(geometry.unet, geometry.native_size_px))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
