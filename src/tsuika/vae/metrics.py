"""How near an image that went through a VAE is to the original: one number an image and measure.

Images are (B, 3, H, W) sRGB in -1..1. Lab values are CIE 1976 for D65 and the 2 degree observer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

# IEC 61966-2-1 (sRGB): linear RGB to XYZ, and its white point D65.
_XYZ: Final = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE: Final = (0.9505, 1.0, 1.089)
_KERNEL: Final = (1.0, 4.0, 6.0, 4.0, 1.0)  # Burt & Adelson 1983, a = 0.375
_WINDOW_PX: Final = 8  # of local contrast: as a latent of the original VAEs covers
# What adds nothing to a contrast, in L* squared. Half a step of L* can hardly be seen; rounding to 8 bits makes 0.01.
_UNSEEN: Final = 0.25
_ROUNDING: Final = 0.01
_GREY: Final = 1.0  # mean chroma below which an image has no colour to be washed out

# Measure -> whether more is better; None: 1 is as the original.
MEASURES: Final[Mapping[str, bool | None]] = {
    "psnr": True,  # dB
    "ssim": True,  # 0..1
    "colour": False,  # mean CIEDE2000; 1 is a difference that can just be seen
    "colour_p95": False,  # 95th percentile over the pixels
    "chroma": None,  # mean chroma / the original's, of images at a quarter of their size
    "range": None,  # lightness from the 1st to the 99th percentile / the original's, at a quarter as well
    "texture": None,  # high-frequency energy of lightness / the original's
    "texture_error": False,  # mean |log| of local contrast / the original's, over two octaves
}


def to_lab(pixels_B3HW: Tensor) -> Tensor:
    """sRGB in -1..1 to CIELAB (B, 3, H, W): L* in 0..100; differentiable."""
    encoded = ((pixels_B3HW + 1) / 2).clamp(0, 1)
    linear = torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(_XYZ).to(linear) / torch.tensor(_WHITE).to(linear)[:, None]
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    cut = (6 / 29) ** 3
    x, y, z = torch.where(xyz > cut, xyz.clamp(min=cut) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """CIEDE2000 of Lab colours (B, 3, ...): (B, ...).

    Source: Sharma, Wu & Dalal 2005, "The CIEDE2000 color-difference formula: implementation notes", eqs. 2-22.
    """
    (l1, a1, b1), (l2, a2, b2) = first.unbind(1), second.unbind(1)
    mean_c = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    g = (1 - torch.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))) / 2
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = (torch.rad2deg(torch.atan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    coloured = c1 * c2 != 0
    turn = h2 - h1
    turn = torch.where(turn > 180, turn - 360, torch.where(turn < -180, turn + 360, turn)) * coloured
    delta_h = 2 * torch.sqrt(c1 * c2) * torch.sin(torch.deg2rad(turn / 2))
    total = h1 + h2
    near = (h1 - h2).abs() <= 180
    around = torch.where(total < 360, total + 360, total - 360)
    h = torch.where(coloured, torch.where(near, total, around) / 2, total)
    lightness, c = (l1 + l2) / 2, (c1 + c2) / 2

    def cosine(times: float, degrees: float) -> Tensor:
        return torch.cos(torch.deg2rad(times * h + degrees))

    t = 1 - 0.17 * cosine(1, -30) + 0.24 * cosine(2, 0) + 0.32 * cosine(3, 6) - 0.2 * cosine(4, -63)
    off = (lightness - 50) ** 2
    s_l, s_c, s_h = 1 + 0.015 * off / torch.sqrt(20 + off), 1 + 0.045 * c, 1 + 0.015 * c * t
    rotation = torch.sin(torch.deg2rad(60 * torch.exp(-(((h - 275) / 25) ** 2))))
    r_t = -2 * torch.sqrt(c**7 / (c**7 + 25.0**7)) * rotation
    d_l, d_c, d_h = (l2 - l1) / s_l, (c2 - c1) / s_c, delta_h / s_h
    return torch.sqrt((d_l**2 + d_c**2 + d_h**2 + r_t * d_c * d_h).clamp(min=0))


def _smooth(plane_B1HW: Tensor) -> Tensor:
    row = torch.tensor(_KERNEL).to(plane_B1HW) / sum(_KERNEL)
    padded = F.pad(plane_B1HW, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(F.conv2d(padded, row.view(1, 1, 1, -1)), row.view(1, 1, -1, 1))


def bands(lightness_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """The two finest octaves of a Laplacian pyramid: (B, 1, H, W) and half of its sides. Source: Burt & Adelson 1983."""
    low = _smooth(lightness_B1HW)
    half = low[..., ::2, ::2]
    return lightness_B1HW - low, half - _smooth(half)


def log_contrasts(lightness_B1HW: Tensor) -> list[Tensor]:
    """Log of the local contrast (root of the mean square in windows of 8 px) of both octaves of `bands`; differentiable."""
    logs = []
    for octave, window in zip(bands(lightness_B1HW), (_WINDOW_PX, _WINDOW_PX // 2), strict=True):
        energy = F.avg_pool2d(octave**2, min(window, *octave.shape[-2:]))
        logs.append(0.5 * torch.log(energy + _UNSEEN))
    return logs


def psnr(output_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB; infinite for equal images."""
    return 10 * torch.log10(4 / (output_B3HW - target_B3HW).pow(2).flatten(1).mean(1))


