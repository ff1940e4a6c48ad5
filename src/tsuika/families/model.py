"""`StableDiffusion`, the one `core.types.Model` of SD1, SD2 and SDXL. Knows no files. Shapes: B prompts or images, S
tokens, D text width, P pooled width, C latent channels, H x W pixels or latents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tsuika.core.types import Conditioning, Facts, Prediction, Role, canonical, split_words
from tsuika.families.chunks import limit_of, texts

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tsuika.families.common import Family

# Roles by canonical module path. attn + ff together are what kohya's sd-scripts target by default (every Linear and 1x1
# convolution of Transformer2DModel, CLIPAttention and CLIPMLP); conv adds ResnetBlock2D, Downsample2D, Upsample2D.
ROLES: dict[Role, str] = {
    "unet.attn": r".*\.attentions\.\d+\.(proj_in|proj_out|transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0))",
    "unet.ff": r".*\.transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)",
    "unet.conv": r".*\.(resnets\.\d+\.(conv1|conv2|time_emb_proj|conv_shortcut)|(down|up)samplers\.0\.conv)",
    "text.attn": r"text_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj",
    "text.ff": r"text_model\.encoder\.layers\.\d+\.mlp\.fc[12]",
    "text.tokens": r"text_model\.embeddings\.token_embedding",
}


@dataclass
class StableDiffusion:
    """A loaded Stable Diffusion; see `core.types.Model`. Freezes its parts and puts them in `eval` mode. The VAE stays
    in float32 in any case: SDXL's overflows in float16, and latents are encoded once."""

    family: Family
    prediction: Prediction
    unet: nn.Module
    vae: nn.Module
    text_encoders: dict[str, nn.Module]
    tokenizers: dict[str, Any]
    scheduler_config: dict[str, Any]
    latent_scale: float
    native_size_px: int
    source: str
    sha256: str | None = None
    words: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    word_weights: dict[str, float] = field(default_factory=dict)
    extra_tensors: dict[str, Tensor] = field(default_factory=dict)
    clip_skip: int = 1
    facts: Facts = field(init=False)

    def __post_init__(self) -> None:
        self.facts = self.family.facts
        for module in self.components.values():
            module.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def components(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "vae": self.vae, **self.text_encoders}

    @property
    def latent_factor(self) -> int:
        return latent_factor(self.vae.config)  # type: ignore[arg-type]

    def targets(self, role: Role) -> dict[str, list[str]]:
        """Component name -> canonical module paths that play `role`, in module order. KeyError for an unknown role."""
        pattern = re.compile(ROLES[role])
        chosen = {"unet": self.unet} if role.startswith("unet.") else self.text_encoders
        found = {
            component: [
                path
                for path in (canonical(component, name) for name, _ in module.named_modules())
                if pattern.fullmatch(path)
            ]
            for component, module in chosen.items()
        }
        return {component: paths for component, paths in found.items() if paths}

    def module(self, component: str, path: str) -> nn.Module:
        """The module at a canonical path, in any version of transformers. Raises KeyError: there is none."""
        root = self.components[component]
        try:
            return root.get_submodule(own_name(root, path))
        except AttributeError:
            raise KeyError(f"{component}.{path}") from None

    def token_ids(self, prompts: Sequence[str], component: str, length: int) -> Tensor:
        """Prompts as (B, S) token ids with start and end, cut off or filled up to `length`."""
        import torch

        tokenizer = self.tokenizers[tokenizer_of(component)]
        rows = []
        for prompt in prompts:
            ids = [tokenizer.bos_token_id, *self._ids(prompt, component)[: length - 2], tokenizer.eos_token_id]
            rows.append(ids + [tokenizer.pad_token_id] * (length - len(ids)))
        return torch.tensor(rows)

    def _ids(self, text: str, component: str) -> list[int]:
        """Token ids of a text, without start and end. New words are found as they stand, in any case, before the
        tokenizer sees the rest; their vectors count on from the end of the vocabulary, in the order of `words`."""
        tokenizer = self.tokenizers[tokenizer_of(component)]
        # A padding token that is also a character ("!" of SD2 and SDXL-G) must stay that character inside a prompt.
        is_character = tokenizer.pad_token not in (tokenizer.eos_token, tokenizer.bos_token)
        extra = {"split_special_tokens": True} if is_character else {}

        def plain(part: str) -> list[int]:
            ids: list[int] = tokenizer(part, add_special_tokens=False, verbose=False, **extra)["input_ids"]
            return ids

        words = [word for word, vectors in self.words.items() if component in vectors]
        places: dict[str, range] = {}
        first = len(self._table(component).weight)
        for word in words:
            count = len(self.words[word][component])
            places[word.casefold()] = range(first, first + count)
            first += count
        if not words:
            return plain(text)
        ids: list[int] = []
        # Looked for as they are written: folding the case makes two letters of some, such as the German sharp s.
        for number, part in enumerate(split_words(text, words)):
            place = places.get(part.casefold()) if number % 2 else None
            ids += place or (plain(part) if part.strip() else [])
        return ids

    def _table(self, component: str) -> nn.Embedding:
        return self.module(component, "text_model.embeddings.token_embedding")  # type: ignore[return-value]

    def count_tokens(self, text: str) -> tuple[int, ...]:
        return tuple(len(self._ids(text, component)) for component in self.text_encoders)

    @contextmanager
    def _reading_words(self, component: str) -> Iterator[None]:
        """While it is open, ids beyond the encoder's vocabulary are looked up in `words`; its own table stays whole."""
        import torch
        from torch.nn import functional

        vectors = [word[component] for word in self.words.values() if component in word]
        if not vectors:
            yield
            return
        table = self._table(component)
        known, new_ND = table.weight, torch.cat(vectors)

        def look_up(ids_BS: Tensor) -> Tensor:
            size = len(known)
            old_BSD = functional.embedding(ids_BS.clamp(max=size - 1), known)
            new_BSD = new_ND[(ids_BS - size).clamp(min=0)].to(old_BSD)
            return torch.where((ids_BS >= size)[..., None], new_BSD, old_BSD)

        table.forward = look_up  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            del table.forward

    def encode_text(self, prompts: Sequence[str], *, size_px: tuple[int, int] | None = None) -> Conditioning:
        """Prompts to conditioning, differentiable. What is longer than the encoders read becomes chunks of that length,
        each with its own start and end, joined along the tokens; pooled is the first chunk's. A new word (see `words`)
        becomes its vectors, one token each. SD1 and SD2 give the final hidden state after the final norm (SD2's 23
        layers are open_clip's 24 without the last: its penultimate state). SDXL joins both encoders' penultimate
        states, unnormed, and adds the second's projection of the end token. Sources: Podell et al. 2023 (SDXL), 2.1;
        Stability's `FrozenOpenCLIPEmbedder`. `size_px` is (width, height) for SDXL's size conditioning, uncropped; the
        native size if None."""
        chunks = [texts(prompt, self.count_tokens, limit_of(self)) for prompt in prompts]
        if all(len(parts) == 1 for parts in chunks):
            return self._encode_chunks(prompts, size_px)
        # Each alone: its bits must not depend on its neighbours.
        return Conditioning.join(
            [Conditioning.in_a_row([self._encode_chunks([part], size_px) for part in parts]) for parts in chunks]
        )

    def _encode_chunks(self, prompts: Sequence[str], size_px: tuple[int, int] | None) -> Conditioning:
        import torch

        states, pooled_BP = [], None
        for component, encoder in self.text_encoders.items():
            positions = int(encoder.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
            longest = min(int(self.tokenizers[tokenizer_of(component)].model_max_length), positions)
            ids_BS = self.token_ids(prompts, component, longest).to(self.device)
            with self._reading_words(component):
                earlier = self.family.penultimate or self.clip_skip > 1
                out = encoder(input_ids=ids_BS, output_hidden_states=earlier, return_dict=True)
            if self.family.penultimate:
                states.append(out.hidden_states[-2])
            elif earlier:
                # As the A1111 web UI and sd-scripts do: the final norm is for the last layer, and put on this one.
                norm = self.module(component, "text_model.final_layer_norm")
                states.append(norm(out.hidden_states[-self.clip_skip]))
            else:
                states.append(out.last_hidden_state)
            if hasattr(encoder, "text_projection"):
                # transformers finds the end token as the highest id, which a word added to the vocabulary would be.
                end = self.tokenizers[tokenizer_of(component)].eos_token_id
                ends_B = (ids_BS == end).int().argmax(-1)
                rows_B = torch.arange(len(prompts), device=ids_BS.device)
                pooled_BP = encoder.text_projection(out.last_hidden_state[rows_B, ends_B])  # type: ignore[operator]
        tokens_BSD = torch.cat(states, dim=-1)
        if pooled_BP is None:
            return Conditioning(tokens_BSD)
        width, height = size_px or (self.native_size_px, self.native_size_px)
        ids = torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=torch.float32)
        return Conditioning(tokens_BSD, pooled_BP, ids.repeat(len(prompts), 1))

    def encode_images(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels in -1..1, sides multiples of `latent_factor`, to scaled float32 latents: the posterior mean."""
        weight = next(self.vae.parameters())
        latents_BCHW: Tensor = self.vae.encode(pixels_B3HW.to(weight.device, weight.dtype)).latent_dist.mean  # type: ignore[operator]
        return latents_BCHW * self.latent_scale

    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        weight = next(self.vae.parameters())
        scaled_BCHW = latents_BCHW.to(weight.device, weight.dtype) / self.latent_scale
        pixels_B3HW: Tensor = self.vae.decode(scaled_BCHW).sample  # type: ignore[operator]
        return pixels_B3HW.clamp(-1, 1)

    def denoise(self, noisy_BCHW: Tensor, t_B: Tensor, cond: Conditioning) -> Tensor:
        dtype = self.dtype
        added: dict[str, Any] = {}
        if cond.mask_BS is not None:
            added["encoder_attention_mask"] = cond.mask_BS
        if cond.pooled_BP is not None and cond.time_ids_B6 is not None:
            added["added_cond_kwargs"] = {"text_embeds": cond.pooled_BP.to(dtype), "time_ids": cond.time_ids_B6}
        out: Tensor = self.unet(noisy_BCHW.to(dtype), t_B, cond.tokens_BSD.to(dtype), return_dict=False, **added)[0]
        return out.to(noisy_BCHW.dtype)


def tokenizer_of(component: str) -> str:
    return component.replace("text_encoder", "tokenizer")


def latent_factor(vae_config: Mapping[str, Any]) -> int:
    """Pixels per latent, each way: every level of the VAE but the last halves the side."""
    return int(2 ** (len(vae_config["block_out_channels"]) - 1))


def own_name(module: nn.Module, name: str) -> str:
    """A canonical name as this module spells it: transformers 5 dropped `text_model.` from CLIPTextModel alone."""
    if name.startswith("text_model.") and not hasattr(module, "text_model"):
        return name.removeprefix("text_model.")
    return name
