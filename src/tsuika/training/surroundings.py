"""What a run stands on beside its saved states: settings, base model, images of the class, versions.

Written down when it begins, and compared when it goes on: with other settings or weights it would end with other numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import count
from typing import Any, Final

import torch
from torch import Tensor

from tsuika.config import Recipe
from tsuika.core import kept
from tsuika.core.errors import FormatError
from tsuika.core.events import Warned, note
from tsuika.core.files import sha256, split_strength
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.core.types import Model, model_tensors
from tsuika.data.reg_images import RegularizedBank
from tsuika.training.prepared import Prepared

# Settings and sections that may change: where something is (what is there is compared instead), what does not decide the
# weights, and what is a note of its own.
_FREE: Final = {
    *("base.model", "base.tokenizer", "base.vae", "base.artifacts", "data.images", "data.masks", "data.reg_images"),
    *("method.start", "train.device", "train.log_with", "train.notify", "output", "preview"),
}
_CHUNK: Final = 1 << 22  # numbers whose places are counted from 1
_CACHED: Final = 1 << 16  # numbers that are summed at once, in a processor's cache


def write(prepared: Prepared) -> None:
    kept.write(prepared.folder.began, _surroundings(prepared))


def check(prepared: Prepared) -> Iterator[Warned]:
    """Compare with what the run began with; yields TR014 where libraries or the device are others.

    Raises FormatError (TR011): settings, base model, or images of the class are others; or what it began with is damaged.
    """
    check_settings(prepared.recipe, prepared.folder)
    then, now = kept.read(prepared.folder.began, dict), _surroundings(prepared)
    base, data = prepared.recipe.base, prepared.recipe.data
    for name, where, words in (
        ("base", base.model, _("The weights of the base model are not those that the run began with.")),
        (
            "start",
            prepared.settings.start_file,
            _("The file that the training goes on from is not that of the beginning."),
        ),
        ("artifacts", base.artifacts, _("The files applied to the base model are not those of the beginning.")),
        ("class_images", data.reg_images, _("The regularization images are not those of the beginning.")),
    ):
        # In another precision the same weights are other numbers, which is noted below.
        same_kind = name != "base" or then["versions"]["precision"] == now["versions"]["precision"]
        if then.get(name, []) != now[name] and same_kind:
            raise FormatError("TR011", where=where, why=words)
    if changed := _different(then["versions"], now["versions"]):
        yield note("TR014", changes=changed)


def check_settings(recipe: Recipe, folder: RunDir) -> None:
    """Compare settings alone. Raises FormatError (TR011): they are others, or what the run began with is damaged."""
    if changed := _different(kept.read(folder.began, _then), _settings(recipe)):
        raise kept.damaged(folder.recipe, _("Settings are others than at the beginning: {changes}", changes=changed))


def _then(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**content["settings"]}


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Those that decide what is trained."""
    tables = {name: row for name, row in recipe.model_dump(mode="json").items() if isinstance(row, dict)}
    settings = {f"{name}.{leaf}": value for name, row in tables.items() for leaf, value in row.items()}
    free = {key.removeprefix("data.") for key in _FREE}
    settings["data.sets"] = [{key: value for key, value in one.items() if key not in free} for one in recipe.data.sets]
    return {key: value for key, value in settings.items() if not {key, key.split(".")[0]} & _FREE}


def _surroundings(prepared: Prepared) -> dict[str, Any]:
    recipe, images = prepared.recipe, prepared.images
    classes = images.classes.values() if isinstance(images, RegularizedBank) else ()
    samples = sorted(
        (sample.sha256, sample.caption) for bank in classes for bucket in bank.buckets for sample in bucket.samples
    )
    return {
        "settings": _settings(recipe),
        "base": fingerprint(prepared.model),
        "artifacts": [list(one) for one in of_artifacts(recipe.base.artifacts)],
        "start": [list(one) for one in of_artifacts(filter(None, [prepared.settings.start_file]))],
        "class_images": [list(one) for one in samples],
        "versions": {
            **{name: version(name) for name in ("torch", "diffusers", "transformers", "tsuika")},
            "device": prepared.model.device.type,
            "precision": str(next(prepared.model.unet.parameters()).dtype),
        },
    }


def _different(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs of what was known then; a setting that came later has its old meaning."""
    return ", ".join(f"{key}: {then[key]} → {now.get(key)}" for key in then if then[key] != now.get(key))


def of_artifacts(texts: Iterable[str]) -> list[tuple[str, list[str], float]]:
    """Of each `FILE` or `FILE:STRENGTH`: its name (which may be its word), the hashes of its files, its strength."""
    found = []
    for path, strength in map(split_strength, texts):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        found.append((path.name, [sha256(file) for file in files if file.is_file()], strength))
    return found


def fingerprint(model: Model) -> str:
    """A hash over every number of a model, on whatever device; two sums of a tensor's bits stand for it."""
    digest = hashlib.sha256()
    for name, value in sorted(model_tensors(model).items()):
        sums = [_sums(part) for part in _parts(value)]
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} {' '.join(map(str, sums))}".encode())
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[Tensor]:
    """The plain tensors of a quantised one; else itself."""
    if not hasattr(value, "__tensor_flatten__"):
        yield value
        return
    names, _rest = value.__tensor_flatten__()
    for name in names:
        yield from _parts(getattr(value, name))


def _sums(value: Tensor) -> tuple[int, int]:
    """The sum of a tensor's bits as whole numbers, plain and by place; exact, as they wrap around."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
    flat = value.detach().contiguous().view(-1).view(bits)
    # A device has no such cache, and is waited for with each sum.
    at_once = _CACHED if value.device.type == "cpu" else _CHUNK
    places = torch.arange(1, min(at_once, len(flat)) + 1, device=value.device)
    plain = placed = 0
    for first in range(0, len(flat), _CHUNK):
        of_chunk = 0
        for begin, part in zip(count(0, at_once), torch.split(flat[first : first + _CHUNK], at_once), strict=False):
            wide = part.to(torch.int64)
            total = int(wide.sum())
            plain += total
            of_chunk += int((wide * places[: len(wide)]).sum()) + begin * total
        placed += _wrapped(of_chunk) * (first + 1)
    return plain, placed


def _wrapped(value: int) -> int:
    """As a sum in int64 would be."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
