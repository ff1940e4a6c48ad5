"""What each kind of adapter does to a weight, against its paper's or its program's own definition in plain torch, by index."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tsuika.diffusion import adapters

LINEAR, CONV = (12, 8), (12, 8, 3, 3)
KERNELS = pytest.mark.parametrize("shape", [LINEAR, CONV], ids=["linear", "conv"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + 1000 * seed), dtype=torch.float64)


def apply(parts: dict[str, Tensor], weight: Tensor) -> Tensor:
    return adapters.changed(parts, weight) - weight


def low_rank(shape: tuple[int, ...], rank: int = 3) -> dict[str, Tensor]:
    ones = [1] * (len(shape) - 2)
    return {
        "lora_down.weight": random(rank, *shape[1:]),
        "lora_up.weight": random(shape[0], rank, *ones),
        "alpha": torch.tensor(2.0),
    }


def test_a_layer_is_what_its_modules_compute() -> None:
    """LoCon by its definition: a convolution to the rank, then a 1x1 convolution, added to the layer's output."""
    weight, parts, x = random(*CONV), low_rank(CONV), random(2, 8, 5, 5)
    beside = nn.functional.conv2d(
        nn.functional.conv2d(x, parts["lora_down.weight"], padding=1), parts["lora_up.weight"]
    )
    made = nn.functional.conv2d(x, adapters.changed(parts, weight, 0.7), padding=1)
    torch.testing.assert_close(made, nn.functional.conv2d(x, weight, padding=1) + 0.7 * 2 / 3 * beside)


def test_tucker_is_three_convolutions() -> None:
    """LyCORIS' LoCon with a core: 1x1 down, k x k in the rank, 1x1 up."""
    rank, weight, x = 3, random(*CONV), random(2, 8, 5, 5)
    down, mid, up = random(rank, 8, 1, 1), random(rank, rank, 3, 3), random(12, rank, 1, 1)
    conv = nn.functional.conv2d
    parts = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up, "alpha": torch.tensor(1.5)}
    beside = conv(conv(conv(x, down), mid, padding=1), up) * 1.5 / rank
    torch.testing.assert_close(conv(x, apply(parts, weight), padding=1), beside)


@KERNELS
@pytest.mark.parametrize("is_old", [False, True])
def test_glora_moves_the_inputs_and_adds(shape: tuple[int, ...], is_old: bool) -> None:
    """f(x) = W(x + A x) + B x, with A = a1 a2 and B = b1 b2 (old LyCORIS: the names swapped)."""
    rank, kernel = 3, shape[2:]
    ones = [1] * len(kernel)
    a1, a2 = random(8, rank, *ones, seed=1), random(rank, 8, *ones, seed=2)
    b1, b2 = random(12, rank, *ones, seed=3), random(rank, 8, *kernel, seed=4)
    names = ("a2", "a1", "b2", "b1") if is_old else ("a1", "a2", "b1", "b2")
    parts = {f"{name}.weight": value for name, value in zip(names, (a1, a2, b1, b2), strict=True)}
    parts["alpha"] = torch.tensor(2.0)
    weight = random(*shape)
    if kernel:
        x = random(2, 8, 5, 5)
        op: Callable[..., Tensor] = nn.functional.conv2d
        moved = op(op(op(x, a2), a1), weight, padding=1)
        added = op(op(x, b2, padding=1), b1)
        made = op(x, apply(parts, weight), padding=1)
    else:
        x = random(5, 8)
        moved, added = (x @ a2.T @ a1.T) @ weight.T, x @ b2.T @ b1.T
        made = x @ apply(parts, weight).T
    torch.testing.assert_close(made, (moved + added) * 2 / rank)
    assert adapters.scale_of(parts) == pytest.approx(2 / rank)


@KERNELS
@pytest.mark.parametrize("on_input", [False, True])
def test_ia3_scales_outputs_or_inputs(shape: tuple[int, ...], on_input: bool) -> None:
    """(IA)³: outputs or inputs times 1 + w; LyCORIS keeps w as (n) or, of a convolution, (1, n, 1, 1)."""
    weight, w = random(*shape), random(8 if on_input else 12)
    held = w.reshape(1, -1, 1, 1) if len(shape) > 2 else w
    made = adapters.changed({"weight": held, "on_input": torch.tensor(int(on_input))}, weight, 0.5)
    for o in range(12):
        for i in range(8):
            torch.testing.assert_close(made[o, i], weight[o, i] * (1 + 0.5 * (w[i] if on_input else w[o])))


