"""The claims of docs/interop.md on what is read, run again: what each program makes of a layer of each kind of adapter.

    python scripts/interop.py [--lycoris DIR] [--comfyui DIR] [--a1111 DIR] [--files DIR [--tokenizer DIR]]

Each DIR is a program's source folder; its own classes compute, with what surrounds them stubbed. Without them, what can be
checked alone is: peft's and diffusers' own code, and the definitions, by the tests. `--files` is a folder of other people's
files, each of which is opened; with `--tokenizer`, a folder with CLIP's vocab.json and merges.txt, each is put on a base as
well (`full_size.py`). LyCORIS and A1111 need `einops`. Prints tables in Markdown; ends with 1 where a difference is not one
that docs/interop.md names, or one that it names is gone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from full_size import LARGEST, SUFFIXES, on_a_base
from tsuika import formats
from tsuika.core.errors import TsuikaError
from tsuika.diffusion import adapters

TESTS = (
    *("tests/diffusion/test_adapters.py", "tests/formats/test_lora_layouts.py", "tests/formats/test_foreign_files.py"),
    *("tests/formats/test_interop_peft.py", "tests/formats/test_diffusers_loads.py"),
)
Merged = Callable[[Mapping[str, Tensor], nn.Module], Tensor | None]

# Where a program does not do what the adapter was trained to do, and docs/interop.md says so.
KNOWN = {
    ("LyCORIS", "LoHa"): "its merge multiplies by alpha / rank twice, its training once",
    ("LyCORIS", "LoKr"): "the same",
    ("LyCORIS", "LoKr with DoRA"): "the same",
    ("LyCORIS", "GLoRA, old order"): "reads the new order only",
    ("ComfyUI", "DoRA over outputs"): "divides by the length of W, not of W + ΔW",
    ("ComfyUI", "LoKr with DoRA"): "the same",
    ("ComfyUI", "OFT with a limit"): "the limit is alpha, not alpha * outputs",
    ("ComfyUI", "OFT with rescale"): "passes over it",
    ("A1111", "DoRA over outputs"): "divides by the length over outputs of W + ΔW, whichever the magnitudes are for",
    ("A1111", "LoKr with DoRA"): "the same",
    ("A1111", "GLoRA"): "reads the old order only",
    ("A1111", "GLoRA, old order"): "passes over alpha",
}


def samples() -> dict[str, tuple[dict[str, Tensor], nn.Module]]:
    """A layer of each kind, and the module that it is for."""
    torch.manual_seed(0)

    out, into, rank = 16, 8, 4

    def linear() -> nn.Module:
        return nn.Linear(into, out, bias=False)

    def conv() -> nn.Module:
        return nn.Conv2d(into, out, 3, padding=1)

    def some(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape)

    alpha = {"alpha": torch.tensor(2.0)}
    low = {"lora_down.weight": some(rank, into), "lora_up.weight": some(out, rank)} | alpha
    locon = {"lora_down.weight": some(rank, into, 3, 3), "lora_up.weight": some(out, rank, 1, 1)} | alpha
    tucker = {"lora_down.weight": some(rank, into, 1, 1), "lora_mid.weight": some(rank, rank, 3, 3)}
    loha = {
        f"hada_w{n}_{side}": some(*shape) for n in (1, 2) for side, shape in (("a", (out, rank)), ("b", (rank, into)))
    }
    lokr = {"lokr_w1": some(4, 2), "lokr_w2_a": some(4, 1), "lokr_w2_b": some(1, 4)} | alpha
    outputs, inputs = {"dora_scale": 1 + some(out, 1).abs()}, {"dora_scale": 1 + some(1, into).abs()}
    sides = some(into, rank), some(rank, into), some(out, rank), some(rank, into)
    glora, old = (
        {f"{name}.weight": value for name, value in zip(names, sides, strict=True)} | alpha
        for names in (("a1", "a2", "b1", "b2"), ("a2", "a1", "b2", "b1"))
    )
    oft = {"oft_blocks": some(4, 4, 4), "alpha": torch.tensor(0.0)}
    boft = {"oft_blocks": some(3, 4, 4, 4), "alpha": torch.tensor(0.0)}
    return {
        "LoRA": (low, linear()),
        "LoCon": (locon, conv()),
        "LoCon, Tucker": (tucker | {"lora_up.weight": locon["lora_up.weight"]} | alpha, conv()),
        "DoRA over outputs": (low | outputs, linear()),
        "DoRA over inputs": (low | inputs, linear()),
        "LoHa": (loha | alpha, linear()),
        "LoKr": (lokr, linear()),
        "LoKr with DoRA": (lokr | outputs, linear()),
        "full": ({"diff": some(out, into)}, linear()),
        "norm": ({"w_norm": some(out), "b_norm": some(out)}, nn.GroupNorm(4, out)),
        "GLoRA": (glora, linear()),
        "GLoRA, old order": (old, linear()),
        "(IA)³ on outputs": ({"weight": some(out), "on_input": torch.tensor(0)}, linear()),
        "(IA)³ on inputs": ({"weight": some(into), "on_input": torch.tensor(1)}, linear()),
        "OFT": (oft, linear()),
        "OFT with a limit": (oft | {"alpha": torch.tensor(0.05)}, linear()),
        "OFT with rescale": (oft | {"rescale": 1 + some(out, 1)}, linear()),
        "BOFT": (boft, linear()),
    }


def stub(*names: str) -> None:
    """Modules of these names that are there and do nothing."""
    for name in names:
        sys.modules.setdefault(name, MagicMock(name=name))


def by_lycoris(folder: Path) -> Merged:
    """What LyCORIS' own modules, made of a file's tensors, say that the weight becomes."""
    stub("toml")
    sys.path.insert(0, str(folder))
    from lycoris.modules import get_module  # type: ignore[import-not-found]

    def merged(parts: Mapping[str, Tensor], module: nn.Module) -> Tensor | None:
        kind, params = get_module({f"x.{name}": value for name, value in parts.items()}, "x")
        if kind is None:
            return None
        if kind.name == "ia3":
            made = kind("x", module, train_on_input=bool(parts["on_input"]))
            made.weight.data.copy_(parts["weight"])
        elif "dora_scale" in parts and len(parts["dora_scale"]) == 1:
            made = kind("x", module, 1.0, 4, 2.0, weight_decompose=True, wd_on_out=False)
            made.load_state_dict(dict(parts), strict=False)
        else:
            with torch.no_grad():
                made = kind.make_module_from_state_dict("x", module, *params)
        weight = made.get_merged_weight(1.0)[0]
        return None if weight is None else weight.detach()

    return merged


def by_comfyui(folder: Path) -> Merged:
    """What ComfyUI's `lora.py` reads, and makes of the weight."""
    package: Any = types.ModuleType("comfy")
    package.__path__ = [str(folder / "comfy")]
    package.model_management = SimpleNamespace(cast_to_device=lambda tensor, device, dtype: tensor.to(device, dtype))
    sys.modules |= {"comfy": package, "comfy.model_management": package.model_management}
    stub("comfy.model_base", "comfy.patcher_extension", "comfy.utils")
    from comfy import lora  # type: ignore[import-not-found]

    def merged(parts: Mapping[str, Tensor], module: nn.Module) -> Tensor | None:
        patches = lora.load_lora({f"x.{name}": value for name, value in parts.items()}, {"x": "x.weight"}, False)
        if (patch := patches.get("x.weight")) is None:
            return None
        own: Any = module.weight
        weight: Tensor = lora.calculate_weight([(1.0, patch, 1.0, None, None)], own.detach().clone(), "x.weight")
        return weight

    return merged


