"""A frozen base in a byte a weight or less: its attention and feed-forward layers, through torchao. What trains stands beside them
and has its own precision."""

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
    """Replace the weights of `layers`. A UNet that waits elsewhere is moved to the model's device on the way, layer by layer: it
    is nowhere whole there. Layers whose size NF4 does not divide stay as they are."""
    if kind == "none":
        return
    for layer in layers(model):
        _replace(layer.to(model.device), kind)
    model.unet.to(model.device)


def _replace(layer: nn.Linear, kind: Kind) -> None:
    from torch import nn

    library = _torchao()
    if kind != "nf4":
        library.quantize_(layer, library.Int8WeightOnlyConfig() if kind == "int8" else library.Float8WeightOnlyConfig())
        return
    blocks, rest = divmod(layer.weight.numel(), _BLOCK)
    if not rest:
        quantized = library.to_nf4(layer.weight.data, _BLOCK, math.gcd(blocks, _SCALES))
        layer.weight = nn.Parameter(quantized, requires_grad=False)


def _torchao() -> Any:
    """Its functions; ImportError where they are not there, or a release has others."""
    import torchao.quantization as library
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_, to_nf4  # noqa: F401

    return library