def cayley(block: Tensor) -> Tensor:
    skew = block - block.T
    one = torch.eye(len(block), dtype=block.dtype)
    return (one + skew) @ torch.linalg.inv(one - skew)


@KERNELS
def test_oft_turns_neighbouring_outputs(shape: tuple[int, ...]) -> None:
    """kohya's definition: the layer's output times a block-diagonal orthogonal R, so W' = R^T W."""
    weight, blocks = random(*shape), 0.3 * random(3, 4, 4)
    turned = torch.block_diag(*map(cayley, blocks))
    expected = torch.einsum("oi,o...->i...", turned, weight)
    parts = {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}
    made = adapters.changed(parts, weight)
    torch.testing.assert_close(made, expected)
    # A rotation keeps the length of what it turns.
    torch.testing.assert_close(made.norm(), weight.norm())
    torch.testing.assert_close(adapters.changed({"oft_diag": torch.stack([*map(cayley, blocks)])}, weight), expected)
    rescale = 1 + random(12, 1).abs()
    torch.testing.assert_close(
        adapters.changed({**parts, "rescale": rescale}, weight), expected * rescale.reshape(12, *[1] * (len(shape) - 1))
    )


def test_ofts_alpha_limits_how_far_it_turns() -> None:
    """alpha times the outputs is the largest norm of Q = B - B^T (kohya's and LyCORIS' constraint)."""
    weight, blocks = random(*LINEAR), random(3, 4, 4)
    size = float((blocks - blocks.mT).norm())
    half = {"oft_blocks": blocks * 0.5}
    limited = {"oft_blocks": blocks, "alpha": torch.tensor(size / 2 / 12, dtype=torch.float64)}
    torch.testing.assert_close(adapters.changed(limited, weight), adapters.changed(half, weight))
    loose = {"oft_blocks": blocks, "alpha": torch.tensor(size, dtype=torch.float64)}
    torch.testing.assert_close(adapters.changed(loose, weight), adapters.changed({"oft_blocks": blocks}, weight))


