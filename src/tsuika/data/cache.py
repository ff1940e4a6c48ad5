"""Encoded latents on disk: one file per image, holding all of its variants. Knows no model: `encode` is passed in.

Every variant is encoded by itself (batch 1): convolutions may round differently in a larger batch. So a latent is a
function of its key alone, the same bits whether it was cached or not, and whichever other images there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tsuika.core.errors import ModelError, RecipeError, ResourceError
from tsuika.core.files import whole, write_text
from tsuika.core.texts import _
from tsuika.data import masks
from tsuika.data.augment import Transform, render, render_mask
from tsuika.data.folder import CACHE_MARK
from tsuika.data.image import UnusableError, read_image
from tsuika.data.manifest import Sample

# Pixels (1, 3, H, W) in -1..1 on the CPU -> scaled latents (K, C, h, w): 1, or more where they come with something random.
Encode = Callable[[torch.Tensor], torch.Tensor]

# Raise it when decoding, cropping or colours change what an image becomes: old entries are then no longer found.
PIPELINE: Final = 1
TENSOR: Final = "latents_VCHW"
MASK: Final = "mask_V1HW"
_SIGNATURE: Final = "Signature: 8a477f597d28d172789f06886806bc55"  # bford.info/cachedir: backups pass such folders over


@dataclass(frozen=True)
class Encoded:
    """All variants of one image; of each there may be several that differ in something random."""

    latents_VCHW: torch.Tensor  # on the CPU, in the dtype that `encode` gives
    mask_V1HW: torch.Tensor | None = None  # what the mask shows of each latent, float32 in 0..1

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """As they are kept."""
        return {TENSOR: self.latents_VCHW} | ({} if self.mask_V1HW is None else {MASK: self.mask_V1HW})


def key_of(sample: Sample, vae: str, size: tuple[int, int], transforms: Sequence[Transform]) -> str:
    """64 hex digits over everything that decides what is kept: file content, mask, VAE, size, transforms, libraries."""
    facts = {
        "pipeline": PIPELINE,
        "pillow": PIL.__version__,
        "torch": str(torch.__version__),
        "picture": sample.sha256,
        "vae": vae,
        "size": list(size),
        "transforms": [asdict(transform) for transform in transforms],
    }
    if sample.mask is not None:
        facts["mask"] = [sample.mask_kind, sample.mask_sha256]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def encoded(sample: Sample, transforms: Sequence[Transform], size: tuple[int, int], encode: Encode) -> Encoded:
    """All variants of one image, fresh.

    Raises:
        UnusableError: the image or its mask can no longer be read, or is not the one that was scanned.
        ModelError: the VAE gave numbers that are not finite (DS004).
    """
    opened = read_image(sample.path)
    if opened.sha256 != sample.sha256:
        raise UnusableError(sample.path, "unreadable", _("The file has changed since the folder was read."))
    mask = masks.of_sample(sample, opened)
    with torch.no_grad():
        parts = [encode(render(opened.image, transform, size)[None]).detach().cpu() for transform in transforms]
    latents = torch.cat(parts).contiguous()
    if not torch.isfinite(latents).all():
        raise ModelError("DS004", where=sample.name, why=_("There are NaNs or infinities in the latents."))
    if mask is None:
        return Encoded(latents)
    latent_size = latents.shape[-1], latents.shape[-2]
    shown = [render_mask(mask, transform, size, latent_size) for transform in transforms]
    return Encoded(latents, torch.stack(shown).repeat_interleave(len(latents) // len(shown), dim=0))


def write(path: Path, entry: Encoded, *, key: str, scale: float, vae: str) -> None:
    """A cache entry, whole or not at all.

    Raises:
        ResourceError: the disk is full (RS002), or the cache cannot be written for another cause (DS020).
    """
    header = {"key": key, "scale": repr(scale), "vae": vae, "sha256": _checksum(entry)}
    mark = path.parent / CACHE_MARK
    try:
        if not mark.exists():
            write_text(mark, f"{_SIGNATURE}\n# Latents encoded by tsuika; may be deleted at any time.\n")
        with whole(path) as temporary:
            save_file(entry.tensors, temporary, metadata=header)
    except (RecipeError, ResourceError) as error:
        # A full disk has a remedy of its own.
        if error.code == "RS002":
            raise
        raise ResourceError("DS020", where=path.parent, why=error.text("why")) from None


def read(path: Path, *, key: str, scale: float, count: int) -> tuple[Encoded | None, str]:
    """The entry at `path`, or None and what is wrong with it (empty: there is no entry).

    Checked: header, key, scale (the same VAE under another scale would raise no error and train nonsense), number of
    variants, and the checksum of the numbers. The tensors are the file, mapped: memory that the system can take back.
    Entries are only ever replaced by whole new files, so a mapping outlives what happens under its name.
    """
    if not path.exists():
        return None, ""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            latents: torch.Tensor = file.get_tensor(TENSOR)
            entry = Encoded(latents, file.get_tensor(MASK) if MASK in file.keys() else None)  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        return None, str(error)
    if header.get("key") != key:
        return None, _("It belongs to another image or setting.")
    if header.get("scale") != repr(scale):
        return None, _("Its latent scale is {found}, expected was {scale}.", found=header.get("scale"), scale=scale)
    if latents.ndim != 4 or not len(latents) or len(latents) % count or header.get("sha256") != _checksum(entry):
        return None, _("Its checksum does not match.")
    return entry, ""


def latents_of(
    sample: Sample,
    transforms: Sequence[Transform],
    size: tuple[int, int],
    encode: Encode,
    *,
    vae: str,
    scale: float,
    folder: Path | None,
) -> tuple[Encoded, str]:
    """All variants of one image, from disk or fresh, and what was wrong with a damaged entry.

    Args:
        size: width and height in px.
        vae: what identifies the encoder: its weights' hash and the precision it runs at.
        scale: the latent scale that `encode` applies.
        folder: where entries are kept; None keeps nothing.

    Raises:
        UnusableError: the image can no longer be read.
        ModelError: the VAE gave numbers that are not finite (DS004).
        ResourceError: the entry cannot be written (DS020).
    """
    if folder is None:
        return encoded(sample, transforms, size, encode), ""
    key = key_of(sample, vae, size, transforms)
    path = folder / f"{key}.safetensors"
    entry, problem = read(path, key=key, scale=scale, count=len(transforms))
    if entry is None:
        entry = encoded(sample, transforms, size, encode)
        write(path, entry, key=key, scale=scale, vae=vae)
    return entry, problem


def _checksum(entry: Encoded) -> str:
    digest = hashlib.sha256()
    for tensor in entry.tensors.values():
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
