"""Measures of pictures against published values and what they must do by what they mean."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tsuika.vae import metrics

# Sharma, Wu & Dalal 2005, table 1: L a b, L a b, CIEDE2000.
SHARMA = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425
50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.02 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1
50 -1.1848 -84.8006 50 0 -82.7485 1
50 -0.9009 -85.5211 50 0 -82.7485 1
50 0 0 50 -1 2 2.3669
50 -1 2 50 0 0 2.3669
50 2.49 -0.001 50 -2.49 0.0009 7.1792
50 2.49 -0.001 50 -2.49 0.001 7.1792
50 2.49 -0.001 50 -2.49 0.0011 7.2195
50 2.49 -0.001 50 -2.49 0.0012 7.2195
50 -0.001 2.49 50 0.0009 -2.49 4.8045
50 -0.001 2.49 50 0.001 -2.49 4.8045
50 -0.001 2.49 50 0.0011 -2.49 4.7461
50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492
50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.903
50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1
50 2.5 0 50 3.2972 0 1
50 2.5 0 50 1.8634 0.5757 1
50 2.5 0 50 3.2592 0.335 1
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.263
61.2901 3.7196 -5.3901 61.4292 2.248 -4.962 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.694 23.0331 14.973 -42.5619 2.0373
36.4612 47.858 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.441 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.135 0.9033 -0.0636 -0.5514 0.9082
"""
TABLE = torch.tensor(
    [[float(word) for word in line.split()] for line in SHARMA.split("\n") if line], dtype=torch.float64
)


def picture(seed: int = 0, count: int = 1, side: int = 64) -> torch.Tensor:
    """Coloured noise of all scales, in -0.9..0.9."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        F.interpolate(torch.rand(count, 3, n, n, generator=generator) * 2 - 1, size=side, mode="bicubic") / (i + 1)
        for i, n in enumerate((4, 16, 64))
    ]
    return (sum(parts) / 1.8).clamp(-0.9, 0.9)


@pytest.mark.parametrize("swapped", [False, True])
def test_ciede2000_of_the_published_pairs(swapped: bool) -> None:
    first, second = TABLE[:, :3], TABLE[:, 3:6]
    if swapped:
        first, second = second, first
    assert len(TABLE) == 34
    assert (metrics.ciede2000(first, second) - TABLE[:, 6]).abs().max() < 1e-4


def test_lab_of_known_colours() -> None:
    """sRGB white, black, mid grey 119 (L* 50.03) and the primaries' values as colour tables give them."""
    rgb = torch.tensor([[255, 255, 255], [0, 0, 0], [119, 119, 119], [255, 0, 0], [0, 0, 255]], dtype=torch.float64)
    lab = metrics.to_lab((rgb / 127.5 - 1)[:, :, None, None])[:, :, 0, 0]
    expected = [[100, 0, 0], [0, 0, 0], [50.03, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    assert (lab - torch.tensor(expected, dtype=torch.float64)).abs().max() < 0.05


def test_equal_pictures_differ_in_nothing() -> None:
    one = picture(count=2)
    for row in metrics.measure(one, one):
        assert row["psnr"] == math.inf and row["ssim"] == pytest.approx(1, abs=1e-5)
        assert row["colour"] == row["colour_p95"] == row["texture_error"] == 0
        assert row["chroma"] == row["range"] == row["texture"] == 1


def test_two_levels_off_in_grey_is_next_to_nothing() -> None:
    """Of 255, by the formula of Wang et al. on 0..1; around a mean of zero it would be half of everything."""
    grey, other = (torch.full((1, 3, 32, 32), level / 127.5 - 1) for level in (127.0, 129.0))
    a, b, c1 = 127 / 255, 129 / 255, 0.01**2
    assert float(metrics.ssim(other, grey)) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=5e-4)


def test_blur_loses_texture_and_grey_loses_colour() -> None:
    one = picture()
    (blurred,) = metrics.measure(F.avg_pool2d(F.pad(one, (1, 1, 1, 1), mode="reflect"), 3, 1), one)
    (pale,) = metrics.measure(0.7 * one + 0.3 * one.mean(1, keepdim=True), one)
    assert blurred["texture"] < 0.6 < pale["texture"]
    assert blurred["texture_error"] > pale["texture_error"]
    assert pale["chroma"] == pytest.approx(0.7, abs=0.06) and blurred["chroma"] > 0.8


def test_more_noise_is_worse_everywhere() -> None:
    one, noise = picture(), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    rows = [metrics.measure(one + strength * noise, one)[0] for strength in (0.02, 0.05, 0.15)]
    for name, more_is_better in metrics.MEASURES.items():
        values = [row[name] for row in rows]
        if more_is_better is not None:
            assert values == sorted(values, reverse=more_is_better), name
    assert rows[0]["texture"] < rows[1]["texture"] < rows[2]["texture"] and rows[0]["texture"] > 1


def test_grey_and_flat_pictures_have_ratios_of_one() -> None:
    flat = torch.full((1, 3, 16, 16), 0.2)
    (row,) = metrics.measure(flat + 0.001, flat)
    assert row["chroma"] == row["range"] == 1 and row["texture"] == pytest.approx(1, abs=0.01)


def test_numbers_that_are_not_finite_are_told() -> None:
    one = picture(count=2)
    broken = one.clone()
    broken[1, 0, 3, 3] = math.nan
    rows = metrics.measure(broken, one)
    assert math.isfinite(rows[0]["colour"]) and all(math.isnan(value) for value in rows[1].values())
