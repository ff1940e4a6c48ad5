"""Stable Diffusion 3 in other programs' own code: our single file in their transformers, our LoRA files through their loaders.

    python scripts/interop_sd3.py [--comfyui DIR] [--kohya DIR]

Each DIR is a program's source folder; its own modules compute, and what they import and never compute with is stubbed. Needs
`einops`. diffusers is always asked. The model is a small one of the true structure (three blocks of three heads, 64 wide, as
these programs count on), the LoRA lies on every layer that a training adapts and on all that others adapt, and for the names
of the published sizes on shapes alone. Prints tables in Markdown; ends with 1 where a program reads a file otherwise than
docs/interop.md says.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path += [str(Path(__file__).parents[1] / "tests" / "families")]
from family_files import UNET, single_file_tensors, write_folder, write_tokenizers

from tsuika.core.seeds import generator
from tsuika.core.types import Artifact, Conditioning
from tsuika.families import SD3, StableDiffusion
from tsuika.families.common import Geometry
from tsuika.families.sd3 import MMDIT, SIZES, build
from tsuika.formats.embedding_files import KohyaEmbedding
from tsuika.formats.kohya_lora import KohyaLora
from tsuika.formats.lora_reading import DIFFUSERS_FILE
from tsuika.formats.peft_lora import PeftLora
from tsuika.methods import METHODS
from tsuika.methods.textual_inversion import TextualInversion

LARGEST = 1e-4  # relative, of what is the same in float32
# Files of which a program reads nothing, and docs/interop.md says so.
UNREAD = {("diffusers", "kohya.safetensors"), ("sd-scripts", DIFFUSERS_FILE)}
# As it is, its transformer is not quite the model (`by_kohya`).
OTHERS = "sd-scripts"
STUBS = {
    "comfyui": "torchsde scipy scipy.integrate kornia torchaudio spandrel av aiohttp sentencepiece torchvision",
    "kohya": "toml torchvision torchvision.transforms imagesize cv2 library.lpw_stable_diffusion library.sdxl_lpw_stable_diffusion",
}
Denoise = Callable[[Tensor, Tensor, Conditioning], Tensor]


@dataclass
class Read:
    """What a program made of a LoRA file."""

    left: list[str]  # keys that it passed over
    denoise: Denoise  # its transformer with the rest


@dataclass
class Program:
    """A program with our single file open."""

    denoise: Denoise
    read: Callable[[Path], Read]
    names: Callable[[dict[str, Tensor], nn.Module], list[str]]  # keys left over on a transformer of original names


def small(folder: Path) -> StableDiffusion:
    """A model with heads as wide as the published ones."""

    def geometry(vocabulary: int, max_tokens: int) -> Geometry:
        tiny = SD3.tiny_geometry(vocabulary, max_tokens)
        wide = {"attention_head_dim": 64, "num_attention_heads": 3, "caption_projection_dim": 192}
        return replace(tiny, unet={**tiny.unet, **wide})

    return replace(SD3, tiny_geometry=geometry).tiny(3, write_tokenizers(folder))


def lora(
    layers: Mapping[str, tuple[int, int]], facts: Mapping[str, str], rank: int = 2, alpha: float = 3.0
) -> Artifact:
    """Random numbers for layers with (outputs, inputs)."""
    source, tensors = torch.Generator().manual_seed(0), {}
    for layer, (out, into) in layers.items():
        tensors[f"{layer}.lora_down.weight"] = torch.randn(rank, into, generator=source) / 8
        tensors[f"{layer}.lora_up.weight"] = torch.randn(out, rank, generator=source) / 8
        tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    return Artifact("lora", "sd3", tensors, {"prediction": "flow", **facts})


def adapted(network: nn.Module, component: str, *, every: bool = False) -> dict[str, tuple[int, int]]:
    """The layers of the transformer that a training adapts; `every`: adaLN and the last layer as well."""
    roles = f"{MMDIT.roles['unet.attn']}|{MMDIT.roles['unet.ff']}"
    more = r"|.*(norm1|norm1_context)\.linear|norm_out\.linear|proj_out" if every else ""
    linear = {path: one for path, one in network.named_modules() if isinstance(one, nn.Linear)}
    return {
        f"{component}.{path}": tuple(one.weight.shape)
        for path, one in linear.items()
        if re.fullmatch(roles + more, path)
    }


def written(artifact: Artifact, folder: Path) -> tuple[Path, Path]:
    """The two files that a run writes."""
    folder.mkdir()
    KohyaLora().write(artifact, folder / "kohya.safetensors", dtype=torch.float32)
    PeftLora().write(artifact, folder / "peft", dtype=torch.float32)
    return folder / "kohya.safetensors", folder / "peft" / DIFFUSERS_FILE


def original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(UNET): value.clone() for name, value in tensors.items() if name.startswith(UNET)}


def by_comfyui(tensors: dict[str, Tensor]) -> Program:
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import comfy.lora
    import comfy.lora_convert
    import comfy.model_base
    import comfy.model_detection
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    texts = {name.removeprefix("text_encoders."): one for name, one in tensors.items() if name.startswith("text_enc")}
    clip = SimpleNamespace(state_dict=lambda: texts)

    def made(weights: Mapping[str, Tensor], device: str) -> tuple[nn.Module, Any]:
        """Its transformer of a header, and what its key map asks."""
        config = comfy.model_detection.detect_unet_config(dict(weights), "")
        network = OpenAISignatureMMDITWrapper(
            **config, operations=comfy.ops.disable_weight_init, device=device, dtype=torch.float32
        )
        held = object.__new__(comfy.model_base.SD3)
        nn.Module.__init__(held)
        held.diffusion_model, held.model_config = network, SimpleNamespace(unet_config=config)
        return network, held

    def loaded(file: dict[str, Tensor], held: Any) -> tuple[dict[Any, Any], list[str]]:
        """Patches by the key they are for, and the keys that were passed over."""
        keys = comfy.lora.model_lora_keys_clip(clip, comfy.lora.model_lora_keys_unet(held, {}))
        left: list[str] = []
        listener = logging.Handler()
        listener.emit = lambda record: left.append(record.getMessage())
        logging.getLogger().addHandler(listener)
        found = comfy.lora.load_lora(comfy.lora_convert.convert_lora(file), keys)
        logging.getLogger().removeHandler(listener)
        return found, [line for line in left if "not loaded" in line]

    weights = original(tensors)
    network, held = made(weights, "cpu")
    network.load_state_dict(weights)

    def denoise(network: nn.Module) -> Denoise:
        return lambda noisy, t, cond: network(noisy, t, context=cond.tokens_BSD, y=cond.pooled_BP)

    def read(path: Path) -> Read:
        found, left = loaded(load_file(path), held)
        changed, patches = {name: one.clone() for name, one in weights.items()}, dict[str, list[Any]]()
        # As `ModelPatcher.add_patches` lists them.
        for key, patch in found.items():
            name, offset, function = (*((key,) if isinstance(key, str) else key), None, None)[:3]
            patches.setdefault(name, []).append((1.0, patch, 1.0, offset, function))
        for name, own in patches.items():
            if (place := name.removeprefix("diffusion_model.")) in changed:
                changed[place] = comfy.lora.calculate_weight(own, changed[place], name)
        other, _held = made(weights, "cpu")
        other.load_state_dict(changed)
        return Read(left, denoise(other))

    def names(file: dict[str, Tensor], shapes: nn.Module) -> list[str]:
        return loaded(file, made(dict(shapes.state_dict()), "meta")[1])[1]

    return Program(denoise(network), read, names)


def by_kohya(model: StableDiffusion, tensors: dict[str, Tensor], *, mended: bool) -> Program:
    """`mended`: 3.5-medium's second attention gets the width of its heads, where sd-scripts hands it their number."""
    from library import sd3_models, sd3_utils
    from networks import lora_sd3

    def made(weights: Mapping[str, Tensor]) -> nn.Module:
        network: nn.Module = sd3_models.create_sd3_mmdit(sd3_utils.analyze_state_dict_state(dict(weights)))
        return network

    def filled() -> nn.Module:
        network = made(original(tensors))
        network.load_state_dict(original(tensors))
        for block in network.joint_blocks if mended else ():
            if block.x_block.x_block_self_attn:
                block.x_block.attn2.num_heads = block.head_dim
        return network.eval()

    def denoise(network: nn.Module) -> Denoise:
        return lambda noisy, t, cond: network(noisy, t, context=cond.tokens_BSD, y=cond.pooled_BP)

    def applied(network: nn.Module, file: dict[str, Tensor]) -> tuple[nn.Module, list[str]]:
        # Copies: it puts itself in the place of their layers.
        clips = [deepcopy(one) for one in [*model.text_encoders.values()][:2]]
        made, _weights = lora_sd3.create_network_from_weights(1.0, "", None, clips, network, dict(file))
        made.apply_to(clips, network)
        return made, made.load_state_dict(dict(file), strict=False).unexpected_keys

    def read(path: Path) -> Read:
        network = filled()
        _lora, left = applied(network, load_file(path))
        return Read(left, denoise(network))

    def names(file: dict[str, Tensor], shapes: nn.Module) -> list[str]:
        with torch.device("meta"):
            return applied(made(shapes.state_dict()), file)[1]

    return Program(denoise(filled()), read, names)


