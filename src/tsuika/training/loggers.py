"""A run's numbers and images for loggers (TensorBoard, W&B, MLflow, Trackio, ...), through Accelerate's trackers. A
logger is used only where the recipe names it: what is sent there are losses, measurements, previews and the settings of
method and training, but no path. Knows no loop: it reads the stream of events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tsuika.config import Recipe
from tsuika.core import outside
from tsuika.core.errors import RecipeError
from tsuika.core.events import Event, Judged, Phase, Previewed, Stepped, Warned, note
from tsuika.core.texts import _, listed

PROJECT: Final = "tsuika"
KEY: Final = "train.log_with"
# How a logger calls the name of a run in its project; others have the run's name alone.
_RUN_NAMES: Final = {"wandb": "name", "trackio": "name", "mlflow": "run_name", "swanlab": "experiment_name"}
_PACKAGES: Final = {"comet_ml": "comet-ml"}
# By the phase in which steps are done: the trial run and what comes after it are two curves.
_CURVES: Final = {"look": "trial", "variant": "variant"}


def check(names: Sequence[str]) -> None:
    """Whether all loggers are there. Raises RecipeError (RC002): one is unknown, or its package is not installed."""
    for name in names:
        _class_of(name)


def _class_of(name: str) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

    if outside.is_address(name):
        found = outside.imported(name, type, key=KEY)
        if not issubclass(found, GeneralTracker):
            why = _("It is no tracker of Accelerate (accelerate.tracking.GeneralTracker).")
            raise RecipeError("RC002", key=KEY, found=name, why=why)
        return found
    if name not in LOGGER_TYPE_TO_CLASS:
        why = _("Possible values: {names}", names=listed([*LOGGER_TYPE_TO_CLASS, "package.module:CLASS"]))
        raise RecipeError("RC002", key=KEY, found=name, why=why)
    if name not in map(str, get_available_trackers()):
        why = _("It needs a package: pip install {name}", name=_PACKAGES.get(name, name))
        raise RecipeError("RC002", key=KEY, found=name, why=why)
    return LOGGER_TYPE_TO_CLASS[name]


class Loggers:
    """The loggers of a run; `send` gives them what an event says."""

    def __init__(self, recipe: Recipe, folder: Path, done: int) -> None:
        """`done` are the steps that an earlier sitting has logged: loggers want a step that only grows."""
        self._recipe, self._folder, self._count = recipe, folder, done
        self._names = list(recipe.train.log_with)
        self._trackers: dict[str, Any] = {}
        self._curve = "train"

    def send(self, event: Event) -> Iterator[Warned]:
        """Send an event. Yields TR023 where a logger fails, which is left out from there on. Raises RecipeError (RC002):
        one cannot be opened."""
        # Not before the first event: Accelerate must know the recipe's device by then.
        while self._names:
            self._open(self._names.pop(0))
        match event:
            case Phase(name=name):
                self._curve = _CURVES.get(name, "train")
            case Stepped():
                self._count += 1
                values = {"loss": event.loss, "grad_norm": event.grad_norm, "learning_rate": event.learning_rate}
                yield from self._log(
                    {f"{self._curve}/{key}": value for key, value in (*values.items(), ("step", event.step))}
                )
            case Judged(fold=0):
                yield from self._log(dict(_measured(event)))
            case Previewed():
                yield from self._log_image(f"preview/{event.prompt}", event)

    def close(self) -> None:
        for tracker in self._trackers.values():
            with suppress(Exception):
                tracker.finish()
        self._trackers = {}

    def _open(self, name: str) -> None:
        kind, run = _class_of(name), self._folder.resolve().name
        places = [str(self._folder / "logs")] if kind.requires_logging_directory else []
        try:
            if name in _RUN_NAMES:
                tracker = kind(PROJECT, *places, **{_RUN_NAMES[name]: run})
            else:
                tracker = kind(run, *places)
            tracker.start()
            tracker.store_init_configuration(dict(_settings(self._recipe)))
        # Whatever a logger raises: no account, no network, a disk that is full.
        except Exception as error:
            raise RecipeError("RC002", key=KEY, found=name, why=f"{type(error).__name__}: {error}") from error
        self._trackers[name] = tracker

    def _log(self, values: dict[str, float]) -> Iterator[Warned]:
        for name in [*self._trackers]:
            with self._used(name) as failed:
                self._trackers[name].log(values, step=self._count)
            yield from failed

    def _log_image(self, key: str, event: Previewed) -> Iterator[Warned]:
        import numpy as np
        from PIL import Image

        for name in [*self._trackers]:
            if not hasattr(self._trackers[name], "log_images"):
                continue
            with self._used(name) as failed, Image.open(self._folder / event.path) as image:
                pixels_1HWC = np.asarray(image.convert("RGB"))[None]
                more = {"dataformats": "NHWC"} if name == "tensorboard" else {}
                self._trackers[name].log_images({f"{key}/{event.seed}": pixels_1HWC}, step=self._count, **more)
            yield from failed

    @contextmanager
    def _used(self, name: str) -> Iterator[list[Warned]]:
        """Whatever a logger raises ends its use, and not the training."""
        failed: list[Warned] = []
        try:
            yield failed
        except Exception as error:  # noqa: BLE001
            del self._trackers[name]
            failed.append(note("TR023", name=name, error=f"{type(error).__name__}: {error}"))


@contextmanager
def opened(recipe: Recipe, folder: Path, done: int) -> Iterator[Loggers]:
    """The loggers that a recipe names, closed at the end; see `Loggers`."""
    loggers = Loggers(recipe, folder, done)
    try:
        yield loggers
    finally:
        loggers.close()


def _measured(event: Judged) -> Iterator[tuple[str, float]]:
    """What the guard has measured: losses as shares of the base's (-0.1: a tenth lower), drift, and the step."""
    yield "guard/step", event.step
    held_out = event.evidence.get("held_out")
    values = {**event.evidence, "held_out": held_out["mean"] if held_out else None}
    for name in ("held_out", "train", "drift"):
        if isinstance(value := values.get(name), float):
            yield f"guard/{name}", value


def _settings(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    for section in ("method", "train", "regularize", "guard"):
        for leaf, value in getattr(recipe, section).model_dump(mode="json").items():
            if (section, leaf) not in (("method", "start"), ("train", "notify")):
                yield f"{section}.{leaf}", ", ".join(map(str, value)) if isinstance(value, list) else value
