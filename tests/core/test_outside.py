"""What is named by its address: what is found there, and what an error says of what is not."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import pytest

from tsuika.core.errors import RecipeError
from tsuika.core.outside import imported, is_address, origin, packages


def test_what_is_at_an_address_is_taken() -> None:
    assert imported("fractions:Fraction", type, key="method.name") is Fraction


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("no_such_package.inner:X", "`no_such_package.inner` cannot be imported (ModuleNotFoundError"),
        ("math:nothing", "`math` has no `nothing`."),
        ("math:pi", "It is of type float, not str."),
    ],
)
def test_what_is_not_there_is_told_with_its_setting(address: str, why: str) -> None:
    with pytest.raises(RecipeError) as refused:
        imported(address, str, key="method.name", where="recipe.toml")
    error = refused.value
    assert (error.code, error.where, error.part("why")[: len(why)]) == ("RC002", "recipe.toml", why)
    assert "`method.name`" in error.part("what") and f"`{address}`" in error.part("what")


@pytest.mark.parametrize("name", ["lora", "a.b", ":X", "a:", "a b:X", "a:b:c", "1a:X", "a..b:X", "../a:X"])
def test_what_is_no_address(name: str) -> None:
    assert not is_address(name) and is_address("a.b_2:Ünï")


def test_the_innermost_module_from_outside_is_named_and_no_library_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "plugin" / "inner.py").write_text(
        "import json\n\ndef fails(text):\n    return json.loads(text)\n", "utf-8"
    )
    (tmp_path / "plugin" / "outer.py").write_text("from plugin.inner import fails as run\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    imported("json:loads", object, key="method.name")  # it was here before
    run = imported("plugin.outer:run", object, key="method.name")
    assert "plugin" in packages() and "json" not in packages()
    for call, module in ((run, "plugin.inner"), (sys.modules["json"].loads, "")):
        with pytest.raises(ValueError) as caught:
            call("{")
        assert origin(caught.value) == module
