"""What the file formats share: facts of a run, notes of reading, the errors of a wrong method. Knows no key layout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tsuika.core.errors import FormatError
from tsuika.core.sections import Train
from tsuika.core.texts import Text, _, _n, few
from tsuika.core.types import Artifact, Prediction
from tsuika.families import FAMILIES

UNREAD: Final = "unread_keys"  # Artifact.metadata: JSON list of keys in the file that were not understood
# Artifact.metadata: "metadata" | "shapes" | "default" (no evidence: the first family)
FAMILY_FROM: Final = "family_from"
# Artifact.metadata: JSON list of the words bundled in a LoRA's file, which are artifacts of their own
BUNDLED: Final = "bundled_words"
NOTES_OF_READING: Final = (UNREAD, FAMILY_FROM, BUNDLED)
ANOTHER_FORMAT: Final = _("Choose another format.")
# Settings that files name as the recipe does.
_SETTINGS: Final = (
    *("accumulate", "learning_rate", "schedule", "clip_norm", "precision", "seed"),
    *("min_snr_gamma", "noise_offset", "ip_noise_gamma", "gradient_checkpointing"),
)


def of_another_method(method: str, format_name: str, kind: Text) -> FormatError:
    """The error where a format for `kind` gets something else."""
    why = _("It is of method `{method}`, and this format is for {kind}.", method=method, kind=kind)
    return FormatError("FM002", format=format_name, why=why, do=ANOTHER_FORMAT)


def refuse_no_model(artifact: Artifact, format_name: str) -> None:
    """Refuse what is no whole model of a known family. Raises FormatError: another method or family (FM002)."""
    if artifact.method != "dreambooth" or artifact.family not in {family.name for family in FAMILIES}:
        why = _(
            "It is a {method} for {family}, and this format is for whole models.",
            method=artifact.method,
            family=artifact.family,
        )
        raise FormatError("FM002", format=format_name, why=why, do=ANOTHER_FORMAT)


def without_assumed_family(artifact: Artifact) -> Artifact:
    """The artifact without a family that was only assumed; then its sizes decide where it fits."""
    return replace(artifact, family="") if artifact.metadata.get(FAMILY_FROM) == "default" else artifact


def facts_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Those of another program's facts that are words or numbers, as text; anything may stand in a pickle."""
    return {name: str(value) for name, value in values.items() if isinstance(value, str | int | float)}


def described(value: object) -> str:
    """A word or a number as it is; of anything else the type."""
    return str(value) if isinstance(value, str | int | float) else type(value).__name__


def whole_number(text: str | None) -> int:
    """A number in a file's facts, which other programs may have written as anything; 0 where it is none."""
    try:
        return int(float(text or 0))
    except (ValueError, OverflowError):
        return 0


def unread_keys(artifact: Artifact) -> list[str]:
    """The keys of the artifact's file that were not understood, and so are not in it."""
    found: list[str] = json.loads(artifact.metadata.get(UNREAD, "[]"))
    return found


def bundled_words(artifact: Artifact) -> list[str]:
    """The words bundled in the artifact's file, which are not in it."""
    found: list[str] = json.loads(artifact.metadata.get(BUNDLED, "[]"))
    return found


def refuse_unread(artifact: Artifact, format_name: str) -> None:
    """A file that was not read in full is not converted as if it had been. Raises FormatError: keys were left unread,
    or words are bundled in the file (FM002)."""
    do = _("Go without them: --lossy. Words are then written into files of their own, beside the result.")
    if unread := unread_keys(artifact):
        why = _n(
            "It was read from a file with {count} key that was not understood: `{key}`.",
            "It was read from a file with {count} keys that were not understood, such as `{key}`.",
            len(unread),
            key=unread[0],
        )
        raise FormatError("FM002", format=format_name, why=why, do=do)
    if words := bundled_words(artifact):
        why = _("There are words in its file, which are no part of a LoRA: {words}.", words=few(words))
        raise FormatError("FM002", format=format_name, why=why, do=do)


def without_unread(artifact: Artifact) -> Artifact:
    """The artifact as if nothing else had been in its file."""
    kept = {key: text for key, text in artifact.metadata.items() if key not in (UNREAD, BUNDLED)}
    return replace(artifact, metadata=kept)


# modelspec.prediction_type; Stability AI's ModelSpec 1.0.1 knows epsilon and v
PREDICTION_TYPES: Final[Mapping[Prediction, str]] = {"epsilon": "epsilon", "v_prediction": "v", "flow": "flow"}


def prediction_of(metadata: Mapping[str, str]) -> Prediction:
    """What a model with these facts predicts."""
    kinds: dict[str, Prediction] = {"v_prediction": "v_prediction", "flow": "flow"}
    return kinds.get(metadata.get("prediction", ""), "epsilon")


def run_facts(train: Train, **facts: object) -> dict[str, str]:
    """What a file says about its run, as text by name (`kohya_lora` has all names); None and "" are left out. Nothing
    is looked up, and there is no date: the same recipe gives the same bytes, whenever it runs."""
    named = {name: getattr(train, name) for name in _SETTINGS} | {"max_steps": train.steps}
    given = (text.partition("=") for text in train.optimizer_args)
    arguments = ",".join(f"{name}=({value})" if "," in value else f"{name}={value}" for name, _equals, value in given)
    named["optimizer"] = (train.optimizer_class.replace(":", ".") or train.optimizer) + (arguments and f"({arguments})")
    named["total_batch_size"] = train.batch_size * train.accumulate
    named |= {"warmup_steps": round(train.warmup * train.steps), "cache_latents": True, **facts}
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)
        for name, value in named.items()
        if value not in (None, "")
    }


class WriteOnly:
    """The reading half of `core.types.Format` for whole models: they are bases, which `families` opens."""

    def sniff(self, path: Path) -> bool:
        """Never: a whole model is no artifact that could be applied to another."""
        return False

    def notes(self, artifact: Artifact) -> Iterator[str]:
        """Codes of what people should know about a file of this artifact; their messages name the `file`."""
        yield from ()

    def read(self, path: Path) -> Artifact:
        """Refuses. Raises FormatError: always (FM001)."""
        found, expected = _("a whole model (checkpoint)"), _("a file to use with a base")
        raise FormatError("FM001", where=path, found=found, expected=expected)


def count_tags(captions: Iterable[str]) -> dict[str, int]:
    """How often each comma-separated tag occurs, lower-cased, most frequent first (one folder of `tag_frequency`)."""
    tags = (tag.strip().lower() for caption in captions for tag in caption.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common())
