"""`Family`: what is true of a family of models and what a file of it looks like. A family is data in a file of its own.
Knows no files; see `stored.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tsuika.core.types import Conditioning, Facts, Prediction
from tsuika.core.weights import UNET_PREFIX
from tsuika.diffusion import ldm
from tsuika.families.inpainting import channels_for
from tsuika.families.model import Read, StableDiffusion, latent_factor, tokenizer_of
from tsuika.families.network import UNET, Config, Network, refuse_absurd

if TYPE_CHECKING:
    from torch import nn

Shapes = Mapping[str, tuple[int, ...]]
TextLayout = Literal["clip", "open_clip", "t5"]

SGM: Final = "https://github.com/Stability-AI/generative-models"
COMPVIS: Final = "https://github.com/CompVis/stable-diffusion"


@dataclass(frozen=True)
class TextTower:
    """One text encoder of a family."""

    component: str  # "text_encoder", "text_encoder_2"
    layout: TextLayout  # key layout in single files
    prefix: str  # in single files
    kohya: str  # what its layers' names begin with in kohya's LoRA files: "lora_te", "lora_te1", ...
    embedding: str  # its vectors' name in embedding files: "emb_params", "clip_l", ...
    projected: bool = False  # CLIPTextModelWithProjection, whose pooled output the UNet takes
    padding: str = "<|endoftext|>"  # the token that fills up short prompts
    tokens: int = 77  # the most that are read at once, start and end included
    optional: bool = False  # a model may be without it
    unit_projection: bool = False  # single files hold no projection: the unit matrix stands for it

    @property
    def tokenizer(self) -> str:
        return tokenizer_of(self.component)

    @property
    def is_t5(self) -> bool:
        """Whether it is T5's encoder, and not CLIP's."""
        return self.layout == "t5"

    @property
    def table(self) -> str:
        """The module that holds the vocabulary's vectors."""
        return "encoder.embed_tokens" if self.is_t5 else "text_model.embeddings.token_embedding"

    def width(self, config: Config) -> int:
        """Width of its tokens."""
        return int(config["d_model" if self.is_t5 else "hidden_size"])

    def build(self, config: Config) -> nn.Module:
        """It, of this config, with the initial weights that the current torch context gives."""
        return build_t5(config) if self.is_t5 else build_text(config, projected=self.projected)

    def place(self, name: str) -> ldm.Place:
        """Where a canonical tensor of it lies in a single file. Raises KeyError: the layout has no place for such a
        tensor."""
        return (ldm.open_clip_place(name) if self.layout == "open_clip" else ldm.Place(name)).under(self.prefix)


@dataclass(frozen=True)
class Geometry:
    """The configs of a model's parts, as diffusers and transformers write them."""

    unet: Config
    vae: Config
    text: Mapping[str, Config]  # component -> CLIPTextConfig, T5Config
    native_size_px: int

    @property
    def latent_factor(self) -> int:
        return latent_factor(self.vae)

    @property
    def latent_scale(self) -> float:
        """What latents are multiplied by before noise is added; diffusers' default is SD1's."""
        return float(self.vae.get("scaling_factor", 0.18215))

    @property
    def latent_shift(self) -> float:
        """What is subtracted from them before."""
        return float(self.vae.get("shift_factor") or 0)


@dataclass(frozen=True)
class Names:
    """What other programs call the models of a family in their files."""

    # Of flow there is none: what it was before stands in its place.
    kohya_version: Mapping[Prediction, str]  # ss_base_model_version
    modelspec: Mapping[Prediction, str]  # modelspec.architecture; Stability AI's ModelSpec 1.0.1
    beginnings: tuple[str, ...]  # of either in any version: what a family is recognised by
    implementation: str  # modelspec.implementation of a whole model
    sd_scripts: tuple[str, ...]  # flags of kohya's scripts
    model_index: Mapping[str, Any]  # of a diffusers folder: the pipeline's class and its options
    hub_pattern: str = ""  # what a model's name on the hub contains, in lower case; empty: nothing in particular
    has_ldm_lora: bool = False  # kohya's LoRA names of the UNet are the original (LDM) ones
    inpainting_pipeline: str = ""  # diffusers' class for its inpainting models; empty: it has none
    v_markers: tuple[str, ...] = ()  # empty tensors that mark v-prediction, and with it zero terminal SNR