def by_diffusers(model: StableDiffusion, folder: Path) -> Program:
    from diffusers import StableDiffusion3Pipeline

    base = write_folder(model, folder / "base", old_style=True)

    def opened() -> Any:
        return StableDiffusion3Pipeline.from_pretrained(base, local_files_only=True)

    def denoise(pipe: Any) -> Denoise:
        return lambda noisy, t, cond: pipe.transformer(noisy, cond.tokens_BSD, cond.pooled_BP, t).sample

    def read(path: Path) -> Read:
        pipe = opened()
        pipe.load_lora_weights(path)
        of_text = {name: one for name, one in pipe.components.items() if name.startswith("text_encoder")}
        parts = [
            one for module in (pipe.transformer, *of_text.values()) for one in module.state_dict() if ".lora_" in one
        ]
        file = load_file(path)
        return Read([*file][len(parts) :], denoise(pipe))

    return Program(denoise(opened()), read, lambda _file, _shapes: [])


def compare(name: str, program: Program, model: StableDiffusion, files: tuple[Path, Path], artifact: Artifact) -> bool:
    """Print what a program makes of the base and of both files; whether that is what docs/interop.md says."""
    source = torch.Generator().manual_seed(1)
    noisy, t = torch.randn(2, 16, 8, 12, generator=source), torch.tensor([120.0, 871.5])
    cond = model.encode_text(["a cat", "a dog, cat"])
    base = model.denoise(noisy, t, cond)
    apart = float((program.denoise(noisy, t, cond) - base).abs().max() / base.abs().max())
    print(f"| {name} | single file | | {apart:.0e} |")
    is_fine = apart < LARGEST or name == OTHERS
    attachment = METHODS["lora"].restore(model, artifact)
    trained = model.denoise(noisy, t, cond)
    attachment.detach()
    for path in files:
        read = program.read(path)
        change = float((read.denoise(noisy, t, cond) - trained).abs().max() / (trained - base).abs().max())
        keys, left = len(load_file(path)), len(read.left)
        print(f"| {name} | {path.name} | {keys - left} of {keys} | {change:.0e} |")
        is_unread = (name.partition(",")[0], path.name) in UNREAD
        is_fine &= left == keys if is_unread else left == 0 and (change < LARGEST or name == OTHERS)
    return is_fine


