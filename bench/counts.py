"""Counts of a checkout of tsuika, so that two of them can be laid side by side: `python bench/counts.py DIR [DIR ...]`."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from pathlib import Path
from statistics import median

METHOD = re.compile(r"""["'](lora|textual-inversion|dreambooth|hypernetwork)["']""")
FAMILY = re.compile(r"""["'](sd1|sd2|sdxl|sd3)["']""")
JAPANESE = re.compile(r"[぀-ヿ一-鿿]")
NARROWING = re.compile(r"^\s+assert .*(is not None|isinstance)", re.MULTILINE)
FUNCTION = re.compile(r"^( *)(?:async )?def \w+", re.MULTILINE)


def _lengths(text: str) -> list[int]:
    """Lines of every function."""
    lines, found = text.splitlines(), []
    for number, line in enumerate(lines):
        if match := FUNCTION.match(line):
            end = number + 1
            while end < len(lines) and (not lines[end].strip() or lines[end].startswith(match[1] + " ")):
                end += 1
            found.append(len("\n".join(lines[number:end]).rstrip().splitlines()))
    return found


def _kinds(text: str) -> Counter[str]:
    """Lines by what they are: code, signature, import, docstring, blank, comment."""
    rows = text.splitlines()
    kinds = ["blank" if not row.strip() else "comment" if row.strip().startswith("#") else "code" for row in rows]

    def mark(first: int, end: int, kind: str) -> None:
        kinds[first:end] = [kind if kinds[n] == "code" or kind != "signature" else kinds[n] for n in range(first, end)]

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            mark(node.lineno - 1, node.end_lineno or node.lineno, "import")
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                mark(node.lineno - 1, node.body[0].lineno - 1, "signature")
            if ast.get_docstring(node, clean=False) is not None:
                mark(node.body[0].lineno - 1, node.body[0].end_lineno or 0, "docstring")
    return Counter(kinds)


def counts(root: Path) -> dict[str, int | float]:
    """Name -> number."""
    source = root / "src" / "tsuika"
    files = {path: path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    tests = [path.read_text(encoding="utf-8") for path in (root / "tests").rglob("*.py")]

    def lines(texts: list[str]) -> int:
        return sum(len(text.splitlines()) for text in texts)

    def outside(pattern: re.Pattern[str], *places: str) -> int:
        return sum(
            len(pattern.findall(text))
            for path, text in files.items()
            if path.relative_to(source).parts[0] not in places
        )

    kinds = sum((_kinds(text) for text in files.values()), Counter[str]())
    return {
        **{f"lines in src: {kind}": number for kind, number in kinds.most_common()},
        "files in src": len(files),
        "lines in src": lines([*files.values()]),
        "files over 400 lines": sum(len(text.splitlines()) > 400 for text in files.values()),
        "lines in tests": lines(tests),
        "median function, lines": median(length for text in files.values() for length in _lengths(text)),
        "names of methods outside methods, formats": outside(METHOD, "methods", "formats"),
        "names of families outside families": outside(FAMILY, "families"),
        "lines with Japanese in src/*.py": sum(
            bool(JAPANESE.search(line)) for text in files.values() for line in text.splitlines()
        ),
        "Any": sum(len(re.findall(r"\bAny\b", text)) for text in files.values()),
        "asserts that narrow": sum(len(NARROWING.findall(text)) for text in files.values()),
        "fmt: skip": sum(text.count("fmt: skip") for text in files.values()),
    }


def main() -> None:
    """Print a row a count, a column a checkout."""
    columns = [counts(Path(root)) for root in sys.argv[1:]]
    for name in columns[0]:
        print(f"{name:45}" + "".join(f"{column[name]:>12g}" for column in columns))


if __name__ == "__main__":
    main()
