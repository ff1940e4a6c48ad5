"""Other people's files on a base of true size with random weights: each layer's change beside up @ down of the numbers in
the file, the UNet's output beside the same sums and beside diffusers' loader, a word's beside transformers; and drawings."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

import tsuika
from tsuika import families, formats
from tsuika.core.types import Artifact
from tsuika.diffusion import adapters
from tsuika.families import FAMILIES, StableDiffusion
from tsuika.families.common import Family
from tsuika.methods import METHODS

SUFFIXES: Final = (".safetensors", ".bin", ".pt", ".ckpt")
# The change of an output is a small difference of large float32 numbers.
LARGEST_OF_OUTPUTS: Final = 1e-3
LARGEST: Final = 1e-4  # relative, of what is the same in float32


def raw(path: Path) -> dict[str, Tensor]:
    """The tensors of a file under its own names, in float32, read by the libraries alone."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        found = load_file(path)
    else:
        found = torch.load(path, map_location="cpu", weights_only=True)
    return {name: value.float() for name, value in found.items() if isinstance(value, Tensor)}


def by_number(model: StableDiffusion) -> dict[str, str]:
    """cloneofsimo's numbers: the linear layers inside of these classes, in the order in which diffusers 0.10 had them, where
    feed-forward stood before cross-attention."""
    found: dict[str, str] = {}
    for component, classes in (("unet", ("Attention", "GEGLU")), ("text_encoder", ("CLIPAttention",))):
        modules = model.components[component].named_modules()
        outer = [(name, one) for name, one in modules if type(one).__name__ in classes]
        blocks = [*dict.fromkeys(re.split(r"\.(?:attn[12]|ff)\b", name)[0] for name, _one in outer)]
        places = {"attn1": 0, "ff": 1, "attn2": 2}

        def rank(name: str, blocks: list[str] = blocks, places: Mapping[str, int] = places) -> tuple[int, int]:
            block, *part = re.split(r"\.(attn[12]|ff)\b", name)
            return blocks.index(block), places[part[0]] if part else 0

        names = [
            f"{component}.{name}.{inner}"
            for name, one in sorted(outer, key=lambda pair: rank(pair[0]))
            for inner, layer in one.named_modules()
            if isinstance(layer, nn.Linear)
        ]
        found |= {f"{component}:{number}": name for number, name in enumerate(names)}
    return found


def by_hand(tensors: Mapping[str, Tensor], model: StableDiffusion) -> dict[str, Tensor]:
    """Layer -> up @ down of a LoRA file in one of the layouts that have no alpha."""
    numbers = by_number(model)
    found: dict[str, Tensor] = {}
    for name, down in tensors.items():
        if re.fullmatch(r"(unet|text_encoder):\d+:down", name):
            layer, up = numbers[name.removesuffix(":down")], tensors[f"{name.removesuffix(':down')}:up"]
        elif match := re.fullmatch(r"(?:unet\.)?(.+?)(?:\.processor)?\.(to_\w+?)(?:\.0)?[._]lora\.down\.weight", name):
            layer = f"unet.{match[1]}.{match[2]}{'.0' if match[2] == 'to_out' else ''}"
            up = tensors[name.replace("lora.down", "lora.up")]
        else:
            continue
        found[layer] = up @ down
    return found


def full_size(kind: Family, folder: Path, tokenizer: Path) -> Path:
    """A base of true size, with random weights in bf16 and CLIP's tokenizer, as a diffusers folder."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "families"))
    from family_files import at_full_size, write_folder

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        place = write_folder(at_full_size(kind), folder, old_style=True)
    finally:
        torch.set_default_dtype(torch.float32)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer / name, place / "tokenizer" / name)
    config = place / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 77}))
    return place


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, by the largest number of the second."""
    return float((one - other).abs().max() / other.abs().max())


def changes(base: Path, flag: str, path: Path, words: str) -> bool:
    """Whether a drawing with a file differs from the one without it."""
    common: dict[str, Any] = {"prompt": words, "base": str(base), "steps": 2, "size": "64x64", "device": "cpu"}
    plain, drawn = base.parent / f"{base.name}.png", base.parent / f"{path.stem}.png"
    if not plain.exists():
        _ = tsuika.generate(tsuika.Drawing(**common | {"prompt": "a cat"}), plain).result
    _ = tsuika.generate(tsuika.Drawing(**common, **{flag: (str(path),)}), drawn).result
    return Image.open(plain).tobytes() != Image.open(drawn).tobytes()


