"""`Method`: everything that is particular to one way of fine-tuning, in one description. Imports no torch. What
computes is in the module that a description names; it is imported when it is first asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from tsuika.core.errors import RecipeError
from tsuika.core.section import Section, everyday, expert
from tsuika.core.sections import Data
from tsuika.core.texts import Text, _, listed
from tsuika.core.types import Attachment
from tsuika.methods.guidance import Guidance
from tsuika.methods.layers import Layers
from tsuika.methods.uses import Result, Use, in_tsuika

if TYPE_CHECKING:
    import torch

    from tsuika.core.types import Artifact, Facts, Model

Backward = Literal["text", "adapter", "all"]

# Settings of methods that can train text encoders.
TRAINS_TEXT: Final = everyday(False, "Train the text encoders as well")
TEXT_RATE: Final = expert(0.0, "Learning rate of the text encoders; 0 = a tenth of the main one", ge=0, le=1)

TEXT_RATE_2: Final = expert(
    0.0, "Learning rate of the second text encoder (Stable Diffusion XL); 0 = as the first", ge=0, le=1
)


def text_rates(model: Model, first: float, second: float) -> tuple[float, float]:
    """Learning rates of the text encoders, 0 for the usual one. Raises RecipeError (RC002): one for a text encoder that
    the model has not."""
    if second and len(model.text_encoders) < 2:
        why = _("{family} has one text encoder.", family=model.facts.title)
        raise RecipeError("RC002", key="method.text_learning_rate_2", found=second, why=why)
    return first, second or first


class MethodSection(Section):
    """The recipe's `[method]` table: what every method's settings have. A subclass adds its own. `name` needs a
    default: the key in `METHODS`, or the address (`package.module:ATTRIBUTE`) of a method from outside."""

    defaults: ClassVar[Mapping[str, Any]] = {}  # dotted key -> this method's default, where it is not the common one
    # In folds of few images the best step grows with their number to this power; else by 1, as many passes over each image: bench/guard
    # finds 1.5 pp of regret with it and 2.0 with the 0.55 that 18 runs of SD1.5 on 10-270 images suggest.
    few_growth: ClassVar[float] = 1.0

    name: str = ""

    @classmethod
    def said_by(cls, given: Mapping[str, Any]) -> Collection[str]:
        """Dotted keys on which a recipe's own `[method]` table decides under other names: no default holds for them."""
        return ()

    @property
    def new_words(self) -> tuple[str, ...]:
        """Words that must be in captions, or nothing is learned of them."""
        return ()

    @property
    def some_unused(self) -> bool:
        """Whether a step may leave some trained weights out, which several processes must know beforehand."""
        return False

    @property
    def bytes_per_weight(self) -> int:
        """Of a trained weight in memory."""
        return 4

    @property
    def network(self) -> Mapping[str, Any]:
        """What a written file says of the network: some of `rank`, `alpha`, `dropout`."""
        return {}

    def fits_quantized(self, kind: str) -> bool:
        """Whether it can train on a base whose weights are `int8`, `fp8` or `nf4` (`base.quantize`)."""
        return True

    def check(self, facts: Facts) -> None:
        """Raises RecipeError: bases of this family cannot be trained with these settings (RC002)."""

    @property
    def start_file(self) -> str:
        """A result of this method, from which the training goes on; empty: it starts from nothing."""
        return ""

    def started(self, start: Artifact) -> MethodSection:
        """This section with what the file that the training goes on from decides. Raises RecipeError: it cannot go on
        from that, or another value was asked for (RC002)."""
        return self

    def completed(self, data: Data) -> MethodSection:
        """This section with what it takes over from the images' section. Raises RecipeError: what it needs is missing
        (RC005) or cannot be used (RC002)."""
        return self


