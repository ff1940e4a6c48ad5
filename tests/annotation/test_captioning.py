"""Captions by models: what they read of the pixels, how it joins what is there, what is written, and each error."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from annotators import ROWS, blip, contents, tagger
from PIL import Image

import tsuika
from tsuika.annotation import MODES, Mode, captioners, wording
from tsuika.annotation.captioners import Said
from tsuika.annotation.tagger import prepared
from tsuika.core.errors import TsuikaError
from tsuika.core.events import Progress, Warned

CPU = torch.device("cpu")
BLUE, GREEN, RED = (0, 0, 255), (0, 255, 0), (255, 0, 0)


@pytest.fixture(scope="module")
def tags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tagger(tmp_path_factory.mktemp("model") / "tagger")


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blip(tmp_path_factory.mktemp("model") / "blip")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Blue, green (with a caption) and red, one that is no image, in two folders."""
    folder = tmp_path / "set"
    (folder / "inner").mkdir(parents=True)
    Image.new("RGB", (32, 32), BLUE).save(folder / "blue.png")
    Image.new("RGB", (32, 32), GREEN).save(folder / "green.png")
    (folder / "green.txt").write_text("a lawn, Green_(color)", encoding="utf-8")
    Image.new("RGB", (32, 32), RED).save(folder / "inner" / "red.png")
    (folder / "broken.png").write_bytes(b"no image at all")
    return folder


def after(result: tsuika.Captioned) -> dict[str, str]:
    return {one.name: one.after for one in result.images}


@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_says_nothing_takes_no_caption_away(mode: Mode) -> None:
    assert wording.joined(("a lawn",), Said("", {}), mode) == ("a lawn",)
    assert wording.joined((), Said("", {}), mode) == ()


def test_images_without_a_word_are_named(tags: Path, images: Path) -> None:
    found = tsuika.caption(images, model=str(tags), mode="replace", threshold=1.0, character_threshold=1.0).result
    assert after(found)["green.png"] == "a lawn, Green_(color)"
    assert "CP005" in [one.code for one in found.notes]