@dataclass(frozen=True)
class Family:
    """A family of models: facts, names, configs. A new family is one of these in `FAMILIES`."""

    name: str  # as in `Artifact.family`
    title: str  # for people: "Stable Diffusion 1.x"
    short_title: str  # the same in a table: "SD 1.x"
    prediction: Prediction  # of the usual base
    names: Names
    towers: tuple[TextTower, ...]
    geometry: Callable[[Prediction], Geometry]  # of the real models; single files carry no configs
    tiny_geometry: Callable[[int, int], Geometry]  # (vocabulary, longest prompt in tokens) -> the same structure, small
    # (configs by part, latent scale) -> YAML; None: programs read sizes from the tensors
    original_config: Callable[[Mapping[str, Any], float], dict[str, Any]] | None = None
    penultimate: bool = False  # text conditioning is the last hidden state but one, without the final norm
    v_spread: tuple[str, float] | None = None  # v-prediction without a marker: a tensor, and the least of its spread
    network: Network = UNET
    flow_shift: float = 1.0  # of the times, where a base is a flow and says nothing else
    # Text encoders' states to conditioning, where it is not as SDXL does it
    join_text: Callable[[StableDiffusion, Mapping[str, Read]], Conditioning] | None = None
    # A family of several sizes: those of a single file with these tensors; None: of no size that is known
    sizes_of: Callable[[Shapes], Geometry | None] | None = None
    size_title: Callable[[Config], str | None] | None = None  # the same for people, of the network's config
    file_facts: Callable[[StableDiffusion], Mapping[str, str]] | None = None  # `Model.file_facts`

    @cached_property
    def facts(self) -> Facts:
        """What is true of every model of the family."""
        usual, towers = self._usual, tuple(tower.component for tower in self.towers)
        latents = int(usual.unet["in_channels"]), usual.latent_scale
        return Facts(
            *(self.name, self.title, self.short_title, *latents),
            self.prediction,
            usual.native_size_px,
            "joint" if self.network.joins_streams else "cross",
            towers,
        )

    def tower(self, component: str) -> TextTower:
        """Its text encoder of this name."""
        return next(tower for tower in self.towers if tower.component == component)

    @cached_property
    def _usual(self) -> Geometry:
        return self.geometry(self.prediction)

    @property
    def input_channels(self) -> tuple[int, ...]:
        """Those that its networks may have: of latents, and where it has inpainting models theirs."""
        latents = self.facts.latent_channels
        return (latents, channels_for(latents)) if self.names.inpainting_pipeline else (latents,)

    @property
    def context_width(self) -> int:
        """Width of the text that attention reads."""
        return int(self._usual.unet.get("cross_attention_dim") or self._usual.unet["joint_attention_dim"])

    @property
    def depth(self) -> int:
        """The most transformer blocks in a row."""
        depths = self._usual.unet.get("transformer_layers_per_block", 1)
        return depths if isinstance(depths, int) else max(depths)

    @property
    def has_linear_projections(self) -> bool:
        """Whether attention's `proj_in` and `proj_out` are Linear, and not 1x1 convolutions."""
        return bool(self._usual.unet.get("use_linear_projection"))

    def text_width(self, component: str) -> int:
        """Width of a text encoder's tokens."""
        return self.tower(component).width(self._usual.text[component])

    def is_single_file(self, shapes: Shapes) -> bool:
        """Whether a file with tensors of these names and shapes is a model of the family. `edm_*` tensors mark the same
        network made for EDM's preconditioning (Playground 2.5, CosXL): another sampler's."""
        marks = [shapes.get(f"{UNET_PREFIX}{mark}", ()) for mark in self.network.marks]
        needed = (tower for tower in self.towers if not tower.optional)
        towers = all(any(name.startswith(tower.prefix) for name in shapes) for tower in needed)
        is_edm = any(name.startswith("edm_") for name in shapes)
        return towers and all(marks) and any(marks[0][1:2] == (one,) for one in self.input_channels) and not is_edm

    def is_folder(self, unet: Config, parts: Sequence[str]) -> bool:
        """Whether a diffusers folder with this `unet/config.json` and these parts is a model of the family."""
        own = self._usual.unet
        towers = {part for part in parts if re.fullmatch(r"text_encoder(_\d)?", part)}
        needed = {tower.component for tower in self.towers if not tower.optional}
        return (
            needed <= towers <= set(self.facts.text_encoders)
            and bool(unet.get("use_linear_projection")) == bool(own.get("use_linear_projection"))
            and unet.get("addition_embed_type") == own.get("addition_embed_type")
        )

    def tiny(self, seed: int, tokenizer: Path, *, prediction: Prediction | None = None) -> StableDiffusion:
        """A random model of the family's true structure with few weights, in float32 on the CPU. The seed decides every
        weight; `tokenizer` is a folder with `vocab.json` and `merges.txt`; `prediction` what the model claims to
        predict (None: the family's usual)."""
        import torch
        from torch import nn

        tokenizers = {
            tower.tokenizer: tiny_t5_tokenizer() if tower.is_t5 else open_tokenizer(tokenizer, tower, tower.tokens)
            for tower in self.towers
        }
        vocabulary = tokenizers["tokenizer"]
        geometry = self.tiny_geometry(len(vocabulary), min(int(vocabulary.model_max_length), 77))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            text = {t.component: t.build(geometry.text[t.component]) for t in self.towers}
            unet, vae = self.network.build(geometry.unet), build_vae(geometry.vae)
        for tower in self.towers:
            if tower.unit_projection:
                projection: Any = text[tower.component].text_projection
                nn.init.eye_(projection.weight)
        claimed = prediction or self.prediction
        return StableDiffusion(
            family=self,
            prediction=claimed,
            unet=unet,
            vae=vae,
            text_encoders=text,
            tokenizers=tokenizers,
            scheduler_config=scheduler_config(claimed, flow_shift=self.flow_shift),
            latent_scale=geometry.latent_scale,
            latent_shift=geometry.latent_shift,
            native_size_px=geometry.native_size_px,
            source=f"tiny {self.name}, seed {seed}",
        )


