"""Artifacts stacked on a model: read, checked, attached in order, taken off in reverse. Knows neither prompts nor images.

`describe` says what a stack is: what matched, what was refused, who changes the same layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Protocol

from tsuika.core import files, kinds
from tsuika.core.errors import FormatError, ModelError, TsuikaError
from tsuika.core.events import Warn, Warned, note
from tsuika.core.outside import is_address
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Attachment, Model, is_usable_word
from tsuika.families import title_of
from tsuika.formats.common import bundled_words, unread_keys, without_assumed_family
from tsuika.methods import Method
from tsuika.methods.layers import Layers


@dataclass(frozen=True)
class Requested:
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

    def bundled(self, path: Path, family: str) -> tuple[Artifact, ...]: ...


@dataclass(frozen=True)
class Applied:
    """One artifact as it sits on the model. `matched` and `unmatched` are its tensors' names."""

    request: Requested
    method: str
    attachments: tuple[Attachment, ...]
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    layers: frozenset[str]  # of the model: what it changes, as `<component>.<canonical path>`
    words: tuple[str, ...] = ()  # that an embedding answers to
    sha256: str | None = None  # of a file


@dataclass
class Composition:
    """Artifacts on a model; as a context manager, gives the model back at the end."""

    parts: tuple[Applied, ...]
    refused: tuple[tuple[Requested, ModelError], ...]  # found by name, and not used
    _stack: ExitStack

    def __enter__(self) -> Composition:
        return self

    def __exit__(self, *_error: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Take everything off, last first. Once is enough."""
        self._stack.close()

    def set_strength(self, number: int, strength: float, text_strength: float | None = None) -> None:
        """Change the strength of part `number`, and say so in `parts`."""
        part = self.parts[number]
        request = replace(part.request, strength=strength, text_strength=text_strength)
        for attachment in part.attachments:
            attachment.set_strength(_strength(attachment, request))
        self.parts = (*self.parts[:number], replace(part, request=request), *self.parts[number + 1 :])


def compose(
    model: Model,
    requests: Sequence[Requested],
    formats: Formats,
    methods: Mapping[str, Method],
    warn: Warn | None = None,
) -> Composition:
    """Read and attach every requested artifact, in order. If one fails, those before it are taken off again.

    An embedding answers to its own word and to its file's name. One that was only found by its name (`called`) is left out,
    with a warning, where it does not fit or where that name is the trigger word of another artifact.
    Raises FormatError (FM001): of no known format, of another method than requested, or not in `methods`; ModelError: of another
    family (MD004), does not fit this model, or two embeddings of one word (MD007).
    """
    with ExitStack() as stack:
        stacking = _Stacking(model, formats, methods, stack, warn, Layers.of(model))
        parts, refused = [], []
        for one in requests:
            try:
                parts.append(stacking.attach(one))
            except ModelError as error:
                if not one.called:
                    raise
                refused.append((one, error))
                if warn:
                    warn(refusal(one.path, error))
        for part in parts:  # only now: peft activates the newest set of layers and switches off those before it
            for attachment in part.attachments:
                attachment.set_strength(_strength(attachment, part.request))
        return Composition(tuple(parts), tuple(refused), stack.pop_all())


def refusal(path: Path, error: TsuikaError) -> Warned:
    """A file that was found by its name and is not used."""
    return note("GN006", artifact=path.name, why=error.text("what"))


@dataclass
class _Stacking:
    model: Model
    formats: Formats
    methods: Mapping[str, Method]
    stack: ExitStack
    warn: Warn | None
    layers: Layers
    claimed: dict[str, Path] = field(default_factory=dict)  # word, case folded -> whose it is
    triggers: dict[str, Path] = field(default_factory=dict)  # trigger word, case folded -> whose it is

    def attach(self, request: Requested) -> Applied:
        if request.called and (owner := self.triggers.get(request.called.casefold())):
            raise ModelError("MD022", where=request.path, word=request.called, artifact=owner.name)
        artifact = self._read(request)
        if not request.called:
            trigger = re.split(r"[\s,]+", artifact.metadata.get("trigger", "").casefold())
            self.triggers |= dict.fromkeys(filter(None, trigger), request.path)
        method = self.methods[artifact.method]
        pieces = _answering(artifact, request) if method.adds_words else _sides(artifact)
        words = self._claim(request, pieces) if method.adds_words else ()
        attachments = []
        for piece in pieces:
            attachments.append(method.restore(self.model, piece))
            self.stack.callback(attachments[-1].detach)
        words = (*words, *self._attach_words_in(request, artifact))
        # Words' tensors are shown under the word that they answer to.
        shown = pieces[0] if method.adds_words else artifact
        matched, unmatched = _match(shown, attachments)
        unread = unread_keys(artifact)
        total = len(matched) + len(unmatched) + len(unread)
        about = {"artifact": request.path.name, "total": total}
        if unmatched and self.warn:
            self.warn(note("GN005", first=unmatched[0], unmatched=len(unmatched), **about))
        if unread and self.warn:
            self.warn(note("GN007", first=unread[0], unread=len(unread), **about))
        digest = files.sha256(request.path) if request.path.is_file() else None
        layers = method.layers(self.layers, artifact)
        return Applied(request, artifact.method, tuple(attachments), matched, unmatched, layers, words, digest)

    def _attach_words_in(self, request: Requested, artifact: Artifact) -> tuple[str, ...]:
        """The words bundled in a LoRA, always at full strength, as A1111 has them; one that another file has stays its."""
        found = self.formats.bundled(request.path, self.model.facts.family) if bundled_words(artifact) else ()
        attached: list[str] = []
        for piece in found:
            try:
                attached += self._claim(request, [piece])
            except ModelError as error:
                if self.warn:
                    self.warn(refusal(request.path, error))
                continue
            self.stack.callback(self.methods[piece.method].restore(self.model, piece).detach)
        return tuple(attached)

    def _read(self, request: Requested) -> Artifact:
        artifact = without_assumed_family(self.formats.find(request.path).read(request.path))
        if artifact.method not in self.methods or request.method not in ("", artifact.method):
            names = ", ".join(self.methods)
            others = _("{names}, or a method from outside: --method {address}", names=names, address=artifact.method)
            if wanted := kinds.OF_METHODS.get(request.method):
                kind = kinds.OF_METHODS.get(artifact.method, kinds.CHECKPOINT)
                raise kinds.unlike(request.path, kind, wanted.title)
            expected = request.method or (others if is_address(artifact.method) else names)
            raise FormatError("FM001", where=request.path, found=artifact.method, expected=expected)
        family = self.model.facts.family
        if artifact.family not in (family, ""):  # some files do not say; then their sizes do, when they are attached
            name = request.path.name
            found, expected = title_of(artifact.family), title_of(family)
            raise ModelError("MD004", where=request.path, artifact=name, found=found, expected=expected)
        return artifact

    def _claim(self, request: Requested, pieces: Iterable[Artifact]) -> tuple[str, ...]:
        words = tuple(dict.fromkeys(word for piece in pieces for word in _words(piece)))
        for word in words:
            if other := self.claimed.get(word.casefold()):
                raise ModelError("MD007", where=f"{other}, {request.path}", word=word)
        self.claimed |= dict.fromkeys(map(str.casefold, words), request.path)
        return words


def _words(artifact: Artifact) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in artifact.tensors))


def _answering(artifact: Artifact, request: Requested) -> list[Artifact]:
    """An embedding under every word that it answers to: its own and its file's name, or what the prompt calls it.

    A name that a prompt cannot hold is passed over where there is another.
    """
    own, *others = _words(artifact)
    if others:
        return [artifact]
    asked = [request.called] if request.called else [own, request.path.stem]
    words = {word.casefold(): word for word in asked if is_usable_word(word)} or {own: own}
    parts = {key.rpartition(".")[2]: value for key, value in artifact.tensors.items()}
    return [
        replace(artifact, tensors={f"{word}.{part}": value for part, value in parts.items()}) for word in words.values()
    ]


def _is_text(name: str) -> bool:
    return name.startswith("text_encoder")


def _sides(artifact: Artifact) -> list[Artifact]:
    """The text encoders' tensors apart from the rest, so that each side has its own strength."""
    tensors = artifact.tensors.items()
    sides = [{name: value for name, value in tensors if _is_text(name) is text} for text in (False, True)]
    return [replace(artifact, tensors=side) for side in sides] if all(sides) else [artifact]


def _strength(attachment: Attachment, request: Requested) -> float:
    if request.text_strength is not None and all(map(_is_text, attachment.tensors())):
        return request.text_strength
    return request.strength


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
class Used:
    """One artifact on the base, with how many of its tensors found their place."""

    file: str
    method: str
    strength: float
    text_strength: float | None  # of the text encoders, where it differs
    matched: int
    unmatched: int
    unmatched_first: tuple[str, ...]
    layers: int  # that it changes
    words: tuple[str, ...]  # that an embedding answers to
    sha256: str | None


@dataclass(frozen=True)
class Incompatible:
    file: str
    why: str


@dataclass(frozen=True)
class Conflict:
    """Two artifacts that change the same layers: what they do adds up, and may be too much."""

    first: str
    second: str
    layers: int
    example: str


@dataclass(frozen=True)
class Combination:
    artifacts: tuple[Used, ...] = ()
    refused: tuple[Incompatible, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


def describe(composition: Composition) -> Combination:
    """What is on the base now. Artifacts at strength 0 change nothing, so they are in no conflict."""
    acting = [part for part in composition.parts if part.request.strength or part.request.text_strength]
    shared = [(one, two, one.layers & two.layers) for one, two in combinations(acting, 2)]
    refused = [Incompatible(str(request.path), error.part("what")) for request, error in composition.refused]
    conflicts = [
        Conflict(str(one.request.path), str(two.request.path), len(both), min(both))
        for one, two, both in shared
        if both
    ]
    used = [
        Used(
            str(one.request.path),
            one.method,
            one.request.strength,
            one.request.text_strength,
            len(one.matched),
            len(one.unmatched),
            one.unmatched[:5],
            len(one.layers),
            one.words,
            one.sha256,
        )
        for one in composition.parts
    ]
    return Combination(tuple(used), tuple(refused), tuple(conflicts))