def on_a_base(files: Path, tokenizer: Path, folder: Path) -> bool:
    """Print what each LoRA and word does on a base of true size, and how far from arithmetic and from diffusers."""
    is_fine = True
    print("\n| file | layers | layer: W' - W from up @ down | UNet: from W + up @ down | from diffusers | drawn |")
    print("|---|---|---|---|---|---|")
    for kind in FAMILIES:
        named = [(path, formats.find(path).read(path)) for path in sorted(files.iterdir()) if path.suffix in SUFFIXES]
        of_kind = [(path, artifact) for path, artifact in named if artifact.family == kind.facts.family]
        if not of_kind:
            continue
        base = full_size(kind, folder / kind.facts.family, tokenizer)
        for path, artifact in of_kind:
            rows = lora_row if artifact.method == "lora" else word_row
            cells, fine = rows(path, artifact, base)
            print(f"| {path.name} | {' | '.join(cells)} |", flush=True)
            is_fine &= fine
    return is_fine


def lora_row(path: Path, artifact: Artifact, base: Path) -> tuple[list[str], bool]:
    """A LoRA's row of the table, and whether it is as it should be."""
    model = families.load(str(base), device="cpu", dtype=torch.float32)
    tensors = raw(path)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    text = torch.randn(1, 77, model.unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():

        def output(unet: Any) -> Tensor:
            return unet(noise, torch.tensor([500]), text).sample

        plain = output(model.unet)
        hand = by_hand(tensors, model)
        attached = METHODS["lora"].restore(model, artifact)
        worst = 0.0
        for name, delta in hand.items():
            component, _dot, layer = name.partition(".")
            module = model.components[component].get_submodule(layer)
            eye = torch.eye(delta.shape[1])
            attached.set_strength(1.0)
            changed = module(eye)
            attached.set_strength(0.0)
            worst = max(worst, apart((changed - module(eye)).T, delta))
        attached.set_strength(1.0)
        ours = output(model.unet)
        attached.detach()
        for name, delta in hand.items():
            component, _dot, layer = name.partition(".")
            model.components[component].get_submodule(layer).weight += delta
        by_sum = apart(ours - plain, output(model.unet) - plain)
        del model, attached
        theirs = None
        # Its loaders know diffusers' layouts alone.
        if not any(":" in name for name in tensors):
            unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32)
            has_prefix = any(name.startswith("unet.") for name in tensors)
            unet.load_lora_adapter(tensors, prefix="unet" if has_prefix else None)
            theirs = apart(ours - plain, output(unet) - plain)
    count = len(adapters.by_layer(artifact.tensors))
    is_seen = changes(base, "lora", path, "a cat")
    numbers = [worst, by_sum, *([] if theirs is None else [theirs])]
    cells = [f"{len(hand)} of {count}", *(f"{number:.0e}" for number in numbers), *(["–"] if theirs is None else [])]
    fine = len(hand) == count and worst < LARGEST and max(numbers) < LARGEST_OF_OUTPUTS and is_seen
    return [*cells, "yes" if is_seen else "no change"], fine


def word_row(path: Path, artifact: Artifact, base: Path) -> tuple[list[str], bool]:
    """A word's: the text encoder's output beside that of transformers, with the file's vector as one more row."""
    ((word, vector),) = raw(path).items()
    model = families.load(str(base), device="cpu", dtype=torch.float32)
    encoder, tokenizer = model.text_encoders["text_encoder"], CLIPTokenizer.from_pretrained(base / "tokenizer")
    METHODS["textual-inversion"].restore(model, artifact)
    with torch.no_grad():
        ours = model.encode_text([f"a {word} cat"]).tokens_BSD
        table = encoder.get_input_embeddings().weight[: len(tokenizer)]
        plain = CLIPTextModel.from_pretrained(base / "text_encoder", torch_dtype=torch.float32)
        plain.resize_token_embeddings(len(tokenizer) + 1)
        tokenizer.add_tokens(word)
        plain.get_input_embeddings().weight.data[: len(table)] = table
        plain.get_input_embeddings().weight.data[-1] = vector
        ids = tokenizer([f"a {word} cat"], padding="max_length", max_length=77, return_tensors="pt").input_ids
        theirs = apart(ours, plain(ids).last_hidden_state)
    is_seen = changes(base, "embedding", path, f"a {word} cat")
    cells = ["1 vector", "–", "–", f"{theirs:.0e} (transformers)", "yes" if is_seen else "no change"]
    return cells, theirs < LARGEST and is_seen
