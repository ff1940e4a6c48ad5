"""The base's tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from base.plan import MAX_TOKENS
from base.scenes import caption, scene
from tsuika.embedded.world import BACKGROUNDS, article, where

START, END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORDS: Final = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(
    folder: Path, seed: int, strangers: Sequence[str], captions: int = 40_000, size: int = 1500
) -> None:
    """A byte-level BPE in CLIP's own format (`</w>` word ends), learnt on captions of scenes and of `strangers`.

    Strangers are names of things outside the vocabulary: a word that is learnt later should not fall apart into letters.
    """
    rng = np.random.default_rng([seed, 0])
    texts = [caption(scene(rng), rng) for _ in range(captions // 2)]
    for _ in range(captions // 2):
        name, background = strangers[rng.integers(len(strangers))], BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
        texts.append(f"{article(name.replace('-', ' '))} {where(background, int(rng.integers(3)))}")
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]
    ]
    symbols = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(merge.split(" ")) for merge in merges)]
    vocabulary = {symbol: i for i, symbol in enumerate(dict.fromkeys([*symbols, START, END]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "bos_token": START, "eos_token": END,
        "unk_token": END, "pad_token": END, "do_lower_case": True, "errors": "replace", "add_prefix_space": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
