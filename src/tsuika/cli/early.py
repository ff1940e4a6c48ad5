"""What is wrong with the files that a command names, said before torch is loaded, which takes seconds.

The same errors as the library's own, which checks again; the hub is not asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tsuika.core.errors import FormatError, ImageError, RecipeError
from tsuika.core.files import split_strength
from tsuika.core.rundir import RunDir


def check(
    *files: Path, base: str = "", vae: str = "", results: Iterable[str] = (), images: str = "", run: Path | None = None
) -> None:
    """Raise what is missing or of another kind, as far as a header shows it.

    Args:
        files: files or folders that must be there.
        base: as in `families.load`.
        vae: the same.
        results: `FILE` or `FILE:STRENGTH`, files of weights or folders.
        images: a folder.
        run: a run folder.

    Raises:
        TsuikaError: the first of these that cannot be used.
    """
    from tsuika import families
    from tsuika.core.weights import open_weights

    weights = [split_strength(text)[0] for text in results]
    for path in (*files, *weights):
        if not path.exists():
            raise FormatError("FM004", where=path)
    for path in weights:
        if path.is_file():
            open_weights(path)
    if images and not Path(images).is_dir():
        raise ImageError("DS001", where=images)
    if run is not None and not RunDir(run).recipe.is_file():
        raise RecipeError("TR002", where=run)
    families.check(base, vae)
