"""What a caller gives, as the kind that is written beside the parameter, or one error that names it.

Programs call with what they have at hand: a path as text, a number of numpy's, one file where several may be. What means
the same becomes the right kind; what does not is refused before it fails somewhere deep, or is used as something else.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
import operator
import os
import types
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from tsuika.core.errors import RecipeError
from tsuika.core.files import at_home
from tsuika.core.texts import Text, _

P = ParamSpec("P")
Result = TypeVar("Result")

_NUMBER, _WHOLE, _FINITE = _("Give a number."), _("Give a whole number."), _("Give a finite number.")
_TRUTH, _PATH, _TEXT, _LIST = (
    _("Give true or false."),
    _("Give a path."),
    _("Give a text, in quotation marks."),
    _("Give a list, such as [1, 2]."),
)
_MANY: Final = (tuple, list, collections.abc.Sequence)


class Unfit(Exception):  # noqa: N818
    """A value is of another kind; says why."""

    def __init__(self, why: Text) -> None:
        super().__init__(why)
        self.why = why


def bound(function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]) -> inspect.BoundArguments:
    """The arguments of a call, each as the kind that its parameter is of.

    Raises:
        RecipeError: RC015, one cannot be that.
        TypeError: the function has no such parameter.
    """
    call = inspect.signature(function).bind(*args, **named)
    for name, value in call.arguments.items():
        call.arguments[name] = bound_one(function, name, value)
    return call


def bound_one(function: Callable[..., Any], name: str, value: Any) -> Any:
    """One of them. Raises RecipeError: RC015, it cannot be of that kind."""
    rest = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    if inspect.signature(function).parameters[name].kind in rest or name not in _hints(function):
        return value
    return named_fit(name, value, _hints(function)[name], f"tsuika.{function.__name__}")


def fitting(function: Callable[P, Result]) -> Callable[P, Result]:
    """The function, called with what `bound` makes of the arguments."""

    @wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> Result:
        fit = bound(function, args, named)
        return function(*fit.args, **fit.kwargs)

    return call


def named_fit(name: str, value: Any, kind: Any, of: str) -> Any:
    """`value` as `kind`. Raises RecipeError: RC015, it cannot be that."""
    try:
        return fit(value, kind)
    except Unfit as error:
        raise RecipeError("RC015", key=name, found=repr(value), why=error.why, do=f"help({of})") from None


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(function)


def fit(value: Any, kind: Any) -> Any:
    """`value` as `kind`, an annotation. Raises Unfit."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(value, inner)
    if origin in _MANY:
        return _many(value, origin, inner)
    if kind in _FITS:
        return _FITS[kind](value)
    is_checked = origin is None and inspect.isclass(kind) and not getattr(kind, "_is_protocol", False)
    if is_checked and kind is not object and not isinstance(value, kind):
        raise Unfit(_("Give a value of the kind {kind}.", kind=kind.__name__))
    return value


def _one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and type(None) in kinds:
        return None
    why: dict[Any, Unfit] = {}
    for kind in kinds:
        try:
            return fit(value, kind)
        except Unfit as error:
            why[kind] = error
    why.pop(type(None), None)
    # Of `Drawing | str` the last, which is what most people give.
    raise why.get(Path, [*why.values()][-1])


def _many(value: Any, origin: Any, inner: tuple[Any, ...]) -> Any:
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        if not isinstance(value, tuple | list) or len(value) != len(inner):
            raise Unfit(_LIST)
        return tuple(fit(one, kind) for one, kind in zip(value, inner))
    if isinstance(value, str | os.PathLike):
        # One file where several may be; its letters are none of them.
        value = (value,)
    elif isinstance(value, Mapping):
        value = value.items()
    elif not isinstance(value, collections.abc.Iterable):
        value = (value,)
    return tuple(fit(one, inner[0]) for one in value) if inner else value


def _path(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike) or not isinstance(found := os.fspath(value), str) or not found:
        raise Unfit(_PATH)
    return at_home(value if isinstance(value, Path) else found)


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise Unfit(_TEXT)
    return value


def _whole(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        return value if type(value) is int else operator.index(_no_truth(value, _WHOLE))
    except TypeError:
        raise Unfit(_WHOLE) from None


def _number(value: Any) -> float:
    if isinstance(_no_truth(value, _NUMBER), str | bytes):
        raise Unfit(_NUMBER)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Unfit(_NUMBER) from None
    if not math.isfinite(number):
        raise Unfit(_FINITE)
    return number


def _no_truth(value: Any, why: Text) -> Any:
    if isinstance(value, bool):
        raise Unfit(why)
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise Unfit(_TRUTH)
    return bool(value)


_FITS: Final[Mapping[Any, Callable[[Any], Any]]] = {Path: _path, str: _text, int: _whole, float: _number, bool: _truth}
