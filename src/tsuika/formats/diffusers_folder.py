"""Whole models as a diffusers folder, tensors named as transformers 4 and every client expect (`text_model.`)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core import safetensors
from tsuika.core.types import Artifact
from tsuika.families import family
from tsuika.formats import common

if TYPE_CHECKING:
    import torch

_SINCE: Final = "0.30.0"  # of diffusers; these folders have looked alike for long


class DiffusersFolder(common.WriteOnly):
    """The format. See `core.types.Format`."""

    name = "diffusers"
    method = "dreambooth"
    suffix = ""

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all, tensor by tensor; a model folder that is already at `path` is replaced. Raises
        FormatError: not a whole model, or `dtype` cannot hold its numbers (FM002)."""
        common.refuse_no_model(artifact, self.name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self._write(artifact, temporary, dtype)
            if (path / "model_index.json").is_file():
                shutil.rmtree(path)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write(self, artifact: Artifact, folder: Path, dtype: torch.dtype) -> None:
        import torch

        facts = artifact.metadata
        index: dict[str, Any] = {**family(artifact.family).names.model_index, "_diffusers_version": _SINCE}
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in artifact.tensors.items():
            component, _dot, path = name.partition(".")
            if component != "extra":
                parts.setdefault(component, {})[path] = tensor
        for component, tensors in parts.items():
            config = json.loads(facts[f"{component}_config"])
            is_text = component.startswith("text_encoder")
            _write_json(folder / component / "config.json", config)
            stem = "model" if is_text else "diffusion_pytorch_model"
            empty = {name: torch.empty(t.shape, dtype=dtype, device="meta") for name, t in tensors.items()}

            def make(name: str, tensors: dict[str, torch.Tensor] = tensors) -> torch.Tensor:
                return safetensors.cast({name: tensors[name]}, dtype, self.name)[name]

            safetensors.save_tensors(folder / component / f"{stem}.safetensors", empty, {"format": "pt"}, make)
            index[component] = (
                ["transformers", config["architectures"][0]] if is_text else ["diffusers", config["_class_name"]]
            )
            if is_text:
                tokenizer = component.replace("text_encoder", "tokenizer")
                for file, text in json.loads(facts[f"{tokenizer}_files"]).items():
                    (folder / tokenizer).mkdir(exist_ok=True)
                    (folder / tokenizer / file).write_text(text, encoding="utf-8")
                index[tokenizer] = ["transformers", "CLIPTokenizer"]
        scheduler = json.loads(facts["scheduler_config"])
        if facts["prediction"] != "flow":
            # Schedulers of flow have no such setting.
            scheduler["prediction_type"] = facts["prediction"]
        _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        index["scheduler"] = ["diffusers", scheduler.get("_class_name", "DDIMScheduler")]
        _write_json(folder / "model_index.json", index)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
