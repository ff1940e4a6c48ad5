"""`tsuika check`: one JSON object, a table in either language, exit status 3 where nothing is usable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tsuika
from tsuika.cli import language
from tsuika.cli.main import app
from tsuika.data.faults import FAULTS
from tsuika.embedded import mascot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight drawings: one stands there twice, one is cut off, one is called `<b>`."""
    made = tmp_path / "set"
    mascot.write(made, mascot.pictures(8))
    first = sorted(made.glob("*.png"))[0]
    Image.open(first).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(made / "zz.png")
    (made / "cut.png").write_bytes(first.read_bytes()[:900])
    (made / "zz.txt").write_text("<b>bold</b> tsuipi", encoding="utf-8")
    return made


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    yield
    language.use(None)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return done.exit_code, done.stdout


def test_json_is_one_object_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    status, out = run("check", str(folder), "--trigger", "tsuipi", "--json", "--html", str(page), "--fix")
    told = json.loads(out)
    assert status == 0
    assert (told["total"], told["usable"]) == (10, 9)
    assert {finding["code"] for finding in told["findings"]} >= {"damaged", "near-duplicate"}
    assert told["cleaned"]["kept"] == 8
    assert Path(told["cleaned"]["out"]) == folder.resolve().with_name("set-checked")
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure") == 10
    assert "&lt;b&gt;bold" in text
    assert "<b>bold" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.index("cut.png") < text.index("tsuipi_05.png")
    assert '<html lang="en">' in text and "almost the same image" in text and "ほぼ同じ画像" in text


def test_the_table_names_pictures_in_both_languages(folder: Path) -> None:
    for lang in ("en", "ja"):
        status, out = run("--lang", lang, "check", str(folder))
        assert status == 0
        assert "cut.png" in out
        assert FAULTS["damaged"].what.to(lang)[:5] in out
        assert "…" not in out


def test_nothing_usable_is_status_3(tmp_path: Path) -> None:
    status, out = run("check", str(tmp_path), "--json")
    assert status == 3
    assert json.loads(out)["usable"] == 0
    status, out = run("check", str(tmp_path), "--fix")
    assert status == 3
    assert "no images" in out


def test_detail_that_the_base_cannot_hold_is_told_where_a_base_is_named(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Drawings survive the embedded base's VAE; a fine checkerboard becomes grey."""
    down, across = np.mgrid[:128, :128]
    for number in range(4):
        Image.fromarray((((down + across + number) // 2 % 2) * 255).astype(np.uint8)).resize((64, 64), 0).save(
            folder / f"dots{number}.png"
        )
    (folder / "zz.txt").write_text("bold " * 99, encoding="utf-8")
    plain = tsuika.check(folder).result
    assert "indexing errors" not in "".join(capfd.readouterr())
    assert [one.values["room"] for one in plain.findings if one.code == "caption-long"] == [30]
    assert not [one for one in plain.findings if one.code == "detail-lost"]
    (lost,) = (one for one in tsuika.check(folder, detail=True).result.findings if one.code == "detail-lost")
    assert lost.pictures and all(name.startswith("dots") for name in lost.pictures)
    assert lost.values["kept"] < 37 and "64 px" in lost.why
