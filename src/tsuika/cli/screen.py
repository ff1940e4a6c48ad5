"""What people see: progress and talk on stderr, results on stdout, errors as one block."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

import typer

from tsuika.api import phases
from tsuika.cli import labels, language, layout, usage
from tsuika.cli.language import local
from tsuika.core import outside
from tsuika.core.errors import ImageError, RecipeError, TsuikaError, outer_cause
from tsuika.core.events import Warned
from tsuika.core.plain import jsonable, to_dict
from tsuika.core.texts import _, languages, listed

_error: ContextVar[TsuikaError | None] = ContextVar("error", default=None)  # that ends the program


def phase(name: str) -> str:
    """A phase in the language in use."""
    return local(phases.title(name))


def print_out(text: str) -> None:
    """A result, on stdout."""
    write(sys.stdout, f"{layout.printable(text)}\n")


def say(text: str, *, first: str = "", rest: str = "") -> None:
    """Talk, on stderr: wrapped, in the language in use."""
    write(sys.stderr, layout.wrap(layout.printable(local(text)), first=first, rest=rest or first) + "\n")


def write(stream: TextIO, text: str) -> None:
    """Write to a stream now. Where its reader has gone (`| head`), it is as if there had never been one."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # What is left in the buffer must not fail again at the end of the program.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if error.errno != errno.EPIPE:
            raise


def note(warned: Warned) -> None:
    """Talk about something that people should know."""
    say(_("note[{code}] {sentence}", code=warned.code, sentence=warned.words(language.current())), rest="  ")


def error(ours: TsuikaError) -> None:
    """Show an error as one block on stderr."""
    _error.set(ours)
    what, *rest = ours.lines()
    say(what, rest="  ")
    for line in rest:
        # A path or a command of one word stays whole, to be copied.
        say(line, first="  ", rest="    ")
    say(_("more: docs/troubleshooting.md#{anchor}", anchor=ours.code.lower()), first="  ")


def result(value: object, *, as_json: bool) -> None:
    """A command's result: one JSON object, or lines for people, with its notes beside it."""
    content = to_dict(value)
    if as_json:
        print_out(json.dumps(jsonable(content), ensure_ascii=False, allow_nan=False))
        return
    for warned in content.get("notes", ()):
        note(warned)
    print_out(labels.lines({key: item for key, item in content.items() if key != "notes"}))


@contextmanager
def _recorded(file: Path | None) -> Iterator[None]:
    """Record what happens within, as one JSON object a line, for whoever started the program; None: nowhere.

    The events are those of the library; the first line, `Began`, has the number of the process, the last one, `Ended`,
    the exit status and the error in every language.
    """
    if file is None:
        yield
        return
    from tsuika.api.run import listening

    status: Any = 1
    with file.open("a", encoding="utf-8") as log:

        def write(line: str) -> None:
            log.write(line + "\n")
            log.flush()

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


def _told(error: TsuikaError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    parts = {name: {lang: error.part(name, lang) for lang in languages()} for name in ("what", "why", "do")}
    return {"code": error.code, "where": error.where, **parts}


def run(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Run the program and exit with its status."""
    rest, file = language.taken(arguments, "--events")
    try:
        with _recorded(Path(file) if file else None):
            _run(app, rest)
    except OSError as failed:
        # Of the file of events; what a command raises has been told.
        known = outer_cause(failed, where=file)
        if known is None:
            raise
        error(known)
        raise SystemExit(known.exit_status) from None


def _run(app: typer.Typer, arguments: Sequence[str]) -> None:
    for name in ("stdout", "stderr"):
        # Closed by whoever called: what is said goes nowhere.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    # The name of a file may be no Unicode, or more than the terminal can show.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    rest, request = language.requested(arguments)
    try:
        language.use(language.chosen(language.AUTO, os.environ))
        language.use(language.chosen(request, os.environ))
        status = app(rest, standalone_mode=False, prog_name="tsuika")
        write(sys.stdout, "")
    except TsuikaError as ours:
        if not _is_told_by_another(ours):
            error(ours)
        raise SystemExit(ours.exit_status) from None
    except typer.Exit as leave:
        raise SystemExit(leave.exit_code) from None
    except (typer.Abort, KeyboardInterrupt):
        raise SystemExit(130) from None
    except usage.Complaint as wrong:
        explained = usage.explained(wrong)
        if explained:
            error(explained)
        else:
            write(sys.stderr, f"{wrong}\n")
        raise SystemExit(explained.exit_status if explained else 2) from None
    except BrokenPipeError:
        # Of the library that writes `--help`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(0) from None
    # The last line of defence: a bug becomes a log file and status 1.
    except Exception as bug:  # noqa: BLE001
        if (known := outer_cause(bug)) is not None:
            error(known)
            raise SystemExit(known.exit_status) from None
        raise SystemExit(_report_bug(bug)) from None
    # Typer hands a status (130 of Ctrl+C, among others) back like a result.
    if isinstance(status, int) and status:
        raise SystemExit(status)


def _is_told_by_another(error: TsuikaError) -> bool:
    """Whether all processes of `accelerate launch` meet it: then the first on each machine tells it."""
    of_all = isinstance(error, ImageError | RecipeError) or error.code == "TR036"
    return of_all and os.environ.get("LOCAL_RANK", "0") != "0"


def _report_bug(bug: Exception) -> int:
    """Log a bug, and say whose it is, where and what to do; returns the exit status."""
    log = log_failure()
    if module := outside.origin(bug):
        theirs = RecipeError("RC043", module=module, error=repr(bug), log=log or "-")
        error(theirs)
        return theirs.exit_status
    if log:
        say(_("This is a bug of tsuika. The details are in {log}.", log=log))
    else:
        say(_("This is a bug of tsuika: {error}. No log could be written.", error=repr(bug)))
    if others := outside.packages():
        say(
            _(
                "Unless it comes from {modules}, which does not belong to tsuika: try one of tsuika's own methods. If that works,"
                " tell whoever made it.",
                modules=listed(f"`{name}`" for name in others),
            )
        )
    say(_("Please report it with them and with what this command prints: tsuika doctor"))
    return 1


def log_failure() -> Path | None:
    """The file that the error being handled was written to: here, else where temporary files are; None: nowhere.

    It is always a new one: a link that somebody else has put there is not followed.
    """
    import platform
    import tempfile
    import traceback
    from importlib.metadata import version

    text = f"tsuika {version('tsuika')}, Python {platform.python_version()}\n{sys.argv}\n{traceback.format_exc()}"
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        for number in range(1, 100):
            # Read-only, full, gone, or of that name already.
            with suppress(OSError):
                log = folder() / f"tsuika-error{f'-{number}' if number > 1 else ''}.log"
                with log.open("x", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
                return log
    return None
