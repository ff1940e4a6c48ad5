"""A base that was trained by flow: trained on, measured, and named as such in what is written."""

from __future__ import annotations

import json
from pathlib import Path

from runs import settings

from tiny_models import draw_pictures, shallow, write_folder
from tsuika import config
from tsuika.core.events import Finished, Judged
from tsuika.training import folder as run_folder
from tsuika.training import run
from tsuika.training.preparation import Services

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


def test_a_lora_of_a_flow_base_says_so(tmp_path: Path) -> None:
    model = shallow()
    model.scheduler_config = FLOW
    keys = settings(
        base={"model": str(write_folder(model, tmp_path / "base", old_style=True)), "clip_skip": 2},
        data={"images": str(draw_pictures(tmp_path / "images")), "trigger": "zuzu"},
        guard={"mode": "on"},
    )
    recipe = config.build(config.override({}, keys))
    events = list(run.train(recipe, run_folder.start(recipe, tmp_path / "run"), Services(Path("none"), tmp_path)))
    assert isinstance(events[-1], Finished) and any(isinstance(event, Judged) for event in events)
    (written,) = (tmp_path / "run" / "artifacts").glob("result.safetensors")
    header = json.loads(written.read_bytes()[8 : 8 + int.from_bytes(written.read_bytes()[:8], "little")])
    assert header["__metadata__"]["modelspec.prediction_type"] == "flow"
    assert header["__metadata__"]["ss_clip_skip"] == "2"
