"""Textual Inversion: new words as vectors in the text encoders' vocabulary (Gal et al. 2023). Settings and use; no torch here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, Literal

from tsuika.core.errors import RecipeError
from tsuika.core.section import everyday, expert
from tsuika.core.sections import Data
from tsuika.core.texts import Text, _
from tsuika.core.types import Artifact, Model, is_usable_word
from tsuika.methods.guidance import FROZEN, RUIZ, Claim, Guidance
from tsuika.methods.layers import weight_shapes
from tsuika.methods.method import Method, MethodSection, Outline
from tsuika.methods.uses import Result, Use, in_diffusers, in_sd_scripts, in_tsuika, text_encoders


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
    words: tuple[str, ...] = expert((), "The new words, if there are several; none = the trigger word")
    vectors: int = everyday(1, "Vectors per word: more can hold more, and take more room in the prompt", ge=1, le=16)
    init: str = everyday(
        "", "Start of the vectors: a word, several words, or `noise`; empty = the class word, or noise without one"
    )

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
        words = self.words or data.triggers
        if not words:
            raise RecipeError("RC005", found="--trigger", do="tsuika train textual-inversion --trigger WORD …")
        check_words(words, key="method.words" if self.words else "data.trigger")
        return self.model_copy(update={"words": words, "init": self.init or data.first.class_word or "noise"})


def check_words(words: Iterable[str], *, key: str = "method.words") -> None:
    """New words must be usable in a prompt, and each its own. Raises RecipeError: RC002, names the word."""
    seen: set[str] = set()
    for word in words:
        if not is_usable_word(word):
            why = _(
                "A new word has no spaces, commas, colons, slashes or brackets; letters, digits, `-` and `_` are best."
            )
            raise RecipeError("RC002", key=key, found=word, why=why)
        if word.casefold() in seen:
            why = _("It is there twice (upper and lower case are the same).")
            raise RecipeError("RC002", key=key, found=word, why=why)
        seen.add(word.casefold())


def outline(settings: TextualInversion, data: Data, model: Model) -> Outline:
    """Vectors of every word in every text encoder."""
    widths = {name.partition(".")[0]: shape[1] for name, shape in weight_shapes(model, ["text.tokens"]).items()}
    words = settings.words or (data.trigger or "word",)
    return Outline({f"{word}.{part}": (settings.vectors, width) for word in words for part, width in widths.items()})


def describe(artifact: Artifact) -> dict[str, Any]:
    """Words and their vectors, for people."""
    vectors = {tuple(name.rpartition(".")[::2]): tensor.float() for name, tensor in artifact.tensors.items()}
    return {
        "words": sorted({word for word, _ in vectors}),
        "vectors": max(len(tensor) for tensor in vectors.values()),
        "widths": {component: tensor.shape[1] for (_, component), tensor in vectors.items()},
        "norms": {
            component: [round(float(n), 4) for n in tensor.norm(dim=1)] for (_, component), tensor in vectors.items()
        },
    }


def uses(result: Result) -> Iterator[Use]:
    """Programs call the word by its file's name, each in its own way."""
    if (file := result.first(".safetensors")) is None:
        return

    def asking(name: str) -> str:
        """The prompt with the word as this program calls it."""
        if not result.trigger:
            return f"{result.prompt}, {name}"
        return re.sub(re.escape(result.trigger), lambda match: name, result.prompt, flags=re.IGNORECASE)

    def in_folder(program: str, folder: str, word: str, note: Text | None = None) -> Use:
        how = _(
            "Put `{file}` into `{folder}` and write its name into the prompt where the new word belongs:",
            file=file.name,
            folder=folder,
        )
        return Use(program, how, asking(word), file.name, folder, note)

    rename = _(
        "The word is the name of the file: rename the file and the word is renamed. `(name:0.8)` makes it weaker."
    )
    yield from in_tsuika(result, "--embedding", file)
    yield in_folder("A1111 / Forge", "embeddings/", file.stem, rename)
    yield in_folder("ComfyUI", "models/embeddings/", f"embedding:{file.stem}")
    if result.on_embedded or result.is_joint:
        return
    where, token = json.dumps(str(file)), json.dumps(file.stem)
    encoders = text_encoders(result)
    if len(encoders) > 1:
        lines = [
            "from safetensors.torch import load_file",
            f"vectors, name = load_file({where}), {token}",
            *(
                f'pipe.load_textual_inversion(vectors["{vectors}"], name, pipe.{tokenizer}, pipe.{encoder})'
                for vectors, tokenizer, encoder in encoders
            ),
        ]
    else:
        lines = [f"pipe.load_textual_inversion({where}, token={token})"]
    yield from in_diffusers(result, lines, prompt=asking(file.stem))
    yield from in_sd_scripts(result, ["--textual_inversion_embeddings", str(file)], prompt=asking(file.stem))


GUIDANCE: Final = Guidance(
    place=3,
    steps=1000,
    growth=0.0,
    embedded_growth=0.0,
    goals=("style", "object", "concept"),
    sizes=({"method.vectors": 2}, {"method.vectors": 1}),
    suffix="ti",
    said_for={
        "": Claim(
            _("It was made for 3 to 5 images, and leaves the base model untouched."),
            "Gal et al. 2023, Textual Inversion, arXiv:2208.01618",
        )
    },
    said_against=Claim(
        _(
            "It shows the subject less well than DreamBooth: DINO 0.569 against 0.668, preferred by 22% of users against 68%."
        ),
        RUIZ,
    ),
    frugal=FROZEN,
)

METHOD: Final = Method(
    settings=TextualInversion,
    title=_("Textual Inversion"),
    module="tsuika.methods.textual_inversion.vectors",
    images=(3, 5),
    flag="embedding",
    adds_words=True,
    png_hashes="TI hashes",
    layers=lambda layers, artifact: frozenset(),
    backward="text",
    outline=outline,
    describe=describe,
    uses=uses,
    guidance=GUIDANCE,
)
