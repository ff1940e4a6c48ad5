"""Textual Inversion: new words as vectors beside the text encoders' vocabulary (Gal et al. 2023), nothing else. Knows a
model only through `core.types.Model`; a word is an entry of `Model.words`, so no row of the vocabulary can move.
Shapes: V rows of the vocabulary, n vectors of a word, D text width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tsuika.core.errors import ModelError, RecipeError
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Model, ParamGroup, Role, Update, is_usable_word
from tsuika.methods.common import copies, copy_in, incompatible
from tsuika.methods.textual_inversion import TextualInversion as Config
from tsuika.methods.textual_inversion import check_words

NOISE = "noise"  # as `Config.init`: not a word to start from


@dataclass
class WordAttachment:
    """New words on a model. See `core.types.Attachment`."""

    model: Model
    words: dict[str, dict[str, nn.Parameter]]  # word -> component -> (n, D)
    trains: frozenset[Role]
    metadata: dict[str, str] = field(default_factory=dict)

    def param_groups(self) -> list[ParamGroup]:
        """One group; its rows may be trained by direction alone."""
        params = [vectors for word in self.words.values() for vectors in word.values()]
        return [ParamGroup("words", params, 0.0, directions=True)]

    def updates(self) -> list[Update]:
        """Each word in each text encoder."""
        params = [vectors for word in self.words.values() for vectors in word.values()]
        return [Update("vectors", [vectors_nD], [vectors_nD.detach().clone()]) for vectors_nD in params]

    def tensors(self) -> dict[str, Tensor]:
        """`<word>.<component>`, live."""
        return {f"{word}.{part}": nD.data for word, parts in self.words.items() for part, nD in parts.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        copy_in(self.tensors(), tensors)

    def set_strength(self, strength: float) -> None:
        """At 0 the words are unknown again; else it is their weight in a prompt where images are drawn."""
        self.detach()
        if strength:
            _enter(self.model, self.words)
            self.model.word_weights.update(dict.fromkeys(self.words, strength))

    def detach(self) -> None:
        """Take the words out of the model."""
        for word, vectors in self.words.items():
            if self.model.words.get(word) is vectors:  # at strength 0 another set may hold the word
                del self.model.words[word]
                self.model.word_weights.pop(word, None)

    def artifact(self) -> Artifact:
        return Artifact("textual-inversion", self.model.facts.family, copies(self.tensors()), dict(self.metadata))


def attach(model: Model, config: Config, generator: torch.Generator) -> WordAttachment:
    """New words, `config.vectors` vectors each in every text encoder; prompts without them mean what they meant.
    `config.words` must be filled in (`Config.completed`). Vectors start as `config.init`'s tokens in turn, bit for bit;
    where there are more tokens than vectors, neighbours are averaged and brought to the vocabulary's mean norm, since a
    mean of vectors is shorter than they are. Noise is drawn from `generator` with the vocabulary's mean and deviation,
    at the same norm. Raises RecipeError: no words (RC005); a word that a prompt cannot hold, that is already new, or no
    token in `init` (RC002)."""
    if not config.words:
        raise RecipeError("RC005", found="method.words", do="tsuika train textual-inversion --trigger WORD …")
    check_words(config.words)
    if taken := _taken(model, config.words):
        why = _("A result that was laid on the base has this word already.")
        raise RecipeError("RC002", key="method.words", found=taken, why=why)
    words = {
        word: {
            component: nn.Parameter(_start(model, component, table_VD, config, generator))
            for component, table_VD in _tables(model).items()
        }
        for word in config.words
    }
    _enter(model, words)
    return WordAttachment(model, words, frozenset({"text.tokens"}))


def restore(model: Model, artifact: Artifact) -> WordAttachment:
    """The words of a file, at strength 1, frozen. Raises ModelError: another width, or not one set of vectors for each
    text encoder (MD004); a word that is already new on this model (MD007), or that a prompt cannot hold (MD008)."""
    tables, this = _tables(model), _("This embedding")
    words: dict[str, dict[str, nn.Parameter]] = {}
    for name, vectors_nD in artifact.tensors.items():
        word, _dot, component = name.rpartition(".")
        if component not in tables and component in model.facts.text_encoders:
            # A base that was loaded without T5.
            continue
        if component not in tables or vectors_nD.shape[1:] != tables[component].shape[1:]:
            raise incompatible(name, this, artifact, model)
        fresh_nD = vectors_nD.detach().to(tables[component].device, torch.float32, copy=True)
        words.setdefault(word, {})[component] = nn.Parameter(fresh_nD, requires_grad=False)
    for word, parts in words.items():
        # A word that T5 knows nothing of is one for the others.
        if not model.targets("text.attn").keys() <= parts.keys():
            raise incompatible(word, this, artifact, model)
        if not is_usable_word(word):
            raise ModelError("MD008", word=word)
    _enter(model, words)
    return WordAttachment(model, words, frozenset(), dict(artifact.metadata))


def _taken(model: Model, words: Any) -> str | None:
    known = {word.casefold() for word in model.words}
    return next((word for word in words if word.casefold() in known), None)


def _enter(model: Model, words: dict[str, dict[str, nn.Parameter]]) -> None:
    if taken := _taken(model, words):
        raise ModelError("MD007", word=taken)
    model.words.update(words)


def _tables(model: Model) -> dict[str, Tensor]:
    """Each text encoder's vocabulary (V, D) by component."""
    tables = {}
    for component, (path,) in model.targets("text.tokens").items():
        layer: Any = model.module(component, path)
        tables[component] = layer.weight.detach()
    return tables


def _start(model: Model, component: str, table_VD: Tensor, config: Config, generator: torch.Generator) -> Tensor:
    if config.init in ("", NOISE):
        known_VD = table_VD.float()
        drawn_nD = torch.randn(config.vectors, known_VD.shape[1], generator=generator).to(known_VD.device)
        return _at_usual_norm(known_VD.mean(0) + known_VD.std(0) * drawn_nD, known_VD)
    tokenizer = model.tokenizers[component.replace("text_encoder", "tokenizer")]
    ids = tokenizer(config.init, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        why = _("There is no word in it.")
        raise RecipeError("RC002", key="method.init", found=config.init, why=why)
    tokens_TD = table_VD[torch.tensor(ids, device=table_VD.device)].float()
    if len(ids) <= config.vectors:
        return tokens_TD[torch.arange(config.vectors, device=table_VD.device) % len(ids)].clone()
    groups = torch.tensor_split(tokens_TD, config.vectors)
    return _at_usual_norm(torch.stack([group_TD.mean(0) for group_TD in groups]), table_VD.float())


def _at_usual_norm(vectors_nD: Tensor, known_VD: Tensor) -> Tensor:
    usual = float(known_VD.norm(dim=1).mean())
    scaled_nD: Tensor = vectors_nD * (usual / vectors_nD.norm(dim=1, keepdim=True))
    return scaled_nD