@pytest.mark.parametrize("shape", [(16, 6), (16, 6, 3, 3)])
def test_boft_is_a_product_of_butterflies(shape: tuple[int, ...]) -> None:
    """Liu et al. 2023: W' = B_m ... B_1 W, each factor block-diagonal after the outputs were put in butterfly order."""
    weight, blocks = random(*shape), 0.3 * random(3, 4, 4, 4)
    expected = weight.flatten(1)
    for i, factor in enumerate(blocks):
        apart = 2**i * 2
        # Output g * apart + k of each group of 2 * apart goes to place 2 * k + g.
        order = [
            c * 2 * apart + g * apart + k for c in range(16 // (2 * apart)) for k in range(apart) for g in range(2)
        ]
        permutation = torch.eye(16, dtype=weight.dtype)[order]
        expected = permutation.T @ torch.block_diag(*map(cayley, factor)) @ permutation @ expected
    parts = {"oft_blocks": blocks}
    assert getattr(adapters.kind_of(parts), "name", "") == "boft"
    torch.testing.assert_close(adapters.changed(parts, weight).flatten(1), expected)


@KERNELS
@pytest.mark.parametrize("axis", [0, 1])
def test_dora_over_outputs_or_inputs_of_any_kind(shape: tuple[int, ...], axis: int) -> None:
    """Direction W + ΔW, lengths as trained; for LoRA, LoHa and LoKr alike. Between, it goes along the straight line."""
    weight = random(*shape)
    kernel = shape[2:]
    lokr = {"lokr_w1": random(3, 2), "lokr_w2": random(4, 4, *kernel)}
    columns = math.prod(shape[1:])
    loha = {
        "hada_w1_a": random(12, 2),
        "hada_w1_b": random(2, columns),
        "hada_w2_a": random(12, 2, seed=1),
        "hada_w2_b": random(2, columns, seed=1),
    }
    for parts in (low_rank(shape), loha, lokr):
        change = apply(parts, weight)
        sizes = [shape[axis] if i == axis else 1 for i in range(len(shape))]
        magnitude = 1 + random(*sizes).abs()
        others = [i for i in range(len(shape)) if i != axis]
        for kept in {tuple(sizes), (shape[0],)} if axis == 0 else {tuple(sizes)}:
            made = adapters.changed({**parts, "dora_scale": magnitude.reshape(kept)}, weight)
            torch.testing.assert_close(torch.linalg.vector_norm(made, dim=others, keepdim=True), magnitude)
            direction = (weight + change) / torch.linalg.vector_norm(weight + change, dim=others, keepdim=True)
            torch.testing.assert_close(made / magnitude, direction)
            half = adapters.changed({**parts, "dora_scale": magnitude.reshape(kept)}, weight, 0.5)
            torch.testing.assert_close(half, (weight + made) / 2)


def test_full_norm_and_bias_are_sums() -> None:
    weight, diff, shift = random(*CONV), random(*CONV, seed=1), random(12)
    torch.testing.assert_close(adapters.changed({"diff": diff, "diff_b": shift}, weight, 0.3), weight + 0.3 * diff)
    bias = adapters.bias_change({"diff": diff, "diff_b": shift})
    assert bias is not None
    assert torch.equal(bias, shift.float())
    norm = {"w_norm": random(12), "b_norm": shift}
    torch.testing.assert_close(adapters.changed(norm, weight[:, 0, 0, 0], 2.0), weight[:, 0, 0, 0] + 2 * norm["w_norm"])
    assert adapters.changed({"diff_b": shift}, weight) is weight


def test_what_a_layer_is_made_of_says_what_it_changes_and_how() -> None:
    """More than a bias; by a matrix that is there without the weight; with the weight; and what is a sum beside it."""
    magnitude, bias = {"dora_scale": random(12, 1)}, {"diff_b": random(12)}
    norm, diff = {"w_norm": random(12), "b_norm": random(12)}, {"diff": random(*LINEAR)}
    for parts, weight, matrix, reads, beside in (
        (low_rank(LINEAR), True, True, False, set()),
        (low_rank(LINEAR) | bias, True, True, False, {"diff_b"}),
        (low_rank(LINEAR) | {"lora_up.bias": random(12)}, True, True, False, {"diff_b"}),
        (low_rank(LINEAR) | magnitude, True, False, True, set()),
        (diff | bias, True, True, False, {"diff_b"}),
        (norm, True, False, False, {"w_norm", "b_norm"}),
        ({"oft_blocks": random(3, 4, 4)}, True, False, True, set()),
        (bias, False, False, False, {"diff_b"}),
        ({"lora_down.weight": random(3, 8)}, True, False, False, set()),
    ):
        said = adapters.changes_weight(parts), adapters.has_matrix(parts), adapters.reads_weight(parts)
        assert (*said, set(adapters.beside(parts))) == (weight, matrix, reads, beside), list(parts)


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ({"lora_down.weight": 2, "lora_up.weight": 2}, "lora"),
        ({"lora_down.weight": 2, "lora_up.weight": 2, "dora_scale": 2}, "lora"),
        ({"lora_down.weight": 2}, None),
        ({"lora_down.weight": 2, "lora_up.weight": 2, "hada_w1_a": 2}, None),
        ({"alpha": 0}, None),
        ({"diff_b": 1}, "bias"),
        ({"diff": 2, "w_norm": 1}, None),
        ({"on_input": 0}, None),
        ({"a1.weight": 2, "a2.weight": 2, "b1.weight": 2}, None),
    ],
)
def test_a_layer_is_of_one_kind_and_whole(parts: dict[str, int], kind: str | None) -> None:
    found = adapters.kind_of({name: torch.ones([1] * ndim) for name, ndim in parts.items()})
    assert (found.name if found else None) == kind


def test_a_layer_fits_only_weights_of_its_shape() -> None:
    for parts in (
        low_rank(CONV),
        {"diff": random(*CONV)},
        {"oft_blocks": random(3, 4, 4)},
        {**low_rank(CONV), "dora_scale": random(12, 1, 1, 1)},
    ):
        assert adapters.fits(parts, CONV)
        assert not adapters.fits(parts, (10, 8, 3, 3))
    for parts in (low_rank(CONV), {"diff": random(*CONV)}):
        assert not adapters.fits(parts, (8, 12, 3, 3))
        assert not adapters.fits(parts, (12, 8))
    assert not adapters.fits({**low_rank(CONV), "diff_b": random(11)}, CONV)
    assert not adapters.fits({**low_rank(CONV), "dora_scale": random(5, 1, 1, 1)}, CONV)
