"""The recipe's `[method]` section, one class a method: what it learns with, and what it changes in the other defaults.

A new method is one class here, in `METHOD_SECTIONS`, and one file in `tsuika.methods`. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from tsuika.core.errors import RecipeError
from tsuika.core.section import Help, Section, expert
from tsuika.core.sections import Data
from tsuika.core.texts import _
from tsuika.core.words import Words

Activation = Literal["linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid", "softsign", "mish"]


# Settings of methods that can train text encoders.
TextEncoder = Annotated[bool, Help(_("Train the text encoders as well"))]
TextLearningRate = Annotated[
    float, expert(_("Learning rate of the text encoders; 0 = a tenth of the main one")), Field(ge=0, le=1)
]


class MethodSection(Section):
    """What every method's section has beside its own settings."""

    defaults: ClassVar[Mapping[str, Any]] = {}  # dotted key -> this method's default, where it is not the common one
    # The best step grows with the number of pictures to this power. 1: as many passes over each picture; bench/guard finds
    # 1.5 pp of regret with it and 2.0 with the 0.55 that 18 runs of SD1.5 on 10-270 pictures suggest.
    growth: ClassVar[float] = 1.0
    # Cross-validation folds of 4 to 9 images; 0: each image is left out in turn.
    few_folds: ClassVar[int] = 0

    @property
    def new_words(self) -> tuple[str, ...]:
        """Words that must stand in captions, or nothing is learnt of them."""
        return ()

    @property
    def some_unused(self) -> bool:
        """Whether a step may leave some trained weights out, which several processes must know beforehand."""
        return False

    def completed(self, data: Data) -> MethodSection:
        """This section with what it takes over from the pictures' section.

        Raises:
            RecipeError: what it needs is missing (RC005) or cannot be used (RC002).
        """
        return self


class Lora(MethodSection):
    """Low-rank adaptation (Hu et al. 2021) and its relatives, through peft."""

    name: Literal["lora"] = "lora"
    adapter: Annotated[
        Literal["lora", "dora", "loha", "lokr", "oft"],
        expert(
            _(
                "Kind of adapter; `oft` has no file format yet (from the library only), and only `lora` loads in "
                "every program"
            )
        ),
    ] = "lora"
    rank: Annotated[int, Help(_("Rank (dim): how much can be learned, and the file's size")), Field(ge=1, le=1024)] = 16
    alpha: Annotated[float, expert(_("Alpha: the scale is alpha / rank; 0 = same as rank")), Field(ge=0)] = 0.0
    rank_stabilized: Annotated[bool, expert(_("rsLoRA: scale by alpha / sqrt(rank) (Kalajdzievski 2023)"))] = False
    conv: Annotated[bool, expert(_("Adapt convolutions as well (LoCon)"))] = False
    conv_rank: Annotated[int, expert(_("Rank of 3x3 convolutions; 0 = same as rank")), Field(ge=0, le=1024)] = 0
    text_encoder: TextEncoder = False
    text_learning_rate: TextLearningRate = 0.0
    dropout: Annotated[float, expert(_("Dropout inside the adapter")), Field(ge=0, lt=1)] = 0.0

    @property
    def some_unused(self) -> bool:
        """SDXL reads text before the last layer, and a whole adapter can drop out."""
        return self.text_encoder or self.dropout > 0


class TextualInversion(MethodSection):
    """New words: vectors in the text encoders' vocabulary (Gal et al. 2023), nothing else."""

    defaults: ClassVar[Mapping[str, Any]] = {
        # radians a step: what Kim et al. 2026 use for SDXL
        "train.steps": 1000,
        "train.optimizer": "riemannian",
        "train.learning_rate": 1e-2,
        "train.ema": 0.0,
        "data.template": "object",
        "data.caption_dropout": 0.0,
    }

    name: Literal["textual-inversion"] = "textual-inversion"
    words: Annotated[tuple[str, ...], expert(_("The new words, if there are several; none = the trigger word"))] = ()
    vectors: Annotated[
        int, Help(_("Vectors per word: more can hold more, and take more room in the prompt")), Field(ge=1, le=16)
    ] = 1
    init: Annotated[
        str,
        Help(
            _("Start of the vectors: a word, several words, or `noise`; empty = the class word, or noise without one")
        ),
    ] = ""

    @property
    def new_words(self) -> tuple[str, ...]:
        """All of them."""
        return self.words

    @property
    def some_unused(self) -> bool:
        """A batch whose captions were all dropped holds no new word."""
        return True

    def completed(self, data: Data) -> MethodSection:
        """Words from the trigger word, and where they start from the class word, where this section is silent."""
        words = self.words or tuple(filter(None, [data.trigger.strip()]))
        if not words:
            raise RecipeError("RC005", found="--trigger", do="tsuika train textual-inversion --trigger WORD …")
        check_words(words, key="method.words" if self.words else "data.trigger")
        return self.model_copy(update={"words": words, "init": self.init or data.class_word or "noise"})


