"""What lives outside tsuika and is named by its address, `package.module:ATTRIBUTE`: a method, a file format. Importing
runs the module's code. So an address must come from the user, never from a file that was only downloaded."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TypeVar

from tsuika.core.errors import RecipeError
from tsuika.core.texts import _

Kind = TypeVar("Kind")


def is_address(name: str) -> bool:
    """Whether a name is of the form `package.module:ATTRIBUTE`."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name) is not None


def imported(address: str, kind: type[Kind], *, key: str, where: object = "") -> Kind:
    """What is at an address. `key` (the setting) and `where` (the recipe's file) are for errors. Raises RecipeError:
    RC002, it cannot be imported or is something else."""
    module_name, _colon, attribute = address.partition(":")
    try:
        found = getattr(import_module(module_name), attribute, None)
    except Exception as error:  # whatever the module's own code raises
        why = _(
            "`{module}` cannot be imported ({kind}: {error}). Install its package, or put its folder into PYTHONPATH.",
            module=module_name,
            kind=type(error).__name__,
            error=error,
        )
        raise RecipeError("RC002", where=where, key=key, found=address, why=why) from error
    if isinstance(found, kind):
        return found
    if found is not None:
        why = _("It is of type {found}, not {kind}.", found=type(found).__name__, kind=kind.__name__)
    else:
        why = _("`{module}` has no `{attribute}`.", module=module_name, attribute=attribute)
    raise RecipeError("RC002", where=where, key=key, found=address, why=why)
