"""Run folders: made for a new run, opened again for one that goes on; one process at a time works in one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tsuika import config
from tsuika.config import Recipe
from tsuika.core import events, files
from tsuika.core.errors import ImageError, RecipeError, TsuikaError
from tsuika.core.rundir import RunDir
from tsuika.training.preparation import completed

LOOKS: Final = 5  # how often it is tried to take a run's lock


def check_start(recipe: Recipe, folder: Path) -> None:
    """Whether a run can begin there. Raises RecipeError (RC006, the folder is in use), or as `check_images`, `files.check_place`."""
    check_images(recipe)
    RunDir(folder).check_free()


def check_images(recipe: Recipe) -> None:
    """Whether there is something to train on. Raises as `preparation.completed`; ImageError: DS001, no image folder."""
    completed(recipe)
    for images in recipe.data.folders:
        if not Path(images).is_dir():
            raise ImageError("DS001", where=images)


def start(recipe: Recipe, folder: Path) -> RunDir:
    """A new run folder with the complete recipe in it. Raises TsuikaError: As `check_start`."""
    check_start(recipe, folder)
    run = RunDir(folder).create()
    files.write_text(run.recipe, config.dump(recipe))
    return run


@contextmanager
def started(recipe: Recipe, folder: Path) -> Iterator[RunDir]:
    """The same, held for this process. Raises TsuikaError as `check_start`; RC027, another process has just begun there.

    Where an error ends the block before anything is trained, nothing is left of it, but for the list of images where
    that is what the error is about.
    """
    check_start(recipe, folder)
    run, was_there = RunDir(folder), folder.exists()
    try:
        with _held(run):
            yield start(recipe, folder)
    except Exception as error:
        if isinstance(error, RecipeError) and error.code in ("RC006", "RC027"):
            raise
        if not run.events.exists() or not any(isinstance(one, events.Started) for one in events.read(run.events)[0]):
            about_images = isinstance(error, TsuikaError) and error.code == "DS002"
            run.clear(keep_list=about_images, keep_root=was_there)
        raise


@contextmanager
def reopened(folder: Path) -> Iterator[tuple[Recipe, RunDir]]:
    """The recipe and folder of a run that goes on, held for this process. Raises as `read`; RC027, another is at work there."""
    recipe, run = read(folder)
    with _held(run):
        # Left by a process that was killed.
        for temporary in [*run.root.rglob(files.TEMPORARY)]:
            files.remove(temporary)
        yield recipe, run


def read(folder: Path) -> tuple[Recipe, RunDir]:
    """The recipe and folder of a run, to look at. Raises RecipeError (TR002): no run folder; or what is wrong with it."""
    run = RunDir(folder)
    if not run.recipe.is_file():
        raise RecipeError("TR002", where=folder)
    return config.load(run.recipe), run


@contextmanager
def _held(run: RunDir) -> Iterator[None]:
    # Whoever looks whether it is held holds it for a moment.
    for _look in range(LOOKS):
        with files.locked(run.lock) as mine:
            if mine:
                yield
                return
        time.sleep(0.02)
    raise RecipeError("RC027", where=run.root, why=files.holder(run.lock))