def build_vae(config: Config) -> nn.Module:
    from diffusers import AutoencoderKL

    refuse_absurd(config)
    model: nn.Module = AutoencoderKL.from_config(dict(config))
    return model


def build_text(config: Config, *, projected: bool) -> nn.Module:
    """A CLIP text encoder of this config, with or without its projection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    refuse_absurd(config)
    model: nn.Module = (CLIPTextModelWithProjection if projected else CLIPTextModel)(
        CLIPTextConfig.from_dict(dict(config))
    )
    return model


def build_t5(config: Config) -> nn.Module:
    """T5's encoder of this config."""
    from transformers import T5Config, T5EncoderModel

    refuse_absurd(config)
    model: nn.Module = T5EncoderModel(T5Config.from_dict(dict(config)))
    return model


def open_tokenizer(folder: Path, tower: TextTower | None, max_tokens: int | None, *, is_t5: bool = False) -> Any:
    """A tokenizer from local files, CLIP's or T5's; `tower` (when the folder does not say) decides the padding token."""
    from transformers import CLIPTokenizer, T5Tokenizer

    # A foreign folder may say something else.
    extra = {"pad_token": tower.padding} if tower else {}
    kind: Any = T5Tokenizer if is_t5 else CLIPTokenizer
    tokenizer = kind.from_pretrained(folder, local_files_only=True, **extra)
    longest = int(tokenizer.model_max_length)
    # What begins, a word, and what ends.
    if longest < 3:
        raise ValueError(f"model_max_length = {longest}")
    tokenizer.model_max_length = longest if max_tokens is None else min(longest, max_tokens)
    return tokenizer


def tiny_t5_tokenizer() -> Any:
    """A T5 tokenizer of single letters and two words, in memory."""
    from transformers import T5Tokenizer

    special = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    letters = [("▁", -2.0), *((chr(code), -3.0) for code in range(33, 127))]
    words = [("▁cat", -1.0), ("▁dog", -1.0)]
    return T5Tokenizer(vocab=[*special, *letters, *words], extra_ids=0, model_max_length=20)


def scheduler_config(
    prediction: Prediction, *, zero_terminal_snr: bool = False, flow_shift: float = 1.0
) -> dict[str, Any]:
    """Stable Diffusion's noise schedule as a diffusers config. Source: CompVis `v1-inference.yaml` (linear_start,
    linear_end, timesteps), the same in SD2's and SDXL's; beta "scaled_linear" is LDM's "linear" schedule. Of flow none.
    """
    if prediction == "flow":
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": flow_shift}
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "trailing" if zero_terminal_snr else "leading",
        "prediction_type": prediction,
        "rescale_betas_zero_snr": zero_terminal_snr,
    }


def vae_config(sample_size: int, scaling_factor: float, **more: Any) -> Config:
    """The VAE of SD1, SD2 and SDXL, which differ in its latents' scale. Source: CompVis `v1-inference.yaml`."""
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": sample_size,
        **more,
        "scaling_factor": scaling_factor,
    }


def unet_config(widths: Sequence[int], context: int, heads: Any, reads_text: Sequence[bool], **more: Any) -> Config:
    """The UNet of SD1, SD2 and SDXL: the width of each level, whether it attends to the text, and that one's width."""
    return {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": widths,
        "layers_per_block": 2,
        "cross_attention_dim": context,
        "attention_head_dim": heads,  # diffusers' name notwithstanding: the number of heads
        "down_block_types": ["CrossAttnDownBlock2D" if reads else "DownBlock2D" for reads in reads_text],
        "up_block_types": ["CrossAttnUpBlock2D" if reads else "UpBlock2D" for reads in reversed(reads_text)],
        **more,
    }


def clip_config(width: int, layers: int, heads: int, *, act: str, projection: int, pad: int) -> Config:
    """A CLIP text tower with the vocabulary that all of them share."""
    return {
        "vocab_size": 49408,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 77,
        "hidden_act": act,
        "projection_dim": projection,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": pad,
    }


def tiny_clip(config: Config, vocabulary: int, max_tokens: int, *, width: int = 32, layers: int = 3) -> Config:
    """The same tower, small: it pads with the same token, the end token or the first."""
    return {
        **config,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": max_tokens,
        "projection_dim": width,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1 if config["pad_token_id"] else 0,
    }


def tiny_geometry(full: Geometry, text: Mapping[str, Config], **unet: Any) -> Geometry:
    """The same structure for 64 px; `unet` are the sizes in which families differ."""
    small_vae = {**full.vae, "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 8, "sample_size": 64}
    return Geometry({**full.unet, "sample_size": 8, "norm_num_groups": 16, **unet}, small_vae, text, native_size_px=64)
