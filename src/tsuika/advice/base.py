"""The base that advice is for: its family and sizes, from headers alone, whether it lies here or is only named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tsuika import families
from tsuika.core.errors import ModelError
from tsuika.core.files import at_home
from tsuika.core.texts import _
from tsuika.core.types import FewSteps, Prediction
from tsuika.families import Family, Geometry, few_steps

if TYPE_CHECKING:
    from tsuika.families import StableDiffusion

T = TypeVar("T")
NAMES: Final = tuple(row.name for row in families.FAMILIES)  # in place of a base that is not here
_HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class KnownBase:
    """What is known of a base without its weights."""

    name: str  # as it was given; goes into recipes
    family: Family
    prediction: Prediction
    geometry: Geometry
    at_hand: bool  # False: no file of it was seen
    guessed: bool = False  # the family is told from the name alone
    few_steps: FewSteps | None = None
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # what was counted once

    @property
    def is_embedded(self) -> bool:
        """The small base in the box, whose world is not that of photographs."""
        return self.name == "embedded"

    @property
    def size_px(self) -> int:
        return self.geometry.native_size_px

    @property
    def latent_factor(self) -> int:
        """Pixels by latent cell, each way."""
        return self.geometry.latent_factor

    @cached_property
    def outline(self) -> StableDiffusion:
        """The model's modules without weights, on the meta device: names, shapes, roles."""
        import torch

        from tsuika.families import StableDiffusion
        from tsuika.families.common import build_vae, scheduler_config

        geometry, towers = self.geometry, self.family.towers
        with torch.device("meta"):
            return StableDiffusion(
                family=self.family,
                prediction=self.prediction,
                unet=self.family.network.build(geometry.unet),
                vae=build_vae(geometry.vae),
                text_encoders={
                    t.component: t.build(geometry.text[t.component]) for t in towers if t.component in geometry.text
                },
                tokenizers={},
                scheduler_config=scheduler_config(self.prediction, flow_shift=self.family.flow_shift),
                latent_scale=self.family.facts.latent_scale,
                native_size_px=geometry.native_size_px,
                source=self.name,
            )

    def numbers(self, component: str) -> int:
        """How many weights a component has."""
        parameters = self.outline.components[component].parameters
        return self.once(f"numbers {component}", lambda: sum(one.numel() for one in parameters()))

    def once(self, key: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once for this base."""
        if key not in self.memo:
            self.memo[key] = make()
        found: T = self.memo[key]
        return found


def describe_base(name: str, embedded: Path) -> KnownBase:
    """The base called `name`: `embedded`, a folder, a file, a hub id; or `sd1`, `sd2`, `sdxl` for one that is not here.

    Raises:
        ModelError: no such file, and no name of that kind either (MD001); no Stable Diffusion (MD002, MD003, MD005).
    """
    path = embedded if name == "embedded" else at_home(name)
    if path.exists():
        found = families.peek(path)
        return KnownBase(name, found.family, found.prediction, found.geometry, at_hand=True, few_steps=found.few_steps)
    if name not in NAMES and not _HUB_ID.fullmatch(name):
        names = ", ".join(NAMES)
        why = _("There is no such file or folder. Without one: --base {names}", names=names)
        raise ModelError("MD001", where=name, why=why)
    kind = families.family(name) if name in NAMES else families.guess(name)
    prediction = kind.facts.prediction
    return KnownBase(
        name,
        kind,
        prediction,
        kind.geometry(prediction),
        at_hand=False,
        guessed=name not in NAMES,
        few_steps=few_steps.of_name(name.rpartition("/")[2]),
    )
