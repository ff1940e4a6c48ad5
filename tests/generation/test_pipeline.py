"""The denoising loop against diffusers' own pipelines, and what a seed means."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from tsuika.core.errors import ModelError, RecipeError
from tsuika.core.events import Warned
from tsuika.generation import pipeline
from tsuika.generation.encode import encode
from tsuika.generation.pipeline import SAMPLERS, Defaults, check_size, defaults_for, make_scheduler, sample, to_images
from tsuika.generation.prompt import parse

# Written out again from what each sampler's name means, not from SAMPLERS.
REFERENCE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "Euler a": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "Euler": ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "Heun": ("HeunDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace", "algorithm_type": "dpmsolver++"}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace", "use_karras_sigmas": True}),
    "DDIM": ("DDIMScheduler", {"timestep_spacing": "leading"}),
    "LCM": ("LCMScheduler", {"timestep_spacing": "leading"}),
    "TCD": ("TCDScheduler", {"timestep_spacing": "leading"}),
    "UniPC": ("UniPCMultistepScheduler", {"timestep_spacing": "linspace"}),
}


def variant(model: Any, **changes: Any) -> Any:
    """A model that shares the parts but says something else of itself."""
    changed = copy.copy(model)
    for key, value in changes.items():
        setattr(changed, key, value)
    return changed


def reference(model: Any, sampler: str) -> Any:
    """diffusers' own pipeline around the same parts."""
    name, options = REFERENCE[sampler]
    if model.scheduler_config.get("rescale_betas_zero_snr"):
        options = {**options, "timestep_spacing": "trailing"}
    scheduler = getattr(diffusers, name).from_config(
        model.scheduler_config, prediction_type=model.prediction, **options
    )
    parts = {"vae": model.vae, "unet": model.unet, "scheduler": scheduler, **model.text_encoders, **model.tokenizers}
    if "text_encoder_2" in parts:
        made = diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        made = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    made.set_progress_bar_config(disable=True)
    return made


def ours(
    model: Any, sampler: str, *, cfg: float, seeds: list[int], size_px: tuple[int, int], steps: int = 4
) -> torch.Tensor:
    cond = encode(model, "the red cat", size_px=size_px)
    uncond = None if cfg == 1 else encode(model, "dog", size_px=size_px)
    with torch.no_grad():
        return pipeline.sample_latents(
            model,
            make_scheduler(model, sampler),
            ((steps, cond[[0] * len(seeds)]),),
            uncond and ((steps, uncond),),
            [torch.Generator().manual_seed(seed) for seed in seeds],
            steps=steps,
            cfg=cfg,
            size_px=size_px,
        )


def theirs(
    model: Any, sampler: str, *, cfg: float, seeds: list[int], size_px: tuple[int, int], steps: int = 4
) -> torch.Tensor:
    return reference(model, sampler)(
        prompt=["the red cat"] * len(seeds),
        negative_prompt=["dog"] * len(seeds),
        width=size_px[0],
        height=size_px[1],
        num_inference_steps=steps,
        guidance_scale=cfg,
        # diffusers' pipelines give TCD none of its noise unless told; 0.3 is its own default and the paper's.
        eta=0.3 if sampler == "TCD" else 0.0,
        output_type="latent",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images


def assert_same(model: Any, sampler: str, **settings: Any) -> None:
    mine, other = ours(model, sampler, **settings), theirs(model, sampler, **settings)
    assert mine.shape == other.shape
    scale = float(other.abs().max())
    torch.testing.assert_close(mine, other, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loop_is_that_of_diffusers(sd1: Any, sampler: str, prediction: str) -> None:
    step = sd1.size_step_px
    model = variant(sd1, prediction=prediction)
    assert_same(model, sampler, cfg=6.5, seeds=[3, 4], size_px=(2 * step, step))


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "Heun"])
def test_zero_terminal_snr(sd1: Any, sampler: str) -> None:
    config = {**sd1.scheduler_config, "rescale_betas_zero_snr": True}
    model = variant(sd1, prediction="v_prediction", scheduler_config=config)
    assert_same(model, sampler, cfg=3, seeds=[7], size_px=(sd1.size_step_px,) * 2)
    assert int(make_steps(model, sampler)[0]) == 999


def make_steps(model: Any, sampler: str) -> torch.Tensor:
    scheduler = make_scheduler(model, sampler)
    scheduler.set_timesteps(4)
    return scheduler.timesteps


def analytic(model: Any, clean_CHW: torch.Tensor) -> Any:
    """The model, but what its UNet says leads to one image from everywhere."""

    class Knowing(type(model)):  # type: ignore[misc]
        def denoise(self, noisy_BCHW: torch.Tensor, t_B: torch.Tensor, cond: Any) -> torch.Tensor:
            del cond
            return (noisy_BCHW - clean_CHW) / (t_B.float() / 1000).view(-1, 1, 1, 1)

    made = variant(model, prediction="flow", scheduler_config={"shift": 3.0})
    made.__class__ = Knowing
    return made


