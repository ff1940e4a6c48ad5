"""Plain values: what JSON can hold, for results, logs and reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any


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
