"""The methods, by name. A new one is one file and one entry here (and its settings in `core.methods`)."""

from __future__ import annotations

from types import ModuleType

from tsuika.methods import dreambooth, hypernetwork, lora, textual_inversion

METHODS: dict[str, ModuleType] = {
    "lora": lora,
    "textual-inversion": textual_inversion,
    "dreambooth": dreambooth,
    "hypernetwork": hypernetwork,
}
