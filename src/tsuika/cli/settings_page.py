"""The list of settings, from the recipe's own metadata."""

from __future__ import annotations

import tomlkit

from tsuika.cli import layout
from tsuika.config import Setting, choices, settings
from tsuika.core.texts import Text, _, listed
from tsuika.methods import METHODS


def _meaning(setting: Setting) -> Text:
    text, allowed = setting.help.text, choices(setting)
    if setting.help.unit:
        text = _("{text} [{unit}]", text=text, unit=setting.help.unit)
    if len(allowed) > 1:
        text = _("{text} (choices: {choices})", text=text, choices=listed(allowed))
    return _("{text} (expert)", text=text) if setting.help.level == "expert" else text


def _value(value: object) -> str:
    return tomlkit.item(value).as_string()


def markdown(lang: str, part: str = "") -> str:
    """The settings page of the documentation: what all methods share, then each method's own."""
    command = "tsuika settings --markdown" if lang == "en" else f"tsuika settings --markdown --lang {lang}"
    about = _(
        "Every setting of a recipe. In a recipe file the part before the dot is the table; on the command line use"
        " `--set key=value`. Made by `{command}`.",
        command=command,
    )
    head = " | ".join(text.to(lang) for text in (_("Key"), _("Default"), _("Meaning")))
    title = _("Settings").to(lang)
    lines = [f"# {title}", "", about.to(lang)]
    rows = [one for one in settings() if part in one.key]
    for method in (None, *METHODS.values()):
        name = method.name if method else ""
        if method:
            lines += ["", f"## {name}", "", _("Settings of `{name}` alone.", name=name).to(lang)]
            if method.settings.defaults:
                defaults = listed(f"`{key} = {_value(value)}`" for key, value in method.settings.defaults.items())
                lines += ["", _("With this method the defaults are: {defaults}.", defaults=defaults).to(lang)]
        lines += ["", f"| {head} |", "|---|---|---|"]
        for row in (one for one in rows if one.method == name):
            # `[px](expert)` without a space before it would be a link.
            meaning = _meaning(row).to(lang).replace("[", r"\[")
            lines.append(f"| `{row.key}` | `{_value(row.default)}` | {meaning} |")
    return "\n".join(lines)


def table(lang: str, part: str = "") -> str:
    """The same for a terminal: a line with key and default, its meaning below."""
    lines = []
    for row in (one for one in settings() if part in one.key):
        key = f"{row.key} ({row.method})" if row.method else row.key
        lines += [f"{key} = {_value(row.default)}", layout.wrap(_meaning(row).to(lang), first="    ", rest="    ")]
    return "\n".join(lines)
