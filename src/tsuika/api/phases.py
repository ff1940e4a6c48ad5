"""What the phases of a run are called, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tsuika.core.texts import Text, _

PHASES: Final[Mapping[str, Text]] = {
    "load": _("Loading the base model"),
    "pictures": _("Checking the images"),
    "encode": _("Encoding the images"),
    "class-pictures": _("Generating regularization images"),
    "look": _("Training, and searching for the best step"),
    "train": _("Training"),
    "variant": _("Training once more, for another step of the range"),
    "preview": _("Generating previews"),
    "compare": _("Generating images before and after"),
    "compare-settings": _("Trying the settings"),
    "compare-vaes": _("Encoding and decoding with the VAEs"),
    "tune-vae": _("Tuning the decoder"),
    "prove": _("Measuring on images that were not used for the tuning"),
    "evaluate": _("Generating images"),
    "draw": _("Generating images"),
    "grid": _("Generating the images of the sheet"),
    "write": _("Writing and checking the files"),
    "upload": _("Uploading to the Hugging Face hub"),
    "report": _("Writing the report"),
    "clean": _("Writing the cleaned copy"),
    "compare-pictures": _("Comparing the images with each other"),
    "contact-sheet": _("Writing the contact sheet"),
    "caption-model": _("Loading the captioning model"),
    "caption": _("Writing captions"),
    "mask-model": _("Loading the segmentation model"),
    "mask": _("Making masks"),
    "detail": _("Trying what detail the base model can hold"),
    "estimate": _("Estimating time and memory"),
    "extract": _("Computing the difference of the weights"),
    "merge": _("Merging the weights"),
    "start-word": _("Trying known words for a new word to start from"),
}


def title(name: str) -> Text:
    """A phase for people; one that is not known by its own name."""
    return PHASES.get(name, Text(name))