@dataclass(frozen=True)
class Outline:
    """What a result will hold: its tensors' names and shapes, and metadata that its formats need."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A way of fine-tuning. It asks a model for roles, never for a family."""

    settings: type[MethodSection]  # the recipe's `[method]` table
    title: Text  # for people
    module: str  # dotted name of the module with `attach` and `restore`; of a method in one file, `__name__`
    images: tuple[int, int]  # how many different images it needs and how many are of use, by rules of thumb
    # File formats of its results beside those in `tsuika.formats` that name it: `native`, or the address
    # (`package.module:ATTRIBUTE`) of a `core.types.Format` from outside.
    formats: tuple[str, ...] = ()
    flag: str = ""  # of `generate` and `grid` (`lora` for `--lora FILE`); `--artifact` takes any method's files
    tag: str = ""  # the word of its prompt tag, `<lora:NAME:1>`
    splits_strength: bool = False  # whether the tag may have two strengths, of the text encoders and of the UNet
    adds_words: bool = False  # its results are new words, found by name in a prompt, each with a file of its own
    whole_model: bool = False  # its results are whole models, which are opened as a base
    png_hashes: str = ""  # the field of a PNG's `parameters` that lists its files' hashes, where A1111 has one
    # The layers of a model whose outputs an artifact changes; by default those that its tensors are named after.
    layers: Callable[[Layers, Artifact], frozenset[str]] = Layers.named
    # How far the backward pass goes: only through the UNet to what it reads, to layers beside attention and
    # feed-forward ones, or to every weight.
    backward: Backward = "all"
    # What a result will hold, told without training. Raises RecipeError: settings that cannot be on this model.
    outline: Callable[[Any, Data, Model], Outline] | None = None
    describe: Callable[[Artifact], dict[str, Any]] = lambda artifact: {}  # for `tsuika inspect`, beside its tensors
    uses: Callable[[Result], Iterator[Use]] = in_tsuika  # how each program uses a result
    # For `tsuika advise`, which says of a method without it that nobody has measured it.
    guidance: Guidance | None = None

    @property
    def name(self) -> str:
        """As in a recipe."""
        return str(self.settings.model_fields["name"].default)

    def programs(self, family: str) -> tuple[str, ...]:
        """The programs that apply its results for a family."""
        example = Result(self.name, family, "base", "", "", ("result.safetensors", "result.pt", "result"))
        return tuple(name for use in self.uses(example) for name in use.program.split(" / "))

    def attach(
        self, model: Model, config: Any, generator: torch.Generator, start: Artifact | None = None
    ) -> Attachment:
        """Attach for training. Freshly initialised the model's outputs do not change yet; from `start` they are those
        with it at strength 1. `config` are complete settings (`MethodSection.completed`, `started`), `generator`, on the
        CPU, is for initial weights. Raises RecipeError: settings that cannot be; ModelError: `start` does not fit this
        model (MD004)."""
        module = import_module(self.module)
        return self._made(
            module.attach(model, config, generator) if start is None else module.go_on(model, config, start, generator)
        )

    def restore(self, model: Model, artifact: Artifact) -> Attachment:
        """Attach what a file held, frozen, at strength 1. Raises ModelError: it does not fit this model (MD004)."""
        return self._made(import_module(self.module).restore(model, artifact))

    def _made(self, made: Any) -> Attachment:
        """What `attach` or `restore` gave. Raises RecipeError: RC002, it is no attachment."""
        if isinstance(made, Attachment):
            return made
        wanted = (name for name in (*vars(Attachment), *Attachment.__annotations__) if not name.startswith("_"))
        lacks = listed(f"`{name}`" for name in sorted(wanted) if not hasattr(made, name))
        why = _("{kind}, which stands for it on a model, has no {lacks}.", kind=type(made).__name__, lacks=lacks)
        raise RecipeError("RC002", key="method.name", found=self.name, why=why)

    def fault(self) -> Text | None:
        """What this description lacks to be a method; None: nothing. Imports the module that computes. Raises
        ImportError, and whatever else the module's own code raises."""
        settings: Any = self.settings
        formats: Any = self.formats
        if not (isinstance(settings, type) and issubclass(settings, MethodSection)):
            return _("Its `settings` must be a subclass of `MethodSection`.")
        if not isinstance(formats, tuple):
            return _('Its `formats` must be a tuple of names: `("native",)`.')
        module = import_module(self.module)
        wanted = {"attach": 3, "restore": 2}
        if settings.start_file is not MethodSection.start_file:
            wanted["go_on"] = 4
        for name, count in wanted.items():
            function = getattr(module, name, None)
            if not callable(function):
                return _("`{module}` has no function `{name}`.", module=self.module, name=name)
            try:
                inspect.signature(function).bind(*range(count))
            except TypeError:
                return _(
                    "`{name}` of `{module}` must take {count} arguments.", name=name, module=self.module, count=count
                )
        return None
