"""What a file is: the one answer that every command and every message gives, from first bytes, names and shapes alone.
Knows what the field's files look like and which command takes what; reads no weights. What a whole model is more
exactly, `families` knows, and of results, `formats`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tsuika.core.errors import FormatError
from tsuika.core.texts import Text, _, few

Shapes = Mapping[str, tuple[int, ...]]

INPAINTING: Final = 9  # input channels of UNets that take a mask and a masked image, too
UNET_PREFIX: Final = "model.diffusion_model."  # of the UNet in a checkpoint (LDM's layout)
EMA_PREFIX: Final = "model_ema."  # of its average, whose names have no dots behind it


_GIVE_ANOTHER: Final = Text("")


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, as `tsuika inspect --json` says it; its title for people, as it stands in a sentence
    ("a LoRA"); and in a sentence what takes it, or what to do first (empty: nothing but to give something else)."""

    name: str
    title: Text
    use: Text = _GIVE_ANOTHER


A_BASE: Final = _("a base model (SD 1.x, SD 2.x, SDXL or SD 3.x)")
A_VAE: Final = _("a VAE")
WEIGHTS: Final = _("a file of weights")
KNOWN: Final = _("a file that tsuika knows")
_NO_USE: Final = _("tsuika has no use for it: it trains and uses SD 1.x, SD 2.x, SDXL and SD 3.x.")
_WHOLE: Final = _("Give the whole model: the single file, or the folder with model_index.json.")
_AGAIN: Final = _("Download it again, logged in on the site if it asks for that.")
_UNPACK: Final = _("Unpack it first.")
_AN_IMAGE: Final = _("Images go into a folder for --images.")

LORA: Final = Kind("lora", _("a LoRA"), _("Give it with --lora, beside a base model (--base)."))
EMBEDDING: Final = Kind(
    "textual-inversion",
    _("a Textual Inversion embedding"),
    _("Give it with --embedding, beside a base model (--base)."),
)
HYPERNETWORK: Final = Kind(
    "hypernetwork", _("a hypernetwork"), _("Give it with --hypernetwork, beside a base model (--base).")
)
VAE: Final = Kind("vae", A_VAE, _("Give it with --vae, beside a base model (--base)."))
CHECKPOINT: Final = Kind("base model", _("a whole model (checkpoint)"), _("Give it with --base."))
A_TRANSFORMER: Final = Kind("unet", _("the transformer of a Stable Diffusion 3 alone"), _WHOLE)
NO_CLIP: Final = Kind(
    "unet",
    _("a Stable Diffusion 3 without text encoders"),
    _("Give the diffusers folder, or a file that has CLIP-L and CLIP-G in it (and T5, if it is to be used)."),
)
NO_TEXT: Final = Kind("unet", _("a UNet without a text encoder that tsuika knows"), _WHOLE)
A_UNET: Final = Kind("unet", _("a UNet alone"), _WHOLE)
EDM: Final = Kind("other model", _("an SDXL made for EDM sampling (Playground, CosXL)"))
OF_METHODS: Final = {kind.name: kind for kind in (LORA, EMBEDDING, HYPERNETWORK)}

