"""`Recipe`: everything that decides a run, as one frozen tree.

The fields' metadata (help, unit, everyday or expert) is the only source of command-line help,
the settings page and, later, the web forms. Imports no torch, so that `--help` is quick.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import tomlkit
import tomlkit.exceptions
from pydantic import BaseModel, PrivateAttr, SerializeAsAny, ValidationError
from pydantic.fields import FieldInfo

from tsuika.config import imports
from tsuika.core import safetensors
from tsuika.core.errors import RecipeError, nearest
from tsuika.core.events import Warned, note
from tsuika.core.section import Help, Section, help_of, reason
from tsuika.core.sections import Base, Data, Guard, Output, Preview, Regularize, Train
from tsuika.core.texts import _, listed
from tsuika.embedded.defaults import training
from tsuika.methods import DEFAULT, METHODS, Method, MethodSection, find

EMBEDDED: Final = Base().model  # the base that comes with the package
Known = TypeVar("Known", bound=BaseModel)
# The settings that have a flag of `tsuika train` and a keyword of `tsuika.train`.
FLAGS: Final = {
    "images": "data.images",
    "base": "base.model",
    "trigger": "data.trigger",
    "class_word": "data.class_word",
    "reg_images": "data.reg_images",
    "steps": "train.steps",
    "seed": "train.seed",
    "vae": "base.vae",
    "device": "train.device",
    "guard": "guard.mode",
    "folds": "guard.folds",
}


class Recipe(Section):
    """Everything that decides a run."""

    version: Literal[1] = 1
    base: Base = Base()
    data: Data = Data()
    method: SerializeAsAny[MethodSection] = DEFAULT.settings()
    train: Train = Train()
    regularize: Regularize = Regularize()
    guard: Guard = Guard()
    preview: Preview = Preview()
    output: Output = Output()
    _remarks: tuple[Warned, ...] = PrivateAttr(())

    @property
    def remarks(self) -> tuple[Warned, ...]:
        """What should be known of it: settings of another program's file that have no counterpart."""
        return self._remarks

    def remarked(self, remarks: tuple[Warned, ...]) -> Recipe:
        """The same with these remarks."""
        recipe = self.model_copy()
        recipe._remarks = remarks
        return recipe

    @classmethod
    def of(
        cls,
        method: str = "",
        *,
        file: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        **flags: object,
    ) -> Recipe:
        """A recipe from a file, then the method and flags, then any settings; the method's own defaults hold elsewhere.

        Args:
            method: its name in `methods.METHODS`, as `lora`, or the address of one from outside.
            file: a recipe in TOML, or another program's settings (`imports`).
            settings: by dotted key: `{"method.rank": 8}`.
            flags: by the names in `FLAGS`: `images="photos", trigger="sks"`. None and "" are as if not given.

        Raises:
            RecipeError: the file, a key or a value is wrong (RC001, RC002, RC003).
            TypeError: there is no such flag.
        """
        if unknown := flags.keys() - FLAGS.keys():
            raise TypeError(f"no such setting: {', '.join(sorted(unknown))}; known: {', '.join(FLAGS)}")
        named = {"method.name": method} | {FLAGS[name]: value for name, value in flags.items()}
        read, remarks = _read(Path(file)) if file else ({}, ())
        if flags.get("images"):
            # One folder in place of a file's several.
            read = override(read, {"data.sets": []})
        tables = override(read, {k: v for k, v in named.items() if v not in ("", None)})
        return build(_without_paths(override(tables, settings or {})), where=str(file or "")).remarked(remarks)


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(one) for one in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Setting:
    """One leaf of the recipe, as help and forms need it."""

    key: str
    type: Any
    default: Any
    help: Help
    field: FieldInfo
    method: str = ""  # the only method that has it; empty: all have


