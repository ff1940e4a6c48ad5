"""`Recipe`: everything that decides a run, as one frozen tree.

The fields' metadata (help, unit, everyday or expert) is the only source of command-line help,
the settings page and, later, the web forms. Imports no torch, so that `--help` is quick.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tomlkit
import tomlkit.exceptions
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from tsuika.core.errors import RecipeError, no_such
from tsuika.core.methods import METHOD_SECTIONS, DreamBooth, Hypernetwork, Lora, MethodSection, TextualInversion
from tsuika.core.section import Help, Section, reason
from tsuika.core.sections import Base, Data, Guard, Output, Preview, Regularize, Train
from tsuika.core.texts import _

AnyMethod = Annotated[Lora | TextualInversion | DreamBooth | Hypernetwork, Field(discriminator="name")]


class Recipe(Section):
    """Everything that decides a run."""

    version: Literal[1] = 1
    base: Base = Base()
    data: Data = Data()
    method: AnyMethod = Lora()
    train: Train = Train()
    regularize: Regularize = Regularize()
    guard: Guard = Guard()
    preview: Preview = Preview()
    output: Output = Output()


@dataclass(frozen=True)
class Setting:
    """One leaf of the recipe, as help and forms need it."""

    key: str
    type: Any
    default: Any
    help: Help
    field: FieldInfo
    method: str = ""  # the only method that has it; empty: all have


def settings(section: type[BaseModel] = Recipe, prefix: str = "", method: str = "") -> Iterator[Setting]:
    """Every setting in the recipe's order, each method's own included."""
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        if section is Recipe and name == "method":
            for own in METHOD_SECTIONS:
                yield from settings(own, f"{key}.", method_name(own))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{key}.")
        else:
            for note in field.metadata:
                if isinstance(note, Help):
                    yield Setting(key, field.annotation, field.default, note, field, method)


def method_name(section: type[MethodSection]) -> str:
    """What a method's section is called in a recipe: `lora`."""
    name: str = section.model_fields["name"].default
    return name


def method_section(name: str) -> type[MethodSection] | None:
    """The settings of the method called `name`."""
    return next((section for section in METHOD_SECTIONS if method_name(section) == name), None)


def _nearest(key: str) -> str:
    keys = [setting.key for setting in settings()]
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in keys}
    close = difflib.get_close_matches(key, keys, 1, 0.5)
    if not close:
        close = [by_leaf[leaf] for leaf in difflib.get_close_matches(key.rsplit(".", 1)[-1], by_leaf, 1, 0.5)]
    return close[0] if close else "tsuika train --help"


def build(data: Mapping[str, Any], where: str = "") -> Recipe:
    """A checked recipe from nested tables; where they are silent, the method's defaults hold, then the common ones.

    Raises:
        RecipeError: unknown key (RC001, names the nearest one) or a value out of range (RC002).
    """
    tables = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    method = tables.setdefault("method", {})
    name = method.setdefault("name", "lora") if isinstance(method, dict) else ""
    own = method_section(name) if isinstance(name, str) else None
    for dotted, value in (own.defaults if own else {}).items():
        section, _, leaf = dotted.partition(".")
        if isinstance(table := tables.setdefault(section, {}), dict):
            table.setdefault(leaf, value)
    try:
        return Recipe.model_validate(tables)
    except ValidationError as error:
        first = error.errors()[0]
        loc = [part for place, part in enumerate(first["loc"]) if not (place == 1 and part == name)]  # the union's tag
        key = ".".join(map(str, loc))
        if first["type"] == "extra_forbidden":
            raise RecipeError("RC001", where=where, key=key, nearest=_nearest(key)) from None
        if first["type"] == "union_tag_invalid":
            known = map(method_name, METHOD_SECTIONS)
            raise no_such("method.name", name, known, where=where) from None
        raise RecipeError("RC002", where=where, key=key, found=first["input"], why=reason(first)) from None


def load(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        RecipeError: not there, not TOML, or not a recipe.
    """
    return build(read_tables(path), where=str(path))


def read_tables(path: Path) -> dict[str, Any]:
    """A recipe file as nested tables, not yet checked.

    Raises:
        RecipeError: not there or not TOML (RC003).
    """
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8-sig")).unwrap()
    except OSError:
        why = _("There is no such file, or it cannot be opened.")
    except UnicodeDecodeError:
        why = _("It is not UTF-8 text.")
    except tomlkit.exceptions.ParseError as error:
        why = _("Line {line}, column {column} is not valid TOML.", line=error.line, column=error.col)
    except tomlkit.exceptions.TOMLKitError as error:
        why = _("It is not valid TOML ({error}).", error=error)
    raise RecipeError("RC003", where=path, why=why)


def override(tables: Mapping[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with dotted keys set: `{"train.steps": 400}`."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tables.items()}
    for dotted, value in assignments.items():
        *parents, leaf = dotted.replace("-", "_").split(".")
        table = result
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise RecipeError("RC001", key=dotted, nearest=_nearest(dotted))
        table[leaf] = value
    return result


def parse_assignment(text: str) -> tuple[str, Any]:
    """`train.steps=400` to a dotted key and a TOML value; what is not TOML is a string.

    Raises:
        RecipeError: no `=` in it (RC004).
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError("RC004", found=text)
    try:
        return key.strip(), tomlkit.parse(f"value = {value}").unwrap()["value"]
    except tomlkit.exceptions.TOMLKitError:
        return key.strip(), value


def dump(recipe: Recipe, *, comments: bool = True) -> str:
    """The recipe as TOML, every setting with what it means; `load` of it gives the same recipe."""
    document = tomlkit.document()
    document.add(tomlkit.comment("tsuika recipe: running it again repeats the run."))
    document["version"] = recipe.version
    helps = {one.key: one.help for one in settings() if one.method in ("", recipe.method.name)}
    for name in (n for n in Recipe.model_fields if n != "version"):
        section = getattr(recipe, name)
        table = tomlkit.table()
        for leaf, value in section.model_dump(mode="json").items():
            item = tomlkit.item(value)
            if comments and (note := helps.get(f"{name}.{leaf}")):
                item.comment(note.text + (f" [{note.unit}]" if note.unit else ""))
            table.add(leaf, item)
        document[name] = table
    return tomlkit.dumps(document)


def choices(setting: Setting) -> tuple[str, ...]:
    """The allowed words of a setting, or none."""
    return tuple(map(str, get_args(setting.type))) if get_origin(setting.type) is Literal else ()
