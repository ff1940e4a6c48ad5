"""What the kinds of jobs are called, for people: a kind is the command that the job runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tsuika.core.texts import Text, _
from tsuika.pages import in_languages

TITLES: Final[Mapping[str, Text]] = {
    "advise": _("Method advisor"),
    "caption": _("Captions by a model"),
    "check": _("Checking the images"),
    "convert": _("Converting a file"),
    "doctor": _("Looking at this machine"),
    "evaluate": _("Evaluation"),
    "export": _("Writing a file"),
    "extract": _("Extracting a LoRA"),
    "find-rate": _("Finding a learning rate"),
    "generate": _("Generating images"),
    "grid": _("Comparison grid"),
    "inspect": _("Looking at a file"),
    "mask": _("Masks by a model"),
    "merge": _("Merging files"),
    "publish": _("Publishing"),
    "resize": _("Resizing a LoRA"),
    "search": _("Searching settings"),
    "train": _("Training"),
    "vae bake": _("Putting a VAE into a base model"),
    "vae compare": _("Comparing VAEs"),
    "vae tune": _("Tuning a VAE"),
}


def title(kind: str) -> dict[str, str]:
    """A kind by language; one that is not known by its command."""
    return in_languages(TITLES.get(kind, Text(kind)))
