"""Artifacts stacked on a model: read, checked, attached in order, taken off in reverse.

Methods and formats meet here only, as arguments. Knows neither prompts nor pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tsuika.core import files
from tsuika.core.errors import FormatError, ModelError
from tsuika.core.events import note
from tsuika.core.methods import is_usable_word
from tsuika.core.types import Artifact, Attachment, Model, canonical
from tsuika.formats.common import as_told, unread_keys
from tsuika.generate.notes import Warn, refusal

LORA, EMBEDDING, HYPERNETWORK = "lora", "textual-inversion", "hypernetwork"


@dataclass(frozen=True)
class Wanted:
    """An artifact and how strongly it is applied: 0 is the base bit for bit, 1 is as trained."""

    path: Path
    strength: float = 1.0
    text_strength: float | None = None  # of the text encoders, where it differs from the rest
    method: str = ""  # what the file must be of; empty: anything
    called: str = ""  # an embedding found by this word of a prompt: it answers to that alone, and may be refused


class Reader(Protocol):
    """The reading half of `core.types.Format`."""

    @property
    def method(self) -> str: ...

    def read(self, path: Path) -> Artifact: ...


class Formats(Protocol):
    """What is asked of `tsuika.formats`."""

    def find(self, path: Path) -> Reader: ...


class Restores(Protocol):
    """What is asked of a method."""

    def restore(self, model: Model, artifact: Artifact) -> Attachment: ...


@dataclass(frozen=True)
class Part:
    """One artifact as it sits on the model. `matched` and `unmatched` are its tensors' names."""

    wanted: Wanted
    method: str
    artifact: Artifact
    attachments: tuple[Attachment, ...]
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    layers: frozenset[str]  # of the model: what it changes, as `<component>.<canonical path>`
    words: tuple[str, ...] = ()  # that an embedding answers to
    sha256: str | None = None  # of a file


@dataclass(frozen=True)
class Refused:
    """An artifact that was found by its name and is not used."""

    wanted: Wanted
    error: ModelError


@dataclass
class Composition:
    """Artifacts on a model; as a context manager, gives the model back at the end."""

    parts: tuple[Part, ...]
    refused: tuple[Refused, ...]
    _stack: ExitStack

    def __enter__(self) -> Composition:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def detach(self) -> None:
        """Take everything off, last first. Once is enough."""
        self._stack.close()

    def set_strength(self, number: int, strength: float, text_strength: float | None = None) -> None:
        """Change the strength of part `number`, and say so in `parts`."""
        part = self.parts[number]
        wanted = replace(part.wanted, strength=strength, text_strength=text_strength)
        for attachment in part.attachments:
            attachment.set_strength(_strength(attachment, wanted))
        self.parts = (*self.parts[:number], replace(part, wanted=wanted), *self.parts[number + 1 :])


def compose(
    model: Model, wanted: Sequence[Wanted], formats: Formats, methods: Mapping[str, Restores], warn: Warn | None = None
) -> Composition:
    """Read and attach every wanted artifact, in order. If one fails, those before it are taken off again.

    An embedding answers to its own word and to its file's name. One that was only found by its name (`called`) and does
    not fit is left out, with a warning.

    Raises:
        FormatError: a file of no known format, of another method than wanted, or of one not in `methods` (FM001).
        ModelError: an artifact of another family (MD004), one that does not fit this model, or two embeddings of one
            word (MD007).
    """
    with ExitStack() as stack:
        bench = _Bench(model, formats, methods, stack, warn, Layers.of(model))
        parts, refused = [], []
        for one in wanted:
            try:
                parts.append(bench.attach(one))
            except ModelError as error:
                if not one.called:
                    raise
                refused.append(Refused(one, error))
                if warn:
                    warn(refusal(one.path, error))
        for part in parts:  # only now: peft activates the newest set of layers and switches off those before it
            for attachment in part.attachments:
                attachment.set_strength(_strength(attachment, part.wanted))
        return Composition(tuple(parts), tuple(refused), stack.pop_all())