def by_a1111(folder: Path) -> Merged:
    """What A1111's network modules add to the weight."""
    package: Any = types.ModuleType("modules")
    package.__path__ = [str(folder / "modules")]
    package.devices = MagicMock(dtype=torch.float32, cpu=torch.device("cpu"))
    sys.modules |= {"modules": package, "modules.devices": package.devices}
    stub(*(f"modules.{name}" for name in ("sd_models", "sd_hijack", "cache", "errors", "hashes", "shared")))
    sys.path.insert(0, str(folder / "extensions-builtin" / "Lora"))
    import network  # type: ignore[import-not-found]

    names = ("lora", "hada", "ia3", "oft", "lokr", "full", "norm", "glora")
    kinds = []
    for name in names:
        held = __import__(f"network_{name}")
        kinds += [getattr(held, one)() for one in dir(held) if one.startswith("ModuleType")]

    def merged(parts: Mapping[str, Tensor], module: nn.Module) -> Tensor | None:
        net = SimpleNamespace(te_multiplier=1.0, unet_multiplier=1.0, dyn_dim=None)
        weights = network.NetworkWeights("x", "diffusion_model_x", dict(parts), module)
        for kind in kinds:
            if (made := kind.create_module(net, weights)) is not None:
                own: Any = module.weight
                with torch.no_grad():
                    change, _bias = made.calc_updown(own)
                weight: Tensor = own.detach() + change.reshape(own.shape)
                return weight
        return None

    return merged


