"""Intervals: which side of zero they are on, and what JSON gets of them."""

from __future__ import annotations

import json
import math

import pytest

from tsuika.core.intervals import Interval


@pytest.mark.parametrize(
    ("low", "high", "sign"),
    [(0.1, 2.0, 1), (-2.0, -0.1, -1), (-1.0, 1.0, 0), (0.0, 1.0, 0), (-1.0, 0.0, 0), (-math.inf, math.inf, 0)],
)
def test_the_side_of_zero(low: float, high: float, sign: int) -> None:
    assert Interval(0.5, low, high).sign == sign


def test_json_gets_none_for_what_is_not_known() -> None:
    unknown = Interval(0.3)
    assert not unknown.is_bounded and unknown.sign == 0
    assert unknown.to_dict() == {"mean": 0.3, "low": None, "high": None}
    assert Interval(math.nan).to_dict()["mean"] is None
    assert json.loads(json.dumps(Interval(1.0, 0.5, 1.5).to_dict(), allow_nan=False)) == {
        "mean": 1,
        "low": 0.5,
        "high": 1.5,
    }
