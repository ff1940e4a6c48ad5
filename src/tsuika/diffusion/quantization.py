"""A frozen base in a byte a weight or less: its attention and feed-forward layers, through torchao. What trains stands beside them
and has its own precision. Loading needs the whole base once; each layer is then replaced by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

from tsuika.core.errors import RecipeError
from tsuika.core.texts import _
from tsuika.core.types import Model

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["none", "int8", "fp8", "nf4"]

# Bytes of a weight: int8 and fp8 have a scale for each output; NF4 (Dettmers et al. 2023, QLoRA) has half a byte, one for each 64
# weights, and those in a byte.
BYTES: Final[dict[Kind, float]] = {"int8": 1.0, "fp8": 1.0, "nf4": 0.52}
_BLOCK: Final = 64
_SCALES: Final = 256


def check(kind: Kind) -> None:
    """Raises RecipeError (RC002): torchao is not here, or does not load."""
    if kind == "none":
        return
    try:
        _torchao()
    except ImportError as error:
        why = _("It needs a package: pip install {name} ({error})", name="torchao", error=error)
        raise RecipeError("RC002", key="base.quantize", found=kind, why=why) from None


def layers(model: Model) -> Iterator[nn.Linear]:
    """What is quantised: linear layers of attention and feed-forward parts of the UNet or transformer, without what is around them."""
    from torch import nn

    for role in ("unet.attn", "unet.ff"):
        for path in model.targets(role).get("unet", ()):
            module = model.module("unet", path)
            while isinstance(inner := getattr(module, "base_layer", None), nn.Module):  # peft's, of an artifact
                module = inner
            if isinstance(module, nn.Linear):
                yield module


def quantize(model: Model, kind: Kind) -> None:
    """Replace the weights of `layers`. Layers whose size NF4 does not divide stay as they are."""
    if kind == "none":
        return
    from torch import nn

    library, chosen = _torchao(), list(layers(model))
    if kind == "nf4":
        for layer in chosen:
            blocks, rest = divmod(layer.weight.numel(), _BLOCK)
            if not rest:
                quantized = library.to_nf4(layer.weight.data, _BLOCK, math.gcd(blocks, _SCALES))
                layer.weight = nn.Parameter(quantized, requires_grad=False)
        return
    config = library.Int8WeightOnlyConfig() if kind == "int8" else library.Float8WeightOnlyConfig()
    for layer in chosen:
        library.quantize_(layer, config)


def _torchao() -> Any:
    """Its functions; ImportError where they are not there, or a release has others."""
    import torchao.quantization as library
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_, to_nf4  # noqa: F401

    return library
