"""A whole run through the program, in this process: what it writes, what it refuses, what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from runs import arguments, hashes, make_place, program, rows

from lora_deltas import delta
from tsuika.formats import KohyaLora
from tsuika.training import writing

KEYS = {  # of report.json, from the command line's contract
    "method",
    "family",
    "stopped_by",
    "steps_done",
    "best_step",
    "range",
    "guard",
    "seconds",
    "images_per_second",
    "peak_memory_bytes",
    "artifacts",
    "warnings",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_place(folder)
    return folder


@pytest.fixture(autouse=True)
def apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and a working folder of the tests' own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.chdir(place)


def words(place: Path, name: str) -> list[str]:
    more = {"train": {"steps": 3, "gradient_checkpointing": True}}
    preview = {"num": 1, "steps": 1, "prompts": ["a cat"]}
    return arguments(place / "base", place / "pictures", place / name, preview=preview, **more)


@pytest.fixture(scope="module")
def done(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.chdir(place)
        originals = hashes(place / "pictures"), hashes(place / "base")
        assert program(*words(place, "first")) == 0
        assert (hashes(place / "pictures"), hashes(place / "base")) == originals
    return place / "first"


def test_the_run_folder_is_the_contracts(done: Path) -> None:
    names = {path.name for path in done.iterdir()}
    assert {"recipe.toml", "events.jsonl", "report.json", "report.html", "samples", "checkpoints", "artifacts"} <= names
    report = json.loads((done / "report.json").read_text(encoding="utf-8"))
    assert report.keys() >= KEYS
    assert (report["method"], report["family"], report["stopped_by"], report["steps_done"]) == (
        "lora",
        "sd1",
        "steps",
        3,
    )
    assert [row["step"] for row in rows(done, "Stepped")] == [1, 2, 3]
    # Before and after: of the prompt, and of both training captions.
    assert sorted(row["prompt"] for row in rows(done, "Previewed")) == sorted(
        ["a cat", "zuzu, a cat", "zuzu, a dog"] * 2
    )
    assert len(list((done / "samples").glob("*.png"))) == 6
    assert (done / "artifacts/result.safetensors").is_file()
    assert (done / "artifacts/result").is_dir()
    assert all(row["largest_relative_error"] <= writing.LARGEST_ERROR["fp16"] for row in rows(done, "Written"))
    for artifact in report["artifacts"]:
        assert (done / artifact["path"]).exists()
        assert len(artifact["sha256"]) == 64


def test_a_limit_on_the_layers_is_told_where_other_programs_look_for_it(place: Path, done: Path) -> None:
    limit = {"regularize": {"max_norm": 0.003}, "train": {"steps": 1, "learning_rate": 1e-2, "warmup": 0.0}}
    assert program(*arguments(place / "base", place / "pictures", place / "limited", **limit)) == 0
    limited, free = (KohyaLora().read(run / "artifacts" / "result.safetensors") for run in (place / "limited", done))
    assert limited.metadata["ss_scale_weight_norms"] == "0.003"
    assert "ss_scale_weight_norms" not in free.metadata
    norms = [float(change.float().norm()) for _, _, change in delta(limited)]
    assert 0 < max(norms) <= 0.00301


def test_the_recipe_repeats_the_run(done: Path, place: Path) -> None:
    assert program("train", "--recipe", str(done / "recipe.toml"), "--out", str(place / "again")) == 0
    assert hashes(place / "again/artifacts") == hashes(done / "artifacts")
    assert (place / "again/recipe.toml").read_bytes() == (done / "recipe.toml").read_bytes()


def test_json_is_one_object_on_stdout(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also shows that a run that has ended can be gone on with: it only writes its result again."""
    before = hashes(done / "artifacts")
    assert program("resume", str(done), "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out)["steps_done"] == 3
    assert hashes(done / "artifacts") == before


def test_a_folder_in_use_is_left_alone(done: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = hashes(done)
    assert program(*words(place, "first")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "RC006" in said and "another training run" in said and f"tsuika resume {done}" in said
    assert hashes(done) == before
    assert program(*words(place, "pictures")) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "RC006" in said and "something else" in said and "resume" not in said


def test_dry_run_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = hashes(place)
    assert program(*words(place, "dry"), "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == 4
    assert hashes(place) == before
    assert not (place / "dry").exists()


def test_dry_run_tells_its_notes_as_other_commands_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "pictures" / "cut.png").write_bytes(b"")
    try:
        assert program(*words(place, "dry"), "--dry-run") == 0
    finally:
        (place / "pictures" / "cut.png").unlink()
    told = capsys.readouterr()
    assert "note[DS006] cut.png is left out: empty file" in told.err
    assert "Warned(" not in told.out + told.err and "Images: 4" in told.out


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"--set": 'method={name="textual-inversion", words=["a b"]}'}, 2, "RC002"),
        ({"--set": "data.reg_generate=4"}, 2, "RC005"),
        ({"--set": 'base.artifacts=["nowhere.safetensors"]'}, 4, "FM004"),
        ({"--set": "train.device=abacus"}, 2, "RC002"),
        ({"--out": "pictures"}, 2, "RC006"),
        ({"--out": "pictures/1.png"}, 2, "RC006"),
    ],
)
def test_dry_run_refuses_what_the_run_would(
    change: dict[str, str], status: int, code: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(place)
    wrong = [part for pair in change.items() for part in pair]
    assert program(*words(place, "dry"), *wrong, "--dry-run") == status
    told = capsys.readouterr()
    assert code in told.err and not told.out
    assert hashes(place) == before


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"--images": "nowhere"}, 3, "DS001"),
        ({"--images": "empty"}, 3, "DS002"),
        ({"--base": "nowhere/at/all"}, 4, "MD001"),
        ({"--set": "train.stepz=3"}, 2, "RC001"),
        ({"--set": "train.steps=0"}, 2, "RC002"),
        ({"--set": "train.device=abacus"}, 2, "RC002"),
        ({"--set": "method.adapter=oft"}, 2, "RC002"),
        ({"--set": "method.name=nowhere.at.all:METHOD"}, 2, "RC002"),
        ({"--nonsense": "1"}, 2, "nonsense"),
    ],
)
def test_what_is_wrong_is_told_with_its_status(
    change: dict[str, str], status: int, code: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    wrong = [part for pair in change.items() for part in pair]
    assert program(*words(place, f"wrong-{code}-{status}"), *wrong) == status
    told = capsys.readouterr()
    assert code in told.err
    assert "Traceback" not in told.err
    assert not told.out


@pytest.mark.parametrize(("leave", "status"), [(typer.Exit(7), 7), (typer.Abort(), 130), (KeyboardInterrupt(), 130)])
def test_ways_to_leave(leave: BaseException, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaving() -> None:
        raise leave

    monkeypatch.setattr("tsuika.doctor", leaving)
    assert program("doctor") == status


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert program("--help") == 0
    assert "train" in capsys.readouterr().out


def test_resume_of_nothing_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program("resume", str(place / "pictures")) == 2
    assert "TR002" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_status_6_and_can_be_gone_on_from(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tsuika.data.bank import Bank

    real = Bank._collect

    def poisoned(self: Bank, *arguments: object) -> object:
        batch = real(self, *arguments)  # type: ignore[arg-type]
        batch.latents_BCHW[[i for i, name in enumerate(batch.names) if name == "2.png"]] = float("nan")
        return batch

    monkeypatch.setattr(Bank, "_collect", poisoned)
    assert program(*words(place, "diverged")) == 6
    told = capsys.readouterr().err
    assert "TR001" in told
    assert "2.png" in told
    assert "3.png" not in told


def test_a_new_word_that_no_caption_holds_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The captions say `a cat` and `a dog`, with the trigger in front."""
    pairs = (
        "train.steps=1",
        "preview.num=0",
        'method.words=["zuzu", "mimi"]',
        "train.device=cpu",
        "train.precision=fp32",
    )
    command = ["train", "textual-inversion", "--trigger", "zuzu", "--base", str(place / "base")]
    command += ["--images", str(place / "pictures"), "--out", str(place / "unheard")]
    assert program("--lang", "ja", *command, *(word for pair in pairs for word in ("--set", pair))) == 0
    told = capsys.readouterr().err
    assert "mimi" in told and "キャプション" in told
    assert [row["params"] for row in rows(place / "unheard", "Warned") if row["code"] == "TR003"] == [{"word": "mimi"}]
