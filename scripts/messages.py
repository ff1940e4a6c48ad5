"""The catalogues of texts: English from the code into every `tsuika.po`, and every `tsuika.po` compiled to a `tsuika.mo`.

`make messages` updates and compiles, `make setup` only compiles. What is new has an empty translation, to be written by
hand; what the code no longer says is dropped.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from tsuika.core.messages import MESSAGES
from tsuika.studio.catalogue import messages

SOURCE = Path(__file__).parents[1] / "src/tsuika"
# Calls that hold messages, and which of their arguments do. Of a setting of the recipe the help is the second one.
CALLS = {"_": (0,), "_n": (0, 1), "everyday": (1,), "expert": (1,)}


def extracted(source: Path = SOURCE) -> dict[str, str]:
    """Every message of the code, with its plural or nothing."""
    found = messages(sorted((source / "studio/web").glob("*.js")))
    parts = (part.msgid for one in MESSAGES.values() for part in (one.what, one.why, one.do))
    found |= dict.fromkeys((part for part in parts if re.sub(r"\{\w+\}", "", part)), "")
    pages = extract_from_dir(source, method_map=[("**.j2", "jinja2")], keywords={"_": None, "_n": (1, 2)})
    templates = [message if isinstance(message, tuple) else (message,) for _file, _line, message, *_rest in pages]
    for singular, *plural in (*templates, *(call for path in sorted(source.rglob("*.py")) for call in calls(path))):
        found[singular] = plural[0] if plural else found.get(singular, "")
    return found


def calls(path: Path) -> Iterator[tuple[str, ...]]:
    """The messages of a module: one, or singular and plural. Babel's own reader of Python takes an f-string that a message is
    filled with for a message, and says so.

    Raises:
        ValueError: a message is no plain string, so that no catalogue can hold it.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if _name(node) in CALLS:
            # A help may be a message by itself: `expert(1, _("..."))`.
            given = [one for place in CALLS[_name(node)] if _name(one := node.args[place]) not in CALLS]
            texts = tuple(one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str))
            if len(texts) != len(given):
                raise ValueError(f"{path}:{node.lineno}: a message is a plain string, and its values are parameters")
            if texts:
                yield texts


def _name(node: ast.AST) -> str:
    """Of what a call calls."""
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""


def catalogues() -> Iterator[Path]:
    """Every `tsuika.po`."""
    yield from sorted((SOURCE / "locale").glob("*/LC_MESSAGES/tsuika.po"))


def update(path: Path) -> int:
    """Write a catalogue anew, sorted, with the messages of the code; returns how many lack a translation."""
    with path.open("rb") as stream:
        known = {one.id if isinstance(one.id, str) else one.id[0]: one.string for one in read_po(stream)}
    text = path.read_text(encoding="utf-8")
    head, _gap, _messages = text.partition('\n\nmsgid "')
    lines = [head.rstrip()]
    missing = 0
    for singular, plural in sorted(extracted().items()):
        forms = known.get(singular) or ""
        missing += not forms
        lines += ["", f"msgid {_quoted(singular)}"]
        if plural:
            forms = (forms,) if isinstance(forms, str) else forms
            lines += [f"msgid_plural {_quoted(plural)}"]
            lines += [f"msgstr[{number}] {_quoted(form)}" for number, form in enumerate(forms)]
        else:
            lines += [f"msgstr {_quoted(forms if isinstance(forms, str) else forms[0])}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return missing


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def compile_(path: Path) -> None:
    """`tsuika.po` to `tsuika.mo`, beside it."""
    with path.open("rb") as stream:
        catalogue = read_po(stream)
    with path.with_suffix(".mo").open("wb") as stream:
        write_mo(stream, catalogue)


def main() -> None:
    """Compile every catalogue; with `--update`, update it first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true")
    is_update = parser.parse_args().update
    for path in catalogues():
        missing = update(path) if is_update else 0
        compile_(path)
        if missing:
            print(f"{path}: {missing} messages lack a translation")


if __name__ == "__main__":
    main()