@dataclass
class _Bench:
    """What attaching one artifact after another needs."""

    model: Model
    formats: Formats
    methods: Mapping[str, Restores]
    stack: ExitStack
    warn: Warn | None
    layers: Layers
    claimed: dict[str, Path] = field(default_factory=dict)  # word, case folded -> whose it is

    def attach(self, wanted: Wanted) -> Part:
        artifact = self._read(wanted)
        pieces = _answering(artifact, wanted) if artifact.method == EMBEDDING else _sides(artifact)
        words = self._claim(wanted, pieces) if artifact.method == EMBEDDING else ()
        attachments = []
        for piece in pieces:
            attachment = self.methods[artifact.method].restore(self.model, piece)
            self.stack.callback(attachment.detach)
            attachments.append(attachment)
        shown = pieces[0] if artifact.method == EMBEDDING else artifact  # its tensors under the word they answer to
        matched, unmatched = _match(shown, attachments)
        lost = [*unmatched, *unread_keys(artifact)]  # what is not understood of a file has no effect either
        if lost and self.warn:
            counts = {"unmatched": len(lost), "total": len(matched) + len(lost)}
            self.warn(note("GN005", artifact=wanted.path.name, first=lost[0], **counts))
        digest = files.sha256(wanted.path) if wanted.path.is_file() else None
        layers = self.layers.touched(artifact)
        return Part(wanted, artifact.method, artifact, tuple(attachments), matched, unmatched, layers, words, digest)

    def _read(self, wanted: Wanted) -> Artifact:
        artifact = as_told(self.formats.find(wanted.path).read(wanted.path))
        if artifact.method not in self.methods or wanted.method not in ("", artifact.method):
            expected = wanted.method or ", ".join(self.methods)
            raise FormatError("FM001", where=wanted.path, found=artifact.method, expected=expected)
        family = self.model.facts.family
        if artifact.family not in (family, ""):  # some files do not say; then their sizes do, when they are attached
            name = wanted.path.name
            raise ModelError("MD004", where=wanted.path, artifact=name, found=artifact.family, expected=family)
        return artifact

    def _claim(self, wanted: Wanted, pieces: Iterable[Artifact]) -> tuple[str, ...]:
        words = tuple(dict.fromkeys(word for piece in pieces for word in _words(piece)))
        for word in words:
            if other := self.claimed.get(word.casefold()):
                raise ModelError("MD007", where=f"{other}, {wanted.path}", word=word)
        self.claimed |= dict.fromkeys(map(str.casefold, words), wanted.path)
        return words


def _words(artifact: Artifact) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in artifact.tensors))


def _answering(artifact: Artifact, wanted: Wanted) -> list[Artifact]:
    """An embedding under every word that it answers to: its own and its file's name, or what the prompt calls it.

    A name that a prompt cannot hold is passed over where there is another.
    """
    own, *others = _words(artifact)
    if others:
        return [artifact]
    asked = [wanted.called] if wanted.called else [own, wanted.path.stem]
    words = {word.casefold(): word for word in asked if is_usable_word(word)} or {own: own}
    return [_renamed(artifact, word) for word in words.values()]


def _renamed(artifact: Artifact, word: str) -> Artifact:
    return replace(artifact, tensors={f"{word}.{key.rpartition('.')[2]}": v for key, v in artifact.tensors.items()})


def _is_text(name: str) -> bool:
    return name.startswith("text_encoder")


def _sides(artifact: Artifact) -> list[Artifact]:
    """The text encoders' tensors apart from the rest, so that each side has its own strength."""
    tensors = artifact.tensors.items()
    sides = [{name: value for name, value in tensors if _is_text(name) is text} for text in (False, True)]
    if not all(sides):
        return [artifact]
    return [replace(artifact, tensors=side) for side in sides]


def _strength(attachment: Attachment, wanted: Wanted) -> float:
    if wanted.text_strength is not None and all(map(_is_text, attachment.tensors())):
        return wanted.text_strength
    return wanted.strength


def _match(artifact: Artifact, attachments: Iterable[Attachment]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A tensor is matched if an attachment holds it, or (an alpha, which is not trained) one beside it."""
    places: set[str] = set()
    for attachment in attachments:
        for name in attachment.tensors():
            parent = name.rpartition(".")[0]
            places |= {name, parent, parent.rpartition(".")[0]}  # layer.part, or layer.part.weight
    held = {name: name in places or name.rpartition(".")[0] in places for name in artifact.tensors}
    return tuple(name for name in held if held[name]), tuple(name for name in held if not held[name])


@dataclass(frozen=True)
class Layers:
    """The layers of a model with nothing on it, so that artifacts can be asked what they change."""

    paths: frozenset[str]
    attention: Mapping[str, frozenset[str]]  # "768.k" -> the to_k of that input width, where a hypernetwork acts

    @staticmethod
    def of(model: Model) -> Layers:
        """Those of this model."""
        paths = {
            f"{component}.{canonical(component, path)}"
            for component, module in model.components.items()
            for path, _ in module.named_modules()
            if path
        }
        attention: dict[str, frozenset[str]] = {}
        for path in model.targets("unet.attn").get("unet", []):
            if path.endswith(("to_k", "to_v")):
                key = f"{model.module('unet', path).in_features}.{path[-1]}"
                attention[key] = attention.get(key, frozenset()) | {f"unet.{path}"}
        return Layers(frozenset(paths), attention)

    def touched(self, artifact: Artifact) -> frozenset[str]:
        """The layers whose outputs the artifact changes; none for an embedding, which adds a word."""
        if artifact.method == EMBEDDING:
            return frozenset()
        if artifact.method == HYPERNETWORK:
            keys = {".".join(name.split(".")[:2]) for name in artifact.tensors}
            return frozenset().union(*(self.attention.get(key, frozenset()) for key in keys))
        return frozenset(filter(None, map(self._layer, artifact.tensors)))

    def _layer(self, tensor: str) -> str:
        while tensor and tensor not in self.paths:
            tensor = tensor.rpartition(".")[0]
        return tensor
