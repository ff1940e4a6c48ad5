"""`import tsuika`: what it gives, and what it does not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tsuika
from tsuika.api.run import Run
from tsuika.config import defaults_of
from tsuika.methods import METHODS


def loaded(code: str) -> set[str]:
    """The names of modules that are loaded after some lines of Python."""
    shown = f"import sys; {code}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True).stdout.split())


def test_every_name_is_there() -> None:
    assert all(getattr(tsuika, name) is not None for name in tsuika.__all__)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = tsuika.nothing_like_it  # type: ignore[attr-defined]


def test_no_function_is_hidden_by_a_package_of_its_name() -> None:
    code = "import tsuika.training.loop, tsuika.generation.pipeline, tsuika.evaluation.report, tsuika.advice.rules; "
    code += (
        "import tsuika; assert all(callable(getattr(tsuika, n)) for n in ('train', 'generate', 'evaluate', 'advise'))"
    )
    loaded(code)


def test_the_import_and_a_recipe_load_no_torch() -> None:
    assert not {"torch", "transformers", "diffusers", "pydantic"} & loaded("import tsuika")
    assert "torch" not in loaded("import tsuika; tsuika.Recipe.of('lora', images='x')")


def test_looking_at_images_loads_no_model_library() -> None:
    assert not {"transformers", "diffusers", "peft"} & loaded("import tsuika; tsuika.check")


def test_the_stub_has_every_command() -> None:
    from tsuika.cli.main import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    functions = {name.replace("-", "_") for name in names} - {"settings", "studio"}
    assert functions <= set(tsuika.__all__)


def test_the_example_of_the_docstring_is_python() -> None:
    lines = (tsuika.__doc__ or "").split("\n")
    ast.parse("\n".join(line[4:] for line in lines if line.startswith("    ")))


def test_a_recipe_of_flags_is_that_of_the_command_line(tmp_path: Path) -> None:
    from tsuika.cli.flags import built

    given = {"images": "photos", "trigger": "sks", "steps": 40}
    ours = tsuika.Recipe.of("dreambooth", settings={"train.batch_size": 2}, **given)  # type: ignore[arg-type]
    assert ours == built("dreambooth", None, ["train.batch_size=2"], **given, base="", seed=None)
    assert ours.train.learning_rate == defaults_of(METHODS["dreambooth"], "embedded")["train.learning_rate"]
    assert tsuika.Recipe.of("dreambooth", images=Path("photos")).data.images == "photos"
    with pytest.raises(TypeError, match="imgaes"):
        tsuika.Recipe.of("lora", imgaes="photos")


def test_a_training_is_a_run_that_can_be_closed_and_resumed(tmp_path: Path) -> None:
    run = tsuika.train(
        "lora",
        tmp_path / "run",
        images=str(tsuika.DEMO_PICTURES),
        trigger="tsuipi",
        guard="off",
        steps=3,
        device="cpu",
        settings={"preview.num": 0, "data.size_px": 32, "train.batch_size": 1},
    )
    assert isinstance(run, Run)
    for event in run:
        if getattr(event, "loss", None) is not None:
            break
    run.close()
    assert not run.done
    result = tsuika.resume(tmp_path / "run").result
    assert result.report["steps_done"] == 3 and result.artifacts and all(path.exists() for path in result.artifacts)
    assert result == tsuika.Trained.read(tmp_path / "run")
    assert "report" in result._repr_html_()
