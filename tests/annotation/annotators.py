"""Tiny models made on the spot: a BLIP and a CLIPSeg with random weights, and taggers whose answers follow from the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from tiny_models import write_tokenizer

SIZE = 8
ROWS = [
    ("9999999", "general", 9),  # the rating
    ("1", "blue_sky", 0),
    ("2", "green_(color)", 0),
    ("3", "red_hair", 0),
    ("4", "^_^", 0),
    ("5", "tsuipi_(mascot)", 4),
]
# Which channel (as the network reads them) each row's probability is the mean of.
CHANNELS = [0, 0, 1, 2, 2, 2]


def tagger(folder: Path, rows: list[tuple[str, str, int]] = ROWS, scale: float = 255.0) -> Path:
    """A tagger: of each row the probability is the mean of one channel over 255."""
    folder.mkdir(parents=True)
    which = np.zeros((3, len(CHANNELS)), dtype=np.float32)
    for column, channel in enumerate(CHANNELS):
        which[channel, column] = 1 / scale
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["means", "which"], ["probabilities"]),
        ],
        "tagger",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(CHANNELS)])],
        [numpy_helper.from_array(which, "which")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "model.onnx"
    )
    lines = ["tag_id,name,category,count", *(f"{key},{name},{category},1" for key, name, category in rows)]
    (folder / "selected_tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def blip(folder: Path) -> Path:
    """A BLIP of a few thousand random weights with a tokenizer of thirty words."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip import image_processing_pil_blip as images

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", *(f"word{number}" for number in range(25))]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), bos_token="[DEC]")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BlipConfig(
        text_config={
            **sizes,
            **{"vocab_size": len(words), "encoder_hidden_size": 16, "max_position_embeddings": 70, "projection_dim": 8},
            **{"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0},
        },
        vision_config={**sizes, "image_size": 16, "patch_size": 8, "projection_dim": 8},
        projection_dim=8,
    )
    torch.manual_seed(3)
    processor = images.BlipImageProcessorPil(size={"height": 16, "width": 16})
    return saved(folder, BlipForConditionalGeneration(config), BlipProcessor(processor, tokenizer), 0.5)


def clipseg(folder: Path) -> Path:
    """A CLIPSeg of a few thousand random weights."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, CLIPTokenizer
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    tokenizer = CLIPTokenizer.from_pretrained(write_tokenizer(folder))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPSegConfig(
        text_config={**sizes, **words, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    torch.manual_seed(1)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    return saved(folder, CLIPSegForImageSegmentation(config), CLIPSegProcessor(processor, tokenizer), 0.4)


def saved(folder: Path, model: Any, processor: Any, spread: float) -> Path:
    """A model with random weights of a spread, and its processor, as their library saves them."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, spread)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its relative path."""
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}
