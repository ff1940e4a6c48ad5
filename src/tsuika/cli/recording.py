"""`--events FILE`: everything that happens, as one JSON object a line, for whoever started the program.

The events are those of the library; the first line, `Began`, has the number of the process, the last one, `Ended`,
the exit status and the error in every language.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from tsuika.core.errors import TsuikaError
from tsuika.core.texts import languages

FLAG: Final = "--events"
_error: ContextVar[TsuikaError | None] = ContextVar("error", default=None)


def failed(error: TsuikaError) -> None:
    """Remember the error that ends the program."""
    _error.set(error)


@contextmanager
def into(file: Path | None) -> Iterator[None]:
    """Record what happens within; None: nowhere."""
    if file is None:
        yield
        return
    from tsuika.api.run import listening

    status: Any = 1
    with file.open("a", encoding="utf-8") as log:
        write = _writer(log.write, log.flush)
        write(json.dumps({"event": "Began", "pid": os.getpid(), "began": time.time()}))
        try:
            with listening(lambda event: write(event.to_json())):
                yield
            status = 0
        except SystemExit as leave:
            status = leave.code or 0
            raise
        finally:
            error = _error.get()
            write(json.dumps({"event": "Ended", "status": status, "error": _told(error)}, ensure_ascii=False))


def _writer(write: Callable[[str], object], flush: Callable[[], None]) -> Callable[[str], None]:
    def line(text: str) -> None:
        write(text + "\n")
        flush()

    return line


def _told(error: TsuikaError | None) -> dict[str, Any] | None:
    """An error's parts by language."""
    if error is None:
        return None
    parts = {name: {lang: error.part(name, lang) for lang in languages()} for name in ("what", "why", "do")}
    return {"code": error.code, "where": error.where, **parts}
