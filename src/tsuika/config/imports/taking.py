"""What all importers share: a recipe's settings out of another program's, by a table of rules, and what has no counterpart."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tsuika.core.sections import SET_KEYS
from tsuika.core.texts import Text

Tables = Mapping[str, Any]
# Another file that a file names, parsed. Raises RecipeError: RC003, it is not there or cannot be read.
Read = Callable[[str], Any]
_LARGEST_PX: Final = 1 << 20
_LONGEST: Final = 120  # letters of a value that has no counterpart
_UNSAID: Final = frozenset({"", "0", "0.0", "0,0", "None", "False", "[]", "{}"})  # values that ask for nothing
# Of the optimizers that other programs have too, as torch and bitsandbytes have it.
_DECAYS: Final = {"adamw": 0.01, "adamw8bit": 0.01}
# What else such an optimizer is given in other programs, as PyTorch and the optimizers' packages call it.
_ARGUMENTS: Final[Mapping[str, frozenset[str]]] = {
    "adamw": frozenset({"betas", "eps", "amsgrad"}),
    "adamw8bit": frozenset({"betas", "eps"}),
    "prodigy": frozenset(
        {"betas", "beta3", "eps", "d0", "d_coef", "decouple", "growth_rate", "safeguard_warmup", "use_bias_correction"}
    ),
    "schedule-free": frozenset({"betas", "eps", "r", "weight_lr_power"}),
}


@dataclass(frozen=True)
class Imported:
    """A recipe's settings by dotted key, what the file is, its settings that have no counterpart, and what its program
    does where the file is silent, which a recipe would do otherwise."""

    settings: dict[str, Any]
    kind: Text
    lost: tuple[str, ...]
    silent: Mapping[str, Any] = field(default_factory=dict)


class Rule(NamedTuple):
    """Where a setting goes, and what becomes of its value; None: there is no counterpart for this value."""

    key: str
    value: Callable[[Any], Any] = lambda value: value
    also: Rule | None = None  # another setting that follows from it


def number(value: Any) -> float | int | None:
    """A number that may be written as text; None: it is none (nor is true, of a flag without its value), or not finite."""
    if isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(found) if found.is_integer() and abs(found) < 1e9 else found if math.isfinite(found) else None


def positive(value: Any) -> float | int | None:
    """A number; 0 is none."""
    return number(value) or None


def flag(value: Any) -> bool:
    """Yes or no, also as text."""
    return (
        value.strip().casefold() not in ("", "0", "false", "none", "no", "off")
        if isinstance(value, str)
        else bool(value)
    )


def side(value: Any) -> int | None:
    """`512`, `"512,768"`, `"(512, 768)"` or `[512, 768]` as the side of a square of the same area, a multiple of 64."""
    text = value.strip("() ") if isinstance(value, str) else value
    parts = re.split(r"[,x]", text) if isinstance(text, str) else text if isinstance(text, list) else [text]
    sides = [found for found in map(number, parts) if found and 0 < found < _LARGEST_PX]
    if not sides or len(sides) != len(parts):
        return None
    return max(64, round(math.sqrt(sides[0] * sides[-1]) / 64) * 64)


def one_of(names: Mapping[str, Any]) -> Callable[[Any], Any]:
    """By a table of words, in any case."""
    return lambda value: names.get(str(value).casefold())


def where(wanted: Any) -> Callable[[Any], Any]:
    """This value where the flag is set, else none."""
    return lambda value: wanted if flag(value) else None


def tables(value: Any) -> list[Tables]:
    """The tables in a list."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def dotted(content: Tables) -> dict[str, Any]:
    """Tables inside of a table as dotted names."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {name: value}
    return found


def pairs(arguments: Any) -> Iterator[tuple[str, str]]:
    """`["a=1", "b=2"]`, or as one text."""
    listed = arguments.split() if isinstance(arguments, str) else arguments if isinstance(arguments, list) else []
    for one in listed:
        name, equals, value = str(one).partition("=")
        if equals:
            yield name.strip(), value.strip().strip("\"'")


@dataclass
class Taking:
    """Settings that are taken over, and those that are lost."""

    settings: dict[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def lose(self, name: str, value: Any) -> None:
        """A setting without a counterpart; nothing is lost with a value that asks for nothing."""
        if (text := str(value)) not in _UNSAID:
            self.lost.append(f"{name} = {text if len(text) <= _LONGEST else f'{text[:_LONGEST]}…'}")

    def take(
        self, values: Tables, rules: Mapping[str, Rule], neutral: re.Pattern[str], idle: Collection[str] = ()
    ) -> None:
        """By rules. `neutral`: names that decide nothing of the result, or that are looked at elsewhere; `idle`: names
        without effect beside the others."""
        for name, value in values.items():
            if name in idle:
                continue
            taken = rules[name].value(value) if name in rules and value not in ("", None) else None
            if taken is not None:
                self.settings[rules[name].key] = taken
                if (also := rules[name].also) is not None:
                    self.settings[also.key] = also.value(value)
            elif name in rules or not neutral.fullmatch(name):
                self.lose(name, value)

    def optimize(
        self,
        name: str,
        value: Any,
        optimizers: Mapping[str, str],
        decay: Any = None,
        arguments: Mapping[str, str] | None = None,
        *,
        betas: str = "0.9,0.999",
    ) -> None:
        """The optimizer, its weight decay, where None is what the optimizer has by itself, and its further arguments.
        `betas` hold where those are silent: what every program has but tsuika, whose own an empty text stands for."""
        found, own = one_of(optimizers)(value), number(decay)
        if found is None:
            self.lose(name, value)
            self.lose("weight_decay", decay)
        else:
            self.settings |= {
                "train.optimizer": found,
                "train.weight_decay": _DECAYS.get(found, 0.0) if own is None else own,
            }
        known = _ARGUMENTS.get(found or "", frozenset())
        taken = {"betas": betas} if betas and "betas" in known else {}
        for key, text in (arguments or {}).items():
            if key in known:
                taken[key] = text.replace(" ", "").strip("()[]")
            else:
                self.lose(f"optimizer_args: {key}", text)
        if taken:
            self.settings["train.optimizer_args"] = [f"{key}={text}" for key, text in taken.items()]

    def schedule(self, name: str, value: Any, *, cycles: Any = 1, power: Any = 1) -> None:
        """The learning-rate schedule, by the names of transformers and diffusers. One restart is none, and a polynomial
        of the first power a line."""
        text = str(value).casefold()
        found = {"constant_with_warmup": "constant"}.get(text, text)
        if text in ("cosine_with_restarts", "cosine_with_hard_restarts") and number(cycles) == 1:
            found = "cosine"
        elif text == "polynomial" and number(power) == 1:
            found = "linear"
        if found in ("cosine", "linear", "constant"):
            self.settings["train.schedule"] = found
        else:
            self.lose(name, value)

    def warm_up(self, name: str, value: Any, steps: Any) -> None:
        """Warm-up as a share of the steps: it is one below 1, and a number of steps becomes one where all steps are known."""
        found, all_steps = number(value), number(steps)
        if found is not None and (found < 1 or all_steps):
            self.settings["train.warmup"] = min(found if found < 1 else found / (all_steps or 1), 0.99)
        elif value is not None:
            self.lose(name, value)

    def scale(self, key: str, factor: float, silent: Tables) -> None:
        """Multiply a number, which may be the one that the program has where the file is silent."""
        value = number(self.settings.get(key, silent.get(key)))
        if value is not None and factor != 1:
            self.settings[key] = number(value * factor)

    def divide(self, sets: Iterable[Tables]) -> None:
        """Several folders of images as sets, one alone as the recipe's own. What only a whole run can say is the first's."""
        listed = [*sets]
        if len(listed) < 2:
            self.settings |= {key: value for one in listed for key, value in one.items()}
            return
        found: list[dict[str, Any]] = []
        for one in listed:
            found.append({})
            for key, value in one.items():
                if (leaf := key.removeprefix("data.")) in SET_KEYS:
                    found[-1][leaf] = value
                elif self.settings.setdefault(key, value) != value:
                    self.lose(key, value)
        self.settings["data.sets"] = found

    def done(self, kind: Text, silent: Tables) -> Imported:
        """The whole; nothing is named twice."""
        return Imported(self.settings, kind, tuple(dict.fromkeys(self.lost)), silent)
