"""VAEs that need no training: pixels are sorted into latents and back without loss, but for the fault one asks for."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsuika.vae.compare import ComparedImage

FACTOR = 4


class _Scale(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value), requires_grad=False)

    def forward(self, one: Tensor) -> Tensor:
        return one * self.weight


class Toy(nn.Module):
    """As much of an `AutoencoderKL` as a comparison asks of it.

    Args:
        after: what is done to decoded pixels.
        scale: of its latents.
        order: of its latent channels.
        peak: how large numbers get in the middle of the decoder.
    """

    def __init__(
        self,
        after: Callable[[Tensor], Tensor] = lambda x: x,
        *,
        scale: float = 1.0,
        order: Tensor | None = None,
        peak: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = {"block_out_channels": [8, 8, 8]}
        self.after = after
        self.encoder, self.decoder = _Scale(scale), _Scale(1 / scale)
        self.up, self.down = _Scale(peak), _Scale(1 / peak)
        self.encoder.register_buffer("order", torch.arange(3 * FACTOR**2) if order is None else order)

    def encode(self, pixels: Tensor) -> SimpleNamespace:
        latents = self.encoder(F.pixel_unshuffle(pixels, FACTOR)[:, self.encoder.order])
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=latents))

    def decode(self, latents: Tensor) -> SimpleNamespace:
        plain = self.down(self.up(self.decoder(latents)))[:, self.encoder.order.argsort()]
        return SimpleNamespace(sample=self.after(F.pixel_shuffle(plain, FACTOR)))


def blurred(pixels: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="reflect"), 3, 1)


def pale(pixels: Tensor) -> Tensor:
    return 0.8 * pixels + 0.05


def noisy(pixels: Tensor) -> Tensor:
    return pixels + 0.01 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(5)).to(pixels)


def pictures(count: int = 8, side: int = 64) -> list[ComparedImage]:
    """Coloured noise of all scales."""
    generator = torch.Generator().manual_seed(1)
    parts = [
        F.interpolate(torch.rand(count, 3, n, n, generator=generator) * 2 - 1, size=side, mode="bicubic") / (i + 1)
        for i, n in enumerate((4, 16, side))
    ]
    pixels = ((parts[0] + parts[1] + parts[2]) / 1.8).clamp(-0.95, 0.95)
    return [ComparedImage(f"{n}.png", one[None], n) for n, one in enumerate(pixels)]
