"""The list of settings, from the recipe's own metadata."""

from __future__ import annotations

import tomlkit

from tsuika.core.config import Setting, choices, settings
from tsuika.core.words import Lang
from tsuika.methods import METHODS

_HEAD = {"en": ("Key", "Default", "What it is"), "ja": ("キー", "初期値", "説明")}
_TITLE = {"en": "Settings", "ja": "設定一覧"}
_NOTE = {
    "en": "Every setting of a recipe. In a recipe file the part before the dot is the table; on the command line use "
    "`--set key=value`. Made by `tsuika settings --markdown`.",
    "ja": "レシピの全設定です。レシピファイルではドットの前がテーブル名、コマンドラインでは `--set key=value` で指定します。"
    "このページは `tsuika --lang ja settings --markdown` で作成しています。",
}
_OF_METHOD = {"en": "Settings of `{name}` alone.", "ja": "`{name}` だけの設定です。"}
_DEFAULTS = {
    "en": "With this method these begin at: {defaults}.",
    "ja": "この方法では次の初期値になります: {defaults}。",
}
_EXPERT = {"en": " (expert)", "ja": "(上級)"}


def _rows(lang: Lang, part: str) -> list[tuple[str, str, str, str]]:
    """(method or nothing, key, default, words)"""

    def words(setting: Setting) -> str:
        text = setting.help.text.to(lang)
        allowed = choices(setting)
        return (
            text
            + (f" [{setting.help.unit}]" if setting.help.unit else "")
            + (f": {', '.join(allowed)}" if len(allowed) > 1 else "")
            + (_EXPERT[lang] if setting.help.level == "expert" else "")
        )

    return [(s.method, s.key, _value(s.default), words(s)) for s in settings() if part in s.key]


def _value(value: object) -> str:
    return tomlkit.item(value).as_string()


def markdown(lang: Lang, part: str = "") -> str:
    """The settings page of the documentation: what all methods share, then each method's own."""
    head, rows = _HEAD[lang], _rows(lang, part)
    lines = [f"# {_TITLE[lang]}", "", _NOTE[lang]]
    for method in (None, *METHODS.values()):
        name = method.name if method else ""
        if method:
            lines += ["", f"## {name}", "", _OF_METHOD[lang].format(name=name)]
            if method.settings.defaults:
                defaults = ", ".join(f"`{key} = {_value(value)}`" for key, value in method.settings.defaults.items())
                lines += ["", _DEFAULTS[lang].format(defaults=defaults)]
        lines += ["", f"| {' | '.join(head)} |", "|---|---|---|"]
        lines += [f"| `{key}` | `{default}` | {text} |" for owner, key, default, text in rows if owner == name]
    return "\n".join(lines)


def table(lang: Lang, part: str = "") -> str:
    """The same for a terminal."""
    rows = [(f"{key} ({method})" if method else key, default, text) for method, key, default, text in _rows(lang, part)]
    wide = max((len(key) for key, _, _ in rows), default=0)
    middle = max((len(default) for _, default, _ in rows), default=0)
    return "\n".join(f"{key:<{wide}}  {default:<{middle}}  {text}" for key, default, text in rows)