@pytest.mark.parametrize("name", ["no such folder", "/nowhere/at all"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_not_asked_for_on_the_network(name: str, images: Path) -> None:
    with pytest.raises(TsuikaError) as caught:
        _ = tsuika.caption(images, model=name).result
    assert caught.value.code == "CP001"


def test_a_captioner_without_a_tokenizer_is_refused(tmp_path: Path, images: Path) -> None:
    model = blip(tmp_path / "blip")
    for file in ("tokenizer.json", "vocab.txt"):
        (model / file).unlink(missing_ok=True)
    with pytest.raises(TsuikaError) as caught:
        _ = tsuika.caption(images, model=str(model)).result
    assert caught.value.code == "CP001"


def test_what_the_tagger_reads_is_bgr_0_to_255_on_a_white_square() -> None:
    image = Image.new("RGB", (8, 4), (10, 20, 30))
    read = prepared(image, 8, 8)
    assert read.shape == (1, 8, 8, 3)
    assert read.dtype == np.float32
    assert (read[0, 2:6] == (30, 20, 10)).all()
    assert (read[0, :2] == 255).all()
    assert (read[0, 6:] == 255).all()


def test_probabilities_are_those_of_the_pixels(tags: Path) -> None:
    """Half of the square of a wide image is white, so every channel has half of its value and a half."""
    said = captioners.load(str(tags), CPU, threshold=0.0, character_threshold=0.0).say(
        Image.new("RGB", (64, 32), (51, 0, 255))
    )
    assert said.tags == pytest.approx(
        {"blue sky": 1.0, "red hair": 0.6, "^_^": 0.6, "tsuipi (mascot)": 0.6, "green (color)": 0.5},
        # Bicubic overshoots at the edge, and pixels are whole numbers.
        abs=5e-3,
    )
    assert next(iter(said.tags)) == "blue sky"
    higher = captioners.load(str(tags), CPU, threshold=0.55, character_threshold=0.7, exclude=frozenset({"^_^"}))
    assert higher.say(Image.new("RGB", (64, 32), (51, 0, 255))).text == "blue sky, red hair"


@pytest.mark.parametrize(
    "written", ["tsuipi_(mascot)", "tsuipi (mascot)", r"tsuipi_\(mascot\)", r" Tsuipi \(Mascot\) "]
)
def test_tags_are_excluded_however_they_are_written(written: str, tags: Path) -> None:
    tagger = captioners.load(str(tags), CPU, exclude=[written, "^_^"])
    assert tagger.say(Image.new("RGB", (8, 8), RED)).text == "red hair"


def test_tags_to_leave_out_that_the_tagger_does_not_know_are_told(tags: Path, images: Path) -> None:
    run = tsuika.caption(images, model=str(tags), mode="replace", exclude=["blue_sky", "red_hiar", "Blue Sky"])
    told = [event.code for event in run if isinstance(event, Warned)]
    (found,) = (one for one in run.result.notes if one.code == "CP008")
    assert {name: str(value) for name, value in found.params.items()} == {
        "count": "1",
        "names": "red_hiar",
        "nearest": "red hair",
    }
    assert told[0] == "CP008"
    assert "CP008" not in [one.code for one in tsuika.caption(images, model=str(tags), exclude=["^_^"]).result.notes]


@pytest.mark.parametrize("given", [{"threshold": 0.35}, {"character_threshold": 0.5}, {"exclude": ["cat"]}])
def test_what_only_a_tagger_has_is_refused_with_a_captioner(given: dict, images: Path, captioner: Path) -> None:
    with pytest.raises(TsuikaError) as error:
        _ = tsuika.caption(images, model=str(captioner), **given).result
    assert (error.value.code, error.value.exit_status) == ("CP006", 2)
    assert f"--{next(iter(given)).replace('_', '-')}:" in str(error.value)


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("missing", {"blue.png": "sks, blue sky", "green.png": "a lawn, Green_(color)"}),
        ("replace", {"blue.png": "sks, blue sky", "green.png": "sks, green (color)"}),
        ("add", {"blue.png": "sks, blue sky", "green.png": "sks, a lawn, Green_(color)"}),
    ],
)
def test_modes(mode: str, wanted: dict[str, str], images: Path, tags: Path) -> None:
    before = contents(images)
    run = tsuika.caption(images, model=str(tags), mode=mode, trigger="sks")
    steps = [event for event in run if isinstance(event, Progress)]
    # The only caption that was there lacks the trigger word.
    assert [one.params for one in run.result.notes if one.code == "CP007"] == (
        [{"count": 1, "trigger": "sks", "names": "green.png"}] if mode == "missing" else []
    )
    assert [event.done for event in steps] == list(range(1, len(steps) + 1))
    found = after(run.result)
    assert {name: found[name] for name in wanted} == wanted
    assert found["inner/red.png"] == "sks, red hair, ^_^, tsuipi (mascot)"
    assert list(run.result.left_out) == ["broken.png"]
    assert contents(images) == before
    assert "sks, blue sky" in run._repr_html_()


@pytest.mark.parametrize(
    ("before", "said", "wanted"),
    [
        (["a, blue_sky"], Said("blue sky, cat", {"blue sky": 0.9, "cat": 0.8}), ("a, blue_sky, cat",)),
        (["one", "two,"], Said("cat", {"cat": 0.8}), ("one, cat", "two, cat")),
        (["A cat on a mat"], Said("a cat", {}), ("A cat on a mat",)),
        (["dog"], Said("a cat", {}), ("dog, a cat",)),
        ([], Said("a cat", {}), ("a cat",)),
        (["dog"], Said("", {}), ("dog",)),
    ],
)
def test_what_is_added(before: list[str], said: Said, wanted: tuple[str, ...]) -> None:
    once = wording.joined(before, said, "add")
    assert once == wanted
    assert wording.joined(once, said, "add") == once


def test_nothing_to_say_leaves_the_trigger_word_or_nothing() -> None:
    assert wording.joined([], Said("", {}), "replace") == ()
    assert wording.joined([], Said("", {}), "replace", "sks") == ("sks",)
    assert wording.joined([], Said("a SKS dog", {}), "replace", "sks") == ("a SKS dog",)


