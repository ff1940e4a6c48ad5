"""The same pictures as Pillow's, whose arithmetic in float is the reference."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tsuika.data.quality import Kernel, resample

HOW: dict[Kernel, Image.Resampling] = {"cubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


@pytest.mark.parametrize("kernel", HOW)
@pytest.mark.parametrize("size", [(41, 30), (90, 77), (1, 1), (6, 200), (123, 97), (200, 160)])
def test_as_pillow_does_it(size: tuple[int, int], kernel: Kernel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (97, 123)).astype(np.float32)
    found = resample(pixels, size[1], size[0], kernel)
    assert np.allclose(found, np.asarray(Image.fromarray(pixels).resize(size, HOW[kernel])), atol=1e-2)
    assert np.array_equal(found, resample(pixels.astype(np.uint8), size[1], size[0], kernel))