def settings(methods: Iterable[Method] = tuple(METHODS.values())) -> Iterator[Setting]:
    """Every setting in the recipe's order.

    Args:
        methods: whose own settings are among them.
    """
    for name, field in Recipe.model_fields.items():
        if name == "method":
            for method in methods:
                yield from _settings(method.settings, name, method.name)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, name)


def _settings(section: type[BaseModel], table: str, method: str = "") -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        if about := help_of(field):
            yield Setting(f"{table}.{name}", field.annotation, field.default, about, field, method)


def _unknown(key: str, methods: Iterable[Method] = tuple(METHODS.values()), where: str = "") -> RecipeError:
    """The error if there is no setting of this name; names the nearest in its table, then anywhere, or the table."""
    keys = [setting.key for setting in settings(methods)]
    table, _dot, leaf = key.rpartition(".")
    by_leaf = {} if table else dict(zip(Recipe.model_fields, Recipe.model_fields))
    by_leaf |= {name.rpartition(".")[2]: name for name in keys}
    own = {name.removeprefix(f"{table}."): name for name in keys if name.startswith(f"{table}.")}
    like = own.get(nearest(leaf, own)) or by_leaf.get(nearest(leaf, by_leaf))
    do = _("Did you mean `{nearest}`?", nearest=like) if like else _("All settings: tsuika settings")
    return RecipeError("RC001", where=where, key=key, do=do)


def build(data: Mapping[str, Any], where: str = "") -> Recipe:
    """A checked recipe; where the tables are silent, the base's defaults hold, the method's, the common ones.

    A method from outside is imported: its name is the user's own word here.

    Args:
        data: nested tables, as in a recipe file.
        where: the file, for the error.

    Raises:
        RecipeError: unknown key (RC001, names the nearest one), a value out of range, or no such method (RC002).
    """
    tables = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    own = tables.setdefault("method", {})
    method = find(str(own.get("name", DEFAULT.name) if isinstance(own, Mapping) else DEFAULT.name), where=where)
    base = tables.get("base", {})
    is_embedded = isinstance(base, Mapping) and base.get("model", EMBEDDED) == EMBEDDED
    said_already = method.settings.said_by(own) if isinstance(own, Mapping) else ()
    for dotted, value in defaults_of(method, EMBEDDED if is_embedded else "").items():
        table, _, leaf = dotted.partition(".")
        if dotted in said_already:
            continue
        if isinstance(values := tables.setdefault(table, {}), dict):
            values.setdefault(leaf, value)
    tables["method"] = _validated(method.settings, tables["method"], method, where, "method")
    return _validated(Recipe, tables, method, where)


def defaults_of(method: Method, base: str) -> Mapping[str, Any]:
    """What a recipe for a method on a base takes where it is silent, by dotted key; all else are the common defaults."""
    return {**method.settings.defaults, **(training().get(method.name, {}) if base == EMBEDDED else {})}


def _validated(section: type[Known], data: Any, method: Method, where: str, *above: str) -> Known:
    """The recipe, or a section of it (`above`), checked.

    Raises:
        RecipeError: as `build`.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, [*above, *first["loc"]]))
        if first["type"] == "extra_forbidden":
            if owners := [one.title for one in METHODS.values() if key in {known.key for known in settings([one])}]:
                own = listed(known.key for known in settings([method]) if known.key.startswith("method."))
                about = {"owners": listed(owners), "method": method.title, "names": own}
                raise RecipeError("RC042", where=where, key=key, **about) from None
            raise _unknown(key, [method], where) from None
        raise RecipeError("RC002", where=where, key=key, found=first["input"], why=reason(first)) from None


def load(path: Path) -> Recipe:
    """The recipe in a file: TOML, or what `imports` knows of other programs.

    Raises:
        RecipeError: not there, not TOML, or not a recipe.
    """
    tables, remarks = _read(path)
    return build(tables, where=str(path)).remarked(remarks)


def read_tables(path: Path) -> dict[str, Any]:
    """A recipe file as nested tables, not yet checked.

    Raises:
        RecipeError: not there or not TOML (RC003).
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], tuple[Warned, ...]]:
    """Tables, and remarks where they were another program's."""
    content = _parsed(path)
    if (importer := imports.find(content)) is None:
        if isinstance(content, dict) and path.suffix.lower() != ".json":
            return content, ()
        raise RecipeError("RC003", where=path, why=imports.why_unknown(content))
    found = importer(content, lambda name: _parsed(_beside(path, name)))
    about = {"file": path.name, "kind": found.kind, "count": len(found.settings)}
    remark = note("RC041", **about, names=listed(found.lost)) if found.lost else note("RC040", **about)
    return override({}, {**found.silent, **found.settings}), (remark,)


