"""Forms as data: every setting of a recipe, from the recipe's own metadata. Nothing is typed a second time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin

from tsuika import config
from tsuika.api import search_space
from tsuika.config import Recipe, Setting
from tsuika.core.messages import MESSAGES, sentence
from tsuika.core.plain import jsonable
from tsuika.core.sections import SET_KEYS
from tsuika.core.texts import _
from tsuika.methods import METHODS
from tsuika.pages import in_languages

TITLES: Final = {
    "base": _("Base model"),
    "data": _("Images and captions"),
    "method": _("Method"),
    "train": _("Training"),
    "regularize": _("Regularization of the weights"),
    "guard": _("Overfitting guard"),
    "preview": _("Previews"),
    "output": _("Written files"),
}


def settings() -> dict[str, Any]:
    """Every setting, by section, for the form "All settings"."""
    return {
        "sections": [{"key": key, "title": in_languages(title)} for key, title in TITLES.items()],
        "methods": [
            {"name": name, "title": in_languages(method.title), "defaults": jsonable(method.settings.defaults)}
            for name, method in METHODS.items()
        ],
        "settings": [_setting(one) for one in config.settings()],
    }


def _setting(one: Setting) -> dict[str, Any]:
    kind = one.type
    choices = config.choices(one)
    row: dict[str, Any] = {
        "key": one.key,
        "method": one.method,
        "text": in_languages(one.help.text),
        "unit": one.help.unit,
        "level": one.help.level,
        "default": jsonable(one.default),
        "kind": "choice" if choices else _kind(kind),
        # A list of values, or a range, stands for one of these.
        "searched": search_space.searchable(one.key) and (bool(choices) or kind in (bool, int, float)),
        **dict(_limits(one)),
    }
    if choices:
        row["choices"] = list(choices)
    if one.key == "data.sets":
        # A table has settings of the same section.
        inside = {f"data.{name}" for name in SET_KEYS}
        row["columns"] = [_setting(each) for each in config.settings() if each.key in inside]
    return row


def _kind(kind: Any) -> str:
    names = {bool: "flag", int: "whole", float: "number", str: "text"}
    if get_origin(kind) in (tuple, list):
        # Of texts, or of tables.
        return "list" if str in get_args(kind) else "tables"
    return names.get(kind, "text")


def _limits(one: Setting) -> Iterator[tuple[str, float]]:
    for about in one.field.metadata:
        for name in ("ge", "gt", "le", "lt"):
            value = getattr(about, name, None)
            if isinstance(value, int | float):
                yield name, value


def differences(recipe: Recipe) -> dict[str, Any]:
    """By key, what a recipe sets otherwise than the defaults of its method."""
    plain = config.build({"method": {"name": recipe.method.name}})
    found: dict[str, Any] = {}
    for name in TITLES:
        ours, theirs = (getattr(one, name).model_dump(mode="json") for one in (recipe, plain))
        found |= {f"{name}.{key}": value for key, value in ours.items() if value != theirs.get(key)}
    return found


def in_every_language(result: Any) -> Any:
    """A command's result, with its notes (a code, and what fills its message) by language."""
    if isinstance(result, list):
        return [in_every_language(one) for one in result]
    if not isinstance(result, dict):
        return result
    if result.keys() >= {"code", "params"} and result["code"] in MESSAGES:
        return {**result, "message": in_languages(sentence(result["code"], result["params"]))}
    return {key: in_every_language(one) for key, one in result.items()}


def told(error: Any) -> dict[str, Any]:
    """An error of ours by language."""
    parts: tuple[Literal["what", "why", "do"], ...] = ("what", "why", "do")
    texts: dict[str, Any] = {name: in_languages(error.text(name)) for name in parts}
    return {"code": error.code, "where": error.where, "key": error.params.get("key", ""), **texts}
