"""`report.json` of a run that is over or was stopped, read strictly: other programs and people may have changed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tsuika.core import kept


class _Artifact(BaseModel):
    model_config = ConfigDict(strict=True)

    path: str
    format: str


class _Report(BaseModel):
    """What tsuika itself reads of it."""

    model_config = ConfigDict(strict=True)

    method: str
    stopped_by: str
    steps_done: int
    best_step: int | None
    range: dict[str, int | None]
    artifacts: list[_Artifact]


def read(path: Path) -> dict[str, Any]:
    """The content of a `report.json`.

    Raises:
        FormatError: TR011, it cannot be read or is none.
    """
    content: dict[str, Any] = kept.parsed(path)
    try:
        _Report.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise kept.damaged(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return content


def is_over(path: Path) -> bool:
    """Whether there is a report of a run that has ended, and not only of one that was stopped.

    Raises:
        FormatError: as `read`.
    """
    return path.is_file() and read(path)["stopped_by"] != "user"