PROGRAMS: dict[str, tuple[str, Callable[[Path], Merged]]] = {
    "lycoris": ("LyCORIS", by_lycoris),
    "comfyui": ("ComfyUI", by_comfyui),
    "a1111": ("A1111", by_a1111),
}


def compare(program: str, merged: Merged) -> bool:
    """Print how far a program is from us for each kind; whether every difference is a known one."""
    is_fine = True
    print(f"\n| kind | {program} |\n|---|---|")
    for kind, (parts, module) in samples().items():
        weight: Any = module.weight
        weight = weight.detach()
        ours = adapters.changed(parts, weight)
        try:
            theirs = merged(parts, module)
            error = None if theirs is None else float((theirs - ours).norm() / (ours - weight).norm())
            told = "does not read it" if error is None else f"{error:.0e}"
            is_same = error is None or error < LARGEST
        except (
            RuntimeError,
            TypeError,
            ValueError,
            AttributeError,
            LookupError,
        ) as raised:  # its answer to such a file
            told, is_same = type(raised).__name__, False
        known = KNOWN.get((program, kind))
        is_fine &= is_same == (known is None)
        print(f"| {kind} | {told}{f' ({known})' if known and not is_same else ''} |")
    return is_fine


def open_files(folder: Path) -> bool:
    """Print what each file of a folder is; whether all could be opened."""
    is_fine = True
    print("\n| file | layout | kind | layers |\n|---|---|---|---|")
    for path in sorted(folder.iterdir()):
        if path.suffix not in SUFFIXES:
            continue
        try:
            found = formats.find(path)
            artifact = found.read(path)
            layers = len(adapters.by_layer(artifact.tensors)) or len(artifact.tensors)
            print(f"| {path.name} | {found.name} | {artifact.method}, {artifact.family} | {layers} |")
        except TsuikaError as error:
            is_fine = False
            print(f"| {path.name} | – | {error.code} | – |")
    return is_fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, (program, _by) in PROGRAMS.items():
        parser.add_argument(f"--{flag}", type=Path, help=f"source folder of {program}")
    parser.add_argument("--files", type=Path, help="a folder of files to open")
    parser.add_argument("--tokenizer", type=Path, help="a folder with CLIP's vocabulary: draw with the files, too")
    given = parser.parse_args()
    results = [
        compare(program, by(folder.resolve()))
        for flag, (program, by) in PROGRAMS.items()
        if (folder := getattr(given, flag)) is not None
    ]
    if given.files:
        results.append(open_files(given.files))
        if given.tokenizer:
            with tempfile.TemporaryDirectory(prefix="interop-") as folder:
                results.append(on_a_base(given.files, given.tokenizer, Path(folder)))
    if not results:
        results.append(subprocess.run([sys.executable, "-m", "pytest", "-q", *TESTS], check=False).returncode == 0)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
