"""VAEs by name, and images as a VAE takes them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from tsuika.core.events import note
from tsuika.core.files import at_home, sha256
from tsuika.core.weights import read_json
from tsuika.data.image import open_image
from tsuika.data.manifest import Manifest
from tsuika.families import StoredBase
from tsuika.vae import roundtrip
from tsuika.vae.compare import LoadedVae

LEAST_PX: Final = 16  # a little over SSIM's window
_KEPT: Final = 32  # images in memory while a VAE is tuned


def load(space: StoredBase, name: str, device: torch.device) -> LoadedVae:
    """A VAE for a base, frozen. Raises as `StoredBase.load_vae`."""
    path = at_home(name)
    scale = None
    if path.is_dir():  # a single file names no scale
        folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
        scale = read_json(folder / "config.json").get("scaling_factor")
    vae = space.load_vae(name, device).requires_grad_(False).eval()
    return LoadedVae(name, vae, scale, sha256(path) if path.is_file() else None, source=name)


class VaeImages(Sequence[Tensor]):
    """Images as a VAE takes them (1, 3, H, W); read when they are asked for, the latest few kept."""

    def __init__(self, manifest: Manifest, size_px: int, factor: int) -> None:
        samples = {sample.name: sample for sample in manifest.samples}
        self.names, self.sizes, cut = tuple(samples), dict[str, tuple[int, int]](), 0
        for name, sample in samples.items():
            whole, self.sizes[name] = roundtrip.sizes((sample.width, sample.height), size_px, factor)
            cut += whole != self.sizes[name]
        self.notes = [note("VA013", count=cut, multiple=factor)] if cut else []

        @lru_cache(_KEPT)
        def read(name: str) -> Tensor:
            return roundtrip.to_signal(roundtrip.fitted(open_image(samples[name].path), size_px, factor))

        self._read = read

    def of(self, names: Sequence[str]) -> VaeImages:
        """Some of them."""
        some = copy(self)
        some.names = tuple(names)
        return some

    def __getitem__(self, place: Any) -> Any:
        return self._read(self.names[place])

    def __len__(self) -> int:
        return len(self.names)
