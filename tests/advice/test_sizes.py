"""Sizes foretold against files that were really written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_models import tiny
from tsuika import EMBEDDED, config, formats
from tsuika.advice import sizes
from tsuika.advice.base import KnownBase, describe_base
from tsuika.families import family
from tsuika.methods import METHODS

SETTINGS = {
    "lora": {"method.rank": 8},
    "textual-inversion": {"method.vectors": 2, "data.trigger": "zoka"},
    "dreambooth": {},
    "hypernetwork": {"method.sizes": "all", "method.activation": "swish"},
}


def recipe_of(method: str, settings: dict[str, object]) -> config.Recipe:
    return config.build(config.override({"method": {"name": method}}, settings))


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("method", SETTINGS)
def test_tensors_are_those_of_the_method(method: str, name: str, tmp_path: Path) -> None:
    model = tiny(name)
    kind = family(name)
    words = len(model.tokenizers["tokenizer"])
    geometry = kind.tiny_geometry(words, min(int(model.tokenizers["tokenizer"].model_max_length), 77))
    base = KnownBase(f"tiny {name}", kind, kind.facts.prediction, geometry, at_hand=True)
    recipe = recipe_of(method, SETTINGS[method])
    attachment = METHODS[method].attach(model, recipe.method.completed(recipe.data), torch.Generator().manual_seed(0))
    trained = {key: tuple(value.shape) for key, value in attachment.tensors().items()}
    foretold = sizes.shapes(base, recipe)
    assert sizes.count(trained) == sizes.count({key: s for key, s in foretold.items() if not key.endswith(".alpha")})
    assert trained.keys() == {key for key in foretold if not key.endswith(".alpha")}
    main = formats.for_method(method)[0]
    path = tmp_path / f"result{main.suffix}"
    artifact = attachment.artifact()
    if method != "dreambooth":
        artifact.metadata.update(sizes._noted(base, recipe))
    main.write(artifact, path, dtype=torch.float16)
    assert sizes.file_bytes(base, recipe) == pytest.approx(path.stat().st_size, rel=0.03)


def test_ranks_grow_the_file() -> None:
    base = describe_base("embedded", EMBEDDED)
    found = [sizes.file_bytes(base, recipe_of("lora", {"method.rank": rank})) for rank in (1, 4, 16)]
    assert found == sorted(set(found))
    assert sizes.file_bytes(base, recipe_of("lora", {"method.rank": 4, "output.dtype": "fp32"})) > 1.5 * found[1]


def test_a_base_is_known_by_its_name_alone() -> None:
    assert describe_base("sdxl", EMBEDDED).family.facts.family == "sdxl"
    assert describe_base("someone/my-xl-model", EMBEDDED).guessed
    assert describe_base("embedded", EMBEDDED).at_hand
    assert replace(describe_base("sd1", EMBEDDED), name="embedded").is_embedded