def _beside(path: Path, name: str) -> Path:
    """Where a file lies that another one names: beside it, above it, or where its name says; no device. Raises RecipeError: RC003."""
    for place in (*(folder / name for folder in path.absolute().parents), Path(name)):
        if os.path.isfile(place):  # noqa: PTH113 - it raises nothing
            return place
    raise RecipeError("RC003", where=name, why=_("There is no such file, or it cannot be opened."))


def _parsed(path: Path) -> Any:
    """What a file holds: tables, or what `imports` knows besides."""
    suffix = path.suffix.lower()
    try:
        if suffix in imports.TENSORS:
            header = safetensors.read_header(path)
            return imports.TrainedFile(header.metadata, frozenset(header.shapes))
        text = path.read_text(encoding="utf-8-sig")
        script = imports.Script(path, text)
        if suffix in imports.SCRIPTS and (suffix != ".txt" or imports.find(script)):
            return script
        found = json.loads(text, object_pairs_hook=_once) if suffix == ".json" else tomlkit.parse(text).unwrap()
        # A hexadecimal number may be so long that it can be neither shown nor used; Python says so here.
        str(found)
        return found
    except OSError:
        why = _("There is no such file, or it cannot be opened.")
    except UnicodeDecodeError:
        why = _("It is not UTF-8 text.")
    except json.JSONDecodeError as error:
        why = _("Line {line}, column {column} is not valid JSON.", line=error.lineno, column=error.colno)
    except RecursionError:
        why = _("It is nested too deep.")
    except tomlkit.exceptions.ParseError as error:
        why = _("Line {line}, column {column} is not valid TOML.", line=error.line, column=error.col)
    except tomlkit.exceptions.TOMLKitError as error:
        why = _("It is not valid TOML ({error}).", error=error)
    # A number of thousands of digits.
    except ValueError as error:
        why = _("It cannot be read: {error}.", error=error)
    raise RecipeError("RC003", where=path, why=why)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of JSON; which of two values of a key is meant, nobody knows."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, _value in pairs if [one for one, _other in pairs].count(key) > 1)
        raise ValueError(_("`{key}` is there twice", key=twice))
    return found


def override(tables: Mapping[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with dotted keys set: `{"train.steps": 400}`."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tables.items()}
    for dotted, value in assignments.items():
        *parents, leaf = dotted.replace("-", "_").split(".")
        table = result
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise _unknown(dotted)
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
        parsed = tomlkit.parse(f"value = {value}").unwrap()["value"]
        str(parsed)
        return key.strip(), parsed
    # No TOML, nested too deep, or a number too long to be shown.
    except (ValueError, RecursionError, tomlkit.exceptions.TOMLKitError):
        return key.strip(), value


def dump(recipe: Recipe, *, comments: bool = True) -> str:
    """The recipe as TOML; `load` of it gives the same recipe.

    Args:
        recipe: all settings.
        comments: whether every setting says what it means.
    """
    document = tomlkit.document()
    document.add(tomlkit.comment("tsuika recipe: running it again repeats the run."))
    document["version"] = recipe.version
    helps = {one.key: one.help for one in settings([find(recipe.method.name)])}
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
