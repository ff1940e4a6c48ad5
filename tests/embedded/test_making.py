"""Making the base: deterministic, and after a kill it goes on to the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from base import common, unet
from base.plan import Plan
from base.tokenizer import train_tokenizer
from base.vae import train_vae

PLAN = Plan(seed=1, vae_steps=2, vae_batch=2, unet_steps=4, unet_batch=2, unet_warmup=2, pool=4, views=2, save_every=2)


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder, seed=1, captions=400, size=700)
    return CLIPTokenizer.from_pretrained(folder)


def test_the_tokenizer_is_clips_own_kind(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a cat on the beach, 東京!").input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert len(ids) > 8  # unknown words fall apart into bytes instead of vanishing
    assert tokenizer.decode(ids[1:6], clean_up_tokenization_spaces=False).split() == ["a", "cat", "on", "the", "beach"]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def _train(work: Path, tokenizer: CLIPTokenizer) -> dict[str, torch.Tensor]:
    work.mkdir(exist_ok=True)
    vae = train_vae(PLAN, work)
    return unet.train_unet(PLAN, work, vae, tokenizer)


@pytest.mark.slow
def test_after_a_kill_it_goes_on_to_the_same_bits(
    tmp_path: Path, tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _train(tmp_path / "whole", tokenizer)
    rate = unet.rate

    def killed(plan: Plan, step: int) -> float:
        if step == 3:
            raise KilledError
        return rate(plan, step)

    monkeypatch.setattr(unet, "rate", killed)
    with pytest.raises(KilledError):
        _train(tmp_path / "killed", tokenizer)
    monkeypatch.setattr(unet, "rate", rate)
    state = common.load(tmp_path / "killed/unet.pt")
    assert state is not None and state["step"] == 2
    resumed = _train(tmp_path / "killed", tokenizer)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_rate_warms_up_holds_and_ends_at_zero() -> None:
    plan = replace(PLAN, unet_steps=1000, unet_warmup=100, unet_decay=0.3)
    rates = [unet.rate(plan, step) for step in range(1000)]
    assert rates[0] < rates[50] < rates[100] == rates[699] == plan.unet_lr > rates[900] > rates[999] > 0
