"""`StableDiffusion`, the one `core.types.Model` of all families. Knows no files. Shapes: B prompts or images, S
tokens, D text width, P pooled width, C latent channels, H x W pixels or latents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tsuika.core.types import (
    Conditioning,
    Facts,
    FewSteps,
    Prediction,
    Rescale,
    Role,
    WeightedText,
    canonical,
    split_words,
)
from tsuika.families import inpainting
from tsuika.families.chunks import limit_of, reads_in_chunks, texts
from tsuika.families.network import TEXT_ROLES

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tsuika.families.common import Family

# Token states of a text encoder (B, S, D), and its pooled output (B, P) where it has one.
Read = tuple["Tensor", "Tensor | None"]


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
    latent_shift: float = 0.0
    sha256: str | None = None
    words: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    word_weights: dict[str, float] = field(default_factory=dict)
    extra_tensors: dict[str, Tensor] = field(default_factory=dict)
    clip_skip: int = 1
    few_steps: FewSteps | None = None
    facts: Facts = field(init=False)
    # What an inpainting base is given for a text alone, by VAE and size.
    _whole: dict[tuple[nn.Module, int, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.facts = self.family.facts
        for module in self.components.values():
            module.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        return next(self.vae.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def components(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "vae": self.vae, **self.text_encoders}

    @property
    def latent_factor(self) -> int:
        return latent_factor(self.vae.config)  # type: ignore[arg-type]

    @property
    def fixed(self) -> frozenset[str]:
        towers = (tower.component for tower in self.family.towers if tower.unit_projection)
        return frozenset(f"{component}.text_projection.weight" for component in towers)

    @property
    def inpaints(self) -> bool:
        config: Any = self.unet.config
        return bool(config.in_channels == inpainting.channels_for(self.facts.latent_channels))

    @property
    def file_facts(self) -> Mapping[str, str]:
        return {} if self.family.file_facts is None else self.family.file_facts(self)

    @property
    def size_step_px(self) -> int:
        return self.latent_factor * self.family.network.size_step(self.unet.config)  # type: ignore[arg-type]

    @property
    def size_limit_px(self) -> int | None:
        limit = self.family.network.size_limit(self.unet.config)  # type: ignore[arg-type]
        return None if limit is None else limit * self.latent_factor

    @property
    def overflows_in_fp16(self) -> bool:
        return self.family.network.overflows_in_fp16(self.unet.config)  # type: ignore[arg-type]

    def targets(self, role: Role) -> dict[str, list[str]]:
        """Component name -> canonical module paths that play `role`, in module order. KeyError for an unknown role."""
        pattern = re.compile((self.family.network.roles | TEXT_ROLES)[role])  # type: ignore[operator]
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
            # T5 has no token that begins a text.
            start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            ids = [*start, *self._ids(prompt, component)[: length - len(start) - 1], tokenizer.eos_token_id]
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

        words = list(self.words)
        places: dict[str, range] = {}
        first = len(self._table(component).weight)
        for word in words:
            # Of a word without vectors for it (an SDXL's on SD3) T5 reads nothing, as in ComfyUI.
            count = len(self.words[word].get(component, ()))
            places[word.casefold()] = range(first, first + count)
            first += count
        if not words:
            return plain(text)
        ids: list[int] = []
        # Looked for as they are written: folding the case makes two letters of some, such as the German sharp s.
        for number, part in enumerate(split_words(text, words)):
            place = places.get(part.casefold()) if number % 2 else None
            if place is not None:
                ids += place
            elif part.strip():
                ids += plain(part.strip())
        return ids

    def _table(self, component: str) -> nn.Embedding:
        return self.module(component, self.family.tower(component).table)  # type: ignore[return-value]

    def count_tokens(self, text: str) -> tuple[int, ...]:
        chunked = (name for name, encoder in self.text_encoders.items() if reads_in_chunks(encoder))
        return tuple(len(self._ids(text, component)) for component in chunked)

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
        """Prompts to conditioning, differentiable. What is longer than CLIP reads becomes chunks of that length, each with
        its own start and end, joined along the tokens; pooled is the first chunk's. A new word (see `words`) becomes its
        vectors, one token each. SD1 and SD2 give the final hidden state after the final norm (SD2's 23 layers are
        open_clip's 24 without the last: its penultimate state). SDXL joins both encoders' penultimate states, unnormed,
        and adds the second's projection of the end token. Sources: Podell et al. 2023 (SDXL), 2.1; Stability's
        `FrozenOpenCLIPEmbedder`; SD3's stands in `sd3.py`. `size_px` is (width, height) for SDXL's size conditioning,
        uncropped; the native size if None."""
        chunks = [texts(prompt, self.count_tokens, limit_of(self)) for prompt in prompts]
        if all(len(parts) == 1 for parts in chunks):
            return self._joined({name: self._read(name, prompts) for name in self.text_encoders}, size_px)
        # Each alone: its bits must not depend on its neighbours.
        rows = [[[(part, 1.0)] for part in parts] for parts in chunks]
        return Conditioning.join(
            [self.encode_weighted(row, lambda states, _weights: states, size_px=size_px) for row in rows]
        )

    def encode_weighted(
        self, chunks: Sequence[WeightedText], rescale: Rescale, *, size_px: tuple[int, int] | None = None
    ) -> Conditioning:
        import torch

        found: dict[str, Read] = {}
        for component, encoder in self.text_encoders.items():
            whole = [tuple(word for chunk in chunks for word in chunk)]
            reads = []
            for words in chunks if reads_in_chunks(encoder) else whole:
                states_BSD, pooled_BP = self._read(component, [" ".join(text for text, _weight in words)])
                if any(weight != 1 for _text, weight in words):
                    states_BSD = rescale(states_BSD, self._weights(component, words, states_BSD.shape[1]))
                reads.append((states_BSD, pooled_BP))
            found[component] = torch.cat([states for states, _pooled in reads], dim=1), reads[0][1]
        return self._joined(found, size_px)

    def _weights(self, component: str, words: WeightedText, length: int) -> list[float]:
        """A weight for each token: of what begins a text 1, then the words', 1 for all that comes behind."""
        begins = self.tokenizers[tokenizer_of(component)].bos_token_id is not None
        weights = [1.0] * begins
        for text, weight in words:
            weights += [weight] * len(self._ids(text, component))
        return (weights + [1.0] * length)[:length]

    def _read(self, component: str, prompts: Sequence[str]) -> Read:
        """What a text encoder says to prompts that it reads at once; what is too long is cut off."""
        import torch

        encoder, tokenizer = self.text_encoders[component], self.tokenizers[tokenizer_of(component)]
        positions = int(getattr(encoder.config, "max_position_embeddings", tokenizer.model_max_length))
        longest = min(int(tokenizer.model_max_length), positions)
        ids_BS = self.token_ids(prompts, component, longest).to(self.device)
        is_clip = reads_in_chunks(encoder)
        earlier = is_clip and (self.family.penultimate or self.clip_skip > 1)
        with self._reading_words(component):
            out = encoder(input_ids=ids_BS, output_hidden_states=earlier, return_dict=True)
        if not earlier:
            states_BSD: Tensor = out.last_hidden_state
        elif self.family.penultimate:
            states_BSD = out.hidden_states[-2]
        else:
            # As the A1111 web UI and sd-scripts do: the final norm is for the last layer, and put on this one.
            norm = self.module(component, "text_model.final_layer_norm")
            states_BSD = norm(out.hidden_states[-self.clip_skip])
        if not hasattr(encoder, "text_projection"):
            return states_BSD, None
        # transformers finds the end token as the highest id, which a word added to the vocabulary would be.
        ends_B = (ids_BS == tokenizer.eos_token_id).int().argmax(-1)
        rows_B = torch.arange(len(prompts), device=ids_BS.device)
        return states_BSD, encoder.text_projection(out.last_hidden_state[rows_B, ends_B])  # type: ignore[operator]

    def _joined(self, read: Mapping[str, Read], size_px: tuple[int, int] | None) -> Conditioning:
        import torch

        if self.family.join_text is not None:
            return self.family.join_text(self, read)
        tokens_BSD = torch.cat([states_BSD for states_BSD, _pooled in read.values()], dim=-1)
        pooled_BP = next((pooled for _states, pooled in reversed(list(read.values())) if pooled is not None), None)
        if pooled_BP is None:
            return Conditioning(tokens_BSD)
        width, height = size_px or (self.native_size_px, self.native_size_px)
        ids = torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=torch.float32)
        return Conditioning(tokens_BSD, pooled_BP, ids.repeat(len(tokens_BSD), 1))

    def encode_images(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels in -1..1, sides multiples of `latent_factor`, to scaled float32 latents: the posterior mean."""
        weight = next(self.vae.parameters())
        latents_BCHW: Tensor = self.vae.encode(pixels_B3HW.to(weight.device, weight.dtype)).latent_dist.mean  # type: ignore[operator]
        return (latents_BCHW - self.latent_shift) * self.latent_scale

    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        weight = next(self.vae.parameters())
        scaled_BCHW = latents_BCHW.to(weight.device, weight.dtype) / self.latent_scale + self.latent_shift
        pixels_B3HW: Tensor = self.vae.decode(scaled_BCHW).sample  # type: ignore[operator]
        return pixels_B3HW.clamp(-1, 1)

    def denoise(self, noisy_BCHW: Tensor, t_B: Tensor, cond: Conditioning) -> Tensor:
        given_BCHW = noisy_BCHW
        if self.inpaints and noisy_BCHW.shape[1] == self.facts.latent_channels:
            given_BCHW = self._under_a_mask(noisy_BCHW)
        out_BCHW = self.family.network.denoise(self.unet, given_BCHW.to(self.dtype), t_B, cond)
        return out_BCHW.to(noisy_BCHW.dtype)

    def _under_a_mask(self, noisy_BCHW: Tensor) -> Tensor:
        import torch

        rows, _channels, height, width = noisy_BCHW.shape
        key = self.vae, height, width
        if key not in self._whole:
            self._whole[key] = inpainting.given_whole(self, noisy_BCHW[:1])
        return torch.cat([noisy_BCHW, self._whole[key].to(noisy_BCHW).expand(rows, -1, -1, -1)], dim=1)


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
