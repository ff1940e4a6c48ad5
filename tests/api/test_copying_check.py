"""A run's report compares its drawings with its pictures, those of training captions among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tsuika
from tsuika import config
from tsuika.api import previews
from tsuika.embedded import gadget, mascot
from tsuika.evaluation.prompts import CAPTIONS


@pytest.mark.parametrize("count", [1, 5])
def test_training_captions_are_drawn_compared_and_kept_apart_from_the_previews(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    drawn = gadget.pictures(count)
    mascot.write(tmp_path / "pictures", drawn)
    recipe = config.build(
        {
            "data": {"images": str(tmp_path / "pictures"), "trigger": "daruma"},
            "method": {"name": "lora", "rank": 1},
            "guard": {"mode": "off"},
            "train": {"steps": 1, "batch_size": 1, "device": "cpu", "precision": "fp32"},
            "preview": {"prompts": ["a {trigger} in the snow"], "num": 2, "steps": 1},
        }
    )
    for _ in tsuika.train(recipe, tmp_path / "run"):
        pass
    told = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert [row["prompt"] for row in told["before_after"]] == ["a daruma in the snow"]
    alike = told["lookalikes"]
    captions = {pair["prompt"] for pair in alike["pairs"] if pair["of_training"]}
    assert captions <= {one.caption for one in drawn} and 1 <= len(captions) <= min(count, CAPTIONS)
    assert alike["asked_captions"] and alike["drawings"] == 2 + len(captions)
    assert {pair["prompt"] for pair in alike["pairs"]} - captions == {
        p.format(trigger="daruma") for p in previews.prompts(recipe)
    }
    assert all(pair["similarity"]["base"] is not None for pair in alike["pairs"])
    assert alike["encoder"] == "embedded" and alike["copies"] == 0
