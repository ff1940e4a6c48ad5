"""What is written is read back: a file that does something else is refused, a layer too faint for it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_models import shallow
from tsuika import formats
from tsuika.core.errors import FormatError
from tsuika.core.events import Event, Warned, Written
from tsuika.core.rundir import RunDir
from tsuika.core.seeds import generator
from tsuika.core.types import Artifact, Format
from tsuika.methods.lora import Lora
from tsuika.methods.lora import layers as lora
from tsuika.training import writing

FAINT, SOLID = 6e-8, 1e-3  # fp16's smallest number is 6e-8


def artifact(sizes: Mapping[int, float], otherwise: float = SOLID, settings: Lora | None = None) -> Artifact:
    """A LoRA of a tiny SD1, up-projections drawn with the given sizes by number of the layer."""
    attachment = lora.attach(shallow("sd1"), settings or Lora(rank=2), generator(0, "init"))
    made, source = attachment.artifact(), torch.Generator().manual_seed(0)
    for number, name in enumerate(name for name in made.tensors if name.endswith("lora_up.weight")):
        made.tensors[name] = torch.randn(made.tensors[name].shape, generator=source) * sizes.get(number, otherwise)
    return made


def write(folder: Path, what: Artifact, dtype: str = "fp16") -> list[Event]:
    run = RunDir(folder / "run").create()
    return list(writing.write(what, run.artifacts, run.root, name="result", precision=dtype, model=None))


def split(events: list[Event]) -> tuple[list[Warned], list[Written]]:
    return [e for e in events if isinstance(e, Warned)], [e for e in events if isinstance(e, Written)]


def test_layers_too_faint_for_the_format_are_told_and_the_others_still_checked(tmp_path: Path) -> None:
    warned, written = split(write(tmp_path, artifact({0: FAINT, 3: FAINT})))
    assert [warning.code for warning in warned] == ["TR005"]
    assert warned[0].message.startswith("2 layers")
    assert len(written) == len(formats.for_method("lora"))
    assert all(0 < row.largest_relative_error <= writing.LARGEST_ERROR["fp16"] for row in written)


def test_alphas_that_the_format_rounds_change_nothing_of_this(tmp_path: Path) -> None:
    made = artifact({0: FAINT, 3: FAINT}, settings=Lora(rank=3, alpha=1 / 3, rank_stabilized=True))
    _, written = split(write(tmp_path, made))
    assert len(written) == len(formats.for_method("lora"))


def test_a_format_that_holds_it_is_silent(tmp_path: Path) -> None:
    warned, written = split(write(tmp_path, artifact({0: FAINT}), dtype="fp32"))
    assert not warned
    assert all(row.largest_relative_error <= writing.LARGEST_ERROR["fp32"] for row in written)


def test_when_all_are_faint_the_true_difference_is_told(tmp_path: Path) -> None:
    warned, written = split(write(tmp_path, artifact({}, otherwise=FAINT)))
    assert [warning.code for warning in warned] == ["TR005"]
    assert all(row.largest_relative_error > 0.1 for row in written)


@pytest.mark.parametrize("layer", [1, 3])
def test_a_file_that_does_something_else_is_refused(
    layer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another layer is faint (0), and where a faint layer (3) comes back as a loud one."""
    made = artifact({0: FAINT, 3: FAINT})
    name = [name for name in made.tensors if name.endswith("lora_up.weight")][layer]
    real: Format = formats.FORMATS[0]

    class Careless:
        name, method, suffix = real.name, real.method, real.suffix

        def write(self, what: Artifact, path: Path, *, dtype: torch.dtype) -> None:
            real.write(
                replace(what, tensors=what.tensors | {name: torch.full_like(what.tensors[name], 0.002)}),
                path,
                dtype=dtype,
            )

        def read(self, path: Path) -> Artifact:
            return real.read(path)

    monkeypatch.setattr(formats, "FORMATS", (Careless(),))
    with pytest.raises(FormatError) as caught:
        write(tmp_path, made)
    assert caught.value.code == "FM003"


def test_what_no_format_can_hold_is_an_error(tmp_path: Path) -> None:
    """One format that cannot is a note; a run that would leave no file at all has not succeeded."""
    warned, written = split(write(tmp_path / "one", artifact({}, settings=Lora(rank=2, adapter="loha"))))
    assert [warning.code for warning in warned] == ["FM002"]
    assert len(written) == len(formats.for_method("lora")) - 1
    with pytest.raises(FormatError, match="FM002"):
        odd = {f"{name}_R": value for name, value in artifact({}).tensors.items()}
        write(tmp_path / "none", replace(artifact({}), tensors=odd))
