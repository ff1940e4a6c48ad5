"""A tokenizer of bytes and tiny models with it, and artifacts of an invented method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tiny_models import FAMILY_NAMES, shallow
from tsuika.core.errors import ModelError
from tsuika.core.types import Artifact
from tsuika.methods.layers import Layers


def _byte_letters() -> list[str]:
    """The printable letters that byte-level BPE writes bytes with (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (chr(256 + n) for n in range(256 - len(printable)))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's tokenizer with a vocabulary of bytes and a few merges, so that a token is often more than a letter."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = _byte_letters()
    merges = ["a n", "t h", "th e</w>", "c a", "ca t</w>", "d o", "do g</w>", "o n</w>", "an d</w>", "r e", "re d</w>"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_models(tokenizer_folder: Path) -> Mapping[str, Any]:
    """Family name -> a tiny random model. Tests must not change them."""
    return {family: shallow(family, 0, tokenizer_folder) for family in FAMILY_NAMES}


@pytest.fixture
def sd1(tiny_models: Mapping[str, Any]) -> Any:
    return tiny_models["sd1"]


@dataclass(eq=False)
class FakeAttachment:
    """Weights of the model by name: base + the sum of strength * tensor over what is attached."""

    model: Any
    artifact_: Artifact
    method: FakeMethod
    strength: float = 1.0

    def tensors(self) -> dict[str, torch.Tensor]:
        kept = self.artifact_.tensors.items()
        return {name: value for name, value in kept if not name.endswith((".alpha", ".other"))}

    def set_strength(self, strength: float) -> None:
        self.strength = strength
        self.method.apply(self.model)

    def detach(self) -> None:
        self.method.attached.remove(self)
        self.method.apply(self.model)
        self.method.log.append(f"detach {self.artifact_.metadata['name']}")


@dataclass
class FakeMethod:
    """A method called `fake` that adds what the artifacts hold."""

    adds_words: ClassVar[bool] = False
    layers: ClassVar[Any] = staticmethod(Layers.named)
    log: list[str] = field(default_factory=list)
    attached: list[FakeAttachment] = field(default_factory=list)
    base: dict[str, torch.Tensor] = field(default_factory=dict)

    def apply(self, model: Any) -> None:
        for name, base in self.base.items():
            component, _, path = name.partition(".")
            deltas = [(one.strength, one.tensors()[name]) for one in self.attached if name in one.tensors()]
            total = sum((strength * delta for strength, delta in deltas if strength), torch.zeros_like(base))
            dict(model.components[component].named_parameters())[path].data.copy_(base + total)

    def restore(self, model: Any, artifact: Artifact) -> FakeAttachment:
        if "broken" in artifact.metadata["name"]:
            raise ModelError("MD003", where=artifact.metadata["name"], why="made so")
        self.log.append(f"attach {artifact.metadata['name']}")
        attachment = FakeAttachment(model, artifact, self)
        for name in attachment.tensors():
            component, _, path = name.partition(".")
            self.base.setdefault(name, dict(model.components[component].named_parameters())[path].data.clone())
        self.attached.append(attachment)
        self.apply(model)
        return attachment


@dataclass
class FakeFormats:
    """Artifacts by file name, without files."""

    held: dict[str, Artifact]

    def find(self, path: Path) -> FakeFormats:
        assert path.name in self.held
        return self

    def read(self, path: Path) -> Artifact:
        return self.held[path.name]

    def bundled(self, path: Path, family: str) -> tuple[Artifact, ...]:
        return ()


@pytest.fixture
def fake_method() -> FakeMethod:
    return FakeMethod()


@pytest.fixture
def fake_formats(sd1: Any) -> FakeFormats:
    """Two deltas on the UNet, one also on the text encoder, one of another family, one broken, one of an odd method."""
    unet = {f"unet.{name}": p for name, p in sd1.unet.named_parameters()}
    text = {f"text_encoder.{name}": p for name, p in sd1.text_encoders["text_encoder"].named_parameters()}
    first = "unet.conv_in.weight"
    last = "unet.conv_out.weight"
    token = next(name for name in text if name.endswith("token_embedding.weight"))
    torch.manual_seed(0)

    def artifact(name: str, *keys: str, method: str = "fake", family: str = "sd1") -> Artifact:
        tensors = {key: 0.3 * torch.randn_like({**unet, **text}[key]) for key in keys}
        return Artifact(method, family, tensors, {"name": name})

    held = {
        "a": artifact("a", first),
        "b": artifact("b", first, last),
        "both": artifact("both", first, token),
        "other": artifact("other", first, family="sdxl"),
        "broken": artifact("broken", first),
        "odd": artifact("odd", first, method="nobody"),
    }
    held["a"].tensors["unet.conv_in.alpha"] = torch.tensor(1.0)
    held["a"].tensors["unet.nowhere.other"] = torch.tensor(1.0)
    return FakeFormats(held)
