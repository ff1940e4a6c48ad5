"""A `Run`: events, result, errors and closing, whatever it wraps."""

from __future__ import annotations

import gc
import warnings
from dataclasses import dataclass

import pytest

from tsuika.api.run import Run, at_once, starts
from tsuika.core.errors import InterruptedRunError, RecipeError
from tsuika.core.events import Event, Phase, Progress


@dataclass(frozen=True)
class Counted:
    total: int


closed: list[int] = []


@starts
def count(to: int, *, wrong_at: int = -1):
    """Count."""
    try:
        yield Phase("count", to)
        for number in range(to):
            if number == wrong_at:
                raise RecipeError("RC004", found="x")
            yield Progress("count", number + 1, to)
    finally:
        closed.append(to)
    return Counted(to)


@at_once
def quick(to: int):
    """Count at once."""
    return Counted(to)


def test_events_then_result() -> None:
    run = count(3)
    events = list(run)
    assert [type(event) for event in events] == [Phase, Progress, Progress, Progress]
    assert run.done and run.result == Counted(3)


def test_the_result_does_what_is_left() -> None:
    run = count(3)
    next(run)
    assert not run.done
    assert run.result == Counted(3)
    assert list(run) == []


def test_a_quick_call_is_done_without_events() -> None:
    run = quick(2)
    assert run.done and run.result == Counted(2)
    assert list(run) == []


def test_an_error_is_raised_where_it_happens_and_by_the_result() -> None:
    run = count(3, wrong_at=1)
    with pytest.raises(RecipeError):
        list(run)
    with pytest.raises(RecipeError):
        _ = run.result


def test_closing_stops_the_work_and_there_is_no_result() -> None:
    closed.clear()
    with count(5) as run:
        next(run)
    assert closed == [5]
    assert list(run) == []
    with pytest.raises(InterruptedRunError):
        _ = run.result


def test_closing_what_is_done_changes_nothing() -> None:
    run = count(1)
    assert run.result == Counted(1)
    run.close()
    assert run.result == Counted(1)


def test_a_run_that_nobody_ran_says_so() -> None:
    with pytest.warns(RuntimeWarning, match="never run"):
        count(1)
        gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = count(1)
        run.close()
        del run
        gc.collect()


def test_name_and_docstring_are_those_of_the_function() -> None:
    assert count.__name__ == "count" and count.__doc__ == "Count."
    assert isinstance(quick(1), Run)


def test_it_shows_itself() -> None:
    run = count(3)
    next(run)
    next(run)
    assert 'value="1"' in run._repr_html_() and "1/3" in run._repr_html_()
    assert run.result == Counted(3)
    assert ">3<" in run._repr_html_()


def test_events_are_events() -> None:
    run = count(1)
    assert all(isinstance(event, Event) for event in run)
