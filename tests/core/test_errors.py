"""Errors show what, where, why and what to do, and nothing in them stays untranslated."""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from string import Formatter

import pytest

import tsuika
from tsuika.core.errors import ModelError, TsuikaError, misspelt
from tsuika.core.events import note
from tsuika.core.messages import MESSAGES, sentence
from tsuika.core.texts import Text


def test_an_error_says_what_where_why_do_in_both_languages() -> None:
    error = ModelError("MD003", where="a.safetensors", why="it ends after 8 bytes")
    assert error.describe("en").splitlines() == [
        "error[MD003] The file is damaged or incomplete",
        "  where: a.safetensors",
        "  why: it ends after 8 bytes",
        "  do: Download or copy it again.",
    ]
    assert error.describe("ja").startswith("エラー[MD003]") and "対処:" in error.describe("ja")
    assert error.exit_status == 4


def test_an_unknown_code_is_a_bug() -> None:
    with pytest.raises(KeyError):
        TsuikaError("XX999")


def test_what_goes_into_a_message_is_translated_with_it() -> None:
    why = Text("It must be at least {ge:g}.", {"ge": 8})
    error, warned = ModelError("MD003", where="a", why=why), note("EV005", why=why)
    assert why.to("ja") != why == "It must be at least 8."
    assert why in error.describe("en") and why.to("ja") in error.describe("ja")
    assert why in warned.message and why.to("ja") in warned.words("ja")
    assert json.loads(warned.to_json())["params"] == {"why": why}


def test_a_misspelt_name_is_told_the_nearest_and_all_that_there_are() -> None:
    error = misspelt("method.adapter", "lokon", ["lora", "loha", "locon"])
    assert error.code == "RC002" and "`method.adapter` cannot be `lokon`" in error.part("what")
    assert error.part("why") == "Did you mean locon? Possible values: lora, loha, locon"


def test_a_sentence_is_all_parts_of_a_message_in_their_order() -> None:
    """What happened as a sentence of its own, then why and what to do as far as the message has them; in any language."""
    for code, message in MESSAGES.items():
        every = message.what, message.why, message.do
        gaps = {name for part in every for _text, name, _spec, _conversion in Formatter().parse(part) if name}
        params = dict.fromkeys(gaps, "x")
        said = sentence(code, params)
        what, *more = (part.filled(params) for part in every if part)
        assert said == " ".join([f"{what}.", *more])
        assert all(part.to("ja") in said.to("ja") for part in (what, *more))


def test_no_message_is_filled_with_english_alone() -> None:
    root = Path(tsuika.__file__).parent
    files = {path.relative_to(root): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    assert [(str(path), phrase) for path, source in files.items() for phrase in _english_alone(source)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("raise FormatError('MD003', where=path, why='The file is empty.')", ["The file is empty."]),
        ("raise FormatError('MD003', why=f'{count} tensors are missing.')", ["{} tensors are missing."]),
        ("yield note('GD025', why='Left out: ' + names)", ["Left out: "]),
        ("raise UnusableError(path, 'damaged', 'cut off' if short else _('too long'))", ["cut off"]),
        ("def f():\n    why = 'It is no JSON.'\n    raise ModelError('MD003', why=why)", ["It is no JSON."]),
        ("_WHY = 'It is no JSON.'\ndef f():\n    raise ModelError('MD003', why=_WHY)", ["It is no JSON."]),
        ("def f(why) -> FormatError: ...\nraise f('It is no JSON.')", ["It is no JSON."]),
        ("raise ModelError('MD003', why=_('It is no JSON.'))", []),
        ("raise ModelError('MD003', where='a file', found='fp16, bf16', do='tsuika train lora --out RUN')", []),
        ("raise ValueError('it must begin and end with 1')", []),
    ],
)
def test_english_alone_is_seen(source: str, found: list[str]) -> None:
    assert list(_english_alone(source)) == found


def _english_alone(source: str) -> Iterator[str]:
    """Phrases that go into a message and are in no `_()`: said in place, or by a name of the function or module."""
    tree = ast.parse(source)
    tellers = {"note", "Note", "LeftOut"} | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Name) and _is_ours(node.returns.id)
    }
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    within = {id(inner): function for function in functions for inner in ast.walk(function)}  # the innermost comes last
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in tellers or _is_ours(name):
            scope = within.get(id(call))
            said = _assigned(tree.body) | _assigned(ast.walk(scope) if scope else ())
            for value in (*call.args, *(keyword.value for keyword in call.keywords if keyword.arg != "where")):
                yield from _phrases(value, said)


def _is_ours(name: str) -> bool:
    return name.endswith("Error") and not hasattr(builtins, name)


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    """What is assigned to each name."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts, strict=False) if several else [(target, node.value)]
                for name, value in pairs:
                    if isinstance(name, ast.Name):
                        found.setdefault(name.id, []).append(value)
    return found


def _phrases(node: ast.AST, said: Mapping[str, list[ast.expr]]) -> Iterator[str]:
    if isinstance(node, ast.Call):  # `_`, or what the types of another function answer for
        return
    if isinstance(node, ast.Name):
        for value in said.get(node.id, ()):
            yield from _phrases(value, {})
    elif isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
        is_command = text.removeprefix("→ ").startswith("tsuika ")
        if re.search(r"(?<![\w-])[A-Za-z]{2,} [a-z]{2,}", text) and not is_command:
            yield text
    else:
        for child in ast.iter_child_nodes(node):
            yield from _phrases(child, said)
