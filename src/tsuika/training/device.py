"""Where and in which precision things are computed."""

from __future__ import annotations

from typing import Final

import torch

from tsuika.core.errors import RecipeError, no_such

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(requested: str) -> torch.device:
    """`auto` is CUDA, then Apple's MPS, then the CPU. Raises RecipeError (RC002): no such device here."""
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(requested)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError("RC002", key="train.device", found=requested, why=str(error).splitlines()[0]) from None
    return device


def pick_precision(requested: str, device: torch.device) -> str:
    """`auto` is bf16 where the hardware multiplies it, fp16 on older CUDA, else fp32. Raises RecipeError (RC002): none of these."""
    if requested in DTYPES:
        return requested
    if requested != "auto":
        raise no_such("precision", requested, ("auto", *DTYPES))
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16"
    return "fp32"
