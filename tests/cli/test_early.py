"""What is missing or of another kind is said before torch is loaded; and nothing in a file reaches the terminal but text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tsuika.cli import layout, screen
from tsuika.cli.main import app

PROGRAM = """
import json, sys
from tsuika.cli import screen
from tsuika.cli.main import app
for arguments in json.loads(sys.argv[1]):
    try: screen.run(app, ["--lang", "en", *arguments])
    except SystemExit as end: print(end.code, "torch" in sys.modules)
"""


def test_what_is_missing_is_said_without_torch(tmp_path: Path) -> None:
    none, image, images = str(tmp_path / "none"), str(tmp_path / "a.png"), str(tmp_path / "some")
    Path(image).write_bytes(b"\x89PNG\r\n\x1a\n0000")
    Path(images).mkdir()
    lora = str(tmp_path / "l.safetensors")
    save_file({"lora_unet_x.lora_down.weight": torch.ones(2)}, lora)
    out = ["--out", str(tmp_path / "out.safetensors")]
    commands = [
        (["inspect", none], 4),
        (["convert", none, "--to", "kohya", *out], 4),
        (["merge", f"{none}:0.5", *out], 4),
        (["merge", lora, "--into", none, *out], 4),
        (["resize", image, "--rank", "2", *out], 4),
        (["extract", none, "embedded", *out], 4),
        (["generate", "--prompt", "x", "--base", none, *out], 4),
        (["generate", "--prompt", "x", "--base", lora, *out], 4),
        (["generate", "--prompt", "x", "--lora", image, *out], 4),
        (["generate", "--prompt", "x", "--vae", none, *out], 4),
        (["vae", "compare", none, "--images", images], 4),
        (["vae", "bake", "--base", none, "--vae", "builtin", *out], 4),
        (["train", "lora", "--images", images, "--base", none, *out], 4),
        (["train", "lora", "--images", none, *out], 3),
        (["check", none], 3),
        (["advise", "--images", none, "--goal", "style"], 3),
        (["resume", none], 2),
        (["evaluate", none], 2),
    ]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([arguments for arguments, _status in commands])],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.split("\n")[:-1] == [f"{status} False" for _arguments, status in commands], ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "l.safetensors", "some"]


def test_escape_sequences_are_shown_and_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b[2J\x1b]0;gone\x07\x9b31m‮x\rover"
    save_file({name: torch.ones(3), f"{name}2": torch.ones(3)}, tmp_path / "a.safetensors", {"title": name})
    for arguments in (["inspect", str(tmp_path / "a.safetensors")], ["inspect", str(tmp_path / "\x1b[31m.pt")]):
        with pytest.raises(SystemExit) as left:
            screen.run(app, ["--lang", "en", *arguments])
        told = capsys.readouterr()
        assert left.value.code == 4 and "\\u001b[" in told.err
        assert not set(told.err + told.out) & set("\x1b\x07\x9b\r‮")


def test_a_printable_json_is_the_same_json() -> None:
    value = {"a": "\x1b[2J", "b": "\x9b‮", "c": "é猫"}
    assert json.loads(layout.printable(json.dumps(value, ensure_ascii=False))) == value
