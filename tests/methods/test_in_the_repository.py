"""A method of the repository is its file and one entry: those of the contributing page become two, in a copy of the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import contributing_page
import tsuika

ROOT = Path(__file__).parents[2]
# What the page says of moving: plain names, and formats of the repository.
MOVED = {
    "bitfit.py": [
        ('name: str = "bitfit:METHOD"', 'name: Literal["bitfit"] = "bitfit"'),
        ("Any, ClassVar, Final\n", "Any, ClassVar, Final, Literal\n"),
        ('("native", "bitfit_npz:FORMAT")', '("native",)'),
    ],
    "ia3.py": [
        ('name: str = "ia3:METHOD"', 'name: Literal["ia3"] = "ia3"'),
        ("Any, ClassVar, Final\n", "Any, ClassVar, Final, Literal\n"),
        ('module="ia3_layers"', 'module="tsuika.methods.ia3_layers"'),
    ],
    "ia3_layers.py": [("from ia3 import", "from tsuika.methods.ia3 import")],
}
ENTRY = [
    ("from tsuika.methods.method import", "from tsuika.methods import bitfit, ia3\nfrom tsuika.methods.method import"),
    ("hypernetwork.METHOD)\n", "hypernetwork.METHOD, bitfit.METHOD, ia3.METHOD)\n"),
]


def changed(text: str, changes: list[tuple[str, str]]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with the package, links but for its methods, with the two added."""
    source, package = Path(tsuika.__file__).resolve().parent, tmp_path / "tsuika"
    (package / "methods").mkdir(parents=True)
    for path in (*source.iterdir(), *(source / "methods").iterdir()):
        if path.name not in ("methods", "__pycache__") and path != source / "methods" / "__init__.py":
            (package / path.relative_to(source)).symlink_to(path)
    pages = contributing_page.files()
    for name, changes in MOVED.items():
        (package / "methods" / name).write_text(changed(pages[name], changes), encoding="utf-8")
    registry = (source / "methods" / "__init__.py").read_text(encoding="utf-8")
    (package / "methods" / "__init__.py").write_text(changed(registry, ENTRY), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_the_contract_suite_on_the_methods_of_the_page(copied: Path) -> None:
    words = ["-p", "no:cacheprovider", "--basetemp", str(copied / "basetemp"), "-k", "bitfit or ia3"]
    suite = ["tests/methods/test_method_contract.py", "tests/guard/test_probe_in_a_run.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *suite],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(copied)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
