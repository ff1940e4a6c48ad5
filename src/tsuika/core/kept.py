"""What a run folder holds as JSON, read strictly: with a hash of its own content, so that no edit and no damage passes.
For what a run stands on when it goes on; not for reports, which are for people and other programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

from tsuika.core import files
from tsuika.core.errors import FormatError, outer_cause
from tsuika.core.texts import Text, _

Kept = TypeVar("Kept")
_SEAL: Final = "seal"
_ITEMS: Final = "items"  # what a list is called in the file, for which there is no other place for the seal


def write(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write plain values as JSON with their seal."""
    table = content if isinstance(content, dict) else {_ITEMS: content}
    files.write_text(path, json.dumps({**table, _SEAL: seal(table)}, ensure_ascii=False, indent=1))


def read(path: Path, build: Callable[[Any], Kept]) -> Kept:
    """What `build` makes of the values in a file. Raises FormatError: TR011, it is damaged, was changed, or `build`
    cannot take it (ValueError, TypeError, LookupError)."""
    table = parsed(path)
    if not isinstance(table, dict) or table.pop(_SEAL, "") != seal(table):
        raise damaged(path, _("Its content does not match its checksum."))
    try:
        return build(table.get(_ITEMS, table))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise damaged(path, str(error)) from None


def parsed(path: Path) -> Any:
    """What the JSON in a file says. Raises FormatError: TR011, it is not there or none; TsuikaError: it may not be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise outer_cause(error, where=path) or error from None
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, _("It is no JSON: {error}.", error=error)) from None


def seal(content: Any) -> str:
    """Hex SHA-256 of plain values, whatever the order of their keys."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def damaged(path: Path, why: str | Text) -> FormatError:
    """The error of a file that a run stands on and that is not as it was written."""
    return FormatError("TR011", where=path, why=why)
