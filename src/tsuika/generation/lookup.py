"""Artifacts by the names that prompts call them: tags by file name, embeddings by a bare word, saved steps by number.

Files are matched by name first; only those whose name stands in the prompt are opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

from tsuika.core.errors import ModelError, TsuikaError, nearest
from tsuika.core.events import Warn
from tsuika.core.files import sha256
from tsuika.core.rundir import RunDir
from tsuika.core.safetensors import header_or_none
from tsuika.core.texts import _
from tsuika.core.types import split_words
from tsuika.generation.compose import Formats, Requested, refusal
from tsuika.generation.prompt import TAGS, Tag
from tsuika.methods import METHODS

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")  # of one result in several formats, the first is taken
DEEPEST = 32  # folders below the one that is searched: walking is recursive before Python 3.12
_STEP = re.compile(r"(.+?)[-_](?:step)?s?([0-9]{2,})")  # of file names: mascot-000500, mascot-step00000500


class Library:
    """The artifact files of some folders. They are listed once, when first asked for."""

    def __init__(self, folders: Sequence[Path], *, below: bool = True) -> None:
        """`below`: folders in these count as well, as in A1111: all but hidden ones, and of a run its results alone."""
        self.folders, self._below = tuple(folders), below

    @classmethod
    def of(cls, folder: Path | None) -> Library:
        """Of a folder and all below it; None: of the current folder itself, and of the results of each run in `runs`."""
        if folder is not None:
            return cls([folder])
        return cls([Path(), *sorted(Path("runs").glob("*/artifacts"))], below=False)

    @cached_property
    def files(self) -> list[Path]:

        def rank(path: Path) -> tuple[int, int, str]:
            return len(path.parts), SUFFIXES.index(path.suffix.lower()), str(path)

        found = (path for folder in self.folders for path in sorted(_walk(folder, self._below), key=rank))
        return list(dict.fromkeys(found))

    def locate(self, name: str, fits: Callable[[Path], bool] = lambda path: True) -> Path:
        """The artifact called `name`: a file's stem, or the `ss_output_name` in a safetensors header.

        Of several files of one name, the one that `fits`; where none does the first, so that it can be said what it is.
        Raises ModelError: nothing of that name (MD006, names the nearest), or several different files (MD021, names them).
        """
        named = [path for path in self.files if path.stem == name]
        named = named or [path for path in self.files if path.suffix == ".safetensors" and _output_name(path) == name]
        if named:
            return _only([path for path in named if fits(path)] or named[:1], name)
        like, folders = nearest(name, {path.stem for path in self.files}), ", ".join(map(str, self.folders))
        do = _("Did you mean {nearest}? Else give the folder with --artifacts.", nearest=like)
        raise ModelError(
            "MD006",
            found=name,
            folders=folders,
            do=do if like else _("Check the name, or give the folder with --artifacts."),
        )

    def tagged(self, tags: Sequence[Tag], formats: Formats) -> list[Requested]:
        """What a prompt's tags ask for; a file of another method which has the name is passed over. Raises as `locate`."""
        requests = []
        for tag in tags:
            method = TAGS[tag.kind]
            text = tag.text if method.splits_strength and tag.text != tag.unet else None
            path = self.locate(tag.name, partial(_is_of, formats, method.name))
            requests.append(Requested(path, tag.unet, text, method.name))
        return requests

    def embedding(self, name: str, formats: Formats) -> Requested:
        """The embedding that a prompt asks for as `embedding:NAME`. Raises ModelError (MD006): nothing of that name."""
        (method,) = (method.name for method in METHODS.values() if method.adds_words)
        return Requested(self.locate(name, partial(_is_of, formats, method)), method=method)

    def embeddings(
        self, texts: Sequence[str], formats: Formats, given: Collection[str] = (), warn: Warn | None = None
    ) -> list[Requested]:
        """The embedding files whose name stands in a text as a word, in any case; those in `given` are at hand already.

        A file of that name which is no embedding is nothing to speak of; one that is refused is. Raises ModelError (MD021): a word
        names several different files.
        """
        text = "\n".join(texts)
        seen = {name.casefold() for name in given}
        found: dict[str, list[Requested]] = {}
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
                found.setdefault(word, []).append(Requested(path, method=method, called=path.stem))
        chosen = {word: _only([one.path for one in same], word) for word, same in found.items()}
        return [one for word, same in found.items() for one in same if one.path == chosen[word]]


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


def _only(paths: Sequence[Path], name: str) -> Path:
    """The one file of a name: of several formats the first, as of copies. Raises ModelError (MD021): they differ."""
    first, *others = {path.with_suffix(""): path for path in reversed(paths)}.values()
    if others and len({sha256(path) for path in (first, *others)}) > 1:
        raise ModelError("MD021", word=name, files=", ".join(sorted(map(str, (first, *others)))))
    return paths[0]


def _walk(folder: Path, below: bool) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        is_run = RunDir(Path(place)).recipe.name in names
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = [name for name in folders if below and depth < DEEPEST and not name.startswith(".")]
        folders[:] = [name for name in folders if not is_run or name == RunDir(Path(place)).artifacts.name]
        paths = (Path(place) / name for name in names)
        # No links to nothing, and no pipe, which would be waited for.
        yield from (path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def _output_name(path: Path) -> str | None:
    header = header_or_none(path)  # none: reading it as an artifact says what is wrong with it
    return header.metadata.get("ss_output_name") if header else None
