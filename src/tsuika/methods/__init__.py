"""The methods, by name. A new one is one file and one entry here (and its settings in `core.config`)."""

from __future__ import annotations

from types import ModuleType

from tsuika.methods import lora

METHODS: dict[str, ModuleType] = {"lora": lora}
