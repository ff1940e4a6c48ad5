"""Artifacts by the names that prompts call them: tags by file name, embeddings by a bare word, saved steps by number.

Files are matched by name first; only those whose name stands in the prompt are opened.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

from tsuika.core.errors import ModelError, TsuikaError
from tsuika.core.events import Warn
from tsuika.core.types import split_words
from tsuika.generation.compose import Formats, Requested, refusal
from tsuika.generation.prompt import TAGS, Tag
from tsuika.methods import METHODS

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")  # of two files of one name, the first is taken
DEEPEST = 4  # folders below the one that is searched: runs/NAME/artifacts is 3, and a home folder has no end
_STEP = re.compile(r"(.+?)[-_](?:step)?s?([0-9]{2,})")  # of file names: mascot-000500, mascot-step00000500


class Library:
    """The artifact files below some folders. They are listed once, when first asked for.

    Folders are searched in order; in each, a shorter path wins. Hidden folders and those more than
    `DEEPEST` below are passed over.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    @cached_property
    def files(self) -> list[Path]:
        """Every file that may be an artifact, best first."""

        def rank(path: Path) -> tuple[int, int, str]:
            return len(path.parts), SUFFIXES.index(path.suffix.lower()), str(path)

        return list(dict.fromkeys(path for folder in self.folders for path in sorted(_walk(folder), key=rank)))

    def locate(self, name: str, fits: Callable[[Path], bool] = lambda path: True) -> Path:
        """The artifact called `name`: a file's stem, or the `ss_output_name` in a safetensors header.

        Of several files of one name, the first that `fits`, else the first, so that it can be said what it is.

        Raises:
            ModelError: nothing of that name (MD006, names the nearest).
        """
        named = [path for path in self.files if path.stem == name]
        named = named or [path for path in self.files if path.suffix == ".safetensors" and _output_name(path) == name]
        if named:
            return next(filter(fits, named), named[0])
        nearest = difflib.get_close_matches(name, {path.stem for path in self.files}, n=1, cutoff=0.0)
        folders = ", ".join(map(str, self.folders))
        raise ModelError("MD006", found=name, folders=folders, nearest=nearest[0] if nearest else "–")

    def tagged(self, tags: Sequence[Tag], formats: Formats) -> list[Requested]:
        """What a prompt's tags ask for; a file of another method which has the name is passed over.

        Raises:
            ModelError: nothing of a tag's name (MD006).
        """
        requests = []
        for tag in tags:
            method = TAGS[tag.kind]
            split = method.splits_strength and tag.text != tag.unet
            path = self.locate(tag.name, partial(_is_of, formats, method.name))
            requests.append(Requested(path, tag.unet, tag.text if split else None, method.name))
        return requests

    def embedding(self, name: str, formats: Formats) -> Requested:
        """The embedding that a prompt asks for as `embedding:NAME`.

        Raises:
            ModelError: nothing of that name (MD006).
        """
        (method,) = (method.name for method in METHODS.values() if method.adds_words)
        return Requested(self.locate(name, partial(_is_of, formats, method)), method=method)

    def embeddings(
        self, texts: Sequence[str], formats: Formats, given: Collection[str] = (), warn: Warn | None = None
    ) -> list[Requested]:
        """The embedding files whose name stands in a text as a word, in any case; those in `given` are at hand already.

        A file of that name which is no embedding is nothing to speak of; one that is refused is.
        """
        text = "\n".join(texts)
        seen = {name.casefold() for name in given}
        found = []
        for path in self.files:
            word = path.stem.casefold()
            if word in seen or word not in text.casefold() or len(split_words(text, [path.stem])) == 1:
                continue
            try:
                method = formats.find(path).method
            except ModelError as error:
                if error.code not in ("FM001", "MD002") and warn:
                    warn(refusal(path, error))
                continue
            if method in METHODS and METHODS[method].adds_words:
                seen.add(word)
                found.append(Requested(path, method=method, called=path.stem))
        return found


def saved_steps(path: Path) -> dict[int | None, Path]:
    """The files of one training at different steps, as training programs name them; None is the one without a number.

    `mascot-000500.safetensors` and `mascot-step00000900.safetensors` go with `mascot.safetensors`; so do the saved states
    of a run (folders) with its result.
    """

    def split(path: Path) -> tuple[str, int | None]:
        match = _STEP.fullmatch(path.stem)
        return (match[1], int(match[2])) if match else (path.stem, None)

    name, _ = split(path)
    states = path.parent.parent.glob("checkpoints/step-*") if path.parent.name == "artifacts" else ()
    found: dict[int | None, Path] = {int(state.name.removeprefix("step-")): state for state in states}
    found |= {split(other)[1]: other for other in path.parent.glob(f"*{path.suffix}") if split(other)[0] == name}
    return dict(sorted(found.items(), key=lambda item: (item[0] is None, item[0] or 0)))


def _is_of(formats: Formats, method: str, path: Path) -> bool:
    try:
        return formats.find(path).method == method
    except TsuikaError:  # not the file that is looked for; reading it as an artifact says what is wrong with it
        return False


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = [] if depth >= DEEPEST else [name for name in folders if not name.startswith(".")]
        paths = (Path(place) / name for name in names)
        # No links to nothing, and no pipe, which would be waited for.
        yield from (path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def _output_name(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("ss_output_name")
    except SafetensorError:
        return None  # not the file that is looked for; reading it as an artifact says what is wrong with it
