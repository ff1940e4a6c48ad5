"""Run folders: made for a new run, opened again for one that goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

from tsuika import config
from tsuika.config import Recipe
from tsuika.core.errors import ImageError, InterruptedRunError
from tsuika.core.files import write_text
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _
from tsuika.training.preparation import completed


def check_start(recipe: Recipe, folder: Path) -> None:
    """Whether a run can begin there.

    Raises:
        RecipeError: RC006, the folder is in use; or as `preparation.completed`.
        ImageError: DS001, there is no image folder.
    """
    completed(recipe)
    if recipe.data.images and not Path(recipe.data.images).is_dir():
        raise ImageError("DS001", where=recipe.data.images)
    RunDir(folder).check_free()


def start(recipe: Recipe, folder: Path) -> RunDir:
    """Make a run folder with the complete recipe in it.

    Raises:
        RecipeError, ImageError: As `check_start`.
    """
    check_start(recipe, folder)
    run = RunDir(folder).create()
    write_text(run.recipe, config.dump(recipe))
    return run


def reopen(folder: Path) -> tuple[Recipe, RunDir]:
    """The recipe and folder of a run that goes on.

    Raises:
        InterruptedRunError: TR002, this is no run folder.
    """
    run = RunDir(folder)
    if not run.recipe.is_file():
        raise InterruptedRunError("TR002", where=folder, why=_("The folder holds no recipe.toml."))
    # Left by a process that was killed.
    for temporary in (*run.checkpoints.glob(".*.tmp"), *run.guard.glob("**/.*.tmp")):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    return config.load(run.recipe), run
