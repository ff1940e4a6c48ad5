"""Annotations that a model makes: sentences and masks by transformers, tags by a WD tagger; how captions join what is there.

It knows images as pixels and captions as text, and no folder of images and no training.
"""

from typing import Final, Literal

Mode = Literal["missing", "replace", "add"]
MODES: Final[tuple[Mode, ...]] = ("missing", "replace", "add")
