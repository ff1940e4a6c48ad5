"""A result with its card, in a folder and on a stand-in of the hub, through `huggingface_hub`'s own code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import hub
import pytest
import torch
import yaml
from hub import READS, WRITES, Hub
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tsuika
from tsuika import config
from tsuika.cli import screen
from tsuika.cli.main import app
from tsuika.core.errors import NetworkError, RecipeError, TsuikaError
from tsuika.core.events import Previewed
from tsuika.core.rundir import RunDir
from tsuika.evaluation.card import block, code
from tsuika.evaluation.report import BeforeAfter, ReportData, WrittenFile
from tsuika.formats import provenance
from tsuika.formats.provenance import GuardRecord, Provenance

GUARD = GuardRecord("hold-out", 3, 0, ((10, -0.05, -0.09, -0.01), (20, -0.02, None, None)), "pictures", 10, 0.01, True)
PROVED = Provenance(
    1, "lora", 20, 5, {"name": "b.safetensors", "sha256": "ab" * 32}, "guard", GUARD, 0, {"tsuika": "9.8"}
)
SECRETS = ("private-folder", "grandmother", "IMG_4711")
PROMPT = "a zuzu` cat | dog"


def finished(root: Path, base: str = "someone/some-base") -> Path:
    """The folder of a run that has ended, with everything in it that is nobody's business."""
    run = RunDir(root / "private-folder" / "run").create()
    tensors = {"a.lora_down.weight": torch.arange(6.0).reshape(2, 3), "a.lora_up.weight": torch.ones(3, 2)}
    metadata = {
        "ss_tag_frequency": json.dumps({"private-folder": {"grandmother": 3}}),
        "ss_dataset_dirs": json.dumps({"private-folder": {"n_repeats": 1, "img_count": 5}}),
        "ss_network_dim": "2",
        provenance.KEY: PROVED.to_text(),
    }
    save_file(tensors, run.artifacts / "zuzu.safetensors", metadata)
    (run.artifacts / "zuzu").mkdir()
    save_file(tensors, run.artifacts / "zuzu" / "pytorch_lora_weights.safetensors", {"tag_frequency": "grandmother"})
    save_file(tensors, run.artifacts / "zuzu-safe.safetensors", metadata)
    recipe = config.build(
        {
            "base": {"model": base},
            "data": {"images": str(root / "private-folder"), "trigger": "zuzu", "class_word": "cat"},
        }
    )
    run.recipe.write_text(config.dump(recipe), encoding="utf-8")
    events = []
    for step in (0, 20):
        for number, prompt in enumerate((PROMPT, "a photograph of grandmother")):
            path = f"samples/{step}-{number}.png"
            Image.new("RGB", (8, 8), (step, number, 0)).save(run.root / path)
            events.append(Previewed(step, prompt, 1, path).to_json())
    run.events.write_text("\n".join(events) + "\n", encoding="utf-8")
    drawn = (BeforeAfter(PROMPT, (1,), (Path("a"),), (Path("b"),)),)
    names = ("zuzu.safetensors", "zuzu", "zuzu-safe.safetensors")
    report = ReportData(
        title="zuzu", method="lora", family="sd1", base=base, trigger="zuzu", example_prompt=PROMPT, stopped_by="guard",
        steps_planned=40, steps_done=20, before_after=drawn,
        artifacts=tuple(WrittenFile(f"artifacts/{name}", "kohya", 1, "") for name in names),
    )  # fmt: skip
    table = report.to_dict() | {
        "pictures": [{"name": f"IMG_4711-{number}.jpg", "caption": "grandmother"} for number in range(5)],
        "guard": {
            "split": {"held_out": ["IMG_4711-1.jpg"]},
            "sentence": {"en": "Stopped at step 20.", "ja": "ステップ20で停止。"},
        },
    }
    run.report_json.write_text(json.dumps(table), encoding="utf-8")
    return run.root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished(tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = "huggingface_hub.constants"
    with hub.serving() as there:
        for name, value in {"ENDPOINT": there.address, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(f"{constants}.{name}", value)
        monkeypatch.setenv("HF_TOKEN", WRITES)
        monkeypatch.setattr("time.sleep", lambda _seconds: None)
        yield there


def parts(card: str) -> tuple[dict[str, Any], str]:
    _nothing, facts, text = card.split("---\n", 2)
    return yaml.safe_load(facts), text


def test_what_would_be_uploaded(run: Path, tmp_path: Path) -> None:
    done = tsuika.publish(run, out=tmp_path / "out", licence="openrail++").result
    out = tmp_path / "out"
    assert (done.url, done.repository) == ("", "")
    weights = {"zuzu.safetensors", "pytorch_lora_weights.safetensors"}
    beside = {"README.md", "zuzu.png", "zuzu.json", "images/1-base.png", "images/1-result.png"}
    assert {one.path for one in done.files} == weights | beside
    assert all(one.sha256 == sha256((out / one.path).read_bytes()).hexdigest() for one in done.files)
    for name in weights:
        mine = next((run / "artifacts").rglob(name))
        ours = load_file(out / name)
        assert all(torch.equal(value, ours[key]) for key, value in load_file(mine).items())
    with safe_open(out / "zuzu.safetensors", "pt") as file:
        assert file.metadata() == {"ss_network_dim": "2", provenance.KEY: PROVED.to_text()}
    every = [one for one in out.rglob("*") if one.is_file()]
    assert not [one for one in every for secret in SECRETS if secret.encode() in one.read_bytes()]
    assert str(tmp_path).encode() not in b"".join(one.read_bytes() for one in every)
    card = json.loads((out / "zuzu.json").read_text(encoding="utf-8"))
    assert (card["activation text"], card["sd version"], card["preferred weight"]) == ("zuzu", "SD1", 1.0)
    civitai = (out / "civitai.md").read_text(encoding="utf-8")
    digest = sha256((out / "zuzu.safetensors").read_bytes()).hexdigest()[:10]
    assert digest in civitai and "`zuzu`" in civitai and "<lora:zuzu:1>" in civitai
    with pytest.raises(RecipeError) as there:
        _ = tsuika.publish(run, out=out).result
    assert there.value.code == "RC007"


def test_the_card(run: Path) -> None:
    facts, text = parts(tsuika.publish(run, to="me/zuzu", licence="openrail++", dry_run=True).result.card)
    assert facts == {
        "license": "openrail++",
        "base_model": "someone/some-base",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "stable-diffusion", "lora", "tsuika"],
        "instance_prompt": "zuzu",
        "widget": [{"text": PROMPT, "output": {"url": "images/1-result.png"}}],
    }
    for words in (
        "20 steps on 5 images", "Stopped at step 20.", "| **10** | **-4.9%** | -8.6% … -1.0% |", "| 20 | -2.0% | – |",
        "It repeats no training image.", "tsuika 9.8", "ab" * 32, "(images/1-result.png)", f"`` {PROMPT} ``"[3:-3],
        'pipe.load_lora_weights("me/zuzu", weight_name="zuzu.safetensors")', "hf download me/zuzu", "<lora:zuzu:1>",
    ):  # fmt: skip
        assert words in text, words
    japanese = tsuika.publish(run, to="me/zuzu", licence="mit", dry_run=True, language="ja").result.card
    assert "ステップ20で停止。" in japanese and "Base model" not in japanese


def test_a_base_that_is_a_file_is_named_and_not_its_folder(tmp_path: Path) -> None:
    run = finished(tmp_path, str(tmp_path / "private-folder" / "b.safetensors"))
    facts, text = parts(tsuika.publish(run, to="me/a", licence="mit", dry_run=True).result.card)
    assert "base_model" not in facts and "`b.safetensors`" in text and "private-folder" not in text
    facts, text = parts(tsuika.publish(run, to="me/a", licence="mit", base="them/b", dry_run=True).result.card)
    assert facts["base_model"] == "them/b" and 'from_pretrained("them/b")' in text


def test_upload(run: Path, server: Hub) -> None:
    done = tsuika.publish(run, to="me/zuzu", licence="openrail++", private=True).result
    there = server.repositories["me/zuzu"]
    assert there.private and done.url.startswith(f"{server.address}/me/zuzu/commit/")
    assert {one.path: one.sha256 for one in done.files} == {
        path: server.digest("me/zuzu", path) for path in there.files
    }
    assert "civitai.md" not in there.files and not [*run.glob(".publish-*")]
    # Nothing is overwritten unasked; what else lies there stays.
    there.files["README.md"], there.files["other.txt"] = b"mine", b"mine, too"
    with pytest.raises(RecipeError) as error:
        _ = tsuika.publish(run, to="me/zuzu", licence="openrail++").result
    assert error.value.code == "NW005" and "README.md" in str(error.value)
    assert there.files["README.md"] == b"mine" and there.commits == 1
    _ = tsuika.publish(run, to="me/zuzu", licence="openrail++", overwrite=True).result
    assert there.files["README.md"] != b"mine" and there.files["other.txt"] == b"mine, too"
    there.private = False
    with pytest.raises(RecipeError) as error:
        _ = tsuika.publish(run, to="me/zuzu", licence="openrail++", private=True, overwrite=True).result
    assert error.value.code == "NW006"


def test_nothing_is_sent_where_nothing_is_named(run: Path, server: Hub, tmp_path: Path) -> None:
    _ = tsuika.publish(run, out=tmp_path / "out").result
    _ = tsuika.publish(run, to="me/zuzu", licence="mit", dry_run=True).result
    assert not server.asked


@pytest.mark.parametrize(
    ("token", "fails_at", "licence", "code"),
    [
        ("", "", "mit", "NW002"), ("hf_wrong", "", "mit", "NW003"), (READS, "", "mit", "NW003"),
        (WRITES, "", "nonsense", "NW003"), (WRITES, "/api/models", "mit", "NW004"), (WRITES, "/lfs", "mit", "NW004"),
        (WRITES, "/commit/", "mit", "NW004"),
    ],
)  # fmt: skip
def test_what_can_go_wrong(
    run: Path, server: Hub, monkeypatch: pytest.MonkeyPatch, token: str, fails_at: str, licence: str, code: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(run / "none"))
    server.fails_at = fails_at
    with pytest.raises(NetworkError) as error:
        _ = tsuika.publish(run, to="me/zuzu", licence=licence).result
    assert (error.value.code, error.value.exit_status) == (code, 7)
    assert not token or token not in str(error.value)
    assert not [path for one in server.repositories.values() for path in one.files]


def test_no_hub(run: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENDPOINT", "http://127.0.0.1:9"), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        with pytest.raises(NetworkError) as error:
            _ = tsuika.publish(run, to="me/zuzu", licence="mit").result
        assert error.value.code == "NW004"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "RC005"), ({"to": "me/zuzu"}, "RC005"), ({"to": "zuzu", "licence": "mit"}, "RC002"),
        ({"to": "me/zuzu", "licence": "mit", "base": "C:\\b"}, "RC002"), ({"out": "o", "which": "best"}, "RC002"),
        ({"out": "o", "which": "likeness"}, "RC002"), ({"out": "o", "language": "xx"}, "RC002"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(run: Path, given: dict[str, Any], code: str) -> None:
    with pytest.raises(TsuikaError) as error:
        _ = tsuika.publish(run, **given).result
    assert error.value.code == code


def test_a_result_that_was_moved_away(run: Path, tmp_path: Path) -> None:
    (run / "artifacts" / "zuzu.safetensors").rename(tmp_path / "zuzu.safetensors")
    with pytest.raises(TsuikaError) as error:
        _ = tsuika.publish(run, out=tmp_path / "out").result
    assert error.value.code == "EV004" and not (tmp_path / "out").exists()


def test_an_evaluation_is_told_and_a_changed_one_is_not(run: Path, tmp_path: Path) -> None:
    (run / "evaluation.json").write_text('{"verdict": {"sentence": {"en": "Better than the base."}}}')
    assert "Better than the base." in tsuika.publish(run, to="me/a", licence="mit", dry_run=True).result.card
    for name in ("evaluation.json", "report.json"):
        for text in ("", "[]", "{}", '{"verdict": {"sentence": 3}}'):
            (run / name).write_text(text)
            with pytest.raises(TsuikaError) as error:
                _ = tsuika.publish(run, out=tmp_path / "out").result
            assert error.value.code == "TR011" and not (tmp_path / "out").exists()


def test_no_image_from_elsewhere(run: Path, tmp_path: Path) -> None:
    """Whoever has made the run folder may have written anything into its events."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "mine.png")
    events = (run / "events.jsonl").read_text(encoding="utf-8")
    for place in ("../../mine.png", str(tmp_path / "mine.png")):
        (run / "events.jsonl").write_text(events.replace("samples/20-0.png", place), encoding="utf-8")
        done = tsuika.publish(run, to="me/a", licence="mit", dry_run=True).result
        assert not [one for one in done.files if one.path.startswith("images/")]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("report.json", '"family": "sd1"', '"family": "sd9"'), ("recipe.toml", "[base]", "[bass]"),
        ("recipe.toml", "class_word", "klass_word"), ("recipe.toml", "[data]", "[dates]"),
    ],
)  # fmt: skip
def test_a_changed_run(run: Path, name: str, old: str, new: str) -> None:
    text = (run / name).read_text(encoding="utf-8")
    (run / name).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(TsuikaError) as error:
        _ = tsuika.publish(run, to="me/a", licence="mit", dry_run=True).result
    assert error.value.code == "TR011"


def test_captions_stay_where_that_is_asked_for(run: Path, tmp_path: Path) -> None:
    _ = tsuika.publish(run, out=tmp_path / "out", which="safe", with_captions=True).result
    with safe_open(tmp_path / "out" / "zuzu-safe.safetensors", "pt") as file:
        assert "grandmother" in file.metadata()["ss_tag_frequency"]
    assert not (tmp_path / "out" / "zuzu.safetensors").exists()


def test_code_holds_any_text() -> None:
    assert code("a `b` ``c``") == "``` a `b` ``c`` ```"[:-4] + " ```"
    assert code("a\n  b") == "`a b`"
    assert block("x\n````\ny") == "`````\nx\n````\ny\n`````"


def test_the_command(run: Path, server: Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def said(*argv: str) -> str:
        screen.run(app, ["publish", str(run), *argv])
        return capsys.readouterr().out

    assert "nothing was uploaded" in said("--to", "me/zuzu", "--licence", "mit", "--dry-run")
    told = json.loads(said("--to", "me/zuzu", "--licence", "mit", "--out", str(tmp_path / "out"), "--json"))
    assert told["url"] and told["repository"] == "me/zuzu" and (tmp_path / "out" / "civitai.md").is_file()
