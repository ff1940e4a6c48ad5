"""Inpainting bases: what their UNets take beside noisy latents, and where it comes from. Shapes: K masks of one image, B images,
C latent channels, H x W latents.

Such a UNet has 9 input channels: noisy latents (4), the mask (1; 1 is what is to be drawn) and the latents of the image without
what is masked (4), which is mid-grey there. Source: CompVis' `LatentInpaintDiffusion`; the same order in diffusers'
`StableDiffusionInpaintPipeline`, A1111, ComfyUI and sd-scripts. Trained as its makers did: synthetic masks, and in a quarter of
the cases one over everything (model card of stable-diffusion-inpainting), which is also how a text alone is drawn."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from tsuika.core.seeds import generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tsuika.core.types import Model

MASKS: Final = (
    8  # of each augmented variant of an image: latents are encoded once, and masks cannot be drawn anew at every step
)
WHOLE: Final = 0.25
LEAST: Final = 0.1  # of a side that a mask covers
IDENTITY: Final = f"inpainting, {MASKS} masks, 1"  # for the cache: raise the number when masks become others


def channels_for(latents: int) -> int:
    """The input channels of an inpainting UNet for so many channels of latents."""
    return 2 * latents + 1


def training_latents(model: Model, pixels_13HW: Tensor) -> Tensor:
    """What such a base is trained on: for each of MASKS masks latents, mask and latents of the masked image (K, 2C + 1, H, W).
    The masks are a function of the pixels."""
    import torch

    digest = hashlib.sha256(pixels_13HW.cpu().contiguous().numpy().data).hexdigest()
    size = pixels_13HW.shape[-2], pixels_13HW.shape[-1]
    whole_1CHW, rows = model.encode_images(pixels_13HW), []
    for number in range(MASKS):
        mask_11HW = random_mask(size, generator(0, f"inpainting/{digest}", number)).to(pixels_13HW.device)
        masked_1CHW = model.encode_images(pixels_13HW * (mask_11HW < 0.5))
        rows.append(torch.cat([whole_1CHW, _small(mask_11HW, whole_1CHW), masked_1CHW], dim=1))
    return torch.cat(rows)


def random_mask(size: tuple[int, int], source: torch.Generator) -> Tensor:
    """A mask (1, 1, height, width) in pixels: over everything, or a rectangle or an ellipse of any size and place."""
    import torch

    whole, round_, *numbers = torch.rand(6, generator=source, dtype=torch.float64).tolist()
    if whole < WHOLE:
        return torch.ones(1, 1, *size)
    inside = []
    for side, share, place in zip(size, numbers[:2], numbers[2:], strict=True):
        length = (LEAST + (1 - LEAST) * share) * side
        centre = length / 2 + place * (side - length)
        inside.append((torch.arange(side) + 0.5 - centre).abs() / (length / 2))
    down, across = torch.meshgrid(*inside, indexing="ij")
    far = (down**2 + across**2) if round_ < 0.5 else torch.maximum(down, across)
    return (far <= 1).float()[None, None]


def given_whole(model: Model, like_BCHW: Tensor) -> Tensor:
    """A mask over everything and the latents of nothing (1, C + 1, H, W), in the size of some latents: what is behind noisy
    ones where a text alone is drawn."""
    import torch

    factor, (height, width) = model.latent_factor, like_BCHW.shape[-2:]
    with torch.no_grad(), torch.autocast(like_BCHW.device.type, enabled=False):
        grey_1CHW = model.encode_images(torch.zeros(1, 3, factor * height, factor * width, device=like_BCHW.device))
    return torch.cat([torch.ones_like(grey_1CHW[:, :1]), grey_1CHW], dim=1)


def _small(mask_11HW: Tensor, like_1CHW: Tensor) -> Tensor:
    """A mask in the size of latents, as diffusers and sd-scripts make it: the nearest pixel of each."""
    from torch.nn import functional

    return functional.interpolate(mask_11HW, like_1CHW.shape[-2:]).to(like_1CHW)
