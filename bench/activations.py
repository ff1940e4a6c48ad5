"""What a training step on one picture keeps and computes, for each family and the embedded base: `advice/activations.json`.

python bench/activations.py
"""

from __future__ import annotations

import json
from dataclasses import asdict

from tsuika import EMBEDDED
from tsuika.advice.activations import count
from tsuika.families import FAMILIES
from tsuika.families.network import UNET


def main() -> None:
    embedded = json.loads((EMBEDDED / "unet" / "config.json").read_text())
    found = {"embedded": asdict(count(UNET, embedded, 64, 4))}
    for family in FAMILIES:
        geometry = family.geometry(family.facts.prediction)
        step = count(family.network, geometry.unet, geometry.native_size_px)
        found[family.facts.family] = asdict(step)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