def ssim(output_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
    """Structural similarity (B,) of images in -1..1, Gaussian window of 11 px. Source: Wang et al. 2004."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    # In 0..1: its luminance term compares means, and about a mean of zero every trifle would be a large part of it.
    output, target = (output_B3HW + 1) / 2, (target_B3HW + 1) / 2
    value = structural_similarity_index_measure(output, target, data_range=1.0, reduction="none")
    assert isinstance(value, Tensor)
    return value.reshape(-1)


@torch.no_grad()
def measure(output_B3HW: Tensor, target_B3HW: Tensor) -> list[dict[str, float]]:
    """Every measure of `MEASURES` for each image. Sides of at least 11 px; not-finite output gives NaN throughout."""
    output, target = output_B3HW.detach().float().clamp(-1, 1), target_B3HW.detach().float()
    lab, truth = to_lab(output), to_lab(target)
    difference = ciede2000(lab, truth).flatten(1)
    pixels = difference.shape[1]
    energy = [bands(one[:, :1])[0].pow(2).flatten(1).mean(1) + _ROUNDING for one in (lab, truth)]
    coarse = [F.avg_pool2d(one, 4) for one in (lab, truth)]  # thin lines that blur are no washed-out colours
    contrasts = zip(log_contrasts(lab[:, :1]), log_contrasts(truth[:, :1]), strict=True)
    columns = {
        "psnr": psnr(output, target),
        "ssim": ssim(output, target),
        "colour": difference.mean(1),
        # `quantile` takes 16 million at most.
        "colour_p95": difference.kthvalue(math.ceil(0.95 * pixels), dim=1).values
        if pixels >= 1 << 24
        else difference.quantile(0.95, dim=1),
        "chroma": _ratio(*(one[:, 1:].norm(dim=1).flatten(1).mean(1) for one in coarse), least=_GREY),
        "range": _ratio(*(_spread(one[:, 0]) for one in coarse), least=_GREY),
        "texture": _ratio(*energy, least=0.0),
        "texture_error": torch.stack([(a - b).abs().flatten(1).mean(1) for a, b in contrasts]).mean(0),
    }
    finite = output_B3HW.isfinite().flatten(1).all(1)
    columns = {name: torch.where(finite, values, math.nan) for name, values in columns.items()}
    return [{name: float(values[row]) for name, values in columns.items()} for row in range(len(output))]


def _spread(lightness_BHW: Tensor) -> Tensor:
    ordered = lightness_BHW.flatten(1).sort(dim=1).values
    last = ordered.shape[1] - 1
    return ordered[:, round(0.99 * last)] - ordered[:, round(0.01 * last)]


def _ratio(value_B: Tensor, truth_B: Tensor, *, least: float) -> Tensor:
    """1 where the original has less than `least` of it."""
    return torch.where(truth_B > least, value_B / truth_B.clamp(min=1e-9), 1.0)


def mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    """Of one measure over images."""
    return math.fsum(row[name] for row in rows) / len(rows) if rows else math.nan
