"""tsuika in ComfyUI: nodes that train on a folder of images, use the result, and say what a file is.

To install: copy this file into ComfyUI's `custom_nodes`, and install tsuika, from its sources, into ComfyUI's Python:

    python -m pip install FOLDER-OF-TSUIKA

Runs lie in `tsuika` in ComfyUI's output folder; `tsuika resume RUN` goes on where one was interrupted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import torch

import tsuika
from tsuika.core.events import Started, Stepped

METHODS = ("lora", "textual-inversion", "dreambooth", "hypernetwork")
EMBEDDED = "embedded (tiny, to try it)"


class Train:
    """Train on a folder of images; gives the result's path. The same inputs are not trained again while ComfyUI runs."""

    CATEGORY = "tsuika"
    FUNCTION = "train"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("path",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("STRING", {"default": "", "tooltip": "Folder of training images; never changed."}),
                "name": ("STRING", {"default": "result", "tooltip": "Name of the result's file."}),
                "base": ([EMBEDDED, *folder_paths.get_filename_list("checkpoints")],),
                "method": (list(METHODS),),
                "trigger": ("STRING", {"default": "", "tooltip": "Trigger word."}),
                "class_word": ("STRING", {"default": "", "tooltip": "What kind of thing it is: dog, character."}),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1_000_000, "tooltip": "0: as the method has it."}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**31 - 1}),
            },
            "optional": {
                "settings": (
                    "STRING",
                    {"default": "", "multiline": True, "tooltip": "More settings, one key=value a line: method.rank=8"},
                )
            },
        }

    def train(
        self,
        images: str,
        name: str,
        base: str,
        method: str,
        trigger: str,
        class_word: str,
        steps: int,
        seed: int,
        settings: str = "",
    ) -> dict[str, Any]:
        from tsuika.config import parse_assignment

        root = Path(folder_paths.get_output_directory()) / "tsuika"
        model = "embedded" if base == EMBEDDED else folder_paths.get_full_path_or_raise("checkpoints", base)
        more = dict(parse_assignment(line) for line in settings.splitlines() if line.strip())
        # The training needs the memory that models for drawing hold.
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        run = tsuika.train(
            method,
            _unused(root, name),
            images=images,
            base=model,
            trigger=trigger,
            class_word=class_word,
            steps=steps or None,
            seed=seed,
            settings={"output.name": name, **more},
        )
        bar = comfy.utils.ProgressBar(steps or 1)
        # Nodes run in inference mode, in which nothing can be trained. An interruption closes the run, which saves it.
        with run, torch.inference_mode(False), torch.enable_grad():
            for event in run:
                comfy.model_management.throw_exception_if_processing_interrupted()
                if isinstance(event, Started):
                    bar.update_absolute(event.first_step - 1, event.steps)
                elif isinstance(event, Stepped):
                    bar.update_absolute(event.step)
            path = str(next((one for one in run.result.artifacts if one.is_file()), run.result.artifacts[0]))
        return {"ui": {"text": [path]}, "result": (path,)}


class LoadResult:
    """Apply a trained LoRA to a model and its text encoders, as ComfyUI's own loader does."""

    CATEGORY = "tsuika"
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "CLIP")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = ("FLOAT", {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.01})
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "path": ("STRING", {"forceInput": True}),
                "strength_model": strength,
                "strength_clip": strength,
            }
        }

    def load(self, model: Any, clip: Any, path: str, strength_model: float, strength_clip: float) -> tuple[Any, Any]:
        kind = tsuika.inspect(Path(path)).result.kind
        if kind != "lora":
            raise ValueError(
                f"{path} is no LoRA ({kind}): put it into ComfyUI's folder for such files (tsuika export)."
            )
        weights = comfy.utils.load_torch_file(path, safe_load=True)
        found: tuple[Any, Any] = comfy.sd.load_lora_for_models(model, clip, weights, strength_model, strength_clip)
        return found


class Inspect:
    """What a file or run folder is, as text. Nothing in it is ever run."""

    CATEGORY = "tsuika"
    FUNCTION = "inspect"
    RETURN_TYPES = ("STRING",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"path": ("STRING", {"default": ""})}}

    @classmethod
    def IS_CHANGED(cls, path: str) -> float:
        """Another value once the file has changed, so that it is looked at again."""
        return Path(path).stat().st_mtime if Path(path).exists() else 0.0

    def inspect(self, path: str) -> dict[str, Any]:
        told = json.dumps(tsuika.inspect(Path(path)).result.to_dict(), ensure_ascii=False, indent=1, default=str)
        return {"ui": {"text": [told]}, "result": (told,)}


def _unused(root: Path, name: str) -> Path:
    """A folder that is not there yet: a run overwrites nothing."""
    places = (root / (name if number == 1 else f"{name}-{number}") for number in range(1, 100_000))
    return next(place for place in places if not place.exists())


NODE_CLASS_MAPPINGS = {"TsuikaTrain": Train, "TsuikaLoadResult": LoadResult, "TsuikaInspect": Inspect}
NODE_DISPLAY_NAME_MAPPINGS = {
    "TsuikaTrain": "Train on a folder (tsuika)",
    "TsuikaLoadResult": "Load trained LoRA (tsuika)",
    "TsuikaInspect": "Inspect a file (tsuika)",
}
