from pathlib import Path

import pytest

from tsuika import config
from tsuika.embedded import examples

RECIPES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_one_and_names_pictures_that_are_drawn(path):
    recipe = config.load(path)
    folder = Path(recipe.data.images)
    assert folder.parent == Path("runs/example-pictures")
    assert folder.name in examples.SETS
    assert recipe.data.trigger in examples.SETS[folder.name]()[0].caption
    assert path.name in (path.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", examples.SETS)
def test_folders_are_called_after_how_many_pictures_they_hold(name):
    drawn = examples.SETS[name]()
    assert len(drawn) == int(name.rpartition("-")[2])
    assert len({one.name for one in drawn}) == len(drawn)
