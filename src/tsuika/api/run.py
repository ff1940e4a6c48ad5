"""`Run`: what every call of the library returns. Iterate it for events, ask it for its `result`, close it to stop.

run = tsuika.train(recipe, "runs/cat")
for event in run:
    ...
run.result.artifacts
"""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, cast

from tsuika.api.display import Display, shown
from tsuika.core import given
from tsuika.core.errors import InterruptedRunError, StopRequested, outer_cause
from tsuika.core.events import Event

P = ParamSpec("P")
Result = TypeVar("Result")
Events = Generator[Event, None, Result]


_listeners: ContextVar[tuple[Callable[[Event], None], ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Hand the events of all runs within to `listener` as well, as they happen."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


class JsonResult:
    """A result, a dataclass, that the command line prints as JSON (`--json`).

    A field's metadata may say `json`, another name there; or `flat`, that a mapping's items stand beside the other fields.
    """

    def to_dict(self) -> dict[str, Any]:
        """As in the command's `--json`: fields that are not None; those that a class adds to its base come first."""
        own, found = type(self).__annotations__, dict[str, Any]()
        every = fields(cast(Any, self))
        for one in sorted(every, key=lambda one: (one.name not in own, one.name == "notes")):
            value = getattr(self, one.name)
            if one.metadata.get("flat"):
                found |= value
            elif value is not None:
                found[one.metadata.get("json", one.name)] = value
        return found


class Run(Generic[Result]):
    """Work under way: an iterator of events that ends with a typed result.

    Nothing happens before the first event or the result is asked for. An error is raised where it happens, and again by
    `result`. In a notebook a run that is shown runs to its end and shows its progress, then its result.
    """

    def __init__(self, name: str, events: Events[Result]) -> None:
        self._name, self._events = name, events
        self._display = Display(name)

        self._started = self._closed = self._stops = False
        self._outcome: tuple[Result] | None = None
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        self._started = True
        try:
            event = self._events.throw(StopRequested()) if self._stops else next(self._events)
        except StopRequested:
            self._closed = True
            raise StopIteration from None
        except StopIteration as end:
            if not self._closed and self._error is None and self._outcome is None:
                self._outcome = (cast(Result, end.value),)
            raise
        except Exception as error:
            self._error = outer_cause(error) or error
            if self._error is error:
                raise
            raise self._error from error
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._stops = False
        self._display.update(event)
        for listener in _listeners.get():
            listener(event)
        return event

    @property
    def done(self) -> bool:
        """Whether the result is there."""
        return self._outcome is not None

    @property
    def result(self) -> Result:
        """What the work has made; whatever is left of it is done first.

        Raises:
            InterruptedRunError: TR010, the run was closed before its end.
            TsuikaError: what went wrong.
        """
        while self._outcome is None:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise InterruptedRunError("TR010", name=self._name)
            deque(self, maxlen=0)
        return self._outcome[0]

    def close(self) -> None:
        """Stop here. A training saves its state first, and can be resumed."""
        if self._outcome is None:
            self._closed = self._started = True
            self._events.close()

    def stop(self) -> None:
        """End early: go on iterating, or ask for the result, and a training saves its state and writes what is best so far.

        That is in `artifacts/unfinished` then, with a report; the run can be resumed. Other calls, and a training that
        has nothing to write yet, are closed.
        """
        self._stops = True

    def __enter__(self) -> Run[Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_started", True):
            message = f"tsuika.{self._name}(...) was never run: iterate over it, or ask for its result"
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    def __repr__(self) -> str:
        state = "done" if self.done else "closed" if self._closed else "running" if self._started else "not started"
        return f"<tsuika.{self._name}: {state}>"

    def _repr_html_(self) -> str:
        if self._outcome is not None:
            return shown(self._outcome[0])
        return self._display.html()

    def _ipython_display_(self) -> None:
        """Show the run in a notebook: it runs to its end, its progress is updated in place, its result follows."""
        from IPython.display import HTML, display

        handle = display(HTML(self._repr_html_()), display_id=True)
        try:
            while self._outcome is None and self._error is None and not self._closed:
                for _event in self:
                    if self._display.due():
                        handle.update(HTML(self._display.html()))
        except KeyboardInterrupt:
            self.close()
        finally:
            handle.update(HTML(self._repr_html_()))


def starts(function: Callable[P, Events[Result]]) -> Callable[P, Run[Result]]:
    """Make a function that yields events and returns a result into one that returns a `Run`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Run[Result]:
        # A name that is no parameter is said at once.
        inspect.signature(function).bind(*args, **kwargs)

        def events() -> Events[Result]:
            return (yield from given.fitting(function)(*args, **kwargs))

        return Run(function.__name__, events())

    return call


def at_once(function: Callable[P, Result]) -> Callable[P, Run[Result]]:
    """Make a quick function into one that returns a `Run` that is done, without events."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Run[Result]:
        def events() -> Events[Result]:
            yield from ()
            return given.fitting(function)(*args, **kwargs)

        run = Run(function.__name__, events())
        deque(run, maxlen=0)
        return run

    return call
