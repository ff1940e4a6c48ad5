"""Weights read one by one from disk are those of the loaded model, in both layouts, and roles name the same layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_files import tiny_geometry, write_folder, write_single, write_tokenizer
from safetensors.torch import load_file, save_file

from tsuika.core.errors import ModelError
from tsuika.core.types import Role, model_tensors
from tsuika.families import FAMILIES, peek

ROLES: tuple[Role, ...] = ("unet.attn", "unet.conv", "text.attn", "text.ff")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda row: row.facts.family)
def test_both_layouts_hold_the_model(family, tmp_path: Path) -> None:
    model = family.tiny(3, write_tokenizer(tmp_path / "words"))
    expected = {name: tensor for name, tensor in model_tensors(model).items() if not name.startswith("vae.")}
    single = write_single(model, tmp_path / "a.safetensors")
    for path in (single, write_folder(model, tmp_path / "new", old_style=False)):
        base = peek(path, geometry=tiny_geometry(model))
        stored = base.weights()
        assert base.facts == model.facts
        assert stored.keys() == expected.keys()
        assert all(torch.equal(stored[name], tensor) for name, tensor in expected.items())
        wanted = {f"{c}.{path}" for role in ROLES for c, paths in model.targets(role).items() for path in paths}
        assert set(stored.layers(ROLES)) == wanted
    tensors = load_file(single)
    del tensors[next(name for name in tensors if name.startswith("model.diffusion_model.") and name.endswith("bias"))]
    save_file(tensors, tmp_path / "torn.safetensors")
    with pytest.raises(ModelError, match="MD003"):
        peek(tmp_path / "torn.safetensors", geometry=tiny_geometry(model)).weights()