@pytest.mark.parametrize("sampler", [name for name, one in SAMPLERS.items() if one.flow])
def test_flow_arrives_where_the_model_points(sd1: Any, sampler: str) -> None:
    side = sd1.size_step_px
    clean = torch.randn(4, side // sd1.latent_factor, side // sd1.latent_factor)
    found = ours(analytic(sd1, clean), sampler, cfg=1, seeds=[3, 4], size_px=(side, side), steps=6)
    # diffusers rounds times to whole numbers in two of them.
    torch.testing.assert_close(found, clean.expand_as(found), rtol=0, atol=1e-2)


@pytest.mark.parametrize("sampler", [name for name, one in SAMPLERS.items() if not one.flow])
def test_a_sampler_without_a_form_for_flow_names_those_that_have_one(sd1: Any, sampler: str) -> None:
    with pytest.raises(RecipeError, match="Euler, Heun, UniPC") as caught:
        make_scheduler(variant(sd1, prediction="flow"), sampler)
    assert caught.value.code == "RC002"


def test_a_base_that_was_trained_by_flow_is_drawn_by_euler(sd1: Any) -> None:
    assert pipeline.defaults_for(variant(sd1, prediction="flow")).sampler == "Euler"


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families(tiny_models: Mapping[str, Any], family: str) -> None:
    model = tiny_models[family]
    step = model.size_step_px
    assert_same(model, "Euler a", cfg=5, seeds=[1, 2], size_px=(step, 2 * step))


def test_no_guidance(sd1: Any) -> None:
    assert_same(sd1, "Euler", cfg=1, seeds=[5], size_px=(sd1.size_step_px,) * 2)


def test_cfg_1_never_asks_for_the_negative(sd1: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    model = variant(sd1)
    model.denoise = lambda noisy, t, cond: rows.append(len(noisy)) or sd1.denoise(noisy, t, cond)
    sample(model, "cat", negative="dog", cfg=1, steps=2, sampler="Euler", size_px=(sd1.size_step_px,) * 2)
    assert rows == [1, 1]


def test_heun_tells_that_it_cannot_do_zero_snr(sd1: Any) -> None:
    model = variant(sd1, scheduler_config={**sd1.scheduler_config, "rescale_betas_zero_snr": True})
    told: list[Warned] = []
    make_scheduler(model, "Heun", told.append)
    make_scheduler(model, "Euler", told.append)
    assert [warning.code for warning in told] == ["GN002"]


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M Karras"])
def test_a_seed_means_the_same_picture_whatever_the_batch(sd1: Any, sampler: str) -> None:
    def draw(**settings: Any) -> torch.Tensor:
        return sample(sd1, "cat", cfg=2, steps=3, sampler=sampler, size_px=(sd1.size_step_px,) * 2, **settings)

    together = draw(seed=10, num=3, batch_size=3)
    assert together.shape[0] == 3
    torch.testing.assert_close(together, draw(seed=10, num=3, batch_size=2), rtol=0, atol=1e-4)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], draw(seed=10 + i), rtol=0, atol=1e-4)
    assert torch.equal(draw(seed=10), draw(seed=10))
    assert float((together[0] - together[1]).abs().max()) > 1e-2


def test_prompts_of_any_length_together(sd1: Any) -> None:
    settings: dict[str, Any] = {"cfg": 2, "steps": 2, "sampler": "DDIM", "size_px": (sd1.size_step_px,) * 2, "num": 2}
    prompts = ["cat", "dog", "the cat BREAK the dog"]
    together = sample(sd1, prompts, negative="red BREAK cat", seed=1, **settings)
    apart = torch.cat([sample(sd1, prompt, negative="red BREAK cat", seed=1, **settings) for prompt in prompts])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4)


