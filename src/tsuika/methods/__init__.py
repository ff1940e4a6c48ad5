"""The methods, by name; importing this imports no torch. A new one is one file or folder here and one entry below. A
method can also live outside: its name in a recipe is then its address, `package.module:ATTRIBUTE`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tsuika.core.errors import RecipeError, no_such
from tsuika.core.outside import imported, is_address
from tsuika.core.texts import _
from tsuika.methods import dreambooth, hypernetwork, lora, textual_inversion
from tsuika.methods.method import Method, MethodSection

METHODS: Final[dict[str, Method]] = {
    method.name: method for method in (lora.METHOD, textual_inversion.METHOD, dreambooth.METHOD, hypernetwork.METHOD)
}
DEFAULT: Final = lora.METHOD

__all__ = ["Method", "MethodSection"]  # what is defined elsewhere and looked for here


def find(name: str, *, where: object = "") -> Method:
    """The method of this name. An address is imported, so it must come from the user: a recipe or a flag, not a result.
    `where` is the recipe's file, for errors. Raises RecipeError: RC002, there is none of this name, it cannot be
    imported, or it is no method or lacks what one has."""
    if name in METHODS:
        return METHODS[name]
    if not is_address(name):
        raise no_such("method.name", name, METHODS, where=where)
    method = imported(name, Method, key="method.name", where=where, check=Method.fault)
    if method.name != name:
        why = _("Its settings say `name = {name}`; that must be its address.", name=repr(method.name))
        raise RecipeError("RC002", where=where, key="method.name", found=name, why=why)
    return method


def title(name: str) -> str:
    """The method's name for people; of one from outside its address, since a file's word is not imported."""
    return METHODS[name].title if name in METHODS else name


def is_read_elsewhere(name: str, family: str) -> bool:
    """Whether programs other than tsuika read results of this method for a family; of one from outside none is known."""
    return name in METHODS and METHODS[name].programs(family) != ("tsuika",)


def with_outside(names: Iterable[str]) -> dict[str, Method]:
    """All of `METHODS`, and those that are named beside them. Raises RecipeError: as `find`."""
    return METHODS | {name: find(name) for name in names}
