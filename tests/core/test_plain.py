"""What is printed and logged is JSON, whatever was measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tsuika.core.plain import jsonable


@dataclass(frozen=True)
class Found:
    numbers: tuple[float, ...]
    where: Path


def test_everything_comes_back_out_of_strict_json() -> None:
    given = {
        "found": [Found((1.5, math.inf, math.nan), Path("a"))],
        "counts": {"one": 1, "yes": True, "none": None},
        "numpy": (np.float32(0.5), np.float64(-math.inf)),
        "text": "naïve",
    }
    assert json.loads(json.dumps(jsonable(given), allow_nan=False)) == {
        "found": [{"numbers": [1.5, None, None], "where": "a"}],
        "counts": {"one": 1, "yes": True, "none": None},
        "numpy": [0.5, None],
        "text": "naïve",
    }
