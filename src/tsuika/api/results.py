"""Results as the JSON of the command line (`--json`): a dataclass's fields under their names there."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def to_dict(result: Any) -> dict[str, Any]:
    """A result's fields by name, without those that are None; those that a class adds to its base come first.

    A field's metadata may say `json`, another name; or `flat`, that a mapping's items stand beside the other fields.
    """
    own = type(result).__annotations__
    found: dict[str, Any] = {}
    for one in sorted(fields(result), key=lambda one: (one.name not in own, one.name == "notes")):
        value = getattr(result, one.name)
        if one.metadata.get("flat"):
            found |= value
        elif value is not None:
            found[one.metadata.get("json", one.name)] = value
    return found
