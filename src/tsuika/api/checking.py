"""Whether images are fit to be trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Final

from tsuika import families
from tsuika.api.models import EMBEDDED
from tsuika.api.run import starts
from tsuika.config import Recipe
from tsuika.core import files
from tsuika.core.errors import ModelError, NetworkError
from tsuika.core.events import Event, Phase, Progress
from tsuika.core.sections import Data
from tsuika.core.texts import _
from tsuika.data import check as checks
from tsuika.data import check_fix
from tsuika.data.check_fix import Cleaned
from tsuika.data.check_report import Finding, Report
from tsuika.data.image import open_image
from tsuika.evaluation import contact_sheet as sheets
from tsuika.families.sources import find_tokenizer
from tsuika.methods import METHODS

Tokenize = Callable[[str], list[str]]

STEP_PX: Final = 64  # of all published SD1, SD2 and SDXL: VAE factor 8, UNet halving 3 times
TRIED: Final = 8  # images that go through the base's VAE
LEAST_PX: Final = 16  # a little over SSIM's window
# Mean |log| of local contrast after the VAE over before: it falls to 1 / e. Of drawings on the embedded base 0.1 to 0.3, of
# photographs 0.9 at most, of halftone 1.1 and more.
FADED: Final = 1.0


@starts
def check(
    folder: Path,
    *,
    base: str = "embedded",
    trigger: str = "",
    class_word: str = "",
    size_px: int = 0,
    recipe: Recipe | None = None,
    detail: bool = False,
    workers: int = 0,
) -> Generator[Event, None, Report]:
    """What is wrong with the images of a folder and how varied they are; nothing is changed.

    Args:
        folder: as for `train`.
        base: whose training size and tokenizer are judged by. A hub id must be on this machine.
        trigger: the trigger word.
        class_word: what kind of thing it is.
        size_px: another training size than the base's own. Where no base is named, it stands for a base that is not
            here: captions are then not judged by anyone's tokenizer.
        recipe: its `data` section and base stand where the arguments above are not given.
        detail: whether a few images go through the base's VAE and back, to see what detail it can hold; it is loaded for
            that, and nothing else of the base.
        workers: threads; 0: as many as there are cores.

    Raises:
        ImageError: no such folder (DS001).
        ModelError: the base is not there or no Stable Diffusion model (MD001, MD002).
        RecipeError: `size_px` does not suit the base (RC002).
    """
    if recipe:
        yield from recipe.remarks
    data = _settings(recipe, folder) if recipe else Data()
    given = {"trigger": trigger, "class_word": class_word, "size_px": size_px}
    data = data.model_copy(update={key: value for key, value in given.items() if value})
    if recipe and base == "embedded":
        base = recipe.base.model
    size, step, tokenize, room = _facts(base, recipe.base.tokenizer if recipe else "")
    if base == "embedded" and data.size_px and not data.size_px % STEP_PX and data.size_px > 2 * size:
        base, step, tokenize = "", STEP_PX, None
    report = yield from checks.check(
        folder,
        data,
        size_px=size,
        step_px=step,
        base=base,
        tokenize=tokenize,
        tokenizer=base if tokenize else "",
        room=room,
        wanted=dict(sorted(((name, one.images) for name, one in METHODS.items()), key=lambda pair: pair[1])),
        workers=workers,
    )
    if base and detail:
        try:
            report = report.with_findings(*(yield from detail_lost(report, base, report.size_px)))
        except (ModelError, NetworkError):
            report = replace(report, not_judged=(*report.not_judged, "vae"))
    return report


def detail_lost(report: Report, base: str, size_px: int) -> Generator[Event, None, list[Finding]]:
    """Of a few images, those whose fine detail the base's VAE turns into grey; none where it is not on this machine.

    Measured by their local contrast in the two finest octaves (`vae.metrics`), after the VAE against before.
    """
    import torch

    from tsuika.vae import metrics, roundtrip

    space = families.peek(_place(base))
    images = report.usable[:: max(1, -(-len(report.usable) // TRIED))]
    if not images:
        return []
    yield Phase("detail", len(images))
    vae = space.load_vae("builtin", torch.device("cpu"))
    lost: dict[str, float] = {}
    for done, image in enumerate(images, 1):
        pixels = roundtrip.to_signal(roundtrip.fitted(open_image(image.path), size_px, roundtrip.factor(vae)))
        if min(pixels.shape[-2:]) >= LEAST_PX:
            error = metrics.measure(roundtrip.decode(vae, roundtrip.encode(vae, pixels)), pixels)[0]["texture_error"]
            if error >= FADED:
                lost[image.name] = error
        yield Progress("detail", done, len(images))
    if not lost:
        return []
    kept = round(100 * math.exp(-max(lost.values())))
    values = {"kept": kept, "size_px": size_px, "tried": len(images), "base": base}
    return [Finding("detail-lost", "look", tuple(lost), values)]


@starts
def clean(report: Report, out: Path) -> Generator[Event, None, Cleaned]:
    """A copy of the checked folder without what cannot be used and without near-duplicates; originals stay as they are.

    Args:
        report: the result of `check`.
        out: the folder to make; a `.tsv` or `.txt` file gets only the list of what should be left out.

    Raises:
        RecipeError: `out` is there already, or lies in the image folder (DS005).
    """
    yield Phase("clean")
    return check_fix.clean(report, out)


@starts
def contact_sheet(
    report: Report, file: Path, language: str = "", *, overwrite: bool = False
) -> Generator[Event, None, Path]:
    """All images on one HTML page with their faults, worst first.

    Args:
        report: the result of `check`.
        file: the page to write.
        language: in which it opens, `en` or `ja`; empty: the reader's own.
        overwrite: whether it may be there already, unless it is an image of the folder.

    Raises:
        TsuikaError: as `files.check_out`.
    """
    files.check_out(file, *report.folder.rglob(file.name), overwrite=overwrite)
    yield Phase("contact-sheet")
    return sheets.write(report, file, language)


def _settings(recipe: Recipe, folder: Path) -> Data:
    """Those of the set that the folder is; of several, else what they share."""
    for own in recipe.data.each().values():
        if own.images and Path(own.images).resolve() == folder.resolve():
            return own
    return recipe.data.model_copy(update={"sets": ()})


def _facts(base: str, tokenizer: str) -> tuple[int, int, Tokenize | None, int]:
    """Training size, step of sizes, tokenizer (None: there is none on this machine), tokens that are read at once; without
    loading the model."""
    path = _place(base)
    found = families.peek(path)
    geometry = found.geometry
    size, step = geometry.native_size_px, STEP_PX
    if path.is_dir() or found.facts.attention == "joint":
        step = int(geometry.latent_factor * found.family.network.size_step(geometry.unet))
    where = Path(tokenizer) if tokenizer else path
    lengths = [config.get("max_position_embeddings") for config in geometry.text.values()]
    room = min(int(length) for length in lengths if length)
    if not where.is_dir():
        return size, step, None, room - 2
    opened = find_tokenizer(where, found.family.towers[0], is_own=True)

    def tokenize(text: str) -> list[str]:
        # Not `tokenize`, which warns of long texts as if they were errors.
        ids = opened(text, add_special_tokens=False, verbose=False)["input_ids"]
        pieces: list[str] = opened.convert_ids_to_tokens(ids)
        return pieces

    # The tokenizer itself says the most tokens that a text may have.
    return size, step, tokenize, min(room, int(opened.model_max_length)) - 2


def _place(base: str) -> Path:
    path = EMBEDDED if base == "embedded" else Path(base)
    if path.exists():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        why = _(
            "It is neither a file or folder nor in the cache of the Hugging Face Hub. "
            "A check needs only its size: give --size instead."
        )
        raise ModelError("MD001", where=base, why=why) from None
