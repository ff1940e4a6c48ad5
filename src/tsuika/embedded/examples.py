"""The pictures of the examples, drawn on demand: `python -m tsuika.embedded.examples --out runs/example-pictures`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tsuika.embedded import gadget, mascot, sketch

# Folder name -> what draws its pictures; the recipes in examples/ name the folders.
SETS: Final[Mapping[str, Callable[[], list[mascot.Illustration]]]] = {
    "object-5": gadget.pictures,
    "character-15": lambda: mascot.pictures(15),
    "character-30": mascot.pictures,
    "style-300": sketch.pictures,
}


def main() -> None:
    """Write every picture set, each picture with its caption beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    for name, draw in SETS.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        mascot.write(out / name, draw())


if __name__ == "__main__":
    main()
