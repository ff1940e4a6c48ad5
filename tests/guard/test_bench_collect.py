"""The benchmark's collector against the product as it is: a short configuration, every lane of it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "bench" / "guard" / "collect.py"
STEPS = 16


@pytest.mark.parametrize("name", ["collect", "continued"])
def test_the_bench_fits_the_product(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it imports is there; its long runs are marked slow."""
    monkeypatch.syspath_prepend(PATH.parent)
    assert importlib.import_module(name).main


@pytest.mark.slow
def test_a_configuration_is_collected_lane_by_lane() -> None:
    spec = importlib.util.spec_from_file_location("bench_guard_collect", PATH)
    assert spec and spec.loader
    collect = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = collect
    spec.loader.exec_module(collect)
    collect.POPULATION = 4
    one = collect.Configuration("lora", "mascot", 5, 0)
    found = collect.Bench("fp32").run(one, steps=STEPS, rate=one.rate)
    assert [lane["kind"] for lane in found["lanes"]] == ["fold"] * 5 + ["all"]
    assert len({name for lane in found["lanes"] for name in lane["held_out"]}) == 5
    for lane in found["lanes"]:
        assert [row["step"] for row in lane["rungs"]] == collect.check_schedule(STEPS)
    truth = [row["population"]["mid"] for row in found["lanes"][-1]["rungs"]]
    means = [sum(map(sum, grid)) / sum(map(len, grid)) for grid in truth]
    assert min(means) < -0.05, "this many steps at this rate are known to teach fresh pictures something"