def is_usable_word(word: str) -> bool:
    """Whether a prompt can hold it as one word: nothing that separates words, or that the prompt syntax reads."""
    return bool(word) and re.search(r"[\s,:|()\[\]{}\\/]", word) is None


def check_words(words: Iterable[str], *, key: str = "method.words") -> None:
    """New words must be usable in a prompt, and each its own.

    Raises:
        RecipeError: RC002, names the word.
    """
    seen: set[str] = set()
    for word in words:
        if not is_usable_word(word):
            why = Words(
                "A new word has no spaces, commas, colons, slashes or brackets; letters, digits, `-` and `_` are best.",
                "新しい単語に空白・カンマ・コロン・スラッシュ・括弧は使えません。英数字、`-`、`_` をおすすめします。",
            )
            raise RecipeError("RC002", key=key, found=word, why=why)
        if word.casefold() in seen:
            why = Words(
                "It is there twice (upper and lower case are the same).",
                "同じ単語が2回あります(大文字と小文字は区別しません)。",
            )
            raise RecipeError("RC002", key=key, found=word, why=why)
        seen.add(word.casefold())


class DreamBooth(MethodSection):
    """The whole UNet, and the text encoders if wished (Ruiz et al. 2023): a new checkpoint."""

    defaults: ClassVar[Mapping[str, Any]] = {"train.learning_rate": 2e-6, "train.ema": 0.0, "data.caption_dropout": 0.0}
    # Fewer pictures are overfitted much sooner: of 17 lanes without some, compared with those of all pictures, the true best
    # step lay at a power of 2 (median; bench/guard, 3-10 pictures).
    growth: ClassVar[float] = 2.0
    few_folds: ClassVar[int] = 2

    name: Literal["dreambooth"] = "dreambooth"
    text_encoder: TextEncoder = False
    text_learning_rate: TextLearningRate = 0.0
    weights: Annotated[
        Literal["fp32", "bf16"],
        expert(
            _("Precision of the trained weights: fp32, or bf16 with stochastic rounding, which takes half the memory")
        ),
    ] = "fp32"

    @property
    def some_unused(self) -> bool:
        """SDXL reads text before the last layer."""
        return self.text_encoder


class Hypernetwork(MethodSection):
    """Small networks before the keys and values of attention, in the structure of the A1111 web UI."""

    defaults: ClassVar[Mapping[str, Any]] = {"train.steps": 4000}

    name: Literal["hypernetwork"] = "hypernetwork"
    sizes: Annotated[
        Literal["cross", "all"],
        Help(_("Layers it acts on: `cross` = cross-attention (to the text) only, `all` = self-attention as well")),
    ] = "cross"
    layer_structure: Annotated[
        tuple[float, ...], Help(_("Widths of the layers as multiples of the input's width; they begin and end with 1"))
    ] = (1.0, 2.0, 1.0)
    activation: Annotated[Activation, Help(_("Activation function between the layers"))] = "linear"
    activate_output: Annotated[
        bool, expert(_("Activation after the last layer, too; ComfyUI needs it if `layer_norm` is on"))
    ] = False
    layer_norm: Annotated[
        bool,
        expert(
            _("Layer normalization after each layer; for the same images in ComfyUI, set `activate_output` as well")
        ),
    ] = False
    dropout: Annotated[
        tuple[float, ...],
        expert(
            _(
                "Dropout after each layer, one number for each of the layer structure, the first 0; none = off. "
                "Never in the written file"
            )
        ),
    ] = ()
    init: Annotated[
        Literal["Normal", "KaimingUniform", "KaimingNormal", "XavierUniform", "XavierNormal"],
        expert(_("Initialization of the weights")),
    ] = "Normal"
    zero_last: Annotated[
        bool, expert(_("Start the last layer at zero, so that training starts exactly at the base model"))
    ] = True

    @field_validator("layer_structure")
    @classmethod
    def _ends_in_one(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) < 2 or value[0] != 1 or value[-1] != 1 or min(value) <= 0:
            raise ValueError("it must begin and end with 1, with numbers above 0 between, e.g. [1, 2, 1]")
        return value

    @field_validator("dropout")
    @classmethod
    def _one_for_each_width(cls, value: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        count = len(info.data.get("layer_structure", value))
        if value and (len(value) != count or value[0] != 0 or min(value) < 0 or max(value) >= 1):
            raise ValueError(f"it must be {count} numbers from 0 to below 1, the first 0, e.g. [0, 0.1, 0]")
        return value


METHOD_SECTIONS: Final[tuple[type[MethodSection], ...]] = (Lora, TextualInversion, DreamBooth, Hypernetwork)
