"""What every method promises, on every family. A new method or family is in here by being listed.

Trained through the real loop with the method's own defaults; what is particular to a method is in its own test file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import small_methods
import tiny_models
import tsuika
from small_methods import attach
from tiny_models import FAMILY_NAMES, bits, outputs, picture_batch, shallow
from tsuika import families, formats
from tsuika.config import Recipe
from tsuika.core.errors import FormatError, ModelError, RecipeError
from tsuika.core.seeds import generator
from tsuika.core.types import Artifact, Attachment, Format, Model, model_tensors
from tsuika.formats.provenance import KEY, GuardRecord, Provenance
from tsuika.generation import pipeline
from tsuika.methods import METHODS
from tsuika.training import checkpoint
from tsuika.training.device import DTYPES, pick_precision
from tsuika.training.fit import Fit
from tsuika.training.loop import conditioner, fit
from tsuika.training.preparation import accelerate_for

# What other programs could not use is refused.
REFUSED = {("hypernetwork", "sd3")}
# Formats whose programs read nothing of the kind.
UNWRITTEN = {("textual-inversion", "sd3"): ("a1111", "diffusers")}
# Formats of vectors and nothing else: nothing of the training is in them.
SILENT = {("textual-inversion", "sdxl", "a1111")}
SAMPLING = pipeline.Defaults(cfg=2.0, steps=2, sampler="DDIM")
PLAIN, ASKED = ("a cat", "a dog"), ("a zuzu cat", "zuzu")  # only Textual Inversion answers to its word alone
CASES = [(method, family) for method in METHODS for family in FAMILY_NAMES if (method, family) not in REFUSED]
by_case = pytest.mark.parametrize(("method", "family"), CASES, ids=["-".join(case) for case in CASES])


def recipe(method: str, **train: Any) -> Recipe:
    loop = {"steps": 3, "batch_size": 2, "precision": "fp32", "device": tiny_models.DEVICE, "schedule": "constant"}
    return small_methods.recipe(method, **{f"train.{name}": value for name, value in {**loop, **train}.items()})


def restore(model: Model, artifact: Artifact) -> Attachment:
    made: Attachment = METHODS[artifact.method].restore(model, artifact)
    return made


def start(method: str, family: str, model: Any = None, **train: Any) -> Fit:
    model, what = model or shallow(family), recipe(method, **train)
    attachment = METHODS[method].attach(model, what.method, generator(what.train.seed, "init"))
    source = conditioner(model, attachment, lambda _: (64, 64))
    return Fit(model, attachment, what, accelerate_for(what), lambda n: picture_batch(n, 2, ASKED, model), source)


def run(training: Fit, steps: int) -> None:
    for _ in zip(range(steps), fit(training)):
        pass


def copies(attachment: Attachment) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in attachment.tensors().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@dataclass
class Life:
    """A method on a model, trained for three steps, and what the model said before, at first, and now."""

    method: str
    family: str
    model: Any
    attachment: Attachment
    held: dict[str, tuple[Tensor, Tensor]]  # the base's parameters and what they were
    base: tuple[Tensor, Tensor]  # to PLAIN, to ASKED
    silent: Tensor  # to PLAIN
    fresh: Tensor  # to ASKED
    trained: Tensor  # to ASKED
    random_state_kept: bool


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    method, family = request.param
    model = shallow(family)
    base, state = (outputs(model, PLAIN), outputs(model, ASKED)), torch.random.get_rng_state()
    held = {
        f"{part}.{name}": (param, param.detach().clone())
        for part, root in model.components.items()
        for name, param in root.named_parameters()
    }
    training = start(method, family, model)
    kept = torch.equal(state, torch.random.get_rng_state())
    silent, fresh = outputs(model, PLAIN), outputs(model, ASKED)
    run(training, 3)
    yield Life(method, family, model, training.attachment, held, base, silent, fresh, outputs(model, ASKED), kept)


def test_attaching_changes_no_bit_and_no_random_state(life: Life) -> None:
    assert torch.equal(life.silent, life.base[0])
    assert life.random_state_kept


def test_training_changes_what_it_is_asked_for(life: Life) -> None:
    assert not torch.equal(life.trained, life.fresh)
    assert life.trained.isfinite().all()


def test_strength_zero_is_the_base_and_one_is_as_trained(life: Life) -> None:
    life.attachment.set_strength(0)
    assert torch.equal(outputs(life.model, PLAIN), life.base[0])
    assert torch.equal(outputs(life.model, ASKED), life.base[1])
    life.attachment.set_strength(1)
    assert torch.equal(outputs(life.model, ASKED), life.trained)


def test_the_bases_own_weights_stay(life: Life) -> None:
    assert all(torch.equal(param, copy) for param, copy in life.held.values())


def test_only_what_it_says_trains(life: Life) -> None:
    mine = {id(param) for group in life.attachment.param_groups() for param in group.params}
    trainable = {id(p) for root in life.model.components.values() for p in root.parameters() if p.requires_grad}
    trainable |= {id(rows) for word in life.model.words.values() for rows in word.values()}
    assert mine == trainable
    assert len(mine) == len(life.attachment.tensors())
    assert life.attachment.trains


def test_tensors_go_out_and_in(life: Life) -> None:
    kept = copies(life.attachment)
    life.attachment.load({name: torch.zeros_like(value) for name, value in kept.items()})
    assert not torch.equal(outputs(life.model, ASKED), life.trained)
    life.attachment.load(kept)
    assert torch.equal(outputs(life.model, ASKED), life.trained)
    with pytest.raises(KeyError):
        life.attachment.load({**kept, "no.such.weight": torch.zeros(1)})
    with pytest.raises(KeyError):
        life.attachment.load(dict(list(kept.items())[1:]))


def test_its_artifact_makes_another_model_say_the_same(life: Life) -> None:
    artifact = life.attachment.artifact()
    assert (artifact.method, artifact.family) == (life.method, life.family)
    assert all(value.isfinite().all() for value in artifact.tensors.values())
    again = shallow(life.family)
    back = restore(again, artifact)
    assert not any(param.requires_grad for root in again.components.values() for param in root.parameters())
    torch.testing.assert_close(outputs(again, ASKED), life.trained, rtol=0, atol=1e-5)
    back.detach()
    assert torch.equal(outputs(again, ASKED), life.base[1])


def test_every_format_of_the_method_gives_it_back(life: Life, tmp_path: Path) -> None:
    proof = provenance(life)
    artifact = replace(made := life.attachment.artifact(), metadata={**made.metadata, KEY: proof.to_text()})
    known = formats.for_method(life.method, METHODS[life.method].formats)
    assert known
    for format_ in known:
        path = tmp_path / format_.name / f"zuzu{format_.suffix}"
        path.parent.mkdir()
        if format_.name in UNWRITTEN.get((life.method, life.family), ()):
            with pytest.raises(FormatError, match="FM002"):
                format_.write(artifact, path, dtype=torch.float32)
            continue
        format_.write(artifact, path, dtype=torch.float32)
        again = shallow(life.family)
        restore(again, read(format_, path, life))
        torch.testing.assert_close(outputs(again, ASKED), life.trained, rtol=0, atol=1e-5)
        told: Any = tsuika.inspect(path).result
        assert told.provenance == (None if (life.method, life.family, format_.name) in SILENT else proof)


def provenance(life: Life) -> Provenance:
    guard = GuardRecord("folds", 5, 5, ((10, -0.1, None, None), (20, -0.2, -0.3, -0.1)), "pictures", 20, 0.01, True)
    base = {"name": "\U0001f43b.safetensors", "predicts": "epsilon"}
    return Provenance(1, life.method, 25, 5, base, "guard", guard, 1, {"tsuika": "1.0"})


def read(format_: Format, path: Path, life: Life) -> Artifact:
    """What a file holds; a whole model is no artifact to any program, but a base, and is opened as one."""
    if format_ in formats.CHECKPOINTS:
        assert not formats.is_artifact(path)
        model = families.read_back(path, life.model, dtype=torch.float32)
        return Artifact(life.method, life.family, model_tensors(model))
    assert formats.find(path).name == format_.name
    return formats.find(path).read(path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_it_trains_and_is_drawn_in_every_precision(method: str, precision: str) -> None:
    """Previews are drawn outside of autocast, from a model whose trained weights have another dtype than the rest."""
    if (tiny_models.DEVICE, precision, method) == ("standin", "bf16", "lora"):
        pytest.skip("PEFT sets `param.data`, which changes no wrapper's dtype")
    used = pick_precision(precision, torch.device(tiny_models.DEVICE))
    model = cast(shallow("sd1"), DTYPES[used])
    base = drawn(model)
    training = start(method, "sd1", model, precision=precision)
    run(training, 2)
    own = recipe(method).method.model_dump().get("weights", "fp32")
    assert {str(value.dtype) for value in training.attachment.tensors().values()} == {str(DTYPES[own])}
    assert not torch.equal(drawn(model), base)
    training.attachment.set_strength(0)
    assert torch.equal(drawn(model), base)
    artifact = training.attachment.artifact()
    training.attachment.detach()
    restore(model, artifact)
    assert not torch.equal(drawn(model), base)


def cast(model: Any, dtype: torch.dtype) -> Any:
    """The model in a dtype, as a family loads it: the VAE stays in float32."""
    for name, component in model.components.items():
        component.to(torch.float32 if name == "vae" else dtype)
    return model


def drawn(model: Any) -> Tensor:
    """A preview."""
    pixels = pipeline.sample(model, ASKED[0], seed=1, num=1, steps=2, size_px=(64, 64), defaults=SAMPLING)
    assert pixels.isfinite().all()
    return pixels


@by_case
def test_detaching_gives_the_very_model_back(method: str, family: str) -> None:
    model = shallow(family)

    def things() -> dict[str, Any]:
        modules = {f"{part}.{path}": m for part, root in model.components.items() for path, m in root.named_modules()}
        params = {f"{part} {path}": p for part, root in model.components.items() for path, p in root.named_parameters()}
        return modules | params | {f"processor {path}": p for path, p in model.unet.attn_processors.items()}  # type: ignore[operator, union-attr]

    before, weights, said = things(), bits(model), outputs(model, ASKED)
    training = start(method, family, model)
    run(training, 1)
    training.attachment.detach()
    after = things()
    assert after.keys() == before.keys()
    assert all(after[name] is thing for name, thing in before.items())
    assert equal(bits(model), weights)
    assert not any(param.requires_grad for root in model.components.values() for param in root.parameters())
    assert not model.words
    assert torch.equal(outputs(model, ASKED), said)


@pytest.mark.parametrize("method", METHODS)
def test_it_lies_on_another_result_and_comes_off_before_it(method: str) -> None:
    model = shallow()
    base = outputs(model, ASKED)
    lower = moved(attach(model, "lora"))
    under = outputs(model, ASKED)
    upper = moved(attach(model, method))
    over = outputs(model, ASKED)
    assert not torch.equal(under, base) and not torch.equal(over, under)
    upper.set_strength(0)
    assert torch.equal(outputs(model, ASKED), under)
    upper.set_strength(1)
    assert torch.equal(outputs(model, ASKED), over)
    upper.detach()
    assert torch.equal(outputs(model, ASKED), under)
    lower.detach()
    assert torch.equal(outputs(model, ASKED), base)


def moved(attachment: Attachment) -> Attachment:
    """With numbers as if something had been learned."""
    source = torch.Generator().manual_seed(1)
    for tensor in attachment.tensors().values():
        tensor.add_(0.05 * torch.randn(tensor.shape, generator=source).to(tensor))
    return attachment


@by_case
def test_the_same_recipe_gives_the_same_bits_also_when_stopped_and_resumed(
    method: str, family: str, tmp_path: Path
) -> None:
    whole, broken = (start(method, family, steps=4) for _ in range(2))
    run(whole, 4)
    run(broken, 2)
    checkpoint.save(tmp_path, broken.state())
    resumed = start(method, family, steps=4)
    state, _damaged = checkpoint.newest(tmp_path)
    assert state is not None
    resumed.restore(state)
    run(resumed, 4)
    assert resumed.step == whole.step == 4
    assert equal(copies(resumed.attachment), copies(whole.attachment))
    assert not equal(copies(broken.attachment), copies(whole.attachment))


@by_case
def test_it_learns(method: str, family: str) -> None:
    """What another of its kind does: within reach by construction, whatever random weights a tiny model has."""
    model = shallow(family)
    noisy_BCHW, t_B = picture_batch(0, 2, model=model).latents_BCHW, torch.tensor([50, 550], device=model.device)

    def said() -> Tensor:
        out_BCHW: Tensor = model.denoise(noisy_BCHW, t_B, model.encode_text(ASKED))
        return out_BCHW

    teacher, draw = attach(model, method, seed=1), torch.Generator().manual_seed(2)
    for tensor in teacher.tensors().values():
        tensor.add_(0.5 * tensor.std().clamp(min=0.05) * torch.randn(tensor.shape, generator=draw).to(tensor.device))
    wanted = said().detach()
    teacher.detach()
    learner, rate = attach(model, method), min(1e-2, recipe(method).train.learning_rate)
    losses = list(_fit(learner, lambda: (said() - wanted).pow(2).mean(), 25, rate))
    assert losses[-1] < losses[0] / 2


def _fit(attachment: Attachment, loss: Callable[[], Tensor], steps: int, rate: float) -> Iterator[float]:
    """The losses, until one is below half of the first."""
    params = [param for group in attachment.param_groups() for param in group.params]
    optimizer, first = torch.optim.Adam(params, rate), None
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        yield (now := float(value.detach()))
        first = first or now
        if now < first / 2:
            return
        torch.autograd.backward(value)
        optimizer.step()


@pytest.mark.parametrize(("method", "family"), sorted(REFUSED))
def test_a_family_that_programs_apply_no_such_result_to_is_refused(method: str, family: str) -> None:
    model = shallow(family)
    with pytest.raises(RecipeError, match="No program applies") as caught:
        attach(model, method)
    assert caught.value.code == "RC002"
    with pytest.raises(RecipeError):
        recipe(method).method.check(model.facts)
    with pytest.raises(RecipeError):
        restore(model, attach(shallow("sd1"), method).artifact())


@pytest.mark.parametrize("method", METHODS)
def test_another_family_is_refused_and_leaves_nothing(method: str) -> None:
    source, model = shallow("sd1"), shallow("sdxl")
    artifact = attach(source, method).artifact()
    said, modules = outputs(model, ASKED), [name for name, _ in model.unet.named_modules()]
    with pytest.raises(ModelError) as caught:
        restore(model, artifact)
    assert caught.value.code == "MD004"
    assert [name for name, _ in model.unet.named_modules()] == modules
    assert torch.equal(outputs(model, ASKED), said)
