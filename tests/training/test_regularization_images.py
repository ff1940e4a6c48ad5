"""Prior preservation: class pictures beside the subject's, from a folder or drawn by the base, step for step the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from runs import make_place

from tiny_models import shallow
from tsuika import config
from tsuika.config import Recipe
from tsuika.core.errors import ImageError, RecipeError
from tsuika.core.events import Event, Stepped, Written, drained
from tsuika.core.rundir import RunDir
from tsuika.core.sections import Data
from tsuika.core.types import Batch
from tsuika.data import bank as banks
from tsuika.data import bucket, scan
from tsuika.data.bank import Bank
from tsuika.data.reg_images import RegularizedBank
from tsuika.training import folder as run_folder
from tsuika.training import preparation, regularization_images, run
from tsuika.training.preparation import Services
from tsuika.training.prepared import Inputs
from tsuika.training.regularization_images import ClassRequest

DATA = Data(trigger="zuzu", class_word="dog", size_px=64, min_size_px=1, cache=False, variants=1, caption_dropout=0.0)


def paint(folder: Path, sizes: Sequence[tuple[int, int]], shade: int) -> Path:
    """Plain pictures of a grey that tells them from the others."""
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (shade + number,) * 3).save(folder / f"{number}.png")
    return folder


def encode(pixels_B3HW: torch.Tensor) -> torch.Tensor:
    """One latent for 8x8 pixels, that still shows the grey."""
    return torch.nn.functional.avg_pool2d(pixels_B3HW, 8)


def fill(buckets: Sequence[bucket.Bucket], data: Data) -> Any:
    return banks.fill(buckets, data, encode, vae="", scale=1.0, folder=None, device=torch.device("cpu"))


def make(folder: Path, *, weight: float = 1.0) -> RegularizedBank:
    """Three wide and two tall pictures of the subject, four wide ones of the class."""
    subject = scan.scan(paint(folder / "subject", [(96, 48)] * 3 + [(48, 96)] * 2, 10), DATA)
    buckets = bucket.assign(subject, size_px=64, step_px=16)
    classes = paint(folder / "classes", [(96, 48)] * 4, 200)
    (classes / "0.txt").write_text("a dog on the beach", encoding="utf-8")
    data = DATA.model_copy(update={"reg_images": str(classes), "reg_weight": weight})
    bank: Bank = drained(fill(buckets, data))
    made: RegularizedBank = drained(regularization_images.fill({classes: data}, buckets, bank, data, fill))
    return made


def is_class(batch: Batch) -> list[bool]:
    return [bool(latent.mean() > 0) for latent in batch.latents_BCHW]


def test_every_batch_has_as_many_class_pictures_of_its_size(tmp_path: Path) -> None:
    both = make(tmp_path, weight=0.25)
    assert len(both) == 5
    seen: set[str] = set()
    shapes = set()
    for step in range(20):
        batch, alone = both.batch(step, 2, 7), both.subject.batch(step, 2, 7)
        assert is_class(batch) == [False, False, True, True]
        assert torch.equal(batch.latents_BCHW[:2], alone.latents_BCHW)
        assert batch.weight_B.tolist() == [1.0, 1.0, 0.25, 0.25]
        assert batch.captions[:2] == alone.captions == ("zuzu dog", "zuzu dog")
        assert not any("zuzu" in caption for caption in batch.captions[2:])
        seen |= set(zip(batch.names[2:], batch.captions[2:], strict=True))
        shapes.add(both.size_px_of(batch))
    assert seen == {("0.png", "a dog on the beach"), *((f"{i}.png", "a dog") for i in (1, 2, 3))}
    assert len(shapes) == 2


def test_a_batch_is_a_function_of_its_step(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    forwards = [one.batch(step, 2, 3) for step in range(12)]
    backwards = [other.batch(step, 2, 3) for step in reversed(range(12))][::-1]
    for first, second in zip(forwards, backwards, strict=True):
        assert torch.equal(first.latents_BCHW, second.latents_BCHW)
        assert (first.captions, first.names) == (second.captions, second.names)
    assert any(a.names[2:] != one.batch(step, 2, 4).names[2:] for step, a in enumerate(forwards))


def test_a_class_word_is_needed_to_draw_or_caption_regularization_images(tmp_path: Path) -> None:
    assert not regularization_images.requested(Data())
    with pytest.raises(RecipeError) as caught:
        regularization_images.requested(Data(reg_generate=4))
    assert caught.value.code == "RC005"
    with pytest.raises(ImageError):
        regularization_images.requested(Data(reg_images=str(tmp_path / "nowhere")))
    for given in (tmp_path, tmp_path / "." / ".." / tmp_path.name):
        with pytest.raises(RecipeError) as caught:
            regularization_images.requested(Data(images=str(tmp_path), reg_images=str(given)))
        assert caught.value.code == "RC002" and "subject" in caught.value.part("why")
    nameless = Data(size_px=64, min_size_px=1, cache=False, trigger="zuzu")
    manifest = scan.scan(paint(tmp_path / "subject", [(64, 64)], 10), nameless)
    buckets = bucket.assign(manifest, size_px=64, step_px=16)
    bank: Bank = drained(fill(buckets, nameless))
    classes = paint(tmp_path / "classes", [(64, 64)], 200)
    with pytest.raises(RecipeError) as caught:
        drained(regularization_images.fill({classes: nameless}, buckets, bank, nameless, fill))
    assert caught.value.code == "RC005"


class Grey:
    """Draws grey squares, and notes what it was asked for."""

    def __init__(self, settings: object = None) -> None:
        self.requests: list[ClassRequest] = []
        self._settings = settings

    def __call__(self, model: Any, request: ClassRequest) -> list[Image.Image]:
        self.requests.append(request)
        size = (request.size_px, request.size_px)
        return [Image.new("RGB", size, (request.seed + i & 255,) * 3) for i in range(request.num)]

    def settings(self, model: Any) -> object:
        return self._settings


def test_images_are_drawn_once_for_a_base_and_a_class(tmp_path: Path) -> None:
    draw, model, data = Grey(), shallow("sd1"), Data(class_word="dog", reg_generate=6)

    def drawn(on: Any = model, of: Data = data) -> Path:
        made: Path = drained(regularization_images.drawn(on, of, tmp_path, draw, size_px=64, seed=0))
        return made

    folder = drawn()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(files) == 6
    assert {request.prompt for request in draw.requests} == {"a dog"}
    assert len(set(files.values())) == 6
    draw.requests.clear()
    assert drawn() == folder
    assert not draw.requests
    (folder / "00005.png").unlink()
    assert {path.name: path.read_bytes() for path in drawn().iterdir()} == files
    assert len(draw.requests) == 1
    others = {drawn(shallow("sd1", seed=4)), drawn(of=Data(class_word="cat", reg_generate=6)), folder}
    assert len(others) == 3


def test_what_lies_on_the_base_and_how_is_drawn_tell_class_pictures_apart(
    place: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs share what they draw only where strength and content of `base.artifacts` and the settings are the same."""
    lora, copy = tmp_path / "a.safetensors", tmp_path / "b" / "a.safetensors"
    copy.parent.mkdir()
    lora.write_bytes(b"one")
    copy.write_bytes(b"one")
    model, seen = shallow("sd1"), list[Path]()
    monkeypatch.setattr(regularization_images, "fill", lambda sources, *_: seen.extend(sources) or iter(()))

    def drawn(steps: int, *artifacts: Path | str) -> Path:
        what = recipe(place, "fp32")
        what = what.model_copy(update={"base": what.base.model_copy(update={"artifacts": tuple(map(str, artifacts))})})
        inputs = Inputs(what, what.method, model, None, (), None)  # type: ignore[arg-type]
        services, folder = Services(tmp_path, draw=Grey(steps)), RunDir(tmp_path / "run")
        list(preparation.add_regularization(None, inputs, fill, services, Accelerator(cpu=True), folder))  # type: ignore[arg-type]
        return seen[-1]

    first = drawn(25, lora)
    assert drawn(25, lora) == drawn(25, f"{lora}:1") == drawn(25, copy) == first
    others = [drawn(20, lora), drawn(25, f"{lora}:0.5"), drawn(25)]
    lora.write_bytes(b"two")
    others.append(drawn(25, lora))
    assert len({first, *others}) == 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_place(tmp_path_factory.mktemp("place"))


