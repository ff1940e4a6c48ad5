"""What a run stands on beside its saved states: settings, base model, images of the class, versions.

Written down when it begins, and compared when it goes on: with other settings or weights it would end with other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final

from tsuika.core import kept
from tsuika.core.errors import FormatError
from tsuika.core.events import Warned, note
from tsuika.core.texts import _
from tsuika.data.reg_images import RegularizedBank
from tsuika.training.fingerprint import fingerprint
from tsuika.training.prepared import Prepared
from tsuika.training.regularization_images import of_artifacts

# Where something is, which may change: what is there is compared instead.
_PLACES: Final = ("base.model", "base.tokenizer", "base.vae", "base.artifacts", "data.images", "data.reg_images")
# What does not decide the weights, or is a note of its own.
_FREE: Final = ("train.device", "output", "preview")


def write(prepared: Prepared) -> None:
    """Into the run folder, before anything is trained."""
    kept.write(prepared.folder.began, _surroundings(prepared))


def check(prepared: Prepared) -> Iterator[Warned]:
    """Compare with what the run began with.

    Yields:
        TR014 where libraries or the device are others.

    Raises:
        FormatError: TR011, settings, base model, or images of the class are others; or what it began with is damaged.
    """
    then, now = kept.read(prepared.folder.began, dict), _surroundings(prepared)
    if changed := _different(then["settings"], now["settings"]):
        raise kept.damaged(
            prepared.folder.recipe, _("Settings are others than at the beginning: {changes}", changes=changed)
        )
    for name, where, words in (
        ("base", prepared.recipe.base.model, _("The weights of the base model are not those that the run began with.")),
        (
            "artifacts",
            prepared.recipe.base.artifacts,
            _("The files applied to the base model are not those of the beginning."),
        ),
        (
            "class_images",
            prepared.recipe.data.reg_images,
            _("The regularization images are not those of the beginning."),
        ),
    ):
        # In another precision the same weights are other numbers, which is noted below.
        same_kind = name != "base" or then["versions"]["precision"] == now["versions"]["precision"]
        if then[name] != now[name] and same_kind:
            raise FormatError("TR011", where=where, why=words)
    if changed := _different(then["versions"], now["versions"]):
        yield note("TR014", changes=changed)


def _surroundings(prepared: Prepared) -> dict[str, Any]:
    recipe, images = prepared.recipe, prepared.images
    settings = {
        f"{name}.{leaf}": value
        for name, row in _sections(recipe.model_dump(mode="json"))
        for leaf, value in row.items()
    }
    classes = images.classes.values() if isinstance(images, RegularizedBank) else ()
    samples = sorted(
        (sample.sha256, sample.caption) for bank in classes for bucket in bank.buckets for sample in bucket.samples
    )
    return {
        "settings": {key: value for key, value in settings.items() if key not in (*_PLACES, *_FREE)},
        "base": fingerprint(prepared.model),
        "artifacts": [list(one) for one in of_artifacts(recipe.base.artifacts)],
        "class_images": [list(one) for one in samples],
        "versions": {
            **{name: version(name) for name in ("torch", "diffusers", "transformers", "tsuika")},
            "device": prepared.model.device.type,
            "precision": str(next(prepared.model.unet.parameters()).dtype),
        },
    }


def _sections(tables: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from ((name, row) for name, row in tables.items() if isinstance(row, Mapping) and name not in _FREE)


def _different(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs of what was known then; a setting that came later has its old meaning."""
    return ", ".join(f"{key}: {then[key]} → {now.get(key)}" for key in then if then[key] != now.get(key))
