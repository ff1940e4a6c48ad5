"""What callers of the library give, and what its functions make of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import tsuika
from tsuika.core import given
from tsuika.core.errors import RecipeError
from tsuika.core.files import split_strength


class Somewhere:
    """A path of another library's."""

    def __repr__(self) -> str:
        return "Somewhere()"

    def __fspath__(self) -> str:
        return "a/b"


FUNCTIONS = {name: inspect.unwrap(one) for name in tsuika.__all__ if inspect.isfunction(one := getattr(tsuika, name))}


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        (Path, "a/b", Path("a/b")),
        (Path, Somewhere(), Path("a/b")),
        (Path | None, None, None),
        (Path | str | None, "a/b", Path("a/b")),
        (str, Path("a/b"), "a/b"),
        (int, np.int64(3), 3),
        (int, 3.0, 3),
        (int | None, np.uint8(3), 3),
        (float, np.float32(0.5), 0.5),
        (float, 1, 1.0),
        (bool, np.bool_(True), True),
        (Sequence[str], "one.safetensors", ("one.safetensors",)),
        (Sequence[str], Path("one.safetensors"), ("one.safetensors",)),
        (Sequence[str], [Path("a"), "b"], ("a", "b")),
        (Sequence[float], 0.5, (0.5,)),
        (tuple[int, ...], np.array([1, 2]), (1, 2)),
        (tuple[tuple[str, float], ...], {"cat": np.float64(0.5)}, (("cat", 0.5),)),
    ],
    ids=str,
)
def test_what_means_the_same_becomes_the_kind(kind: Any, value: Any, fits: Any) -> None:
    made = given.fit(value, kind)
    assert made == fits and type(made) is type(fits)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[(Path, one) for one in ("", None, 3, b"a", ["a"])],
        *[(int, one) for one in (True, "3", 3.5, None, math.nan)],
        *[(float, one) for one in (True, "3", None, math.nan, math.inf, 10**400)],
        *[(str, one) for one in (None, 3, b"a", ["a"])],
        *[(bool, one) for one in (1, "yes", None)],
        *[(Sequence[str], one) for one in (None, 3, [3], [("a", 0.5)])],
        *[(tuple[tuple[str, float], ...], one) for one in ((("a",),), (("a", "0.5"),), "ab")],
    ],
    ids=str,
)
def test_what_does_not_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(given.Unfit):
        given.fit(value, kind)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_takes_its_paths_as_text_and_names_what_it_refuses(name: str) -> None:
    function = FUNCTIONS[name]
    kinds = {key: kind for key, kind in get_type_hints(function).items() if key != "return"}
    for key, kind in kinds.items():
        if kind in (Path, Path | None, Path | str):
            assert given.bound_one(function, key, "a/b") == Path("a/b")
        if kind in (Path, Path | None, int, float, str, bool):
            with pytest.raises(RecipeError, match=rf"RC015.*`{key}`"):
                given.bound_one(function, key, object())


def test_a_drawing_holds_one_file_as_a_file_and_none_as_the_base_s_own() -> None:
    one = tsuika.Drawing("a cat", lora="cat.safetensors:0.5", size=None, base=None)  # type: ignore[arg-type]
    assert one == tsuika.Drawing("a cat", lora=("cat.safetensors:0.5",))


@pytest.mark.parametrize("field", ["prompt", "negative"])
def test_half_a_character_is_no_prompt(field: str) -> None:
    """Of bytes on a command line that are not UTF-8; the tokenizer's own error was a bug of ours."""
    with pytest.raises(RecipeError, match="RC002"):
        tsuika.Drawing(**{"prompt": "a cat", field: "a \udcff cat"})


def test_the_home_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave it in `--out=~/x`, and programs in text."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert given.fit("~/x", Path | str) == given.fit(Path("~/x"), Path) == tmp_path / "x"
    assert split_strength("~/x.safetensors:0.5") == (tmp_path / "x.safetensors", 0.5)
