"""Bases that draw in a few steps: recognised where files or names say so, and not where nothing does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tiny_models import single_file_tensors, tiny, write_folder, write_tokenizer
from tsuika import families
from tsuika.api import models
from tsuika.families.few_steps import of_name
from tsuika.generation import pipeline


@pytest.mark.parametrize(
    ("name", "kind", "steps"),
    [
        ("sd_xl_turbo_1.0_fp16", "turbo", 4),
        ("sd-turbo", "turbo", 4),
        ("stable-diffusion-3.5-large-turbo", "turbo", 4),
        ("DreamShaperXL_Turbo_v2_1", "turbo", 4),
        ("sdxl_lightning_8step", "lightning", 8),
        ("sdxl_lightning_2step_x0", "lightning", 2),
        ("juggernautXL_v9Rdphoto2Lightning", "lightning", 4),
        ("realvisxlV40_v40LightningBakedvae", "lightning", 4),
        ("dreamshaperXL_lightningDPMSDE", "lightning", 4),
        ("jibMixRealisticXL_v10Lightning46Step", "lightning", 4),
        ("Hyper-SDXL-1step-Unet", "hyper", 1),
        ("epicrealism_hyperSD15_8steps", "hyper", 8),
        ("LCM_Dreamshaper_v7", "lcm", 8),
        ("sdxl-dmd2-4step", "dmd2", 4),
    ],
)
def test_names_as_people_give_them(name: str, kind: str, steps: int) -> None:
    found = of_name(name)
    assert found is not None and (found.kind, found.steps, found.cfg) == (kind, steps, 1.0)
    assert found.sampler in pipeline.SAMPLERS


@pytest.mark.parametrize(
    "name",
    [
        *(
            "sd_xl_base_1.0",
            "v1-5-pruned-emaonly",
            "hyperRealism_v2",
            "hyperrealistic",
            "turbocharged",
            "calcms",
            "base",
            "",
        ),
        *("illustriousXL_v01", "sd3.5_medium", "25steps", "enlightening", "stable-diffusion-2-1", "HyperXlarge"),
    ],
)
def test_names_that_say_nothing(name: str) -> None:
    assert of_name(name) is None


def rewritten(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_a_folder_says_it_by_its_scheduler_its_network_or_where_it_came_from(tmp_path: Path) -> None:
    folder = write_folder(tiny("sdxl"), tmp_path / "mine", old_style=True)
    scheduler, index, unet = (
        folder / one for one in ("scheduler/scheduler_config.json", "model_index.json", "unet/config.json")
    )
    before = {path: path.read_text(encoding="utf-8") for path in (scheduler, index, unet)}
    assert families.peek(folder).few_steps is None
    # Trailing spacing alone says nothing: bases with zero terminal SNR have it, too.
    rewritten(scheduler, timestep_spacing="trailing")
    assert families.peek(folder).few_steps is None
    for path, change, kind in (
        (scheduler, {"_class_name": "LCMScheduler"}, "lcm"),
        (scheduler, {"_class_name": "TCDScheduler"}, "tcd"),
        (unet, {"time_cond_proj_dim": 256}, "lcm"),
        (index, {"_name_or_path": "stabilityai/sdxl-turbo"}, "turbo"),
    ):
        rewritten(path, **change)
        found = families.peek(folder).few_steps
        assert found is not None and found.kind == kind and path.name in found.why
        path.write_text(before[path], encoding="utf-8")
    found = families.peek(folder.rename(tmp_path / "myTurbo")).few_steps
    assert found is not None and (found.kind, found.why) == ("turbo", "myTurbo")


def test_a_model_in_the_hubs_cache_is_told_by_its_name_there(tmp_path: Path) -> None:
    folder = tmp_path / "models--stabilityai--sdxl-turbo" / "snapshots" / "0123abcd"
    folder.parent.mkdir(parents=True)
    write_folder(tiny("sdxl"), folder, old_style=True)
    found = families.peek(folder).few_steps
    assert found is not None and found.kind == "turbo"


def test_a_file_says_it_in_its_metadata_or_its_name_and_is_drawn_so(tmp_path: Path) -> None:
    words = write_tokenizer(tmp_path / "words")
    tensors, model = dict(single_file_tensors(tiny("sd1"))), tiny("sd1")
    for name, metadata, kind in (
        ("mine", {}, None),
        ("mine2", {"modelspec.title": "Some Lightning 4step"}, "lightning"),
        ("photo_LCM", {}, "lcm"),
    ):
        save_file(tensors, path := tmp_path / f"{name}.safetensors", metadata)
        geometry = families.Geometry(
            dict(model.unet.config),
            dict(model.vae.config),
            {"text_encoder": model.text_encoders["text_encoder"].config.to_dict()},
            64,
        )
        given = {"device": torch.device("cpu"), "dtype": torch.float32, "geometry": geometry, "vae": "builtin"}
        loaded = families.load(str(path), tokenizer=str(words), **given)
        assert (loaded.few_steps and loaded.few_steps.kind) == kind
        defaults, told = pipeline.defaults_for(loaded), list(models.remarks(loaded))
        if kind is None:
            assert defaults == pipeline.Defaults() and not told
            continue
        assert (defaults.cfg, defaults.steps) == (1.0, loaded.few_steps.steps) and [one.code for one in told] == [
            "GN008"
        ]
        assert kind in told[0].words("en") and kind in told[0].words("ja")
        scheduler = pipeline.make_scheduler(loaded, defaults.sampler)
        scheduler.set_timesteps(defaults.steps)
        # From pure noise on, where these models were distilled; "leading" would begin at 751 of four steps.
        assert int(scheduler.timesteps[0]) == 999
        drawn = pipeline.sample(loaded, "a cat", defaults=defaults)
        assert torch.equal(
            drawn, pipeline.sample(loaded, "a cat", steps=defaults.steps, cfg=1, sampler=defaults.sampler)
        )
