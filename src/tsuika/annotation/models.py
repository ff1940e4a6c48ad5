"""A model by name: a folder or a Hugging Face model id. Nothing of it is ever run as code, and no pickle is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import torch

from tsuika.core.errors import ModelError, NetworkError
from tsuika.core.files import at_home
from tsuika.core.texts import _
from tsuika.families.sources import is_hub_id

if TYPE_CHECKING:
    from typing_extensions import Self

Found = TypeVar("Found")
# What transformers raises for files that do not fit each other.
_WRONG: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, IndexError)


def folder_of(name: str, download: Callable[[], Path], *, wrong: str, missing: str) -> Path:
    """A folder by its name, else what is downloaded once.

    Raises:
        ModelError: `wrong`, a code: no such folder, and no id of the hub.
        NetworkError: `missing`, a code: the hub does not have it or cannot be reached.
    """
    folder = at_home(name)
    if folder.exists():
        return folder
    if not is_hub_id(name):
        raise ModelError(wrong, where=name, why=_("There is no such folder."))
    try:
        return download()
    except NetworkError as error:
        raise NetworkError(missing, where=name, why=error.params["why"], name=name) from None


def refused(code: str, where: Path, error: Exception) -> ModelError:
    """That a model cannot be used, with the first line of what its library says."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError(code, where=where, why=lines[0])


@dataclass(frozen=True)
class TransformersModel:
    """A model of transformers with its processor."""

    wrong: ClassVar[str]  # the code of what is no such model, or cannot do its work

    folder: Path
    model: Any
    processor: Any
    device: torch.device

    @classmethod
    def open(cls, folder: Path, kind: Any, device: torch.device) -> Self:
        """The frozen model of a class (`AutoModel...`) in float32, and its processor, as `save_pretrained` writes them.

        Raises:
            ModelError: `wrong`, it cannot be opened, has no safetensors, or lacks tensors.
        """
        from safetensors import SafetensorError
        from transformers import AutoProcessor

        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            model, loaded = kind.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
            )
            # Transformers fills what a file lacks with random numbers.
            if missing := sorted(loaded["missing_keys"]):
                raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
            processor = AutoProcessor.from_pretrained(folder, **options)
        except (*_WRONG, SafetensorError) as error:
            raise refused(cls.wrong, folder, error) from None
        return cls(folder, model.eval().requires_grad_(False).to(device), processor, device)

    def ask(self, work: Callable[[Any], Found], **given: Any) -> Found:
        """What `work` makes of what the processor makes of images and texts.

        Raises:
            ModelError: `wrong`, the model cannot do it.
        """
        try:
            batch = self.processor(return_tensors="pt", **given).to(self.device)
            with torch.no_grad():
                return work(batch)
        except _WRONG as error:
            raise refused(self.wrong, self.folder, error) from None
