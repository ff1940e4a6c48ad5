"""Finished results applied to the base of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from runs import make_place
from safetensors.torch import save_file
from torch import Tensor

from tiny_models import outputs, shallow
from tsuika.config import Recipe
from tsuika.core.errors import ModelError, RecipeError
from tsuika.core.events import Phase, Warned
from tsuika.core.types import Model
from tsuika.data.bucket import Bucket
from tsuika.data.manifest import Manifest, Sample
from tsuika.families.chunks import limit_of
from tsuika.methods import METHODS
from tsuika.training import preparation, run
from tsuika.training.prepared import Inputs


def lora_file(path: Path, model: Model, **more: Tensor) -> Path:
    """A LoRA of one layer in which nothing tells the family, with kohya's names."""
    weight: Any = model.module("unet", "mid_block.resnets.0.conv1").weight
    out, inside, *kernel = weight.shape
    layer, draw = "lora_unet_mid_block_resnets_0_conv1", torch.Generator().manual_seed(0)
    down, up = torch.randn(2, inside, *kernel, generator=draw), torch.randn(out, 2, 1, 1, generator=draw)
    save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, **more}, path)
    return path


def test_a_result_that_is_applied_in_part_says_so(tmp_path: Path) -> None:
    model = shallow("sd1")
    base = outputs(model)
    assert (
        list(preparation.apply_artifact(str(lora_file(tmp_path / "whole.safetensors", model)), model, METHODS["lora"]))
        == []
    )
    applied = outputs(model)
    assert not torch.equal(applied, base)
    part = lora_file(tmp_path / "part.safetensors", model, **{"stranger.weight": torch.ones(2)})
    (told,) = preparation.apply_artifact(f"{part}:0.5", model, METHODS["lora"])
    assert told.code == "GN007" and "stranger.weight" in told.message and "1 of 3" in told.message
    assert not torch.equal(outputs(model), applied)


def test_a_file_that_does_not_tell_its_family_fits_where_its_sizes_do(tmp_path: Path) -> None:
    model = shallow("sdxl")
    base = outputs(model)
    assert (
        list(preparation.apply_artifact(str(lora_file(tmp_path / "a.safetensors", model)), model, METHODS["lora"]))
        == []
    )
    assert not torch.equal(outputs(model), base)
    wide = {
        "lora_unet_mid_block_resnets_0_conv2.lora_down.weight": torch.ones(2, 999, 3, 3),
        "lora_unet_mid_block_resnets_0_conv2.lora_up.weight": torch.ones(8, 2, 1, 1),
    }
    with pytest.raises(ModelError) as caught:
        list(
            preparation.apply_artifact(
                str(lora_file(tmp_path / "b.safetensors", model, **wide)), model, METHODS["lora"]
            )
        )
    assert caught.value.code == "MD004" and "sd1" not in str(caught.value)


def test_what_lies_among_the_images_is_told_and_used_before_anything_is_trained(tmp_path: Path) -> None:
    """A folder `reg` becomes regularization images; captions of several lines and long ones are said."""
    base, images = make_place(tmp_path)
    first, second = sorted(images.glob("*.png"))[:2]
    first.with_suffix(".txt").write_text("zuzu\na small zuzu")
    second.with_suffix(".txt").write_text("zuzu on a mat, " * 20)
    (images / "reg" / "1_bear").mkdir(parents=True)
    shutil.copy(first, images / "reg" / "1_bear" / "r.png")
    flags = {"base": str(base), "images": str(images), "trigger": "zuzu", "device": "cpu"}

    def read(**settings: object) -> tuple[Inputs, dict[str, str]]:
        recipe = Recipe.of("lora", settings={"train.precision": "fp32", **settings}, **flags)
        events = preparation.read_inputs(recipe, tmp_path, preparation.accelerate_for(recipe))
        told = {}
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value, told
            if isinstance(event, Warned):
                told[event.code] = told.get(event.code, "") + event.message

    inputs, told = read()
    assert inputs.recipe.data.reg_images == str(images / "reg") and inputs.recipe.data.regularizes
    assert "reg" not in "".join(sample.name for sample in inputs.manifest.samples)
    assert "several lines" in told["DS007"] and "regularization" in told["DS007"]
    assert f"{limit_of(inputs.model)} are read at once" in told["DS012"]
    captions = {sample.name: sample.captions for sample in inputs.manifest.samples}
    assert captions[first.name] == ("zuzu", "a small zuzu")
    for settings in ({"data.reg_images": "none"}, {"data.reg_generate": 2, "data.class_word": "bear"}):
        data = read(**settings)[0].recipe.data
        assert data.reg_folder == "" and data.regularizes == ("data.reg_generate" in settings)


