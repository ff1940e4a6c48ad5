"""What is counted without weights against what a real network does; trainings against what the guard plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny_models import tiny
from tsuika import config
from tsuika.advice.activations import count
from tsuika.advice.estimate import trainings
from tsuika.core.sections import Guard
from tsuika.data import scan
from tsuika.embedded import mascot
from tsuika.families import family
from tsuika.training import guard_plan


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_what_a_backward_pass_needs(name: str) -> None:
    model = tiny(name)
    unet = model.unet.to(torch.bfloat16).requires_grad_(True)
    own = {param.untyped_storage().data_ptr() for param in unet.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage
        return tensor

    side = model.native_size_px // model.latent_factor
    with torch.no_grad():
        cond = model.encode_text(["a cat"], size_px=(64, 64))
    text = torch.zeros(1, 77, cond.tokens_BSD.shape[-1], dtype=torch.bfloat16)
    more = {}
    if cond.pooled_BP is not None:
        more = {
            "added_cond_kwargs": {"text_embeds": cond.pooled_BP.bfloat16(), "time_ids": cond.time_ids_B6.bfloat16()}
        }
    noisy = torch.randn(1, 4, side, side, dtype=torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        unet(noisy, torch.tensor([5.0]), encoder_hidden_states=text, **more)
    kind = family(name)
    words = len(model.tokenizers["tokenizer"])
    counted = count(kind.network, kind.tiny_geometry(words, 77).unet, model.native_size_px, model.latent_factor)
    assert counted.kept_bytes["all"] == pytest.approx(sum(one.nbytes() for one in seen.values()), rel=0.15)
    assert counted.kept_bytes["text"] < counted.kept_bytes["adapter"] <= counted.kept_bytes["all"]
    assert counted.checkpointed_bytes["all"] < counted.kept_bytes["all"]


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_trainings_are_what_the_guard_plans(method: str, tmp_path: Path) -> None:
    recipe = config.build({"method": {"name": method}, "train": {"steps": 1000}})
    for pictures in (3, 6, 12):
        folder = tmp_path / str(pictures)
        folder.mkdir()
        mascot.write(folder, mascot.pictures(pictures, seed=1))
        manifest = scan.scan(folder, recipe.data, size_px=64, needed=1)
        plan = guard_plan.plan(recipe, manifest, folder)
        trial, wanted = plan.trial(recipe), Guard(range=True)

        def cost(stop: int, *steps: float, plan: guard_plan.GuardPlan = plan) -> int:
            looks = (plan.folds or 1) * stop + (plan.begins(stop, 1000) if plan.folds else 0)
            return looks + sum(plan.ends(int(step), stop, 1000) - plan.begins(int(step), 1000) for step in steps)

        # Every best step, with the nearest `safe` and the furthest `likeness` that have files of their own.
        best = range(1, trial + 1)
        most = max(cost(trial, one, one / 1.3, *[min(trial, 2.5 * one)] * (one * 1.3 <= trial)) for one in best)
        alone = max(cost(trial, one) for one in best)
        count = len(plan.split.groups)
        for guard, size, found in ((wanted, 1000, most), (wanted, 2**30, alone), (Guard(), 1000, alone)):
            assert found / 1000 <= trainings(count, guard, size) + 0.001
        assert alone / 1000 == pytest.approx(trainings(count, Guard(), 1000), abs=0.001)
