"""Artifacts stacked on a model: read, checked, attached in order, taken off in reverse.

Methods and formats meet here only, as arguments. Knows neither prompts nor pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tsuika.core.errors import FormatError, ModelError
from tsuika.core.types import Artifact, Attachment, Model
from tsuika.generate.notes import Warn, note
from tsuika.generate.prompt import Tag

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class Wanted:
    """An artifact and how strongly it is applied: 0 is the base bit for bit, 1 is as trained.

    `text_strength` is for the text encoders where it differs from the rest.
    """

    path: Path
    strength: float = 1.0
    text_strength: float | None = None


class Reader(Protocol):
    """The reading half of `core.types.Format`."""

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


@dataclass
class Composition:
    """Artifacts on a model; as a context manager, gives the model back at the end."""

    parts: tuple[Part, ...]
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
    model: Model,
    wanted: Sequence[Wanted],
    formats: Formats,
    methods: Mapping[str, Restores],
    warn: Warn | None = None,
) -> Composition:
    """Read and attach every wanted artifact, in order. If one fails, those before it are taken off again.

    Raises:
        FormatError: a file of no known format, or of a method that is not in `methods` (FM001).
        ModelError: an artifact of another family (MD004), or one that does not fit this model.
    """
    with ExitStack() as stack:
        parts = [_attach(model, one, formats, methods, stack=stack, warn=warn) for one in wanted]
        for part in parts:  # only now: peft activates the newest set of layers and switches off those before it
            for attachment in part.attachments:
                attachment.set_strength(_strength(attachment, part.wanted))
        return Composition(tuple(parts), stack.pop_all())


def _attach(
    model: Model,
    wanted: Wanted,
    formats: Formats,
    methods: Mapping[str, Restores],
    *,
    stack: ExitStack,
    warn: Warn | None,
) -> Part:
    artifact = formats.find(wanted.path).read(wanted.path)
    if artifact.family != model.facts.family:
        raise ModelError(
            "MD004",
            where=wanted.path,
            artifact=wanted.path.name,
            found=artifact.family,
            expected=model.facts.family,
        )
    method = methods.get(artifact.method)
    if method is None:
        raise FormatError("FM001", where=wanted.path, found=artifact.method, expected=", ".join(methods))
    attachments = []
    for piece in _pieces(artifact):
        attachment = method.restore(model, piece)
        stack.callback(attachment.detach)
        attachments.append(attachment)
    matched, unmatched = _match(artifact, attachments)
    if unmatched and warn:
        counts = {"unmatched": len(unmatched), "total": len(artifact.tensors)}
        warn(note("GN005", artifact=wanted.path.name, first=unmatched[0], **counts))
    return Part(wanted, artifact.method, artifact, tuple(attachments), matched, unmatched)


def _is_text(name: str) -> bool:
    return name.startswith("text_encoder")


def _pieces(artifact: Artifact) -> list[Artifact]:
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


def locate(name: str, folders: Sequence[Path]) -> Path:
    """The artifact that a prompt calls `name`: a file's stem, or the `ss_output_name` in a safetensors header.

    Folders are searched recursively, in order; a shorter path wins.

    Raises:
        ModelError: nothing of that name (MD006, names the nearest).
    """
    import difflib

    found: list[Path] = []
    for folder in folders:
        files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        found += sorted(files, key=lambda path: (len(path.parts), str(path)))
    for path in found:
        if path.stem == name:
            return path
    for path in found:
        if path.suffix.lower() == ".safetensors" and _output_name(path) == name:
            return path
    nearest = difflib.get_close_matches(name, {path.stem for path in found}, n=1, cutoff=0.0)
    raise ModelError("MD006", found=name, folders=", ".join(map(str, folders)), nearest=nearest[0] if nearest else "–")


def _output_name(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("ss_output_name")
    except SafetensorError:
        return None  # not the file that is looked for; reading it as an artifact says what is wrong with it


def from_tags(tags: Sequence[Tag], folders: Sequence[Path]) -> list[Wanted]:
    """What a prompt's tags ask for.

    Raises:
        ModelError: nothing of a tag's name (MD006).
    """
    wanted = []
    for tag in tags:
        one_number = tag.kind == "hypernet" or tag.text == tag.unet
        wanted.append(Wanted(locate(tag.name, folders), tag.unet, None if one_number else tag.text))
    return wanted
