"""Plain values: what JSON can hold, for results, logs and reports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast


def parsed(text: str | bytes) -> Any:
    """What a JSON text from elsewhere holds. Raises ValueError: it is none, or is nested deeper than any that is meant."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def jsonable(value: Any) -> Any:
    """Dataclasses and mappings become objects, sequences lists, paths text; numbers that are not finite become None."""
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value) if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if isinstance(value, Mapping):
        return {key: jsonable(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [jsonable(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def to_dict(value: object) -> Mapping[str, Any]:
    """A result by name: what its own `to_dict` says, else the fields of a dataclass, or the mapping that it is."""
    if isinstance(value, Mapping):
        return value
    own = getattr(value, "to_dict", None)
    if own is not None:
        return cast(Mapping[str, Any], own())
    return {one.name: getattr(value, one.name) for one in fields(cast(Any, value))}
