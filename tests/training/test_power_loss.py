"""A run whose power is cut at any point goes on to the same result, or has not begun.

What a run does to the disk goes through `core.files`. A recorder stands in for its functions there, and after each of them
makes two images of the run folder: what a killed process leaves, and what a disk holds that keeps only what was flushed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import hashes, settings

import tsuika
from tiny_models import shallow, write_folder
from tsuika import config
from tsuika.core import files
from tsuika.core.errors import RecipeError
from tsuika.core.rundir import RunDir

# A folder's files and folders, by relative path; None is a folder.
Tree = Mapping[str, bytes | None]
SEED = 17


class Disk:
    """What a disk surely holds: the content of a file as it was last flushed, and a folder's names as they were."""

    def __init__(self) -> None:
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self._open: list[int] = []

    def flush(self, path: Path) -> None:
        number = self._number(path)
        if path.is_dir():
            self.names[number] = {one.name: self._number(one) for one in path.iterdir()}
        else:
            self.contents[number] = path.read_bytes()

    def _number(self, path: Path) -> int:
        # Held open, so that no other file gets its number.
        self._open.append(os.open(path, os.O_RDONLY))
        return os.fstat(self._open[-1]).st_ino

    def tree(self, number: int, above: str = "") -> Iterator[tuple[str, bytes | None]]:
        for name, inner in self.names.get(number, {}).items():
            place = f"{above}{name}"
            is_folder = inner in self.names or (inner not in self.contents and self._is_folder(inner))
            yield place, None if is_folder else self.contents.get(inner, b"")
            yield from self.tree(inner, f"{place}/")

    def _is_folder(self, number: int) -> bool:
        return any(os.fstat(one).st_ino == number and Path(f"/proc/self/fd/{one}").is_dir() for one in self._open)

    def close(self) -> None:
        for one in self._open:
            os.close(one)


def tree_of(folder: Path) -> dict[str, bytes | None]:
    if not folder.exists():
        return {}
    return {str(one.relative_to(folder)): None if one.is_dir() else one.read_bytes() for one in folder.rglob("*")}


def write_tree(tree: Tree, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in tree.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(exist_ok=True) if content is None else place.write_bytes(content)


def recorded(run: Path, work: Callable[[], object]) -> list[Tree]:
    """Every different image of a run folder while `work` is done."""
    disk, images = Disk(), dict[int, Tree]()
    disk.flush(run.parent)

    def remember() -> None:
        entry = disk.names[run.parent.stat().st_ino].get(run.name)
        for image in (tree_of(run), dict(disk.tree(entry)) if entry is not None else {}):
            images.setdefault(hash(frozenset(image.items())), image)

    def standing_in(name: str) -> Callable[..., Any]:
        real = getattr(files, name)

        def stand_in(path: Path, *rest: Any) -> Any:
            remember()
            result = real(path, *rest)
            if name == "flush" and path.exists() and (path == run.parent or run in (path, *path.parents)):
                disk.flush(path)
            remember()
            return result

        return stand_in

    with pytest.MonkeyPatch.context() as patch:
        for name in ("make_folder", "rename", "remove", "flush", "append"):
            patch.setattr(files, name, standing_in(name))
        work()
    disk.close()
    return list(images.values())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("power")
    write_folder(shallow(), folder / "base", old_style=True)
    noise = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for number in range(10):
        blocks = noise.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST).save(folder / f"pictures/{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


def trained(place: Path, out: Path, guard: str) -> None:
    own = {"base.model": str(place / "base"), "data.images": str(place / "pictures"), "data.trigger": "zuzu"}
    steps = {"steps": 3, "checkpoint_every": 1, "learning_rate": 1e-2}
    recipe = config.build(config.override({}, settings(train=steps) | own | {"guard.mode": guard}))
    _ = tsuika.train(recipe, out).result


@pytest.mark.parametrize("guard", ["off", pytest.param("on", marks=pytest.mark.slow)])
def test_a_run_goes_on_from_any_cut(place: Path, tmp_path: Path, guard: str, request: pytest.FixtureRequest) -> None:
    run = tmp_path / "run"
    images = recorded(run, lambda: trained(place, run, guard))
    whole, result = hashes(run / "artifacts"), "report.json"
    assert len(images) > 50 and whole
    begun = [image for image in images if image.get("recipe.toml") and result not in image]
    assert begun
    # All of them where there is time; else a few.
    chosen = begun if request.config.option.markexpr == "slow" else random.Random(SEED).sample(begun, 2)
    for number, image in enumerate(chosen):
        again = tmp_path / f"{number}" / "run"
        write_tree(image, again)
        _ = tsuika.resume(again).result
        assert hashes(again / "artifacts") == whole, f"image {begun.index(image)} of {len(begun)}: {sorted(image)}"
        assert not list(again.rglob(files.TEMPORARY))
    for number, image in enumerate(image for image in images if "recipe.toml" not in image):
        again = tmp_path / f"not-begun-{number}"
        write_tree(image, again)
        with pytest.raises(RecipeError) as none:
            _ = tsuika.resume(again).result
        assert none.value.code == "TR002"
        RunDir(again).check_free()
