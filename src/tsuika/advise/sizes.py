"""How much a result holds, and the size of its file, before there is one.

Small results are written for real, with zeros in place of numbers, by the very format that a run writes: the size is right
whatever the format's header says. A whole model is counted.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tsuika import formats
from tsuika.advise.base import Base, layers
from tsuika.core.config import Recipe
from tsuika.core.methods import DreamBooth, Hypernetwork, Lora, TextualInversion
from tsuika.core.types import Artifact, model_tensors
from tsuika.formats import RunFacts

Shapes = Mapping[str, tuple[int, ...]]

_BYTES: Final = {"fp16": 2, "bf16": 2, "fp32": 4}
_HEADER_BYTES: Final = 125  # of a tensor in a safetensors header: its name, type, shape and place


def shapes(base: Base, recipe: Recipe) -> Shapes:
    """The tensors that are trained, by the names of `core.types.Artifact`."""
    return base.once(f"shapes {recipe.method} {recipe.data.trigger}", lambda: _shapes(base, recipe))


def _shapes(base: Base, recipe: Recipe) -> Shapes:
    method = recipe.method
    if isinstance(method, Lora):
        return _lora(base, method)
    if isinstance(method, TextualInversion):
        words = method.words or (recipe.data.trigger or "word",)
        widths = {name: int(config["hidden_size"]) for name, config in base.geometry.text.items()}
        return {f"{word}.{name}": (method.vectors, width) for word in words for name, width in widths.items()}
    if isinstance(method, Hypernetwork):
        return _hypernetwork(base, method)
    assert isinstance(method, DreamBooth)
    parts = ["unet", *(base.geometry.text if method.text_encoder else ())]
    return {name: tuple(t.shape) for name, t in model_tensors(base.outline).items() if name.partition(".")[0] in parts}


def count(found: Shapes) -> int:
    """Numbers in them."""
    total = 0
    for shape in found.values():
        product = 1
        for side in shape:
            product *= side
        total += product
    return total


def _lora(base: Base, method: Lora) -> Shapes:
    roles = ["unet.attn", "unet.ff", *(["unet.conv"] if method.conv else [])]
    roles += ["text.attn", "text.ff"] if method.text_encoder else []
    found: dict[str, tuple[int, ...]] = {}
    for name, (out, inside, *kernel) in layers(base, tuple(roles)).items():
        rank = (method.conv_rank or method.rank) if tuple(kernel) not in ((), (1, 1)) else method.rank
        found[f"{name}.lora_down.weight"] = (rank, inside, *kernel)
        found[f"{name}.lora_up.weight"] = (out, rank, *(1 for _ in kernel))
        found[f"{name}.alpha"] = ()
    return found


def _hypernetwork(base: Base, method: Hypernetwork) -> Shapes:
    widths = set()
    for name, shape in layers(base, ("unet.attn",)).items():
        if name.endswith(".to_k") and (method.sizes == "all" or name.endswith(".attn2.to_k")):
            widths.add(shape[1])
    per_layer = 1 + (method.activation != "linear")  # an activation takes a place in the numbering
    found: dict[str, tuple[int, ...]] = {}
    for width in sorted(widths):
        sides = [int(width * multiple) for multiple in method.layer_structure]
        for side in "kv":
            for number, (inside, out) in enumerate(pairwise(sides)):
                found[f"{width}.{side}.linear.{number * per_layer}.weight"] = (out, inside)
                found[f"{width}.{side}.linear.{number * per_layer}.bias"] = (out,)
    return found


def file_bytes(base: Base, recipe: Recipe) -> int:
    """The size of the main file of a result, in bytes; of a DreamBooth result a good estimate, of the others exact but
    for what a run notes in the header.
    """
    key = f"bytes {recipe.method} {recipe.data.trigger} {recipe.output.dtype} {recipe.output.name}"
    return base.once(key, lambda: _file_bytes(base, recipe))


def _file_bytes(base: Base, recipe: Recipe) -> int:
    found = shapes(base, recipe)
    if isinstance(recipe.method, DreamBooth):
        every = model_tensors(base.outline)
        return sum(tensor.numel() for tensor in every.values()) * _BYTES[recipe.output.dtype] + _HEADER_BYTES * len(
            every
        )
    return _rehearsed(base, recipe, found)


def _rehearsed(base: Base, recipe: Recipe, found: Shapes) -> int:
    import torch

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[recipe.output.dtype]
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, shape in found.items()}
    artifact = Artifact(recipe.method.name, base.family.facts.family, tensors, {**_noted(base, recipe)})
    main = formats.for_method(recipe.method.name)[0]
    with tempfile.TemporaryDirectory(prefix="tsuika-") as folder:
        path = Path(folder) / f"{recipe.output.name or 'result'}{main.suffix}"
        main.write(next(iter(formats.pieces(artifact, "result").values())), path, dtype=dtype)
        return path.stat().st_size


def _noted(base: Base, recipe: Recipe) -> dict[str, str]:
    """About what a run writes of itself."""
    method, train = recipe.method, recipe.train
    own: dict[str, Any] = (
        {"rank": method.rank, "alpha": method.alpha or method.rank} if isinstance(method, Lora) else {}
    )
    facts = RunFacts(
        name=recipe.output.name or "result",
        trigger=recipe.data.trigger,
        prediction=base.prediction,
        base_name=base.name,
        base_sha256="0" * 64,
        resolution=f"{base.size_px}x{base.size_px}",
        pictures=20,
        steps=train.steps,
        max_steps=train.steps,
        batch_size=train.batch_size,
        accumulate=train.accumulate,
        learning_rate=train.learning_rate,
        optimizer=train.optimizer,
        schedule=train.schedule,
        warmup_steps=40,
        min_snr_gamma=train.min_snr_gamma,
        noise_offset=0.0,
        clip_norm=1.0,
        caption_dropout=0.05,
        precision=train.precision,
        gradient_checkpointing=False,
        cache_latents=True,
        clip_skip=1,
        seed=0,
        tag_frequency={"pictures": {"a picture of something": 20}},
        bucket_info={"buckets": {"0": {"resolution": [512, 512], "count": 20}}},
        dataset_dirs={"pictures": {"n_repeats": 1, "img_count": 20}},
        **own,
    )
    if isinstance(method, Hypernetwork):
        header = {"layer_structure": list(method.layer_structure), "activation_func": method.activation}
        rest = {"is_layer_norm": False, "weight_initialization": method.init, "activate_output": method.activate_output}
        return {**facts.metadata(), **{key: json.dumps(value) for key, value in {**header, **rest}.items()}}
    return facts.metadata() | ({"adapter": "lora"} if isinstance(method, Lora) else {})
