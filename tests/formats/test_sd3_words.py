"""Words of SD3: `clip_l`, `clip_g` and `t5xxl` in one file, as ComfyUI reads them; SDXL's two are words of it, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny_models import tiny
from tsuika import formats
from tsuika.core.errors import FormatError
from tsuika.core.seeds import generator
from tsuika.core.types import Artifact
from tsuika.formats import embedding
from tsuika.formats.embedding_files import A1111Embedding, KohyaEmbedding
from tsuika.methods.textual_inversion import TextualInversion, vectors

WIDTHS = {"clip_l": 32, "clip_g": 48, "t5xxl": 96}


def word(*parts: str) -> dict[str, Tensor]:
    return {
        part: torch.randn(2, WIDTHS[part], generator=torch.Generator().manual_seed(number))
        for number, part in enumerate(parts)
    }


def test_the_file_has_each_tokenizers_key(tmp_path: Path) -> None:
    model = tiny("sd3")
    added = vectors.attach(model, TextualInversion(words=("zuzu",), vectors=2), generator(0, "init"))
    artifact, said = added.artifact(), model.encode_text(["a zuzu"])
    added.detach()
    artifact.metadata.update(model.file_facts)
    KohyaEmbedding().write(artifact, tmp_path / "zuzu.safetensors", dtype=torch.float32)
    assert {name: value.shape[1] for name, value in load_file(tmp_path / "zuzu.safetensors").items()} == WIDTHS
    again = formats.find(tmp_path / "zuzu.safetensors").read(tmp_path / "zuzu.safetensors")
    assert (again.family, again.metadata["ss_t5xxl_max_token_length"]) == ("sd3", "20")
    assert again.metadata["modelspec.architecture"] == "stable-diffusion-3-5-medium/textual-inversion"
    back = vectors.restore(model, again)
    assert torch.equal(model.encode_text(["a zuzu"]).tokens_BSD, said.tokens_BSD)
    back.detach()


@pytest.mark.parametrize("third", ["t5xxl", "t5"])
def test_the_third_key_is_t5s_by_either_name(third: str, tmp_path: Path) -> None:
    held = word(*WIDTHS)
    save_file(
        {third if name == "t5xxl" else name: value for name, value in held.items()}, tmp_path / "zuzu.safetensors"
    )
    read = formats.find(tmp_path / "zuzu.safetensors").read(tmp_path / "zuzu.safetensors")
    assert read.family == "sd3"
    assert torch.equal(read.tensors["zuzu.text_encoder_3"], held["t5xxl"])
    torch.save(held, tmp_path / "zuzu.pt")
    assert formats.find(tmp_path / "zuzu.pt").read(tmp_path / "zuzu.pt").tensors.keys() == read.tensors.keys()


def test_sdxls_word_works_and_t5_reads_nothing_of_it(tmp_path: Path) -> None:
    """The header cannot tell the two families apart: as before, such a file counts as SDXL's where nothing names another."""
    save_file(word("clip_l", "clip_g"), tmp_path / "zuzu.safetensors")
    read = formats.find(tmp_path / "zuzu.safetensors").read(tmp_path / "zuzu.safetensors")
    assert (read.family, read.metadata["family_from"]) == ("sdxl", "shapes")
    model = tiny("sd3")
    vectors.restore(model, read)
    ids = model.token_ids(["a zuzu cat", "a cat"], "text_encoder_3", 8)
    assert torch.equal(*ids)
    assert not torch.equal(*model.token_ids(["a zuzu cat", "a cat"], "text_encoder", 8))
    named = Artifact(embedding.METHOD, "sd3", read.tensors, {})
    KohyaEmbedding().write(named, tmp_path / "again.safetensors", dtype=torch.float32)
    assert KohyaEmbedding().read(tmp_path / "again.safetensors").family == "sd3"


def test_half_a_word_and_programs_without_t5_are_named(tmp_path: Path) -> None:
    save_file(word("clip_l", "t5xxl"), tmp_path / "flux.safetensors")
    with pytest.raises(FormatError, match="FLUX"):
        formats.find(tmp_path / "flux.safetensors")
    parts = dict(zip(embedding.COMPONENTS, word(*WIDTHS).values(), strict=True))
    whole = Artifact(embedding.METHOD, "sd3", {f"zuzu.{part}": value for part, value in parts.items()}, {})
    with pytest.raises(FormatError, match="T5"):
        A1111Embedding().write(whole, tmp_path / "zuzu.pt", dtype=torch.float32)
