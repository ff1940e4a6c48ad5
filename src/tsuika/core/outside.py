"""What lives outside tsuika and is named by its address, `package.module:ATTRIBUTE`: a method, a file format. Importing
runs the module's code. So an address must come from the user, never from a file that was only downloaded."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Final, TypeVar

from tsuika.core.errors import RecipeError
from tsuika.core.texts import Text, _

Kind = TypeVar("Kind")

_MARK: Final = "__tsuika_address__"  # in a module from outside, the address by which it came


def is_address(name: str) -> bool:
    """Whether a name is of the form `package.module:ATTRIBUTE`."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name) is not None


def imported(
    address: str,
    kind: type[Kind],
    *,
    key: str,
    where: object = "",
    check: Callable[[Kind], Text | None] = lambda found: None,
) -> Kind:
    """What is at an address. `key` (the setting) and `where` (the recipe's file) are for errors, `check` says what is
    wrong with it. Raises RecipeError: RC002, it cannot be imported, is something else, or has a fault."""
    module_name, _colon, attribute = address.partition(":")
    # As `torch.optim:SGD`, of a library that tsuika uses as well.
    is_ours = module_name.partition(".")[0] in sys.modules
    try:
        module = import_module(module_name)
        found = getattr(module, attribute, None)
        fault = check(found) if isinstance(found, kind) else None
    except Exception as error:  # whatever the module's own code raises
        why = _(
            "`{module}` cannot be imported ({kind}: {error}). Install its package, or put its folder into PYTHONPATH.",
            module=module_name,
            kind=type(error).__name__,
            error=error,
        )
        raise RecipeError("RC002", where=where, key=key, found=address, why=why) from error
    if found is None:
        fault = _("`{module}` has no `{attribute}`.", module=module_name, attribute=attribute)
    elif not isinstance(found, kind):
        fault = _("It is of type {found}, not {kind}.", found=type(found).__name__, kind=kind.__name__)
    elif fault is None:
        if not is_ours:
            vars(module)[_MARK] = address
        return found
    raise RecipeError("RC002", where=where, key=key, found=address, why=fault)


def packages() -> tuple[str, ...]:
    """Top-level names of what has come into this process by an address alone."""
    modules = [*sys.modules.items()]
    return tuple(
        sorted({name.partition(".")[0] for name, module in modules if _MARK in getattr(module, "__dict__", {})})
    )


def origin(error: BaseException) -> str:
    """The innermost module from outside that had a part in an error; empty where none had."""
    known = packages()
    names = [str(frame.f_globals.get("__name__", "")) for frame, _line in traceback.walk_tb(error.__traceback__)]
    return next((name for name in reversed(names) if name.partition(".")[0] in known), "")
