"""What is wrong with a VAE for a base: other latents, another scale, numbers that overflow, washed-out colours, seams.

Nothing here raises: most of these faults load and run without an error. Findings of `SERIOUS` keep a VAE from being
recommended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from tsuika.core.events import Warned, note
from tsuika.core.intervals import Interval
from tsuika.vae import metrics, roundtrip

BROKEN, OTHER_LATENTS, OTHER_SCALE, PALE, FLAT = "VA002", "VA003", "VA004", "VA006", "VA007"
SERIOUS: Final = frozenset({BROKEN, OTHER_LATENTS, OTHER_SCALE, PALE, FLAT})

_FP16_MAX: Final = 65504.0
_SAME_AXES: Final = 0.9  # correlation of latent channels; VAEs that were trained apart have other axes
_SCALE: Final = 1.15  # below these factors a base's own latents vary more from image to image than by the factor
_SHIFT: Final = 0.25  # standard deviations
_FOREIGN_DB: Final = 3.0  # that a decoder loses on the base's latents against its own
_GAINS: Final = (0.3, 0.45, 0.675, 1.0, 1.5, 2.25, 3.4)
_PLAIN_GAIN: Final = 1.3  # nearer to 1, a decoder that is only pale is made better by larger latents, too
_GOOD_DB: Final = 30.0
MUCH_DB: Final = 1.0
_PALE: Final = 0.97
_PALER: Final = 0.02  # than the base's own, at least: less is not seen
_OWN_PALE: Final = 0.9  # of the base's own, which there is nothing to compare with
_FLAT: Final = 0.05
SEAM: Final = 3.0  # CIEDE2000 of the worst hundredth of pixels: seen without searching


@dataclass(frozen=True)
class Latents:
    """A VAE's latents against the base's own, over images: other = gain * own + shift, channel by channel."""

    correlation: float  # the median channel's
    gain: float  # the median channel's
    shift: float  # the largest, in standard deviations of the base's channel
    spread: float  # standard deviation after the base's scale; near 1 where all is well


def latents(own: Sequence[Tensor], other: Sequence[Tensor], scale: float) -> Latents:
    """Compare latents (B, C, h, w) of the same images."""
    mine, theirs = (
        torch.cat([one.transpose(0, 1).flatten(1) for one in some], dim=1).double() for some in (own, other)
    )
    centred_m, centred_t = mine - mine.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True)
    covariance, variance = (centred_m * centred_t).mean(1), centred_m.pow(2).mean(1).clamp(min=1e-12)
    gain = covariance / variance
    correlation = covariance / (variance * centred_t.pow(2).mean(1).clamp(min=1e-12)).sqrt()
    shift = (theirs.mean(1) - gain * mine.mean(1)).abs() / (variance.sqrt() * gain.abs().clamp(min=1e-6))
    return Latents(float(correlation.median()), float(gain.median()), float(shift.max()), float(theirs.std() * scale))


def incompatibility(
    name: str, encoder: roundtrip.Encoders, found: Latents, lost_db: float, best_gain: float
) -> Warned | None:
    """Whether a VAE speaks of other latents than the base does.

    `encoder`: whether it has the base's; `found`: its latents against the base's; `lost_db`: PSNR of its own round trip less
    that of the base's latents decoded by it; `best_gain`: by what these must be multiplied for its decoder (`decoder_gain`).
    """
    lost, foreign = f"{max(lost_db, 0.0):.1f}", encoder == "other"
    latents_note = partial(note, OTHER_LATENTS, vae=name, lost=lost, correlation=f"{found.correlation:.2f}")
    if foreign and abs(found.correlation) < _SAME_AXES:
        return latents_note()
    off = max(found.gain, 1 / found.gain) if found.gain > 0 else math.inf
    if (foreign and off > _SCALE) or best_gain != 1:
        factor = found.gain if foreign and off > _SCALE else best_gain
        return note(OTHER_SCALE, vae=name, factor=f"{factor:.2f}", lost=lost)
    is_other = lost_db > _FOREIGN_DB or (foreign and found.shift > _SHIFT and lost_db > MUCH_DB)
    return latents_note() if is_other else None


def scale_note(name: str, found: float | None, expected: float) -> Warned | None:
    """Whether a VAE's own config names another latent scale than the base's."""
    if not found or abs(found / expected - 1) < 1e-3:
        return None
    return note("VA005", vae=name, found=f"{found:g}", expected=f"{expected:g}")


def decoder_gain(vae: nn.Module, latents_BCHW: Tensor, target_B3HW: Tensor, own_db: float) -> float:
    """The factor on the base's latents with which this decoder is as good as the base's own; 1 where there is none.

    The decoder of `vae` is much worse on `latents_BCHW`, the base's of the target's images, than the base's own, of PSNR `own_db`.
    """
    target = target_B3HW.cpu()

    def quality(gain: float) -> float:
        output = roundtrip.decode(vae, gain * latents_BCHW).cpu().clamp(-1, 1)
        return float(metrics.psnr(output, target).mean()) if output.isfinite().all() else -math.inf

    tried = {gain: quality(gain) for gain in _GAINS}
    step = _GAINS[1] / _GAINS[0]
    for _ in range(3):  # ever nearer to the best
        best, step = max(tried, key=lambda gain: tried[gain]), math.sqrt(step)
        tried |= {gain: quality(gain) for gain in (best / step, best * step)}
    best = max(tried, key=lambda gain: tried[gain])
    is_good = tried[best] > tried[1.0] + MUCH_DB and tried[best] > min(own_db, _GOOD_DB) - MUCH_DB
    return best if is_good and max(best, 1 / best) > _PLAIN_GAIN else 1.0


@dataclass(frozen=True)
class Load:
    largest: float  # absolute value of any layer's output
    memory_bytes: int  # weights, and input and output of the layer that has most of both

    @property
    def overflows_fp16(self) -> bool:
        return not self.largest <= _FP16_MAX


def load(vae: nn.Module, pixels_B3HW: Tensor) -> Load:
    """Pass images through and watch every layer. In float32: a half-precision run would show only that it broke."""
    seen: list[tuple[float, int]] = []

    def look(_: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        tensors = [one for one in (*given, out) if isinstance(one, Tensor)]
        largest = max((float(one.detach().abs().max()) for one in tensors[-1:]), default=0.0)
        seen.append((largest, sum(one.nbytes for one in tensors)))

    handles = [module.register_forward_hook(look) for module in vae.modules() if not list(module.children())]
    try:
        roundtrip.decode(vae, roundtrip.encode(vae, pixels_B3HW))
    finally:
        for handle in handles:
            handle.remove()
    weights = sum(one.nbytes for one in vae.state_dict().values())
    return Load(max(largest for largest, _ in seen), weights + max(count for _, count in seen))


def looks(name: str, rows: Sequence[Mapping[str, float]], against: Mapping[str, Interval] | None) -> list[Warned]:
    """What is wrong with the images themselves, by `metrics.measure` of each.

    `against`: differences of `chroma` and `range` from the base's own VAE; None for that VAE itself.
    """
    broken = sum(not math.isfinite(row["colour"]) for row in rows)
    if broken:
        return [note(BROKEN, vae=name, broken=broken, total=len(rows))]
    chroma, span = metrics.mean(rows, "chroma"), metrics.mean(rows, "range")
    if span < _FLAT:
        return [note(FLAT, vae=name)]
    for key, value in (("chroma", chroma), ("range", span)):
        if value < (_PALE if against else _OWN_PALE) and (against is None or against[key].high < -_PALER):
            return [note(PALE, vae=name, chroma=f"{100 * chroma:.0f}", range=f"{100 * span:.0f}")]
    return []


def tile_px(vae: nn.Module) -> int:
    """The side of the tiles that diffusers cuts."""
    return int(getattr(vae, "tile_sample_min_size", 0) or 0)


@torch.no_grad()
def seams(vae: nn.Module, pixels_13HW: Tensor) -> float | None:
    """CIEDE2000, at the worst hundredth of pixels, of decoding in tiles and as a whole; None if it knows no tiles.

    The image is mirrored until it is one and a half tiles wide, so that there are seams at all.
    """
    tile, step = tile_px(vae), roundtrip.factor(vae)
    if not tile or not hasattr(vae, "enable_tiling"):
        return None
    side = -(-3 * tile // (2 * step)) * step
    image = pixels_13HW
    for dim in (-2, -1):
        while image.shape[dim] < side:
            image = torch.cat([image, image.flip(dim)], dim)
        image = image.narrow(dim, 0, side)
    latents_1CHW = roundtrip.encode(vae, image)
    whole = roundtrip.decode(vae, latents_1CHW)
    vae.enable_tiling()  # type: ignore[operator]
    try:
        tiled = roundtrip.decode(vae, latents_1CHW)
    finally:
        vae.disable_tiling()  # type: ignore[operator]
    if not (tiled.isfinite().all() and whole.isfinite().all()):
        return None
    difference = metrics.ciede2000(metrics.to_lab(tiled.clamp(-1, 1)), metrics.to_lab(whole.clamp(-1, 1))).flatten()
    return float(difference.kthvalue(math.ceil(0.99 * len(difference))).values)
