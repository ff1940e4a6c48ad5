"""What somebody knows better than a base's files say: prediction, zero terminal SNR, clip skip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from family_files import tiny_geometry, write_single
from transformers import CLIPTextConfig, CLIPTextModel

from tiny_models import shallow, tiny, write_folder
from tsuika import families
from tsuika.core.errors import RecipeError
from tsuika.core.sections import Base
from tsuika.core.types import Overrides
from tsuika.families import StableDiffusion, family

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(shallow(), tmp_path_factory.mktemp("overrides") / "base", old_style=True)


def load(path: Path, **known: Any) -> StableDiffusion:
    device, dtype = torch.device("cpu"), torch.float32
    return families.load(str(path), device=device, dtype=dtype, overrides=Base(**known).overrides)


def test_words_of_the_recipe() -> None:
    assert Base().overrides == Overrides()
    said = Base(prediction="v", zero_terminal_snr="on", clip_skip=2).overrides
    assert said == Overrides("v_prediction", True, 2)


def test_a_folder_with_flows_scheduler_is_flow(tmp_path: Path) -> None:
    model = tiny("sdxl")
    model.scheduler_config = FLOW
    path = write_folder(model, tmp_path / "base", old_style=True)
    assert families.peek(str(path)).prediction == "flow"
    assert load(path).scheduler_config["shift"] == 3.0
    as_before = load(path, prediction="epsilon")
    assert as_before.prediction == "epsilon" and as_before.scheduler_config["beta_schedule"] == "scaled_linear"


@pytest.mark.parametrize("said", ["v", "flow"])
def test_a_file_without_a_marker_is_what_the_recipe_says(tmp_path: Path, words: Path, said: str) -> None:
    model = family("sdxl").tiny(3, words)
    path, geometry = write_single(model, tmp_path / "model.safetensors"), tiny_geometry(model)
    assert families.peek(str(path), geometry=geometry).prediction == "epsilon"
    known = Base(prediction=said, zero_terminal_snr="on" if said == "v" else "auto")
    found = families.load(
        str(path),
        tokenizer=str(words),
        device=torch.device("cpu"),
        dtype=torch.float32,
        geometry=geometry,
        overrides=known.overrides,
    )
    assert found.prediction == {"v": "v_prediction", "flow": "flow"}[said]
    config = found.scheduler_config
    assert config["shift"] == 1.0 if said == "flow" else config["rescale_betas_zero_snr"]


def test_zero_terminal_snr_is_switched_both_ways(folder: Path, tmp_path: Path) -> None:
    config = load(folder, prediction="v", zero_terminal_snr="on").scheduler_config
    assert config["rescale_betas_zero_snr"] and config["timestep_spacing"] == "trailing"
    assert not load(folder, zero_terminal_snr="off").scheduler_config["rescale_betas_zero_snr"]
    with pytest.raises(RecipeError) as caught:
        load(folder, prediction="epsilon", zero_terminal_snr="on")
    assert caught.value.code == "RC002"


def test_clip_skip_2_is_an_encoder_without_its_last_layer(folder: Path) -> None:
    """The A1111 web UI and sd-scripts put the final norm on the layer that is taken: so does an encoder that ends there."""
    whole, skipping = load(folder), load(folder, clip_skip=2)
    config = whole.text_encoders["text_encoder"].config.to_dict()  # type: ignore[union-attr, operator]
    shorter = CLIPTextModel(CLIPTextConfig.from_dict({**config, "num_hidden_layers": config["num_hidden_layers"] - 1}))
    shorter.load_state_dict(whole.text_encoders["text_encoder"].state_dict(), strict=False)
    whole.text_encoders["text_encoder"] = shorter.eval()
    torch.testing.assert_close(
        skipping.encode_text(["a red cat"]).tokens_BSD, whole.encode_text(["a red cat"]).tokens_BSD
    )


@pytest.mark.parametrize(("name", "skip"), [("sd1", 3), ("sd2", 2), ("sdxl", 2)])
def test_a_layer_that_is_not_there_is_refused(tmp_path: Path, name: str, skip: int) -> None:
    path = write_folder(tiny(name), tmp_path / "base", old_style=True)
    with pytest.raises(RecipeError) as caught:
        load(path, clip_skip=skip)
    assert caught.value.code == "RC002" and str(skip) in str(caught.value)
