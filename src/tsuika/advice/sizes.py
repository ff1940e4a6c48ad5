"""How much a result holds, and the size of its file, before there is one.

Small results are written for real, with zeros in place of numbers, by the very format that a run writes: the size is right
whatever the format's header says. A whole model is counted.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tsuika import formats
from tsuika.advice.base import KnownBase
from tsuika.config import Recipe
from tsuika.core.types import Artifact, model_tensors
from tsuika.formats import run_facts
from tsuika.methods import METHODS
from tsuika.methods.method import Outline

Shapes = Mapping[str, tuple[int, ...]]

_BYTES: Final = {"fp16": 2, "bf16": 2, "fp32": 4}
_HEADER_BYTES: Final = 125  # of a tensor in a safetensors header: its name, type, shape and place


def shapes(base: KnownBase, recipe: Recipe) -> Shapes:
    """The tensors that are trained, by the names of `core.types.Artifact`."""
    return _outline(base, recipe).shapes


def _outline(base: KnownBase, recipe: Recipe) -> Outline:
    outline = METHODS[recipe.method.name].outline
    if outline is None:
        raise KeyError(recipe.method.name)
    key = f"outline {recipe.method} {recipe.data.trigger}"
    return base.once(key, lambda: outline(recipe.method, recipe.data, base.outline))


def count(found: Shapes) -> int:
    """Numbers in them."""
    return sum(map(math.prod, found.values()))


def file_bytes(base: KnownBase, recipe: Recipe) -> int:
    """The size of the main file of a result, in bytes; of a DreamBooth result a good estimate, of the others exact but
    for what a run notes in the header.
    """
    if METHODS[recipe.method.name].whole_model:
        sizes = [tensor.numel() for tensor in model_tensors(base.outline).values()]
        return sum(sizes) * _BYTES[recipe.output.dtype] + _HEADER_BYTES * len(sizes)
    key = f"bytes {recipe.method} {recipe.data.trigger} {recipe.output.dtype} {recipe.output.name}"
    return base.once(key, lambda: _rehearsed_bytes(base, recipe))


def _rehearsed_bytes(base: KnownBase, recipe: Recipe) -> int:
    import torch

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[recipe.output.dtype]
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes(base, recipe).items()}
    artifact = Artifact(recipe.method.name, base.family.facts.family, tensors, _noted(base, recipe))
    main = formats.for_method(recipe.method.name, METHODS[recipe.method.name].formats)[0]
    with tempfile.TemporaryDirectory(prefix="tsuika-") as folder:
        path = Path(folder) / f"{recipe.output.name or 'result'}{main.suffix}"
        main.write(next(iter(formats.pieces(artifact, "result").values())), path, dtype=dtype)
        return path.stat().st_size


def _noted(base: KnownBase, recipe: Recipe) -> dict[str, str]:
    train = recipe.train
    facts = run_facts(
        train,
        **recipe.method.network,
        name=recipe.output.name or "result",
        trigger=recipe.data.trigger,
        prediction=base.prediction,
        base_name=base.name,
        base_sha256="0" * 64,
        resolution=f"{base.size_px}x{base.size_px}",
        pictures=20,
        steps=train.steps,
        caption_dropout=0.05,
        tag_frequency={"pictures": {"a picture of something": 20}},
        bucket_info={"buckets": {"0": {"resolution": [512, 512], "count": 20}}},
        dataset_dirs={"pictures": {"n_repeats": 1, "img_count": 20}},
    )
    return {**facts, **_outline(base, recipe).metadata}
