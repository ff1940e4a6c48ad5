"""DreamBooth: the whole UNet, and the text encoders if wished, learn the subject (Ruiz et al. 2023). What prior
preservation needs, images of the class, comes with the data. Knows a model only through `core.types.Model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tsuika.core.spill import spilled
from tsuika.core.texts import _
from tsuika.core.types import Artifact, Model, ParamGroup, Role, Update
from tsuika.methods.common import by_side, copy_in, incompatible
from tsuika.methods.dreambooth import DreamBooth as Config
from tsuika.methods.method import text_rates
from tsuika.methods.replacing import Slot, own_buffers, own_parameters, twins
from tsuika.methods.whole_model import metadata_of

UNET_ROLES: tuple[Role, ...] = ("unet.attn", "unet.ff", "unet.conv")
TEXT_ROLES: tuple[Role, ...] = ("text.attn", "text.ff", "text.tokens")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
EXTRA = "extra"  # stands for a component in an artifact's names: tensors that no part needs, see `Model.extra_tensors`


@dataclass
class DreamBoothAttachment:
    """Other weights in the place of the base's. See `core.types.Attachment`. The base's own parameters are kept, of a
    large model in a file, so strength 0 and `detach` give them back themselves. Of several attachments of this kind on
    one model, the last one must go first; LoRA layers may come and go in any order."""

    model: Model
    slots: list[Slot]
    trains: frozenset[Role]
    text_rates: tuple[float, float] = (0.0, 0.0)
    metadata: dict[str, str] = field(default_factory=dict)

    def param_groups(self) -> list[ParamGroup]:
        return by_side(((slot.component, slot.trained) for slot in self.slots), self.text_rates)

    def updates(self) -> list[Update]:
        """Every tensor for itself; its start is the base's own."""
        return [Update("weights", [slot.trained], [slot.base.detach().to(slot.trained.device)]) for slot in self.slots]

    def tensors(self) -> dict[str, Tensor]:
        return {slot.key: slot.trained.data for slot in self.slots}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        copy_in(self.tensors(), tensors)

    def set_strength(self, strength: float) -> None:
        """W0 + strength (W1 - W0); at 0 the base's own parameters stand in their places, at 1 the trained ones."""
        for slot in self.slots:
            if strength in (0.0, 1.0):
                slot.put(slot.trained if strength else slot.base)
            else:
                mixed = torch.lerp(slot.base.detach().float(), slot.trained.detach().float(), strength)
                slot.put(nn.Parameter(mixed.to(slot.trained.dtype), requires_grad=False))

    def detach(self) -> None:
        for slot in self.slots:
            slot.base.data = slot.base.data.to(slot.trained.device)
            slot.put(slot.base)
        self.slots = []

    def artifact(self) -> Artifact:
        """The whole model with the trained weights in it: live tensors, not copies, as it is too large to hold twice.
        Adapters that lie on the model are not in it."""
        trained = self.tensors()
        tensors = {
            f"{component}.{path}": trained.get(f"{component}.{path}", owner._parameters[leaf].data)  # type: ignore[union-attr]
            for component, root in self.model.components.items()
            for path, owner, leaf in own_parameters(component, root)
        }
        for component, root in self.model.components.items():
            tensors |= {f"{component}.{path}": value for path, value in own_buffers(component, root)}
        tensors |= {f"{EXTRA}.{name}": value for name, value in self.model.extra_tensors.items()}
        return Artifact("dreambooth", self.model.facts.family, tensors, metadata_of(self.model) | self.metadata)


def attach(model: Model, config: Config, generator: torch.Generator) -> DreamBoothAttachment:
    """Copies of the UNet's (and the CLIP text encoders') weights in their place, trainable, in `config.weights` precision.
    The model's outputs do not change where it was loaded in that precision; a bf16 base with fp32 weights, or the other
    way round, computes the same numbers with another rounding."""
    del generator  # nothing starts at random
    dtype = DTYPES[config.weights]
    parts = ["unet", *(model.targets("text.attn") if config.text_encoder else ())]
    slots = []
    for component in parts:
        for path, owner, leaf in list(own_parameters(component, model.components[component])):
            if f"{component}.{path}" in model.fixed:
                continue
            base: Any = owner._parameters[leaf]
            trained = nn.Parameter(base.detach().to(dtype, copy=True))
            slots.append(Slot(component, path, owner, leaf, base, trained))
    for slot, kept in zip(slots, spilled([slot.base.data for slot in slots]), strict=True):
        slot.base.data = kept
    attachment = DreamBoothAttachment(
        model,
        slots,
        frozenset((*UNET_ROLES, *(TEXT_ROLES if config.text_encoder else ()))),
        text_rates(model, config.text_learning_rate, config.text_learning_rate_2),
    )
    attachment.set_strength(1.0)
    return attachment


def restore(model: Model, artifact: Artifact) -> DreamBoothAttachment:
    """Lay the UNet and the text encoders of a whole model over this one, frozen, in this one's precision. The VAE
    stays: it is the latent space that both share. Raises ModelError: MD004, a tensor is missing, unknown, or of another
    shape."""
    given = {name: value for name, value in artifact.tensors.items() if name.partition(".")[0] not in ("vae", EXTRA)}
    slots, wrong = [], set(given)
    whole = {name.partition(".")[0] for name in given}
    for component, root in model.components.items():
        again = twins(root)
        for path, owner, leaf in own_parameters(component, root) if component in whole else ():
            base: Any = owner._parameters[leaf]
            tensor = given.get(name := f"{component}.{path}")
            if tensor is None or tensor.shape != base.shape:
                wrong.add(name)
                continue
            wrong.discard(name)
            laid = nn.Parameter(tensor.to(base.device, base.dtype, copy=True), requires_grad=False)
            slots.append(Slot(component, path, owner, leaf, base, laid, again.get(id(base), ())))
    for component, root in model.components.items():
        for path, value in own_buffers(component, root):
            name = f"{component}.{path}"
            if name in given and given[name].shape == value.shape:
                wrong.discard(name)
    if wrong or artifact.family != model.facts.family:
        this = _("This checkpoint")
        raise incompatible(min(wrong, default=artifact.family), this, artifact, model)
    attachment = DreamBoothAttachment(model, slots, frozenset(), metadata=dict(artifact.metadata))
    attachment.set_strength(1.0)
    return attachment
