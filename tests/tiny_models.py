"""Tiny models, their outputs, and pictures in memory, for the tests of methods and training."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import Tensor

from tsuika.core.types import Batch, Model
from tsuika.families import FAMILIES, StableDiffusion
from tsuika.families.common import Geometry

sys.path.append(str(Path(__file__).parent / "families"))
from family_files import at_full_size, single_file_tensors, write_folder, write_tokenizer, write_tokenizers

__all__ = [
    "CROSS_NAMES",
    "FAMILY_NAMES",
    "at_full_size",
    "bits",
    "draw_pictures",
    "outputs",
    "picture_batch",
    "shallow",
    "single_file_tensors",
    "tiny",
    "write_folder",
    "write_tokenizer",
]

FAMILY_NAMES = tuple(row.facts.family for row in FAMILIES)
CROSS_NAMES = tuple(row.facts.family for row in FAMILIES if row.facts.attention == "cross")
DEVICE = "cpu"  # `pytest --device`
CAPTIONS = ("a cat", "a dog")


@cache
def _words() -> Path:
    folder: Path = write_tokenizers(Path(mkdtemp(prefix="tsuika-test-")))
    return folder


def tiny(family: str, seed: int = 3) -> StableDiffusion:
    """A fresh tiny model, on DEVICE."""
    return _placed(next(row for row in FAMILIES if row.facts.family == family).tiny(seed, _words()))


def _placed(model: StableDiffusion) -> StableDiffusion:
    for component in model.components.values() if DEVICE != "cpu" else ():
        component.to(DEVICE)
    return model


def shallow(family: str = "sd1", seed: int = 3, words: Path | None = None) -> StableDiffusion:
    """The same with one attention down and two up in its UNet: for what depth does not matter to, four times as fast."""
    kind = next(row for row in FAMILIES if row.facts.family == family)
    reads = (False, True) if family == "sdxl" else (True, False)
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    blocks = {
        "block_out_channels": [32, 32],
        "layers_per_block": 1,
        "down_block_types": [down[reads_text] for reads_text in reads],
        "up_block_types": [up[reads_text] for reads_text in reversed(reads)],
    }

    def geometry(vocabulary: int, max_tokens: int) -> Geometry:
        small = kind.tiny_geometry(vocabulary, max_tokens)
        of_levels = {key: small.unet[key][:2] for key in small.unet if isinstance(small.unet[key], list)}
        return replace(small, unet={**small.unet, **of_levels, **blocks})

    chosen = replace(kind, tiny_geometry=geometry) if family in CROSS_NAMES else kind
    return _placed(chosen.tiny(seed, words or _words()))


def outputs(model: Model, prompts: tuple[str, str] = CAPTIONS) -> Tensor:
    """What the UNet says to two prompts, text encoders included, as one row of numbers."""
    noisy_BCHW = torch.randn(2, model.facts.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cond = model.encode_text(prompts)
        out = model.denoise(noisy_BCHW.to(model.device), torch.tensor([5, 600], device=model.device), cond)
    return torch.cat([out.flatten(), cond.tokens_BSD.flatten()]).cpu()


def bits(model: Model) -> dict[str, Tensor]:
    """Copies of every weight and buffer of the model, by component and name."""
    components = model.components.items()
    return {f"{part}.{name}": value.clone() for part, root in components for name, value in root.state_dict().items()}


def picture_batch(
    number: int, size: int = 2, captions: tuple[str, str] = CAPTIONS, model: Model | None = None
) -> Batch:
    """`size` of four pictures in turn, as latents (of SD1, or of the model); a function of the number."""
    rows = [(number * size + i) % 4 for i in range(size)]
    channels = model.facts.latent_channels if model else 4
    latents = [torch.randn(channels, 8, 8, generator=torch.Generator().manual_seed(100 + row)) for row in rows]
    names = tuple(f"{row}.png" for row in rows)
    latents_BCHW = torch.stack(latents).to(model.device if model else "cpu")
    return Batch(
        latents_BCHW, tuple(captions[row % 2] for row in rows), names, torch.ones(size, device=latents_BCHW.device)
    )


def draw_pictures(folder: Path, count: int = 4) -> Path:
    """Pictures of 64x64 px with captions."""
    from PIL import Image

    folder.mkdir(parents=True)
    for i in range(count):
        image = Image.new("RGB", (64, 64), (40 * i, 200 - 30 * i, 120))
        image.paste((255, 255, 40 * i), (8 * i, 8, 8 * i + 20, 40))
        image.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(CAPTIONS[i % 2], encoding="utf-8")
    return folder
