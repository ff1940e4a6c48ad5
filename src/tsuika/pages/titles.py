"""What methods are called for people, until `METHODS` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tsuika.core.texts import Text, _

_TITLES: Final[Mapping[str, Text]] = {
    "lora": _("LoRA"),
    "textual-inversion": _("Textual Inversion"),
    "dreambooth": _("DreamBooth"),
    "hypernetwork": _("Hypernetwork"),
}


def method_title(name: str) -> Text | str:
    """The title of a method; of an unknown one its name."""
    return _TITLES.get(name, name)
