"""LoRA algebra against its definition: dense ΔW in float64, torch's own SVD, peft's own merged weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tsuika.core.errors import FormatError, ModelError
from tsuika.core.types import Artifact
from tsuika.formats.lowrank.extracting import extract
from tsuika.formats.lowrank.merging import Share, apply, compress, concatenate, merge

Q, CONV, DOWN = (
    "unet.mid_block.attentions.0.proj_in",
    "unet.mid_block.resnets.0.conv1",
    "unet.down_blocks.0.resnets.0.conv2",
)
TEXT = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
SHAPES = {Q: (20, 24, 1, 1), CONV: (18, 12, 3, 3), DOWN: (10, 6, 3, 3), TEXT: (30, 16)}
EXACT = 1e-6  # what float32 factors hold of a ΔW


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lora(seed: int, rank: int = 4, alpha: float | None = 2.0, names: tuple[str, ...] = tuple(SHAPES)) -> Artifact:
    tensors = {}
    for i, name in enumerate(names):
        out, *inner = SHAPES[name]
        tensors[f"{name}.lora_down.weight"] = random(rank, *inner, seed=100 * seed + i)
        tensors[f"{name}.lora_up.weight"] = random(out, rank, *[1] * (len(inner) - 1), seed=100 * seed + 50 + i)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return Artifact("lora", "sd1", tensors, {"name": f"l{seed}", "trigger": f"word{seed}", "adapter": "lora"})


def dense(artifact: Artifact) -> dict[str, Tensor]:
    """ΔW = alpha / rank · up · down, as it is defined."""
    result = {}
    for key, down in artifact.tensors.items():
        if key.endswith(".lora_down.weight"):
            name = key.removesuffix(".lora_down.weight")
            up = artifact.tensors[f"{name}.lora_up.weight"]
            scale = float(artifact.tensors.get(f"{name}.alpha", torch.tensor(len(down)))) / len(down)
            result[name] = scale * up.double().flatten(1) @ down.double().flatten(1)
    return result


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_a_merge_is_the_sum_of_the_updates() -> None:
    """Different ranks and alphas, layers only in some, a negative strength."""
    first, second = lora(1, rank=4), lora(2, rank=7, alpha=None, names=(CONV, TEXT))
    together = concatenate([Share(first, 0.7), Share(second, -1.3)])
    ours, theirs, merged = dense(first), dense(second), dense(together)
    assert merged.keys() == SHAPES.keys()
    for name, update in merged.items():
        expected = 0.7 * ours[name] + (-1.3 * theirs[name] if name in theirs else 0)
        assert apart(update, expected) < EXACT
        rank = together.tensors[f"{name}.lora_down.weight"].shape[0]
        assert rank == 4 + (7 if name in theirs else 0)
        assert together.tensors[f"{name}.lora_down.weight"].shape[1:] == SHAPES[name][1:]
    assert together.metadata["trigger"] == "word1, word2"


def test_strengths_are_neither_squared_nor_crossed() -> None:
    """What the common tool gets wrong: s² of one LoRA, and products of one's up with the other's down."""
    one = lora(1)
    half = dense(concatenate([Share(one, 0.5)]))
    assert all(apart(half[name], 0.5 * update) < EXACT for name, update in dense(one).items())
    gone = dense(merge([Share(one, 1.0), Share(lora(1), -1.0)])[0])
    assert all(float(update.norm()) < 1e-5 * float(dense(one)[name].norm()) for name, update in gone.items())


def test_a_strength_of_nothing_leaves_no_layer_and_all_of_nothing_is_refused() -> None:
    kept = concatenate([Share(lora(1, names=(Q, CONV))), Share(lora(2, names=(TEXT,)), 0.0)])
    assert not any(name.startswith(TEXT) for name in kept.tensors)
    with pytest.raises(FormatError, match="FM005"):
        concatenate([Share(lora(1), 0.0)])


def test_other_families_and_other_shapes_are_refused() -> None:
    stranger = Artifact("lora", "sdxl", lora(2).tensors)
    with pytest.raises(ModelError, match="MD004"):
        concatenate([Share(lora(1)), Share(stranger)])
    cut = lora(2)
    cut.tensors[f"{Q}.lora_up.weight"] = cut.tensors[f"{Q}.lora_up.weight"][:-1]
    with pytest.raises(FormatError, match="FM005"):
        concatenate([Share(lora(1)), Share(cut)])


@pytest.mark.parametrize("rank", [1, 3, 5, 8])
def test_a_smaller_rank_is_the_best_there_is(rank) -> None:
    """Eckart and Young: no matrix of this rank is nearer than the truncated SVD."""
    large = lora(3, rank=8)
    small, errors = compress(large, rank=rank)
    for name, update in dense(large).items():
        values = torch.linalg.svdvals(update)
        best = float(values[rank:].norm() / values.norm())
        assert apart(dense(small)[name], update) == pytest.approx(best, abs=EXACT)
        assert errors[name] == pytest.approx(best, abs=1e-12)
        assert small.tensors[f"{name}.lora_down.weight"].shape == (min(rank, *update.shape), *SHAPES[name][1:])


@pytest.mark.parametrize("error", [0.5, 0.1, 1e-3])
def test_an_allowed_error_takes_the_smallest_rank_that_keeps_it(error) -> None:
    decaying = lora(4, rank=8)
    for name in SHAPES:
        decaying.tensors[f"{name}.lora_down.weight"] *= 10.0 ** -torch.arange(8).reshape(
            8, *[1] * (len(SHAPES[name]) - 1)
        )
    small, errors = compress(decaying, error=error)
    for name, update in dense(decaying).items():
        values = torch.linalg.svdvals(update)
        rank = small.tensors[f"{name}.lora_down.weight"].shape[0]
        assert errors[name] <= error < float(values[rank - 1 :].norm() / values.norm())


def test_resizing_to_the_same_rank_loses_nothing_and_an_empty_layer_stays_empty() -> None:
    large = lora(5)
    large.tensors[f"{Q}.lora_up.weight"].zero_()
    small, errors = compress(large, rank=4)
    assert max(errors.values()) < 1e-12
    assert float(dense(small)[Q].norm()) == 0
    assert apart(dense(small)[CONV], dense(large)[CONV]) < EXACT


def test_a_merge_to_a_rank_is_the_best_of_the_sum() -> None:
    shares = [Share(lora(1), 0.5), Share(lora(2), 0.8)]
    small, errors = merge(shares, rank=3)
    for name in SHAPES:
        exact = 0.5 * dense(lora(1))[name] + 0.8 * dense(lora(2))[name]
        values = torch.linalg.svdvals(exact)
        assert apart(dense(small)[name], exact) == pytest.approx(float(values[3:].norm() / values.norm()), abs=EXACT)
        assert errors[name] == pytest.approx(apart(dense(small)[name], exact), abs=EXACT)


def other_kinds() -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    """Kind -> parts and ΔW written out by LyCORIS' definitions, on a 3x3 convolution of 18 outputs and 12 inputs."""
    w1a, w1b, w2a, w2b = random(18, 2, seed=1), random(2, 108, seed=2), random(18, 2, seed=3), random(2, 108, seed=4)
    small, large = random(3, 4, seed=5), random(6, 3, 3, 3, seed=6)
    down, mid, up = random(3, 12, 1, 1, seed=7), random(3, 3, 3, 3, seed=8), random(18, 3, 1, 1, seed=9)
    kron = torch.stack([torch.kron(small, large[:, :, i, j]) for i in range(3) for j in range(3)], -1)
    tucker = torch.einsum("oa,abij,bc->ocij", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    return {
        "loha": ({"hada_w1_a": w1a, "hada_w1_b": w1b, "hada_w2_a": w2a, "hada_w2_b": w2b}, (w1a @ w1b) * (w2a @ w2b)),
        "lokr": ({"lokr_w1": small, "lokr_w2": large}, kron.reshape(18, 108)),
        "tucker": ({"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}, tucker.reshape(18, 108)),
    }


@pytest.mark.parametrize("kind", ["loha", "lokr", "tucker"])
def test_other_adapters_become_plain_loras(kind) -> None:
    parts, update = other_kinds()[kind]
    update = update.double()
    artifact = Artifact("lora", "sd1", {f"{CONV}.{part}": tensor for part, tensor in parts.items()})
    plain, errors = compress(artifact, error=1e-6)
    assert {name.removeprefix(f"{CONV}.") for name in plain.tensors} == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert plain.tensors[f"{CONV}.lora_down.weight"].shape[1:] == (12, 3, 3)
    assert apart(dense(plain)[CONV], update) < 2e-6
    _, errors = compress(artifact, rank=2)
    values = torch.linalg.svdvals(update)
    assert errors[CONV] == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-5)
    together = concatenate([Share(artifact, 0.5), Share(lora(1), 0.5)])
    assert apart(dense(together)[CONV], 0.5 * update + 0.5 * dense(lora(1))[CONV]) < 2e-6


def weights(seed: int) -> dict[str, Tensor]:
    return {f"{name}.weight": random(*shape, seed=1000 * seed + i) for i, (name, shape) in enumerate(SHAPES.items())}


@pytest.mark.parametrize("axis", [0, 1])
def test_dora_is_baked_by_its_definition(axis) -> None:
    """W' = m (W + ΔW) / |W + ΔW|, the norm taken for each output (or input, as old LyCORIS has it)."""
    made, base = lora(1, rank=2, names=(CONV,)), weights(1)
    shape = (18, 1, 1, 1) if axis == 0 else (1, 12, 1, 1)
    magnitude = random(*shape, seed=4).abs() + 1
    made.tensors[f"{CONV}.dora_scale"] = magnitude
    weight = base[f"{CONV}.weight"].double()
    direction = weight + dense(made)[CONV].reshape(weight.shape)
    norm = direction.pow(2).sum(dim=(1, 2, 3) if axis == 0 else (0, 2, 3), keepdim=True).sqrt()
    expected = magnitude * direction / norm
    assert apart(dict(apply(base, [Share(made)]))[f"{CONV}.weight"].double(), expected) < EXACT
    plain, errors = compress(made, error=1e-6, base=base)
    assert apart(dense(plain)[CONV], (expected - weight).flatten(1)) < 2e-6
    _, lossy = compress(made, rank=1, base=base)
    assert lossy[CONV] > errors[CONV]
    with pytest.raises(FormatError, match="FM005"):
        compress(made, rank=1)
    with pytest.raises(FormatError, match="FM005"):
        concatenate([Share(made)])
    half = dict(apply(base, [Share(made, 0.5)]))[f"{CONV}.weight"].double()
    assert apart(half, (weight + expected) / 2) < EXACT


def test_laying_on_adds_the_updates_and_touches_nothing_else() -> None:
    base = weights(2) | {"unet.conv_norm_out.weight": torch.ones(4)}
    before = {name: value.clone() for name, value in base.items()}
    second = lora(2, names=(CONV,))
    laid = dict(apply(base, [Share(lora(1), 0.4), Share(second, -2.0)]))
    assert laid.keys() == weights(2).keys()
    assert all(torch.equal(base[name], value) for name, value in before.items())
    expected = base[f"{CONV}.weight"].double().flatten(1) + 0.4 * dense(lora(1))[CONV] - 2 * dense(second)[CONV]
    assert apart(laid[f"{CONV}.weight"].double().flatten(1), expected) < 1e-7
    with pytest.raises(ModelError, match="MD004"):
        list(apply({}, [Share(lora(1))]))
    with pytest.raises(ModelError, match="MD004"):
        list(apply({name: value[:-1] for name, value in base.items()}, [Share(lora(1))]))


def test_extracting_finds_the_lora_that_was_laid_on() -> None:
    base = {name: value.double() for name, value in weights(3).items()} | {"unet.norm.bias": torch.zeros(3).double()}
    made = lora(7, rank=3, alpha=0.6)
    tuned = base | dict(apply(base, [Share(made)]))
    found = extract(tuned, base, SHAPES, family="sd1", rank=3)
    assert max(found.errors.values()) < 1e-7
    assert found.energy == pytest.approx(1.0)
    assert not found.left_out
    assert all(apart(dense(found.artifact)[name], update) < EXACT for name, update in dense(made).items())
    shape = found.artifact.tensors[f"{CONV}.lora_down.weight"].shape
    assert shape == (3, 12, 3, 3)
    assert float(found.artifact.tensors[f"{CONV}.alpha"]) == 3


def test_extracting_is_the_best_of_its_rank_and_says_what_it_leaves_out() -> None:
    base, tuned = weights(4), weights(5)
    base["unet.norm.weight"], tuned["unet.norm.weight"] = torch.zeros(5), torch.full((5,), 2.0)
    del base[f"{TEXT}.weight"], tuned[f"{TEXT}.weight"]
    found = extract(tuned, base, [Q, CONV], family="sd1", rank=4, conv_rank=2)
    held = lost = 0.0
    for name, kept in ((Q, 4), (CONV, 2)):
        change = (tuned[f"{name}.weight"].double() - base[f"{name}.weight"].double()).flatten(1)
        values = torch.linalg.svdvals(change)
        best = float(values[kept:].norm() / values.norm())
        assert found.errors[name] == pytest.approx(best, rel=1e-9)
        assert apart(dense(found.artifact)[name], change) == pytest.approx(best, abs=EXACT)
        held, lost = held + float(values[:kept].norm()) ** 2, lost + float(values[kept:].norm()) ** 2
    left = float((tuned[f"{DOWN}.weight"].double() - base[f"{DOWN}.weight"].double()).norm())
    assert found.left_out == pytest.approx({f"{DOWN}.weight": left, "unet.norm.weight": math.sqrt(20)})
    assert found.energy == pytest.approx(held / (held + lost + left**2 + 20), rel=1e-9)


def test_a_weight_that_was_only_rounded_has_not_changed() -> None:
    base = weights(4)
    tuned = {name: value.half() for name, value in base.items()}
    tuned[f"{CONV}.weight"] = (base[f"{CONV}.weight"] + 0.1).half()
    found = extract(tuned, base, SHAPES, family="sd1", rank=2)
    assert found.errors.keys() == {CONV} and not found.left_out


def test_extracting_refuses_twins_and_strangers() -> None:
    with pytest.raises(FormatError, match="FM005"):
        extract(weights(1), weights(1), SHAPES, family="sd1", rank=2)
    with pytest.raises(FormatError, match="FM005"):
        extract(weights(1), {}, SHAPES, family="sd1", rank=2)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    broken = lora(1)
    broken.tensors[f"{CONV}.lora_up.weight"][0] = number
    weights = {f"{name}.weight": random(*shape, seed=i) for i, (name, shape) in enumerate(SHAPES.items())}
    tuned = weights | {f"{CONV}.weight": weights[f"{CONV}.weight"] * number}
    dora = Artifact("lora", "sd1", broken.tensors | {f"{CONV}.dora_scale": torch.ones(18, 1, 1, 1)}, {})
    for attempt in (
        lambda: compress(broken, rank=2),
        lambda: concatenate([Share(broken)]),
        lambda: compress(dora, rank=2, base=weights),
        lambda: extract(tuned, weights, set(SHAPES), family="sd1", rank=2),
    ):
        with pytest.raises(FormatError, match=f"`{CONV}") as caught:
            attempt()
        assert caught.value.code == "FM005"
