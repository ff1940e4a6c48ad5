"""The node pack, with stand-ins of ComfyUI's modules that have only what it calls: not ComfyUI itself."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tiny_models import draw_pictures, shallow, write_folder
from tsuika.core.rundir import RunDir

PACK = Path(__file__).parents[2] / "integrations" / "comfyui" / "tsuika_nodes.py"


class InterruptedProcessing(Exception):
    """As ComfyUI's."""


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """ComfyUI, as far as the nodes call it, and what they told it."""
    told = SimpleNamespace(unloaded=0, progress=[], interrupt_at=None, nodes=None)
    write_folder(shallow(), tmp_path / "base", old_style=True)

    def unload() -> None:
        told.unloaded += 1

    def check() -> None:
        if told.interrupt_at is not None and told.progress and told.progress[-1] >= told.interrupt_at:
            raise InterruptedProcessing

    class ProgressBar:
        def __init__(self, total: int) -> None:
            pass

        def update_absolute(self, value: int, total: int | None = None) -> None:
            told.progress.append(value)

    parts: dict[str, Any] = {
        "comfy": {"__path__": []},
        "comfy.model_management": {
            "unload_all_models": unload,
            "soft_empty_cache": lambda: None,
            "throw_exception_if_processing_interrupted": check,
        },
        "comfy.sd": {"load_lora_for_models": lambda *given: ("patched", given)},
        "comfy.utils": {
            "ProgressBar": ProgressBar,
            "load_torch_file": lambda path, safe_load=False: load_file(path) if safe_load else None,
        },
        "folder_paths": {
            "get_filename_list": lambda kind: ["base"],
            "get_full_path_or_raise": lambda kind, name: str(tmp_path / name),
            "get_output_directory": lambda: str(tmp_path / "output"),
        },
    }
    for name, values in parts.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            setattr(sys.modules["comfy"], name.partition(".")[2], module)
    spec = importlib.util.spec_from_file_location("tsuika_nodes", PACK)
    assert spec and spec.loader
    told.nodes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(told.nodes)
    return told


def run(comfy: SimpleNamespace, node: str, **given: object) -> Any:
    """As ComfyUI calls a node: in inference mode, by the name of its function, with all that it requires."""
    kind = comfy.nodes.NODE_CLASS_MAPPINGS[node]
    required = kind.INPUT_TYPES()["required"]
    assert given.keys() >= required.keys()
    with torch.inference_mode():
        return getattr(kind(), kind.FUNCTION)(**given)


def test_train_load_inspect(comfy: SimpleNamespace, tmp_path: Path) -> None:
    wanted = {
        "images": str(draw_pictures(tmp_path / "pictures", 2)), "name": "zuzu", "base": "base", "method": "lora",
        "trigger": "zuzu", "class_word": "cat", "steps": 2, "seed": 1,
        "settings": "guard.mode=off\npreview.num=0\n\ndata.variants=1\ntrain.device=cpu\n",
    }  # fmt: skip
    assert "base" in comfy.nodes.Train.INPUT_TYPES()["required"]["base"][0]
    done = run(comfy, "TsuikaTrain", **wanted)
    (path,) = done["result"]
    assert done["ui"]["text"] == [path] and Path(path) == tmp_path / "output/tsuika/zuzu/artifacts/zuzu.safetensors"
    assert comfy.progress[-1] == 2 and comfy.unloaded == 1
    model, clip = run(comfy, "TsuikaLoadResult", model="m", clip="c", path=path, strength_model=0.5, strength_clip=1.0)
    assert model == "patched" and clip[:2] == ("m", "c") and clip[3:] == (0.5, 1.0)
    assert set(clip[2]) == set(load_file(path))
    (told,) = run(comfy, "TsuikaInspect", path=path)["result"]
    assert json.loads(told)["kind"] == "lora" and json.loads(told)["trigger"] == "zuzu"
    # A second run overwrites nothing, and an interrupted one is saved.
    comfy.progress.clear()
    comfy.interrupt_at = 1
    with pytest.raises(InterruptedProcessing):
        run(comfy, "TsuikaTrain", **wanted)
    assert Path(path).is_file() and RunDir(tmp_path / "output/tsuika/zuzu-2").has_states
    with pytest.raises(ValueError, match="no LoRA"):
        run(
            comfy,
            "TsuikaLoadResult",
            model="m",
            clip="c",
            path=str(tmp_path / "base"),
            strength_model=1,
            strength_clip=1,
        )
