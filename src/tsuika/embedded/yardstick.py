"""The embedded yardstick: a small image encoder that says whether two pictures show the same thing, whatever is behind it;
a second head names the background and a third the known things. Trained on the embedded world (every glyph, known and
stranger) alone: it is neither CLIP nor DINO, and its numbers compare with nothing but themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from tsuika.embedded.things import KNOWN
from tsuika.embedded.world import BACKGROUNDS, SIZE_PX

WIDTH: Final = 128


class YardstickNet(nn.Module):
    """A small residual network, 64 px in, with heads for sameness, known things and backgrounds."""

    def __init__(self, things: int = len(KNOWN), widths: tuple[int, ...] = (32, 64, 128, 192)) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 2, 1)]
        for narrow, wide in zip((widths[0], *widths[:-1]), widths):
            blocks += [_Block(narrow, wide, 1 if narrow == wide else 2)]
        self.trunk = nn.Sequential(*blocks)
        self.same = nn.Linear(widths[-1], WIDTH)
        self.thing = nn.Linear(widths[-1], things)
        self.background = nn.Linear(widths[-1], len(BACKGROUNDS))

    def forward(self, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels in -1..1 at 64 px to (unit directions (B, 128), thing logits, background logits)."""
        features = self.trunk(pixels_B3HW).mean(dim=(2, 3))
        return F.normalize(self.same(features), dim=1), self.thing(features), self.background(features)


class _Block(nn.Module):
    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, narrow),
            nn.SiLU(),
            nn.Conv2d(narrow, wide, 3, stride, 1),
            nn.GroupNorm(8, wide),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, 1, 1),
        )
        self.skip = nn.Identity() if narrow == wide and stride == 1 else nn.Conv2d(narrow, wide, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.skip(x) + self.body(x)
        return out


@cache
def _encoder() -> YardstickNet:
    encoder = YardstickNet()
    with as_file(files(__package__).joinpath("yardstick.safetensors")) as path:
        encoder.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return encoder.eval().requires_grad_(False)


def to_signal(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """(H, W, 3) byte pictures of any size to (B, 3, 64, 64) in -1..1."""
    rows = []
    for picture in pictures:
        signal = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
        if signal.shape[-2:] != (SIZE_PX, SIZE_PX):
            signal = F.interpolate(
                signal, (SIZE_PX, SIZE_PX), mode="area" if signal.shape[-1] > SIZE_PX else "bilinear"
            )
        rows.append(signal)
    return torch.cat(rows)


@torch.no_grad()
def _read(pictures: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = _encoder()(to_signal(pictures))
    return found


def directions(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Unit vectors (B, 128), one per picture: near each other when the same thing is shown."""
    return _read(pictures)[0]


def likeness(pictures: Sequence[NDArray[np.uint8]], references: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Cosine (B,) between each picture and the mean direction of the reference pictures, -1..1."""
    centre = F.normalize(directions(references).mean(0), dim=0)
    return directions(pictures) @ centre


def background_scores(pictures: Sequence[NDArray[np.uint8]], background: str) -> Tensor:
    """The yardstick's probability (B,) that the picture's background is the named one. Raises ValueError: no background
    of the embedded world has this name."""
    return _read(pictures)[2].softmax(1)[:, BACKGROUNDS.index(background)]


def thing_scores(pictures: Sequence[NDArray[np.uint8]], thing: str) -> Tensor:
    """How sure (B,) the yardstick is, 0..1, that the named known thing is in the picture, alone or beside others. It
    orders well and is too careful: a clear render often gets less than 0.5. Read it beside what real pictures score.
    Raises ValueError: the thing is not in the vocabulary."""
    return _read(pictures)[1].sigmoid()[:, [known.name for known in KNOWN].index(thing)]