def test_the_copy_has_links_and_captions(images: Path, tags: Path, tmp_path: Path) -> None:
    before, out = contents(images), tmp_path / "out"
    _ = tsuika.caption(images, model=str(tags), out=out).result
    names = {"blue.png", "blue.txt", "green.png", "green.txt", "inner/red.png", "inner/red.txt"}
    assert set(contents(out)) == {str(Path(name)) for name in names}
    assert (out / "blue.txt").read_text(encoding="utf-8") == "blue sky\n"
    assert (out / "blue.png").samefile(images / "blue.png")
    assert contents(images) == before
    for place in (out, images / "below"):
        with pytest.raises(TsuikaError) as error:
            _ = tsuika.caption(images, model=str(tags), out=place).result
        assert error.value.code == "DS005"


def test_what_is_in_almost_every_caption_is_told(tmp_path: Path, tags: Path) -> None:
    for number in range(10):
        colour = (0, 100 if number else 0, 255) if number % 2 else (120, 0, 255)
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{number}.png")
    Image.new("RGB", (8, 8), GREEN).save(tmp_path / "other.png")
    result = tsuika.caption(tmp_path, model=str(tags), trigger="sks").result
    assert result.tags["blue sky"] == 10
    assert result.common == {"blue sky": 10}
    assert [one.code for one in result.notes] == ["CP004"]
    assert "“blue sky” (10/11)" in result.notes[0].message


def test_a_captioner_says_what_transformers_says(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BlipForConditionalGeneration

    folder = blip(tmp_path / "blip")
    captioner = captioners.load(str(folder), CPU)
    model = BlipForConditionalGeneration.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    mean, std = (
        torch.tensor(one).view(1, 3, 1, 1)
        for one in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    )
    texts = []
    for colour in ("red", "green", "navy", "white"):
        image = Image.new("RGB", (16, 16), colour)
        pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
        tokens = model.generate(pixel_values=(pixels - mean) / std, max_new_tokens=60)
        texts.append(captioner.say(image).text)
        assert texts[-1] == words.decode(tokens[0], skip_special_tokens=True)
    assert len(set(texts)) > 1
    # Neither weights of another kind nor incomplete ones are taken.
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(TsuikaError) as error:
        captioners.load(str(folder), CPU)
    assert error.value.code == "CP001"


def test_errors(images: Path, tags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(**given: object) -> tuple[str, int]:
        with pytest.raises(TsuikaError) as error:
            _ = tsuika.caption(images, **{"model": str(tags), **given}).result  # type: ignore[arg-type]
        return error.value.code, error.value.exit_status

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert code(model="nobody/nothing-at-all") == ("CP003", 7)
    assert code(model="no such: folder") == ("CP001", 4)
    assert code(model=str(images)) == ("CP001", 4)
    assert code(mode="all") == ("RC002", 2)
    assert code(threshold=1.5) == ("RC002", 2)
    assert code(model=str(tagger(tmp_path / "short", ROWS[:-1]))) == ("CP001", 4)
    assert code(model=str(tagger(tmp_path / "large", scale=1.0))) == ("CP001", 4)
    for name, content in (("model.onnx", b"\x80\x04no network"), ("selected_tags.csv", b"a,b\n1,2\n")):
        folder = tagger(tmp_path / f"wrong {name}")
        (folder / name).write_bytes(content)
        assert code(model=str(folder)) == ("CP001", 4)
        (folder / name).unlink()
        assert code(model=str(folder)) == ("CP001", 4)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert code() == ("CP002", 2)
    with pytest.raises(TsuikaError) as error:
        _ = tsuika.caption(tmp_path / "none", model=str(tags)).result
    assert error.value.code == "DS001"


def test_the_command(images: Path, tags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tsuika.cli import screen
    from tsuika.cli.main import app

    def run(*argv: str) -> tuple[int, str]:
        status = 0
        try:
            screen.run(app, ["caption", str(images), "--model", str(tags), *argv])
        except SystemExit as end:
            status = int(end.code or 0)
        return status, capsys.readouterr().out

    status, out = run("--json", "--exclude", "red_hair,^_^", "--out", str(tmp_path / "out"))
    found = json.loads(out)
    assert status == 0
    assert {one["name"]: one["after"] for one in found["images"]}["inner/red.png"] == "tsuipi (mascot)"
    assert (found["kind"], found["changed"]) == ("tags", 2)
    status, out = run()
    assert status == 0
    assert "+ blue sky" in out
    assert run("--mode", "none")[0] == 2