def recipe(place: tuple[Path, Path], weights: str) -> Recipe:
    base, images = map(str, place)
    return config.build(
        {
            "base": {"model": base},
            "method": {"name": "dreambooth", "weights": weights, "text_encoder": True},
            "data": {"images": images, "class_word": "dog", "trigger": "zuzu", "reg_generate": 3, "variants": 1},
            "train": {
                "steps": 4,
                "batch_size": 2,
                "precision": "fp32",
                "device": "cpu",
                "checkpoint_every": 2,
                "learning_rate": 1e-3,
            },
            "preview": {"num": 0},
            "output": {"name": "result"},
        }
    )


@pytest.mark.parametrize("weights", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_a_stopped_run_goes_on_to_the_same_file(weights: str, place: tuple[Path, Path], tmp_path: Path) -> None:
    """The whole way: class pictures, training, a checkpoint written and read back; stopped, the same bytes come out."""
    what = recipe(place, weights)

    def trained(name: str, *, stop_at: int = 0, resume: bool = False) -> list[Event]:
        folder = run_folder.read(tmp_path / name)[1] if resume else run_folder.start(what, tmp_path / name)
        training = run.train(what, folder, Services(tmp_path, draw=Grey()), resume=resume)
        seen: list[Event] = []
        for event in training:
            seen.append(event)
            if stop_at and isinstance(event, Stepped) and event.step == stop_at:
                training.close()
        return seen

    written = [event for event in trained("whole") if isinstance(event, Written)]
    assert [event.format for event in written] == ["single-file", "diffusers"]
    trained("stopped", stop_at=3)
    trained("stopped", resume=True)
    for file in ("result.safetensors", "result/unet/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "whole/artifacts" / file).read_bytes() == (
            tmp_path / "stopped/artifacts" / file
        ).read_bytes()
