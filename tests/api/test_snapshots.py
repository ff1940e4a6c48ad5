"""A run's kept weights, whatever its method: at strength 0 they are the base bit for bit, at 1 they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

import tsuika
from tiny_models import draw_pictures, shallow, write_folder
from tsuika import config
from tsuika.api.snapshots import Snapshot, SnapshotRenderer, choose, snapshots
from tsuika.core.errors import RecipeError
from tsuika.core.rundir import RunDir
from tsuika.methods import METHODS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kept")
    write_folder(shallow(), root / "base", old_style=True)
    draw_pictures(root / "pictures", 2)
    return root


@pytest.mark.parametrize("method", METHODS)
def test_nought_is_the_base_and_one_is_not(place: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    recipe = config.build(
        {
            "base": {"model": str(place / "base")},
            "data": {"images": str(place / "pictures"), "trigger": "zuzu", "variants": 1},
            "method": {"name": method},
            "guard": {"mode": "off"},
            "output": {"name": "result"},
            "train": {
                "steps": 2,
                "batch_size": 1,
                "device": "cpu",
                "precision": "fp32",
                "checkpoint_every": 1,
                "learning_rate": 0.05,
                "min_snr_gamma": 0,
                "warmup": 0,
            },
            "preview": {"num": 0, "steps": 1, "cfg": 1},
        }
    )
    run = place / method
    for _ in tsuika.train(recipe, run):
        pass
    found = snapshots(RunDir(run))
    assert [(one.name, one.step, one.main) for one in found] == [("result", 2, True), ("step-000001", 1, False)]
    with SnapshotRenderer(recipe, run / "cells", (1, 2), device="cpu", precision="fp32") as renderer:
        drawn = {}
        for one, strength in [(None, 0.0), *((one, strength) for one in found for strength in (0.0, 1.0, 0.5))]:
            ((_, drawn[one and one.name, strength]),) = renderer.draw(["a zuzu cat"], one, strength)
    base = [picture.tobytes() for picture in drawn[None, 0.0]]
    for (_, strength), pictures in drawn.items():
        assert len(pictures) == 2 and pictures[0].size == (64, 64)
        assert ([picture.tobytes() for picture in pictures] == base) == (strength == 0), strength


def test_what_is_compared_by_default() -> None:
    states = [Snapshot(f"step-{step:06d}", (Path(),), step) for step in range(10, 110, 10)]
    main, safe = Snapshot("hero", (Path(),), 100, True), Snapshot("hero-safe", (Path(),), 55)
    assert [one.step for one in choose([main, *states[:-1]], (), 3)] == [30, 70, 100]
    assert [one.step for one in choose([main, safe, *states[:-1]], (), 3)] == [50, 55, 100]
    assert choose([main], (), 3) == [main]
    assert [one.step for one in choose([main, *states[:-1]], (20, 100), 3)] == [20, 100]
    with pytest.raises(RecipeError) as none:
        choose([main, safe], (60,), 3)
    assert none.value.code == "EV006" and "55, 100" in str(none.value)
