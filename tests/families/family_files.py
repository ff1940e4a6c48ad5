"""Models written the way others write them: diffusers folders (transformers 4 and 5) and original single files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tsuika.core.types import canonical
from tsuika.diffusion import ldm
from tsuika.families import Family, Geometry, StableDiffusion
from tsuika.families.common import build_vae, scheduler_config, tiny_t5_tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
UNET, VAE = "model.diffusion_model.", "first_stage_model."


def at_full_size(kind: Family) -> StableDiffusion:
    """The family at its true size, without tokenizers, on torch's current device and in its current number type."""
    geometry = kind.geometry(kind.facts.prediction)
    text = {t.component: t.build(geometry.text[t.component]) for t in kind.towers}
    return StableDiffusion(
        family=kind,
        prediction=kind.facts.prediction,
        unet=kind.network.build(geometry.unet),
        vae=build_vae(geometry.vae),
        text_encoders=text,
        tokenizers={},
        scheduler_config=scheduler_config(kind.facts.prediction, flow_shift=kind.flow_shift),
        latent_scale=kind.facts.latent_scale,
        latent_shift=geometry.latent_shift,
        native_size_px=geometry.native_size_px,
        source="",
    )


def write_tokenizer(folder: Path, *, pad: str = END, max_tokens: int = 12) -> Path:
    """A CLIP tokenizer that knows single letters and two words."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]  # "!" is 0, as in CLIP's own
    merges = ["c a", "ca t</w>", "d o", "do g</w>"]
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), *(m.replace(" ", "") for m in merges), START, END]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_tokens,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": pad,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_tokenizers(folder: Path) -> Path:
    """The tokenizers of every family: CLIP's in the folder, T5's in one of its own below."""
    tiny_t5_tokenizer().save_pretrained(folder / "tokenizer_3")
    return write_tokenizer(folder)


def write_folder(model: StableDiffusion, folder: Path, *, old_style: bool) -> Path:
    """The model as a diffusers folder; `old_style` names CLIP's tensors as transformers 4 does."""
    pipeline = model.family.names.model_index["_class_name"]
    index: dict[str, object] = {"_class_name": pipeline, "_diffusers_version": "0.30.0"}
    for component, module in model.components.items():
        name = model.family.network.part if component == "unet" else component
        module.save_pretrained(folder / name, safe_serialization=True)  # type: ignore[operator]
        library = "transformers" if name.startswith("text") else "diffusers"
        index[name] = [library, type(module).__name__]
    if pipeline == "StableDiffusion3Pipeline":
        # As in the published folders, also where T5 is left out.
        index |= {"image_encoder": [None, None], "feature_extractor": [None, None]}
        index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]} if len(model.text_encoders) < 3 else {}
    for tower in model.family.towers:
        if tower.is_t5:
            if tower.component in model.text_encoders:
                model.tokenizers[tower.tokenizer].save_pretrained(folder / tower.tokenizer)
                index[tower.tokenizer] = ["transformers", "T5TokenizerFast"]
            continue
        write_tokenizer(folder / tower.tokenizer, pad=tower.padding or END)
        index[tower.tokenizer] = ["transformers", "CLIPTokenizer"]
        file = folder / tower.component / "model.safetensors"
        plain = {canonical(tower.component, name): tensor for name, tensor in load_file(file).items()}
        if not old_style and not tower.projected:
            plain = {name.removeprefix("text_model."): tensor for name, tensor in plain.items()}
        save_file(plain, file, {"format": "pt"})
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(model.scheduler_config), encoding="utf-8")
    index["scheduler"] = ["diffusers", model.scheduler_config["_class_name"]]
    if pipeline == "StableDiffusionPipeline":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def places(model: StableDiffusion) -> Iterator[tuple[str, str, ldm.Place]]:
    """(component, own tensor name, place in a single file) of every tensor."""
    for name in model.unet.state_dict():
        yield "unet", name, model.family.network.place(name, model.unet.config).under(UNET)  # type: ignore[arg-type]
    for name in model.vae.state_dict():
        yield "vae", name, ldm.vae_place(name, model.vae.config).under(VAE)  # type: ignore[arg-type]
    for tower in model.family.towers:
        if tower.component not in model.text_encoders:
            continue
        for name in model.text_encoders[tower.component].state_dict():
            if tower.unit_projection and name == "text_projection.weight":
                continue
            yield tower.component, name, tower.place(canonical(tower.component, name))


def single_file_tensors(model: StableDiffusion) -> dict[str, Tensor]:
    """The model in the original layout, as CompVis, Stability and open_clip wrote it."""
    tensors: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    own = {component: module.state_dict() for component, module in model.components.items()}
    for component, name, place in places(model):
        # What has two names lies in the file twice.
        tensor = own[component][name].clone() if name == "encoder.embed_tokens.weight" else own[component][name]
        if place.third is not None:
            thirds.setdefault(place.name, {})[place.third] = tensor
        elif component == "vae" and ".attn_1." in place.name and tensor.ndim == 2:
            tensors[place.name] = tensor[:, :, None, None].contiguous()  # 1x1 convolutions there
        else:
            tensor = ldm.halves_swapped(tensor) if place.swapped else tensor
            tensors[place.name] = tensor.T.contiguous() if place.transposed else tensor.contiguous()
    tensors |= {name: torch.cat([parts[i] for i in range(3)]) for name, parts in thirds.items()}
    for tower in model.family.towers:
        if tower.is_t5:
            continue
        if tower.layout == "open_clip" and not tower.projected:  # SD2: the block and projection that are never used
            config = model.text_encoders[tower.component].config
            last = int(config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
            block = f"{tower.prefix}transformer.resblocks."
            copies = {k: v for k, v in tensors.items() if k.startswith(f"{block}{last - 1}.")}
            tensors |= {k.replace(f"{block}{last - 1}.", f"{block}{last}."): v.clone() for k, v in copies.items()}
            tensors[f"{tower.prefix}text_projection"] = torch.zeros(4, 4)
        tensors[f"{tower.prefix}{'' if tower.layout == 'open_clip' else 'text_model.'}logit_scale"] = torch.ones(())
    tensors = {name: value for name, value in tensors.items() if "text_model.logit_scale" not in name}
    tensors["alphas_cumprod"] = torch.linspace(1, 0, 10)
    return tensors


def write_single(model: StableDiffusion, path: Path, metadata: dict[str, str] | None = None, **extra: Tensor) -> Path:
    """The model as one file; `.ckpt` as a torch pickle with a `state_dict`, as Lightning wrote them."""
    tensors = {**single_file_tensors(model), **extra}
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 7}, path)
    else:
        save_file(tensors, path, metadata)
    return path


def tiny_geometry(model: StableDiffusion, max_tokens: int = 12) -> Geometry:
    """The geometry that `Family.tiny` used."""
    return model.family.tiny_geometry(len(model.tokenizers["tokenizer"]), max_tokens)
