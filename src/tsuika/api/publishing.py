"""`publish`: a run's result with a card that tells what was proved of it, in a folder or on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from tsuika.api.exporting import MAIN, FinishedRun, finished, plain_image, shown_beside
from tsuika.api.image_set import link_or_copy
from tsuika.api.run import Events, JsonResult, starts
from tsuika.core import files, kept
from tsuika.core.errors import InterruptedRunError, NetworkError, RecipeError, TsuikaError, needs, no_such, outer_cause
from tsuika.core.events import Phase
from tsuika.core.rundir import RunDir
from tsuika.core.safetensors import copy_without, header_or_none
from tsuika.core.texts import _, few, languages
from tsuika.core.weights import WEIGHT_SUFFIXES
from tsuika.evaluation import run_record
from tsuika.evaluation.card import Card, Sample
from tsuika.evaluation.report_guard import role
from tsuika.families.sources import ANSWER_S, is_hub_id
from tsuika.formats import provenance

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SAMPLES: Final = 6
CARD: Final = "README.md"
# To be pasted by hand: not for the hub.
CIVITAI: Final = "civitai.md"
# Fields of a file's metadata that tell captions and folders, by the formats that have them.
TELLING: Final = tuple(
    f"{prefix}{name}" for prefix in ("", "ss_") for name in ("tag_frequency", "dataset_dirs", "datasets")
)


@dataclass(frozen=True)
class PublishedFile:
    """A file of a result that is given to others.

    Attributes:
        path: where it lies in the folder or repository, with `/`.
        size_bytes: its size.
        sha256: hex digest of its content.
    """

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Published(JsonResult):
    """What was published, or would be.

    Attributes:
        repository: `USER/NAME` on the hub; empty for none.
        url: of what was uploaded; empty if nothing was.
        out: the folder that was written; None for none.
        files: all of the repository's.
        card: the model card.
    """

    repository: str
    url: str
    out: Path | None
    files: tuple[PublishedFile, ...]
    card: str


@starts
def publish(
    run: Path | str,
    *,
    to: str = "",
    out: Path | str | None = None,
    licence: str = "",
    private: bool = False,
    which: str = MAIN,
    base: str = "",
    with_captions: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    language: str | None = None,
) -> Events[Published]:
    """Upload a finished run's result to the Hugging Face hub with a model card, or write what would be uploaded.

    The card tells method, base, trigger word, samples, how programs use the file, what the guard and an evaluation measured, and
    versions. No folder, training image or caption is named; the fields of the metadata that do are taken out of the copies.

    Args:
        run: the run folder.
        to: `USER/NAME` on the hub, made if it is not there. Empty: nothing is uploaded.
        out: a new folder for the same files and `civitai.md`, a text to paste; needed without `to`.
        licence: of the result, an id such as `openrail++`; needed with `to`.
        private: whether a repository that is made can be seen by its owner alone.
        which: `safe`, `balanced` (the main result) or `likeness`.
        base: the base model's name on the hub, where the recipe names a file.
        with_captions: leave tags of captions and names of folders in the files' metadata.
        overwrite: replace files of the repository that are called the same; else nothing is uploaded then. Others stay.
        dry_run: ask and send nothing: the result says what would be uploaded.
        language: of the texts; English by default.

    Raises:
        InterruptedRunError: EV004, the run has no result (yet).
        RecipeError: RC002, no such result, repository, base or language; RC005, `licence` or `to` is needed; RC007, `out` exists;
            NW005, the repository has files of these names; NW006, it is public, and `private` was asked for.
        NetworkError: NW002, nobody is logged in; NW003, the hub refuses; NW004, it cannot be reached.
    """
    folder, lang = RunDir(Path(run)), language or "en"
    ended = finished(folder, which)
    for key, given in (("private", private), ("overwrite", overwrite)):
        if given and not to:
            raise needs(key, given, "--to")
    if not to and out is None:
        raise RecipeError("RC005", found=_("--to or --out"), do="tsuika publish RUN --to USER/NAME")
    for flag, name in (("--to", to), ("--base", base)):
        if name and not is_hub_id(name):
            raise RecipeError("RC002", key=flag, found=name, why=_("A name on the hub is of the form USER/NAME."))
    if to and not licence:
        raise RecipeError("RC005", found="--licence", do=_("For example: --licence openrail++"))
    if lang not in languages():
        raise no_such("language", lang, languages())
    target = Path(out) if out else None
    if target:
        files.check_out(target)
    api = None if dry_run or not to else _logged_in()
    yield Phase("write")
    with _place(target, folder) as place:
        card = _gather(ended, which, place, to, licence, base, lang, with_captions)
        every = sorted(one for one in place.rglob("*") if one.is_file())
        listed = tuple(
            PublishedFile(one.relative_to(place).as_posix(), one.stat().st_size, files.sha256(one))
            for one in every
            if one != place / CIVITAI
        )
        url = ""
        if api is not None:
            yield Phase("upload")
            with _asking(to):
                url = _upload(api, to, place, [one.path for one in listed], private=private, overwrite=overwrite)
    return Published(to, url, target, listed, card)


@contextmanager
def _place(out: Path | None, folder: RunDir) -> Iterator[Path]:
    """The folder to write, whole or not at all; or one that is gone afterwards, beside the results, so that large ones are linked."""
    if out is not None:
        with files.whole(out) as place:
            place.mkdir()
            yield place
    else:
        with tempfile.TemporaryDirectory(prefix=".publish-", dir=folder.root) as place:
            yield Path(place)


def _gather(
    ended: FinishedRun, which: str, place: Path, to: str, licence: str, base: str, lang: str, with_captions: bool
) -> str:
    """Everything into a folder; returns the model card."""
    from huggingface_hub import ModelCardData

    sources = _results(ended, which)
    weights = [one for one in sources if one.suffix in WEIGHT_SUFFIXES]
    name = (weights or sources)[0].stem
    for source in sources:
        _copy(source, place, () if with_captions else TELLING)
    # The base by its name: where it lies is nobody's business.
    base_id = base or (ended.base if is_hub_id(ended.base) and not Path(ended.base).exists() else "")
    called, where = base_id or Path(ended.base).name, to or name
    paths = tuple(where if source.is_dir() else f"{where}/{source.name}" for source in sources)
    card = Card(
        name=name,
        report=ended.report,
        provenance=_provenance(weights),
        verdict=_verdict(ended.folder.root / "evaluation.json"),
        base=called,
        base_id=base_id,
        trigger=", ".join(ended.triggers),
        licence=licence,
        repository=to,
        uses=tuple(ended.uses(called, paths)),
        samples=tuple(_samples(ended, place)),
        hashes={one.name: files.sha256(place / one.name)[:10] for one in weights},
    )
    facts = ModelCardData(**card.front_matter()).to_yaml()
    text = f"---\n{facts}\n---\n\n{card.model_card(lang)}"
    files.write_text(place / CARD, text)
    files.write_text(place / CIVITAI, card.civitai(lang))
    for one in weights:
        deque(shown_beside(ended, place / one.name), maxlen=0)
    return text


def _results(ended: FinishedRun, which: str) -> list[Path]:
    """Files and folders of the result, and what lies beside them under the same name, such as a `.yaml`.

    Raises:
        InterruptedRunError: EV004, one has been moved away.
    """
    folder, wanted = ended.folder, {PurePosixPath(path).name for path in ended.paths}
    every = sorted(one.name for one in folder.artifacts.glob("*") if one != folder.unfinished)
    if wanted - {*every}:
        raise InterruptedRunError("EV004", where=folder.root)
    found = [name for name in every if role(name, every) == ("" if which == MAIN else which)]
    return [folder.artifacts / name for name in sorted(found, key=lambda name: (name not in wanted, name))]


def _copy(source: Path, place: Path, fields: Sequence[str]) -> None:
    """A file, or what a folder holds: that is what `from_pretrained` opens, and so the repository itself."""
    for one in [*source.rglob("*")] if source.is_dir() else [source]:
        if one.is_file():
            copy = place / (one.relative_to(source) if source.is_dir() else one.name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if header_or_none(one) is None or not copy_without(one, copy, fields):
                link_or_copy(copy, one)


def _provenance(weights: Sequence[Path]) -> provenance.Provenance | None:
    """What the first file that says so says of its training; what cannot be read is as if it were not there."""
    for header in filter(None, map(header_or_none, weights)):
        with suppress(ValueError):
            return provenance.of(header.metadata)
    return None


def _verdict(evaluation: Path) -> Mapping[str, str]:
    """What an evaluation came to, by language; nothing where there was none.

    Raises:
        FormatError: TR011, the file was changed.
    """
    if not evaluation.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, str]).validate_python(kept.parsed(evaluation)["verdict"]["sentence"])
    except (LookupError, TypeError, ValueError) as error:
        raise kept.damaged(evaluation, str(error)) from None


def _samples(ended: FinishedRun, place: Path) -> Iterator[Sample]:
    """Previews before and after, at the first seed, as images without metadata; not those of training captions."""
    asked = {row["prompt"] for row in ended.report["before_after"]}
    previews = [one for one in ended.previews() if one.prompt in asked]
    rows = [row for row in run_record.before_after(previews, ended.folder.root) if row.before != row.after]
    for number, row in enumerate(rows[:SAMPLES], 1):
        before, after = (f"images/{number}-{side}.png" for side in ("base", "result"))
        for source, target in ((row.before[0], before), (row.after[0], after)):
            assert isinstance(source, Path)
            plain_image(source, place / target)
        yield Sample(row.prompt, before, after)


def _logged_in() -> HfApi:
    """The hub, with the token of this machine.

    Raises:
        NetworkError: NW002, there is none.
    """
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise NetworkError("NW002")
    return HfApi(library_name="tsuika", library_version=version("tsuika"))


def _upload(api: HfApi, to: str, place: Path, paths: Sequence[str], *, private: bool, overwrite: bool) -> str:
    """One commit with all files; returns its address. Raises RecipeError: see `publish`; and what the hub's library does."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        # Asked first, as an upload waits without end for a server that accepts and never answers.
        there = api.model_info(to, timeout=ANSWER_S)
    except RepositoryNotFoundError:
        api.create_repo(to, private=private)
        parent = None
    else:
        if private and not there.private:
            raise RecipeError("NW006", where=to)
        same = {one.rfilename for one in there.siblings or ()} & {*paths}
        if same and not overwrite:
            raise RecipeError("NW005", where=to, names=few(same))
        # What was looked at is what is changed: else the hub refuses.
        parent = there.sha
    added = [CommitOperationAdd(path, str(place / path)) for path in paths]
    done = api.create_commit(to, added, commit_message="Add a result of tsuika", parent_commit=parent)
    return str(done.commit_url)


@contextmanager
def _asking(to: str) -> Iterator[None]:
    """What the hub's library raises as errors of ours.

    Raises:
        NetworkError: NW003, refused; NW004, not reached.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except TsuikaError:
        raise
    # Of the HTTP library, which has changed from one version of the hub's to the next; a card that is refused is a ValueError.
    except Exception as error:
        if outer_cause(error) is not None and isinstance(error, OSError) and error.filename:
            raise
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        # A server may send back what it was sent.
        why = why.replace(get_token() or "\0", "***")
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        refused = isinstance(error, ValueError) or 400 <= status < 500
        raise NetworkError("NW003" if refused else "NW004", where=to, why=why) from error
