"""`docs/troubleshooting.md` and its Japanese twin, made of the catalogue of messages: `python scripts/troubleshooting.py`.

With `--check` nothing is written; the status tells whether the pages are current.
"""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Final

from tsuika.core.messages import MESSAGES
from tsuika.core.texts import Text

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGES: Final = {"en": DOCS / "troubleshooting.md", "ja": DOCS / "troubleshooting.ja.md"}
HEADS: Final = {
    "en": """# Messages, and what to do

[日本語](troubleshooting.ja.md)

Every error and every note of tsuika has a code, such as `RS002`. Here is what each of them means and what helps. Words in
`{braces}` stand for what is filled in when the message is shown. A message with a traceback in a log file (status 1) is a
bug: please report it with what `tsuika doctor` prints. This page is made from the program: `python scripts/troubleshooting.py`.
""",
    "ja": """# メッセージの一覧と対処法

[English](troubleshooting.md)

tsuikaのエラーとお知らせには、`RS002` のようなコードが付いています。それぞれの意味と対処法をまとめました。
`{波かっこ}` の部分には、表示されるときに具体的な値が入ります。ログファイルが作られるエラー(終了ステータス1)は
tsuikaの不具合です。`tsuika doctor` の出力を添えて報告してください。
このページはプログラムから作られています: `python scripts/troubleshooting.py`
""",
}
LABELS: Final = {"en": ("Why", "What to do"), "ja": ("理由", "対処")}
SECTIONS: Final = {
    "RC": ("Usage and recipe", "使い方とレシピ"),
    "DS": ("Images", "画像"),
    "MD": ("Models", "モデル"),
    "FM": ("Files", "ファイル"),
    "RS": ("Memory, disk and permissions", "メモリ・ディスク・権限"),
    "TR": ("Training", "学習"),
    "GD": ("Overfitting guard", "過学習ガード"),
    "EV": ("Evaluation", "評価"),
    "GN": ("Generating images", "画像生成"),
    "NW": ("Network", "ネットワーク"),
    "VA": ("VAEs", "VAE"),
    "CP": ("Captioning", "自動キャプション"),
}


def page(lang: str) -> str:
    """The page in a language."""
    parts = [HEADS[lang]]
    for prefix, codes in groupby(
        sorted(MESSAGES, key=lambda code: (list(SECTIONS).index(code[:2]), code)), lambda code: code[:2]
    ):
        parts.append(f"## {SECTIONS[prefix][lang == 'ja']}\n")
        parts += [_entry(code, lang) for code in codes]
    return "\n".join(parts)


def _entry(code: str, lang: str) -> str:
    message = MESSAGES[code]
    # The heading is the code alone, and so the anchor in every language.
    lines = [f"### {code}", f"**{_words(message.what, lang)}**"]
    lines += [f"{label}: {_words(text, lang)}" for label, text in _parts(code, lang)]
    return "\n\n".join(line for line in lines if line) + "\n"


def _parts(code: str, lang: str) -> list[tuple[str, Text]]:
    why, do = LABELS[lang]
    message = MESSAGES[code]
    return [
        (label, text) for label, text in ((why, message.why), (do, message.do)) if not re.fullmatch(r"(\{\w+\})?", text)
    ]


def _words(text: Text, lang: str) -> str:
    """A message as Markdown; what would be markup in it is shown as it is."""
    return re.sub(r"([*_<>\[\]|])(?![^`]*`[^`]*$)", r"\\\1", text.to(lang)) if "`" not in text else text.to(lang)


def main() -> None:
    for lang, path in PAGES.items():
        if "--check" in sys.argv[1:]:
            if path.read_text(encoding="utf-8") != page(lang):
                sys.exit(f"{path.name} is not current: python scripts/troubleshooting.py")
        else:
            path.write_text(page(lang), encoding="utf-8")


if __name__ == "__main__":
    main()
