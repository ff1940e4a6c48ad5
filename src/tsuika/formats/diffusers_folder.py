"""Whole models as a diffusers folder, tensors named as transformers 4 and every client expect (`text_model.`)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika.core.errors import FormatError
from tsuika.core.types import Artifact
from tsuika.core.words import Words
from tsuika.formats import common, container

if TYPE_CHECKING:
    import torch

_PIPELINES: Final = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
}
_SINCE: Final = "0.30.0"  # of diffusers; these folders have looked alike for long


class DiffusersFolder(common.WriteOnly):
    """The format. See `core.types.Format`."""

    name = "diffusers"
    method = "dreambooth"
    suffix = ""

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all, tensor by tensor; a model folder that is already at `path` is replaced.

        Raises:
            FormatError: not a whole model, or `dtype` cannot hold its numbers (FM002).
        """
        if artifact.method != "dreambooth" or artifact.family not in _PIPELINES:
            why = Words(
                f"It is a {artifact.method} for {artifact.family}, and this format is for whole models.",
                f"これは{artifact.family}用の{artifact.method}で、この形式はモデル全体用です。",
            )
            raise FormatError("FM002", format=self.name, why=why, do=container.ANOTHER_FORMAT)
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
        index: dict[str, Any] = {"_class_name": _PIPELINES[artifact.family], "_diffusers_version": _SINCE}
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in artifact.tensors.items():
            component, _, path = name.partition(".")
            if component != "spare":
                parts.setdefault(component, {})[path] = tensor
        for component, tensors in parts.items():
            config = json.loads(facts[f"{component}_config"])
            is_text = component.startswith("text_encoder")
            _write_json(folder / component / "config.json", config)
            stem = "model" if is_text else "diffusion_pytorch_model"
            empty = {name: torch.empty(t.shape, dtype=dtype, device="meta") for name, t in tensors.items()}

            def make(name: str, tensors: dict[str, torch.Tensor] = tensors) -> torch.Tensor:
                return container.cast({name: tensors[name]}, dtype, self.name)[name]

            container.save_tensors(folder / component / f"{stem}.safetensors", empty, {"format": "pt"}, make)
            index[component] = (
                ["transformers", config["architectures"][0]] if is_text else ["diffusers", config["_class_name"]]
            )
            if is_text:
                tokenizer = component.replace("text_encoder", "tokenizer")
                for file, text in json.loads(facts[f"{tokenizer}_files"]).items():
                    (folder / tokenizer).mkdir(exist_ok=True)
                    (folder / tokenizer / file).write_text(text, encoding="utf-8")
                index[tokenizer] = ["transformers", "CLIPTokenizer"]
        scheduler = {**json.loads(facts["scheduler_config"]), "prediction_type": facts["prediction"]}
        _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        index["scheduler"] = ["diffusers", scheduler.get("_class_name", "DDIMScheduler")]
        if artifact.family == "sdxl":
            index["force_zeros_for_empty_prompt"] = False  # an empty negative prompt is encoded, here as in training
        else:
            index |= {
                "safety_checker": [None, None],
                "feature_extractor": [None, None],
                "requires_safety_checker": False,
            }
        _write_json(folder / "model_index.json", index)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