# By a piece of a tensor's name; the first match names the file. A checkpoint's own names come last.
_BY_NAME: Final = (
    (
        r"^lora_(unet|te\d?|prior)_|[._]lora[._](up|down|mid|A|B)\b|[._]lora_(up|down|mid|A|B)[._]|lora_linear_layer"
        r"|[._](hada|lokr|oft|boft|ia3|glora|vera)_|\.lora_magnitude_vector|\.dora_scale$|^(unet|text_encoder):\d+:(up|down)$",
        LORA,
    ),
    (r"^control_model\.|^controlnet_|^input_hint_block|^lllite_", Kind("controlnet", _("a ControlNet"), _NO_USE)),
    (r"^(ip_adapter|image_proj)\.", Kind("ip-adapter", _("an IP-Adapter"), _NO_USE)),
    (r"(^|\.)motion_modules\.", Kind("motion module", _("an AnimateDiff motion module"), _NO_USE)),
    (r"^(emb_params|clip_[lg]|text_encoders_[01])$|^(string_to_param|bundle_emb)\.", EMBEDDING),
    (r"^\d+\.([01kv])\.linear", HYPERNETWORK),
    (r"(^|\.)(double|single)_blocks\.\d|(^|\.)single_transformer_blocks\.\d", Kind("other model", _("a Flux model"))),
    (r"^(joint_blocks\.\d|transformer_blocks\.\d+\.attn\.add_q_proj)", A_TRANSFORMER),
    (r"^conditioner\.embedders\.0\.model\.", Kind("other model", _("the SDXL refiner"))),
    (r"^(edm_mean|edm_std|edm_vpred\.)", EDM),
    (r"^(down_blocks|up_blocks|mid_block)\.", Kind("unet", _("a UNet alone, in diffusers layout"), _WHOLE)),
    (r"^(input_blocks|output_blocks|middle_block)\.", A_UNET),
    (r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(down|up|mid|conv_in)", VAE),
    (
        r"^((text_model|text_encoder|cond_stage_model)\.|encoder\.layers\.|embeddings\.token_embedding|transformer\.resblocks)",
        Kind("text encoder", _("a text encoder alone"), _WHOLE),
    ),
    (r"^(vision_model|visual)\.", Kind("image encoder", _("an image encoder (CLIP vision)"), _NO_USE)),
    (r"^encoder\.block\.\d+\.layer|^shared\.weight$", Kind("text encoder", _("a T5 text encoder"), _NO_USE)),
    (r"(^|\.)layers\.\d+\.self_attn\.", Kind("language model", _("a language model"), _NO_USE)),
    (r"conv_first\.weight|RRDB_trunk|^model\.1\.sub\.", Kind("upscaler", _("an upscaler"), _NO_USE)),
)
# What takes the latents, of a UNet and of SD3's transformer, and how many channels they have, those of inpainting last.
_INPUTS: Final = {"input_blocks.0.0.weight": (4, INPAINTING), "x_embedder.proj.weight": (16,)}
# A word alone under its own name, as diffusers writes it: rows as wide as a text encoder's.
_WORD_WIDTHS: Final = (768, 1024, 1280)

# What is no weights at all, by its first bytes.
_BY_BYTES: Final = (
    (b"GGUF", Kind("gguf", _("a GGUF file (quantised weights of another program)"))),
    (
        b"version https://git-lfs",
        Kind("text", _("a Git LFS pointer: the real file was not downloaded"), _("Get the real file: git lfs pull")),
    ),
    (b"\x89PNG", Kind("image", _("a PNG image"), _AN_IMAGE)),
    (b"\xff\xd8\xff", Kind("image", _("a JPEG image"), _AN_IMAGE)),
    (b"GIF8", Kind("image", _("a GIF image"), _AN_IMAGE)),
    (b"RIFF", Kind("image", _("a WebP image or a sound"), _AN_IMAGE)),
    (b"%PDF", Kind("document", _("a PDF"))),
    (b"7z\xbc\xaf", Kind("archive", _("a 7z archive"), _UNPACK)),
    (b"Rar!", Kind("archive", _("a RAR archive"), _UNPACK)),
    (b"\x1f\x8b", Kind("archive", _("a gzip archive"), _UNPACK)),
)
_WEB_PAGE: Final = Kind("text", _("a web page: an error page was saved instead of the model"), _AGAIN)
_JSON: Final = Kind("text", _("a JSON text"), _AGAIN)


def of_bytes(head: bytes) -> Kind:
    """What a file is that holds no weights, from its first bytes."""
    for magic, kind in _BY_BYTES:
        if head.startswith(magic):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head", b"<svg")):
        return _WEB_PAGE
    if text.startswith((b"{", b"[")):
        return _JSON
    title = _("data of an unknown kind, beginning with {begin}", begin=head[:8].hex(" "))
    return Kind("unknown", title)


def of_tensors(shapes: Shapes) -> Kind:
    """What a file of tensors of these names and shapes is."""
    is_checkpoint = any(name.startswith((UNET_PREFIX, EMA_PREFIX)) for name in shapes)
    for pattern, kind in _BY_NAME:
        # A checkpoint has a VAE and text encoders in it, and is neither.
        if is_checkpoint and kind.name not in ("other model", "controlnet"):
            continue
        if any(map(re.compile(pattern).search, shapes)):
            return kind
    if is_checkpoint:
        for name, usual in _INPUTS.items():
            channels = shapes.get(f"{UNET_PREFIX}{name}", (0, usual[0]))[1:2]
            if channels and channels[0] not in usual:
                return of_channels(channels[0], usual[0])
        if any(name.startswith(f"{UNET_PREFIX}joint_blocks.") for name in shapes):
            has_clip = all(any(name.startswith(f"text_encoders.clip_{x}.") for name in shapes) for x in "lg")
            return CHECKPOINT if has_clip else NO_CLIP
        has_text = any(name.startswith(("cond_stage_model.", "conditioner.")) for name in shapes)
        return CHECKPOINT if has_text else NO_TEXT
    if len(shapes) == 1:
        ((name, shape),) = shapes.items()
        if len(shape) in (1, 2) and shape[-1] in _WORD_WIDTHS and not name.endswith((".weight", ".bias")):
            return EMBEDDING
    title = _("{count} tensors of no known kind: {names}", count=len(shapes), names=few(shapes))
    return Kind("unknown", title)


def of_channels(channels: object, expected: int) -> Kind:
    """A model whose network takes another number of channels than a latent has."""
    title = _(
        "a model with {channels} input channels (depth or editing), where {expected} are expected",
        channels=channels,
        expected=expected,
    )
    return Kind("other model", title)


def other(title: Text) -> Kind:
    """A model of another kind than ours."""
    return Kind("other model", title)


def unlike(where: object, found: Kind, expected: Text = A_BASE) -> FormatError:
    """The error where something else is needed than what is there."""
    do = found.use or _("Give {expected}.", expected=expected)
    return FormatError("MD002", where=where, found=found.title, expected=expected, do=do)
