"""Stacking artifacts of an invented method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tsuika.core.errors import FormatError, ModelError
from tsuika.core.events import Warned
from tsuika.generation.compose import Requested, compose
from tsuika.generation.pipeline import sample


def state(model: Any) -> dict[str, torch.Tensor]:
    return {
        f"{component}.{name}": value.clone()
        for component, module in model.components.items()
        for name, value in module.state_dict().items()
    }


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def draw(model: Any) -> torch.Tensor:
    return sample(model, "cat", seed=1, cfg=2, steps=2, sampler="Euler a", size_px=(model.size_step_px,) * 2)


def test_stacked_in_order_and_given_back(sd1: Any, fake_formats: Any, fake_method: Any) -> None:
    before = state(sd1)
    wanted = [Requested(Path("a"), 0.5), Requested(Path("b"), 2.0)]
    with compose(sd1, wanted, fake_formats, {"fake": fake_method}) as composition:
        assert [part.request for part in composition.parts] == wanted
        a, b = (fake_formats.held[name].tensors["unet.conv_in.weight"] for name in "ab")
        expected = before["unet.conv_in.weight"] + 0.5 * a + 2.0 * b
        torch.testing.assert_close(state(sd1)["unet.conv_in.weight"], expected)
    assert fake_method.log == ["attach a", "attach b", "detach b", "detach a"]
    assert same(state(sd1), before)
    composition.detach()
    assert fake_method.log[-1] == "detach a"


def test_strength_0_is_the_base_bit_for_bit(sd1: Any, fake_formats: Any, fake_method: Any) -> None:
    base = draw(sd1)
    wanted = [Requested(Path("a"), 0), Requested(Path("both"), 0, 0)]
    with compose(sd1, wanted, fake_formats, {"fake": fake_method}) as composition:
        assert torch.equal(draw(sd1), base)
        composition.set_strength(1, 1.0)
        assert not torch.equal(draw(sd1), base)
        composition.set_strength(1, 0)
        assert torch.equal(draw(sd1), base)
        assert composition.parts[1].request.strength == 0
    assert torch.equal(draw(sd1), base)


def test_text_and_unet_have_their_own_strengths(sd1: Any, fake_formats: Any, fake_method: Any) -> None:
    before = state(sd1)
    with compose(sd1, [Requested(Path("both"), 0.5, 2.0)], fake_formats, {"fake": fake_method}):
        after = state(sd1)
        for name, delta in fake_formats.held["both"].tensors.items():
            factor = 2.0 if name.startswith("text_encoder") else 0.5
            torch.testing.assert_close(after[name], before[name] + factor * delta)
    assert same(state(sd1), before)


def test_what_matched_is_told(sd1: Any, fake_formats: Any, fake_method: Any) -> None:
    told: list[Warned] = []
    with compose(sd1, [Requested(Path("a"))], fake_formats, {"fake": fake_method}, told.append) as composition:
        (part,) = composition.parts
    assert set(part.matched) == {"unet.conv_in.weight", "unet.conv_in.alpha"}
    assert part.unmatched == ("unet.nowhere.other",)
    assert [warning.code for warning in told] == ["GN005"]
    assert "unet.nowhere.other" in told[0].message


def test_an_assumed_family_is_no_fact(sd1: Any, fake_formats: Any, fake_method: Any) -> None:
    fake_formats.held["other"].metadata["family_from"] = "default"
    with compose(sd1, [Requested(Path("other"))], fake_formats, {"fake": fake_method}) as composition:
        assert composition.parts[0].matched


def test_keys_that_were_not_understood_are_told(sd1: Any, fake_formats: Any, fake_method: Any) -> None:
    told: list[Warned] = []
    fake_formats.held["b"].metadata["unread_keys"] = '["strange.one", "strange.two"]'
    with compose(sd1, [Requested(Path("b"))], fake_formats, {"fake": fake_method}, told.append) as composition:
        total = len(composition.parts[0].matched) + 2
    assert [warning.code for warning in told] == ["GN007"]
    assert f"2 of {total} tensors" in told[0].message and "strange.one" in told[0].message


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [("other", ModelError, "MD004"), ("odd", FormatError, "FM001"), ("broken", ModelError, "MD003")],
)
def test_a_failure_gives_the_model_back(
    sd1: Any, fake_formats: Any, fake_method: Any, name: str, error: type, code: str
) -> None:
    before = state(sd1)
    with pytest.raises(error) as caught:
        compose(sd1, [Requested(Path("b")), Requested(Path(name))], fake_formats, {"fake": fake_method})
    assert caught.value.code == code
    assert fake_method.log == ["attach b", "detach b"]
    assert same(state(sd1), before)


def test_an_error_inside_the_block_gives_the_model_back(sd1: Any, fake_formats: Any, fake_method: Any) -> None:
    before = state(sd1)
    with pytest.raises(ZeroDivisionError), compose(sd1, [Requested(Path("a"))], fake_formats, {"fake": fake_method}):
        1 / 0  # noqa: B018
    assert same(state(sd1), before)
