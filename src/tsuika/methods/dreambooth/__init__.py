"""DreamBooth: the whole UNet learns the subject (Ruiz et al. 2023), into a new checkpoint. Settings and use; no torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, Literal

from tsuika.core.section import expert
from tsuika.core.sections import Data
from tsuika.core.texts import Text, _
from tsuika.core.types import Model, model_tensors
from tsuika.methods.guidance import RUIZ, YEH, Claim, Guidance
from tsuika.methods.method import TEXT_RATE, TEXT_RATE_2, TRAINS_TEXT, Method, MethodSection, Outline, text_rates
from tsuika.methods.uses import Result, Use, in_diffusers, in_sd_scripts, in_tsuika


class DreamBooth(MethodSection):
    """The whole UNet, and the text encoders if wished (Ruiz et al. 2023): a new checkpoint."""

    defaults: ClassVar[Mapping[str, Any]] = {"train.learning_rate": 2e-6, "train.ema": 0.0, "data.caption_dropout": 0.0}
    # Fewer images are overfitted much sooner: of 17 lanes without some, compared with those of all images, the true best
    # step lay at a power of 2 (median; bench/guard, 3-10 images). Where some are held out once nothing is gained by it, on average
    # (bench/guard/frontier.py).
    few_growth: ClassVar[float] = 2.0

    name: Literal["dreambooth"] = "dreambooth"
    text_encoder: bool = TRAINS_TEXT
    text_learning_rate: float = TEXT_RATE
    text_learning_rate_2: float = TEXT_RATE_2
    weights: Literal["fp32", "bf16"] = expert(
        "fp32", "Precision of the trained weights: fp32, or bf16 with stochastic rounding, which takes half the memory"
    )

    def fits_quantized(self, kind: str) -> bool:
        """The base's own weights are what it trains."""
        return False

    @property
    def bytes_per_weight(self) -> int:
        """As `weights` says."""
        return 2 if self.weights == "bf16" else 4

    @property
    def some_unused(self) -> bool:
        """SDXL reads text before the last layer."""
        return self.text_encoder


def outline(settings: DreamBooth, data: Data, model: Model) -> Outline:
    """Every weight that is trained."""
    text_rates(model, settings.text_learning_rate, settings.text_learning_rate_2)
    parts = ["unet", *(model.targets("text.attn") if settings.text_encoder else ())]
    whole = {name: tuple(t.shape) for name, t in model_tensors(model).items() if name.partition(".")[0] in parts}
    return Outline({name: shape for name, shape in whole.items() if name not in model.fixed})


def uses(result: Result) -> Iterator[Use]:
    """The result is a base."""
    file, folder = result.first(".safetensors"), result.first("")
    if file is None:
        return

    def as_model(program: str, place: str, note: Text | None = None) -> Use:
        how = _(
            "Put `{file}` into `{folder}`, choose it as the model, and use a prompt like this:",
            file=file.name,
            folder=place,
        )
        return Use(program, how, result.prompt, file.name, place, note)

    yaml = _(
        "If there is a `.yaml` file of the same name, put it into the same folder: it says that the model predicts v."
    )
    yield from in_tsuika(result, "--base", folder or file)
    if result.is_joint:
        yield as_model("Forge", "models/Stable-diffusion/")
    else:
        yield as_model("A1111 / Forge", "models/Stable-diffusion/", yaml)
    yield as_model("ComfyUI", "models/checkpoints/")
    yield from in_diffusers(result, [], source=str(folder or file))
    if not result.on_embedded and not result.is_joint:
        yield from in_sd_scripts(result, [], source=str(file))


GUIDANCE: Final = Guidance(
    place=2,
    steps=1500,
    growth=0.44,
    embedded_growth=0.3,
    goals=("character",),
    frugal={"method.weights": "bf16", "train.optimizer": "adafactor"},
    reg_images=100,
    said_for={
        "": Claim(
            _(
                "DreamBooth shows the subject better than Textual Inversion: DINO 0.668 against 0.569; 68% of users preferred it,"
                " 22% the other."
            ),
            RUIZ,
        )
    },
    said_against=Claim(
        _("Training all weights is best in likeness only at the right learning rate; at a wrong one it is worst."), YEH
    ),
)

METHOD: Final = Method(
    settings=DreamBooth,
    title=_("DreamBooth"),
    module="tsuika.methods.dreambooth.weights",
    images=(10, 20),
    whole_model=True,
    backward="all",
    outline=outline,
    uses=uses,
    guidance=GUIDANCE,
)
