"""Which layers a LoRA adapts, and at which rank and alpha: by short names, or by peft's patterns. No torch here.

`targets` is peft's `target_modules` as one text: a regular expression of a whole path. The patterns of ranks and alphas
are of the end of a path, and the first that matches counts (`peft.utils.other.get_pattern_key`). A path may begin with its
component: `unet.mid_block.attentions.0.proj_in`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Final

from tsuika.core.errors import RecipeError
from tsuika.core.texts import Text, _
from tsuika.core.types import Model, Role
from tsuika.methods.layers import weight_shapes

if TYPE_CHECKING:
    from tsuika.methods.lora import Lora

# Short names; `attention-ff` is what kohya's sd-scripts adapt without conv_dim.
USUAL: Final = "attention-ff"
EVERY: Final = "attention-ff-conv"
ROLES: Final[Mapping[str, tuple[Role, ...]]] = {
    "attention": ("unet.attn",),
    USUAL: ("unet.attn", "unet.ff"),
    EVERY: ("unet.attn", "unet.ff", "unet.conv"),
}
_OF_TEXT: Final[Mapping[Role, Role]] = {"unet.attn": "text.attn", "unet.ff": "text.ff"}


@dataclass(frozen=True)
class Adapted:
    """One layer that is adapted; its scale is alpha / rank."""

    shape: tuple[int, ...]
    rank: int
    alpha: float


def fault_of(pattern: str) -> Text | None:
    """Why a text is no regular expression; None where it is one."""
    try:
        re.compile(f"(?:{pattern})")
    except re.error as error:
        return _("`{pattern}` is no regular expression: {error}", pattern=pattern, error=error)
    return None


def fault_of_number(entry: str, *, whole: bool) -> Text | None:
    """Why an entry is no `PATTERN=NUMBER`; None where it is one. `whole`: a whole number from 1 to 1024."""
    pattern, equals, number = entry.rpartition("=")
    try:
        value = int(number) if whole else float(number)
    except ValueError:
        value = 0
    if not equals or not pattern or not 0 < value <= (1024 if whole else math.inf) or not math.isfinite(value):
        return _("`{entry}` is no PATTERN=NUMBER, such as `mid_block.*=8`.", entry=entry)
    return fault_of(pattern)


def roles(settings: Lora) -> tuple[Role, ...]:
    """The roles of layers that may be adapted; a regular expression chooses among all of them."""
    unet = ROLES.get(settings.targets or USUAL, ROLES[EVERY])
    if settings.conv and "unet.conv" not in unet:
        unet = (*unet, "unet.conv")
    return (*unet, *(_OF_TEXT[role] for role in unet if role in _OF_TEXT)) if settings.text_encoder else unet


def adapted(settings: Lora, model: Model) -> dict[str, Adapted]:
    """Each layer that is adapted, by `<component>.<canonical path>`. Raises RecipeError (RC002): a pattern is of no
    layer."""
    shapes = weight_shapes(model, roles(settings))
    if settings.targets and settings.targets not in ROLES:
        whole = re.compile(rf"(?:\w+\.)?(?:{settings.targets})")
        found = {name: shape for name, shape in shapes.items() if whole.fullmatch(name)}
        if not found or (settings.text_encoder and not any(name.startswith("text") for name in found)):
            raise _of_nothing("targets", settings.targets, shapes)
        shapes = found
    ranks, alphas = (_Patterns(entries) for entries in (settings.rank_pattern, settings.alpha_pattern))
    layers = {name: _layer(settings, shape, ranks.of(name), alphas.of(name)) for name, shape in shapes.items()}
    for key, patterns in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        if unused := patterns.unused:
            raise _of_nothing(key, unused[0], shapes)
    return layers


def _layer(settings: Lora, shape: tuple[int, ...], rank: float | None, alpha: float | None) -> Adapted:
    usual = (settings.conv_rank or settings.rank) if prod(shape[2:]) > 1 else settings.rank
    own = usual if rank is None else int(rank)
    if alpha is None:
        alpha = settings.alpha * own / settings.rank if settings.alpha else float(own)
    return Adapted(shape, own, alpha * math.sqrt(own) if settings.rank_stabilized else alpha)


class _Patterns:
    """Numbers by pattern, and which patterns were of no layer."""

    def __init__(self, entries: Iterable[str]) -> None:
        rows = (entry.rpartition("=") for entry in entries)
        self._rows = {pattern: (re.compile(rf"(?:.*\.)?(?:{pattern})"), float(n)) for pattern, _equals, n in rows}
        self._used: set[str] = set()

    def of(self, name: str) -> float | None:
        for pattern, (compiled, number) in self._rows.items():
            if compiled.fullmatch(name):
                self._used.add(pattern)
                return number
        return None

    @property
    def unused(self) -> list[str]:
        return [pattern for pattern in self._rows if pattern not in self._used]


def _of_nothing(key: str, pattern: str, names: Iterable[str]) -> RecipeError:
    why = _("It is of no layer that it could be for. Their names are like `{example}`.", example=min(names, default=""))
    return RecipeError("RC002", key=f"method.{key}", found=pattern, why=why)
