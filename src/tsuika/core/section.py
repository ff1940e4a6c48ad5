"""What a section of the recipe is made of: fields with their help, and why a value is refused. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from tsuika.core.files import at_home
from tsuika.core.texts import Text, _, listed, one_line

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Level = Literal["everyday", "expert"]


# A file or folder: `~` in it is filled in once, here.
Place = Annotated[str, AfterValidator(lambda text: str(at_home(text)) if text.startswith("~") else text)]


def _is_word(text: str) -> str:
    if text and (text.isspace() or one_line(text) != text):
        raise ValueError(_("Give words in one line, not spaces alone."))
    return text


# Something that prompts can hold.
Words = Annotated[str, AfterValidator(_is_word)]


@dataclass(frozen=True)
class Help:
    """What a setting is, for people."""

    text: Text
    unit: str = ""
    level: Level = "everyday"


def everyday(default: Any, text: str, unit: str = "", **limits: float) -> Any:
    """A setting of the recipe; `limits` are pydantic's (`ge`, `lt`, ...)."""
    return _setting(default, text, {"unit": unit, "level": "everyday"}, limits)


def expert(default: Any, text: str, unit: str = "", **limits: float) -> Any:
    """A setting that few need."""
    return _setting(default, text, {"unit": unit, "level": "expert"}, limits)


def _setting(default: Any, text: str, extra: dict[str, Any], limits: dict[str, Any]) -> Any:
    return Field(default, description=Text(text), json_schema_extra=extra, **limits)


def help_of(field: FieldInfo) -> Help | None:
    """What a field of a section is, if it is a setting."""
    if not isinstance(field.description, Text) or not isinstance(field.json_schema_extra, dict):
        return None
    return Help(field.description, **field.json_schema_extra)  # type: ignore[arg-type]


class Section(BaseModel):
    """A frozen part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_text_that_files_can_hold(cls, value: Any) -> Any:
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, str) and not one.isprintable() and re.search("[\0\ud800-\udfff]", one):
                raise ValueError(_("It is no text (UTF-8), or holds the character NUL. Rename the file or folder."))
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and wanted in (int, float):
            raise ValueError(_("Give a number."))
        return value


# By the beginning of pydantic's name of the error; `{gt}` and the like are its own parameters.
_REASONS: Final[Mapping[str, Text]] = {
    "int": _("Give a whole number."),
    "float": _("Give a number."),
    "finite_number": _("Give a finite number."),
    "bool": _("Give true or false."),
    "string": _("Give a text, in quotation marks."),
    "tuple": _("Give a list, such as [1, 2]."),
    "list": _("Give a list, such as [1, 2]."),
    "model": _("Give a table with settings."),
    "dict": _("Give a table with settings."),
    "greater_than_equal": _("It must be at least {ge:g}."),
    "greater_than": _("It must be greater than {gt:g}."),
    "less_than_equal": _("It must be at most {le:g}."),
    "less_than": _("It must be less than {lt:g}."),
}


def reason(error: ErrorDetails) -> Text:
    """Why pydantic refuses a value; what a validator of ours says is taken as it is."""
    kind, params = error["type"], error.get("ctx", {})
    ours = params.get("error")
    if isinstance(ours, ValueError) and ours.args:
        said = ours.args[0]
        return said if isinstance(said, Text) else Text(str(said))
    if kind == "literal_error":
        return _("Possible values: {names}", names=listed(re.findall(r"[^' ,]+(?=')|\d+", params["expected"])))
    known = next((text for name, text in _REASONS.items() if kind.startswith(name)), None)
    return known.filled(params) if known else Text(error["msg"])
