"""The words that the rest of tsuika speaks. Shapes: B images, C latent channels, H x W latents, S tokens, D text width, P
pooled width. Component names are diffusers' (`unet`, `vae`, `text_encoder`, `text_encoder_2`), but that SD3's `transformer`
is `unet` here, too; module paths inside are the canonical diffusers/transformers 4 paths (a CLIP text tower starts with
`text_model.`, whatever transformers does)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# `unet` is the network that denoises, also where it is a transformer (SD3): as a component, and in roles.
Role = Literal["unet.attn", "unet.ff", "unet.conv", "text.attn", "text.ff", "text.tokens"]
Prediction = Literal["epsilon", "v_prediction", "flow"]
# A1111's, of hypernetworks
Activation = Literal["linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid", "softsign", "mish"]


@dataclass(frozen=True)
class Facts:
    """What is true of every model of a family."""

    family: str  # its name in recipes, artifacts and files
    title: str  # for people: "Stable Diffusion 1.x"
    short_title: str  # the same in a table: "SD 1.x"
    latent_channels: int
    latent_scale: float
    prediction: Prediction  # of the family's usual base; a Model carries its own
    native_size_px: int
    attention: Literal["cross", "joint"]  # from image to text in layers of its own, or over both together
    text_encoders: tuple[str, ...]  # component names, in the order their outputs are joined; a model may lack SD3's T5


@dataclass(frozen=True)
class FewSteps:
    """How a base is drawn that was distilled to need a few steps and no guidance."""

    kind: str  # turbo, lightning, hyper, lcm, tcd, dmd2
    steps: int
    cfg: float
    sampler: str
    why: str  # what says so: "scheduler_config.json", "its name", ...


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts. `pooled_BP` is SDXL's and SD3's, `time_ids_B6` SDXL's; None elsewhere. `mask_BS` is 1 for tokens
    and 0 for what only fills a row up; None: there is nothing such."""

    tokens_BSD: Tensor
    pooled_BP: Tensor | None = None
    time_ids_B6: Tensor | None = None
    mask_BS: Tensor | None = None

    def __getitem__(self, rows: slice | Sequence[int]) -> Conditioning:
        def pick(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        return Conditioning(self.tokens_BSD[rows], pick(self.pooled_BP), pick(self.time_ids_B6), pick(self.mask_BS))

    @staticmethod
    def join(parts: Sequence[Conditioning]) -> Conditioning:
        """Stack along the batch. Shorter texts are filled up, and masked there.

        Args:
            parts: all have the same tensors.
        """
        import torch

        def cat(values: Sequence[Tensor | None]) -> Tensor | None:
            present = [value for value in values if value is not None]
            return torch.cat(present) if present else None

        longest = max(part.tokens_BSD.shape[1] for part in parts)
        is_even = all(part.tokens_BSD.shape[1] == longest and part.mask_BS is None for part in parts)
        filled = parts if is_even else [part._filled(longest) for part in parts]
        return Conditioning(
            torch.cat([part.tokens_BSD for part in filled]),
            cat([part.pooled_BP for part in parts]),
            cat([part.time_ids_B6 for part in parts]),
            cat([part.mask_BS for part in filled]),
        )

    def _filled(self, length: int) -> Conditioning:
        from torch.nn import functional

        rows, tokens, _width = self.tokens_BSD.shape
        mask_BS = self.tokens_BSD.new_ones(rows, tokens) if self.mask_BS is None else self.mask_BS
        more = length - tokens
        return replace(
            self,
            tokens_BSD=functional.pad(self.tokens_BSD, (0, 0, 0, more)),
            mask_BS=functional.pad(mask_BS, (0, more)),
        )


# Of a text in parts: each part's words, and their weight.
WeightedText = Sequence[tuple[str, float]]
# Token states (1, S, D) and a weight for each token to the states at these weights.
Rescale = Callable[["Tensor", "list[float]"], "Tensor"]


class Model(Protocol):
    """A loaded Stable Diffusion, the same to every method whatever its family. `unet`, `vae` and the text encoders are
    frozen (`requires_grad` False) and in `eval` mode when a family hands them out."""

    facts: Facts
    prediction: Prediction
    unet: nn.Module
    vae: nn.Module
    text_encoders: dict[str, nn.Module]  # component name -> module, in the family's order
    tokenizers: dict[str, Any]  # "tokenizer", "tokenizer_2"
    scheduler_config: dict[str, Any]  # as diffusers writes it
    latent_scale: float
    latent_shift: float  # subtracted before the scale: SD3's, else 0
    native_size_px: int
    source: str  # where it came from: a path, a hub id, "embedded"
    sha256: str | None  # of the single file it came from
    words: dict[str, Mapping[str, Tensor]]  # new word -> component -> its vectors (n, D); see `encode_text`
    word_weights: dict[str, float]  # new word -> its weight in prompts where images are drawn; 1 where not named
    few_steps: FewSteps | None  # as far as its files say so
    # Of a single file, by full name there: what no part needs but clients look for (SD2).
    extra_tensors: dict[str, Tensor]

    @property
    def device(self) -> torch.device:
        """Where it computes; its UNet may wait elsewhere."""

    @property
    def components(self) -> dict[str, nn.Module]:
        """`unet`, `vae` and every text encoder under its component name."""

    @property
    def latent_factor(self) -> int:
        """Pixels per latent, each way (8; 4 on the embedded base)."""

    @property
    def fixed(self) -> frozenset[str]:
        """Weights by `<component>.<canonical path>` that no single file holds, so that training must leave them."""

    @property
    def inpaints(self) -> bool:
        """Whether its UNet also takes a mask and the latents of a masked image (see `families.inpainting`)."""

    @property
    def file_facts(self) -> Mapping[str, str]:
        """What files of results say of this very model beside its family: `architecture` (modelspec's word for it),
        `t5_tokens` (how many T5 reads)."""

    @property
    def size_step_px(self) -> int:
        """Images' sides must be multiples of this."""

    @property
    def size_limit_px(self) -> int | None:
        """The longest side; None: there is no limit."""

    @property
    def overflows_in_fp16(self) -> bool:
        """Whether a training in float16 is known to end in numbers that are not finite."""

    def targets(self, role: Role) -> dict[str, list[str]]:
        """Component name -> canonical module paths that play `role`."""

    def module(self, component: str, path: str) -> nn.Module:
        """The module at a canonical path.

        Raises:
            KeyError: there is none.
        """

    def encode_text(self, prompts: Sequence[str], *, size_px: tuple[int, int] | None = None) -> Conditioning:
        """Prompts to conditioning, differentiable.

        Args:
            prompts: long ones become chunks. A word of `words` (any case, standing by itself) is its vectors, one token
                each, and not text.
            size_px: width and height, for SDXL's time ids.
        """

    def encode_weighted(
        self, chunks: Sequence[WeightedText], rescale: Rescale, *, size_px: tuple[int, int] | None = None
    ) -> Conditioning:
        """One prompt in chunks of weighted text, each short enough to be read at once; where some weight is not 1,
        states go through `rescale`."""

    def count_tokens(self, text: str) -> tuple[int, ...]:
        """Tokens of a text in each text encoder that reads in chunks (CLIP's), start and end not counted; a new word
        counts its vectors."""

    def encode_images(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels in -1..1 to scaled latents (B, C, H, W): the posterior mean."""

    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        """Scaled latents to pixels in -1..1 (B, 3, 8H, 8W), clamped."""

    def denoise(self, noisy_BCHW: Tensor, t_B: Tensor, cond: Conditioning) -> Tensor:
        """The UNet's raw output (as `prediction` says) at the times of its objective. Where it inpaints, noisy latents alone are
        taken as under a mask over everything."""


@dataclass(frozen=True)
class Overrides:
    """What somebody knows better about a base than its files say. None: what they say."""

    prediction: Prediction | None = None
    zero_terminal_snr: bool | None = None
    clip_skip: int = 1  # of the text encoder, counted from the last layer, which is 1 (the A1111 web UI's "clip skip")


AS_STORED: Final = Overrides()


@dataclass(frozen=True)
class Batch:
    """What one optimizer step sees, before noise. Every latent of a batch has one size."""

    latents_BCHW: Tensor  # behind them, for a base that inpaints, what it is given: mask and masked image
    captions: tuple[str, ...]
    names: tuple[str, ...]  # the images' names, for people
    weight_B: Tensor  # loss weight of each image: repeats, prior preservation
    mask_B1HW: Tensor | None = None  # loss weight of each latent, 0..1; None: all weigh alike

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, rows: slice) -> Batch:
        mask_B1HW = None if self.mask_B1HW is None else self.mask_B1HW[rows]
        latents_BCHW, weight_B = self.latents_BCHW[rows], self.weight_B[rows]
        return Batch(latents_BCHW, self.captions[rows], self.names[rows], weight_B, mask_B1HW)


@dataclass
class Artifact:
    """What a training run makes, without a file: named tensors of one method on one family.

    Tensor names, with canonical module paths:

    - lora: `<component>.<module path>.<part>`, parts as kohya's (`lora_down.weight`, `lora_up.weight`, `alpha`, ...)
    - textual-inversion: `<word>.<component>`, (vectors, text width)
    - hypernetwork: `<width>.<k|v>.<module path in the net>`, e.g. `768.k.linear.0.weight`; A1111's header fields, as
      JSON, in the metadata (`layer_structure`, `activation_func`, `is_layer_norm`, `activate_output`, ...)
    - dreambooth: `<component>.<parameter path>` of the whole model (`model_tensors`); its configs in the metadata
    """

    method: str
    family: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ParamGroup:
    """Trainable parameters that share a learning rate (0: the recipe's), which is multiplied by `factor`."""

    name: str
    params: list[nn.Parameter]
    learning_rate: float
    factor: float = 1.0
    directions: bool = False  # rows are vectors that may learn their direction alone (`training.optim.Riemannian`)


UpdateKind = Literal["weights", "factors", "network", "vectors", "adapter"]


@dataclass(frozen=True)
class Update:
    """What training changes at one place of the base, in the terms of penalties on its size (`guard.proximal`).

    Nothing is changed where `params` are at `start`; in between, what is changed shrinks as they come nearer (for all
    kinds but "adapter" in proportion, with everything else held).

    - weights: stand in the place of the base's, which are `start`
    - factors: ΔW = scale * params[0] @ down, (out, rank) and (rank, in), with the axes of a kernel behind
    - network: the last layer of a network whose output is added
    - vectors: rows of meaning, in a space whose axes mean nothing by themselves
    - adapter: anything else that is nothing at `start`
    """

    kind: UpdateKind
    params: list[nn.Parameter]
    start: list[Tensor] = field(default_factory=list)  # empty: zeros
    down: nn.Parameter | None = None
    scale: float = 1.0


@runtime_checkable
class Attachment(Protocol):
    """A method attached to a model: its trainable part, and how to take it off again.

    Dtypes: what is trained is float32, whatever the model is in, unless the method's settings say otherwise (an optimizer's
    small steps are lost in 16 bits). The model still takes and gives its own dtype: training and probes run it in autocast,
    previews do not, and both must work. `methods.replacing.keep_dtype` does this for parameters that stand in the place
    of the base's. What is restored from a file is in the model's dtype.
    """

    trains: frozenset[Role]  # any `text.*` role: text conditioning must not be cached

    def param_groups(self) -> list[ParamGroup]:
        """What is trained, by learning rate."""

    def updates(self) -> list[Update]:
        """What training changes, place by place; to be asked before it does, as the start is what is there now.

        Raises:
            RecipeError: these settings never give the base back.
        """

    def tensors(self) -> dict[str, Tensor]:
        """The trainable state by canonical name (live tensors, not copies)."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the trainable state.

        Raises:
            KeyError: a name is missing or unknown.
        """

    def set_strength(self, strength: float) -> None:
        """0 is the base, bit for bit; 1 is as trained."""

    def detach(self) -> None:
        """Give the model back exactly as it was."""

    def artifact(self) -> Artifact:
        """The result: copies on the CPU."""


@runtime_checkable
class Format(Protocol):
    """A file format for artifacts of one method."""

    @property
    def name(self) -> str:
        """As in `tsuika convert --to`."""

    @property
    def method(self) -> str:
        """The method whose artifacts it holds."""

    @property
    def suffix(self) -> str:
        """Of the file; empty where it is a folder."""

    def sniff(self, path: Path) -> bool:
        """Whether this file (or folder) is of this format, from its header alone."""

    def read(self, path: Path) -> Artifact:
        """The artifact, tensors in the file's dtype.

        Raises:
            ModelError: damaged (MD003), a pickle with more than tensors in it (MD005), or something else (FM001).
        """

    def write(self, artifact: Artifact, path: Path, *, dtype: torch.dtype) -> None:
        """Write whole or not at all.

        Raises:
            FormatError: the format cannot hold this artifact, or `dtype` its numbers (FM002).
        """


# What a CLIP tower is made of, and T5 is not.
_OF_CLIP: Final = re.compile(r"(embeddings|encoder\.layers|final_layer_norm)(\..+)?")


def canonical(component: str, path: str) -> str:
    """A module path as transformers 4 and every client name it: CLIP towers begin with `text_model.`."""
    if component.startswith("text_encoder") and _OF_CLIP.fullmatch(path):
        return f"text_model.{path}"
    return path


def is_usable_word(word: str) -> bool:
    """Whether a prompt can hold it as one word: nothing that separates words, or that the prompt syntax reads."""
    return bool(word) and re.search(r"[\s,:|()\[\]{}\\/]", word) is None


def split_words(text: str, words: Iterable[str]) -> list[str]:
    """Text and new words in turn: every second piece is one of `words`, in any case, standing by itself."""
    found = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.split(rf"(?<![A-Za-z0-9_])({found})(?![A-Za-z0-9_])", text, flags=re.IGNORECASE) if found else [text]


def model_tensors(model: Model) -> dict[str, Tensor]:
    """Every weight of a model by `<component>.<canonical parameter path>`, live; no non-persistent buffers. What a module
    has under two names (T5's vocabulary) is there once."""
    return {
        f"{component}.{canonical(component, name)}": value
        for component, module in model.components.items()
        for name, value in own_tensors(module).items()
    }


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights and persistent buffers by its own names, each under the first of them."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            found[name] = value.detach()
    return found


def count_params(params: Iterable[nn.Parameter]) -> int:
    """Number of scalars."""
    return sum(param.numel() for param in params)