def test_captions_go_into_written_files_unless_they_are_left_out() -> None:
    sample = Sample(Path("a.png"), "a.png", "zuzu, mat", 8, 8, 1, "", alternatives=("zuzu, mat", "zuzu, sea"))

    def facts(**output: object) -> dict[str, str]:
        recipe = Recipe.of("lora", images="pictures", settings={f"output.{key}": one for key, one in output.items()})
        prepared = SimpleNamespace(
            accelerator=SimpleNamespace(num_processes=1),
            recipe=recipe,
            settings=recipe.method,
            model=SimpleNamespace(prediction="epsilon", source="base", sha256=None, scheduler_config={}, file_facts={}),
            images=[sample],
            buckets=[Bucket(8, 8, (sample,))],
            manifest=Manifest((sample,)),
        )
        found: dict[str, str] = run._facts(prepared, "name", 3)  # type: ignore[arg-type]
        return found

    assert json.loads(facts()["tag_frequency"]) == {"pictures": {"zuzu": 2, "mat": 1, "sea": 1}}
    assert not any("mat" in text or "zuzu" in text for text in facts(caption_tags=False).values())


@pytest.mark.parametrize(
    ("method", "more"), [("lora", {"method.targets": "nothing"}), ("dreambooth", {"method.text_learning_rate_2": 1e-5})]
)
def test_what_the_base_cannot_have_is_told_before_images_are_read(
    tmp_path: Path, method: str, more: dict[str, Any]
) -> None:
    base, pictures = make_place(tmp_path)
    keys = {"train.device": "cpu", "train.precision": "fp32", **more}
    recipe = Recipe.of(method, base=base, images=pictures, trigger="zuzu", settings=keys)
    seen = []
    with pytest.raises(RecipeError, match=next(iter(more))):
        for event in preparation.read_inputs(recipe, tmp_path, preparation.accelerate_for(recipe)):
            seen.append(event)
    assert [event.name for event in seen if isinstance(event, Phase)] == ["load"]


@pytest.mark.parametrize("fault", ["data.weight", "data.mask_outside"])
def test_images_none_of_which_counts_are_refused(fault: str, tmp_path: Path) -> None:
    """Training would go on to the end, and learn nothing."""
    base, images = make_place(tmp_path)
    keys: dict[str, Any] = {"train.device": "cpu", "train.precision": "fp32"}
    keys |= {"data.weight": 0} if fault == "data.weight" else {"data.masks": "auto"}
    masks = [image.with_name(f"{image.stem}-mask.png") for image in images.glob("*.png")]
    for mask in masks if "data.masks" in keys else ():
        Image.new("L", (64, 64)).save(mask)

    def read(**more: Any) -> None:
        recipe = Recipe.of("lora", base=base, images=images, trigger="zuzu", settings=keys | more)
        list(preparation.read_inputs(recipe, tmp_path, preparation.accelerate_for(recipe)))

    with pytest.raises(RecipeError) as caught:
        read()
    assert caught.value.code == "RC002" and fault in caught.value.part("what")
    read(**{fault: 0.1})
    if "data.masks" in keys:
        # One that counts is enough.
        masks[0].unlink()
        read()
