"""Images through a VAE and back, and which of its parts two VAEs share.

Images are (B, 3, H, W) in -1..1, latents (B, C, h, w) without any scale. VAEs are diffusers' `AutoencoderKL`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

Encoders = Literal["same", "rounded", "other"]


@torch.no_grad()
def encode(vae: nn.Module, pixels_B3HW: Tensor) -> Tensor:
    """The posterior mean, in float32; sides must be multiples of `factor`."""
    weight = next(vae.parameters())
    mean: Tensor = vae.encode(pixels_B3HW.to(weight.device, weight.dtype)).latent_dist.mean  # type: ignore[operator]
    return mean.float()


@torch.no_grad()
def decode(vae: nn.Module, latents_BCHW: Tensor) -> Tensor:
    """Pixels in float32, not clamped: what is out of range is part of the evidence."""
    weight = next(vae.parameters())
    pixels: Tensor = vae.decode(latents_BCHW.to(weight.device, weight.dtype)).sample  # type: ignore[operator]
    return pixels.float()


def factor(vae: nn.Module) -> int:
    """Pixels per latent, each way."""
    return int(2 ** (len(config(vae)["block_out_channels"]) - 1))


def config(vae: nn.Module) -> Any:
    return vae.config


def encoder_tensors(vae: nn.Module) -> dict[str, Tensor]:
    """All that decides the latents: the encoder and `quant_conv`."""
    return {name: value for name, value in vae.state_dict().items() if name.startswith(("encoder.", "quant_conv."))}


def encoders(own: nn.Module, other: nn.Module) -> Encoders:
    """Whether two VAEs give the same latents: to the bit, but for storing in half precision, or not at all."""
    mine, theirs = encoder_tensors(own), encoder_tensors(other)
    if mine.keys() != theirs.keys() or any(mine[name].shape != theirs[name].shape for name in mine):
        return "other"
    pairs = [(mine[name].float().cpu(), theirs[name].float().cpu()) for name in mine]
    if all(torch.equal(a, b) for a, b in pairs):
        return "same"
    step = torch.finfo(torch.bfloat16).eps  # the coarsest type that weights are stored in
    return "rounded" if all(bool(((a - b).abs() <= step * a.abs() + 1e-6).all()) for a, b in pairs) else "other"


def to_signal(image: Image.Image) -> Tensor:
    """An RGB image as (1, 3, H, W) in -1..1."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return pixels[None].float() / 127.5 - 1


def to_bytes(pixels_3HW: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) in -1..1 as (H, W, 3) bytes."""
    rounded = (pixels_3HW.clamp(-1, 1).nan_to_num() * 127.5 + 127.5).round().byte()
    return rounded.permute(1, 2, 0).cpu().numpy()


def fitted(image: Image.Image, size_px: int, multiple: int) -> Image.Image:
    """An image made smaller until its shorter side is `size_px`, cut at the centre to sides that a VAE takes.

    Smaller images keep their size: enlarged ones have no texture of their own. At most twice as long as wide.
    """
    whole, kept = sizes(image.size, size_px, multiple)
    small = image.resize(whole, Image.Resampling.LANCZOS) if size_px < min(image.size) else image
    left, top = ((have - side) // 2 for have, side in zip(small.size, kept, strict=True))
    return small.crop((left, top, left + kept[0], top + kept[1]))


def sizes(size: tuple[int, int], size_px: int, multiple: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height that `fitted` gives an image, before the cut and after it."""
    scale = min(1.0, size_px / min(size))
    width, height = (max(multiple, round(side * scale)) for side in size)
    longest = 2 * min(width, height)
    kept = tuple(max(multiple, min(side, longest) // multiple * multiple) for side in (width, height))
    return (width, height), (kept[0], kept[1])


def batches(images: list[Tensor], most: int) -> Iterator[Tensor]:
    """Images (1, 3, H, W) in stacks of neighbours of one size, in order."""
    stack: list[Tensor] = []
    for image in images:
        if stack and (len(stack) == most or stack[0].shape != image.shape):
            yield torch.cat(stack)
            stack = []
        stack.append(image)
    if stack:
        yield torch.cat(stack)