def at_true_size(programs: Mapping[str, Program], folder: Path) -> None:
    """Print how many keys of a LoRA with all usual layers each program leaves over, at each published size."""
    print("\n| size | layers | file | keys |", *(f" {name} leaves |" for name in programs))
    print("|---|---|---|---|" + "---|" * len(programs))
    for size in SIZES:
        with torch.device("meta"):
            network = build(size.config)
        places = {name: MMDIT.place(name, size.config) for name in network.state_dict()}
        shapes = nn.Module()
        shapes.state_dict = lambda places=places, network=network: {
            place.name: torch.empty(one.shape[0] * (1 if place.third is None else 3), *one.shape[1:], device="meta")
            for (name, one), place in zip(network.state_dict().items(), places.values(), strict=True)
        }
        layers = adapted(network, "unet")
        for path in written(lora(layers, {}, rank=1), folder / size.architecture):
            file = load_file(path)
            left = [len(program.names(dict(file), shapes)) for program in programs.values()]
            print(f"| {size.title} | {len(layers)} | {path.name} | {len(file)} |", *(f" {count} |" for count in left))


def words(model: StableDiffusion, folder: Path) -> None:
    """Print what ComfyUI's tokenizers find in a word's file."""
    from comfy.sd1_clip import load_embed

    added = METHODS["textual-inversion"].attach(
        model, TextualInversion(words=("zuzu",), vectors=2), generator(0, "init")
    )
    KohyaEmbedding().write(added.artifact(), folder / "zuzu.safetensors", dtype=torch.float32)
    tensors = added.artifact().tensors
    added.detach()
    for tower in SD3.towers:
        own = tensors[f"zuzu.{tower.component}"]
        found = load_embed("zuzu", [str(folder)], own.shape[1], tower.embedding)
        print(f"ComfyUI reads `{tower.embedding}` of a word: {bool(torch.equal(found, own))}, {tuple(found.shape)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, help="source folder of ComfyUI")
    parser.add_argument("--kohya", type=Path, help="source folder of sd-scripts")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        folder = Path(place)
        model = small(folder / "words")
        tensors = single_file_tensors(model)
        programs = {"diffusers": by_diffusers(model, folder)}
        for name, stubs in STUBS.items():
            if source := getattr(given, name):
                sys.path.insert(0, str(source.resolve()))
                sys.modules |= {one: MagicMock(name=one) for one in stubs.split() if one not in sys.modules}
        if given.comfyui:
            programs["ComfyUI"] = by_comfyui(tensors)
        if given.kohya:
            programs["sd-scripts"] = by_kohya(model, tensors, mended=False)
            programs["sd-scripts, second attention mended"] = by_kohya(model, tensors, mended=True)
        layers = adapted(model.unet, "unet", every=True)
        for component, paths in model.targets("text.attn").items():
            layers |= {f"{component}.{path}": tuple(model.module(component, path).weight.shape) for path in paths}
        artifact = lora(layers, model.file_facts)
        files = written(artifact, folder / "files")
        print("| program | file | keys read | difference |\n|---|---|---|---|")
        results = [compare(name, program, model, files, artifact) for name, program in programs.items()]
        if given.comfyui:
            words(model, folder)
        at_true_size({name: one for name, one in programs.items() if name in ("ComfyUI", "sd-scripts")}, folder)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