def test_steps_are_reported_and_may_end_the_drawing(sd1: Any) -> None:
    seen: list[tuple[int, int]] = []
    settings: dict[str, Any] = {"cfg": 1, "steps": 3, "sampler": "Euler", "size_px": (sd1.size_step_px,) * 2}
    sample(sd1, "cat", num=2, batch_size=1, on_step=lambda done, total: seen.append((done, total)), **settings)
    assert seen == [(n, 6) for n in range(1, 7)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(sd1, "cat", on_step=stop, **settings)


def test_pictures_are_in_range(sd1: Any) -> None:
    step = sd1.size_step_px
    pixels = sample(sd1, "cat", cfg=2, steps=1, sampler="Euler", size_px=(2 * step, step))
    assert pixels.shape == (1, 3, step, 2 * step)
    assert pixels.dtype == torch.float32
    assert float(pixels.abs().max()) <= 1
    (picture,) = to_images(pixels)
    assert picture.size == (2 * step, step)
    ends = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert to_images(ends)[0].getpixel((0, 0)) == (0, 128, 255)


def test_a_size_that_cannot_be_names_the_nearest(sd1: Any) -> None:
    step = sd1.size_step_px
    check_size(sd1, (step, 3 * step))
    for wrong, right in [
        ((step + 1, step), (step, step)),
        ((1, 2 * step - 1), (step, 2 * step)),
        ((0, step), (step, step)),
    ]:
        with pytest.raises(RecipeError) as error:
            check_size(sd1, wrong)
        assert error.value.code == "RC002"
        assert f"{right[0]}x{right[1]}" in error.value.describe("en")
        assert f"{right[0]}x{right[1]}" in error.value.describe("ja")


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"num": 0}, {"cfg": float("nan")}, {"sampler": "Euler b"}])
def test_wrong_settings(sd1: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as error:
        sample(sd1, "cat", **wrong)
    assert error.value.code == "RC002"


def test_defaults(tmp_path: Path) -> None:
    model: Any = SimpleNamespace(prediction="epsilon", few_steps=None, source=str(tmp_path))
    assert defaults_for(model) == Defaults()
    (tmp_path / "tsuika.json").write_text(json.dumps({"cfg": 3, "sampler": "DDIM", "about": "x"}), encoding="utf-8")
    assert defaults_for(model) == Defaults(cfg=3.0, sampler="DDIM")
    assert defaults_for(SimpleNamespace(prediction="epsilon", few_steps=None, source="embedded"), tmp_path) == Defaults(
        cfg=3.0, sampler="DDIM"
    )
    flow: Any = SimpleNamespace(prediction="flow", few_steps=None, source=str(tmp_path))
    assert defaults_for(flow) == Defaults(cfg=3.0, sampler="Euler"), "what the file names cannot draw a flow"
    assert defaults_for(SimpleNamespace(prediction="epsilon", few_steps=None, source="some/hub-id")) == Defaults()
    for text in ("[1]", "{", '{"cfg": "much"}', '{"sampler": "nothing"}'):
        (tmp_path / "tsuika.json").write_text(text, encoding="utf-8")
        with pytest.raises(RecipeError):
            defaults_for(model)
    assert Defaults().sampler in SAMPLERS


def test_no_gradients_and_no_changes(sd1: Any) -> None:
    before = {name: value.clone() for name, value in sd1.unet.state_dict().items()}
    pixels = sample(sd1, parse("cat"), steps=1, cfg=2, size_px=(sd1.size_step_px,) * 2)
    assert not pixels.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in sd1.unet.state_dict().items())


@pytest.mark.parametrize(("sampler", "steps"), [("Euler", 4), ("Heun", 3)])
def test_an_edited_prompt_is_another_at_another_step(sd1: Any, monkeypatch: Any, sampler: str, steps: int) -> None:
    """The UNet is asked with `cat` until half of the steps are done, then with `the red cat`; also where it is asked twice."""
    size_px = (sd1.size_step_px,) * 2
    settings: dict[str, Any] = {"seed": 3, "steps": steps, "sampler": sampler, "size_px": size_px, "cfg": 1}
    first, second = (encode(sd1, text, size_px=size_px).tokens_BSD for text in ("cat", "the red cat"))
    asked: list[bool] = []
    denoise = sd1.denoise

    def spy(noisy: torch.Tensor, t: torch.Tensor, cond: Any) -> torch.Tensor:
        assert torch.equal(cond.tokens_BSD, first) or torch.equal(cond.tokens_BSD, second)
        asked.append(torch.equal(cond.tokens_BSD, first))
        return denoise(noisy, t, cond)

    monkeypatch.setattr(sd1, "denoise", spy)
    edited = pipeline.sample(sd1, "[:the red :0.5]cat", **settings)
    count = len(asked)
    assert asked == sorted(asked, reverse=True)
    assert asked.count(True) == pytest.approx(count * int(steps / 2) / steps, abs=1)
    plain = [pipeline.sample(sd1, text, **settings) for text in ("cat", "the red cat")]
    assert all(not torch.equal(edited, one) for one in plain)
    monkeypatch.undo()
    both = pipeline.sample(sd1, ["[cat:dog:1.0]", "[dog:the red cat:0]"], **settings)
    torch.testing.assert_close(both, torch.cat(plain), rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_image_that_is_not_finite_is_no_black_image(value: float) -> None:
    pixels = torch.zeros(2, 3, 4, 4)
    pixels[1, 2, 3, 0] = value
    with pytest.raises(ModelError, match="GN010"):
        to_images(pixels)


def test_an_image_larger_than_pillow_opens_is_refused(sd1: Any) -> None:
    with pytest.raises(RecipeError, match="RC002"):
        check_size(sd1, (16384, 16384))
