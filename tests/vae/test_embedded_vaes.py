"""The embedded base's two other VAEs: the same latents, and each ahead of the base's own at its purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tsuika
from tsuika import families
from tsuika.api.drawing import Renderer
from tsuika.core.bootstrap import of_differences
from tsuika.core.errors import RecipeError
from tsuika.core.plain import jsonable
from tsuika.embedded.world import World, draw
from tsuika.vae import metrics, roundtrip

CPU = torch.device("cpu")
NAMES = ("texture", "colour")


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that no step of the making has drawn: another generator."""
    folder: Path = tmp_path_factory.mktemp("renders")
    rng, world = np.random.default_rng(4242), World()
    for number in range(16):
        Image.fromarray(draw(world.picture(rng))).save(folder / f"{number}.png")
    return folder


def test_they_share_all_latents() -> None:
    space = families.peek("embedded", embedded_path=tsuika.EMBEDDED)
    own = space.load_vae("builtin", CPU)
    for name in NAMES:
        other = space.load_vae(f"builtin:{name}", CPU)
        assert roundtrip.encoders(own, other) == "same"
        changed = [key for key, value in own.state_dict().items() if not torch.equal(value, other.state_dict()[key])]
        assert changed and all(key.startswith("decoder.") for key in changed)


def test_texture_is_taken_for_texture(renders: Path) -> None:
    run = tsuika.compare_vae(["builtin:texture"], renders)
    assert {type(event).__name__ for event in run} >= {"Phase", "Progress"}
    assert "builtin:texture" in run._repr_html_()
    done = jsonable(run.result.to_dict())
    assert done["advice"]["texture"]["vae"] == "builtin:texture" and done["advice"]["colour"]["vae"] == "builtin"
    assert done["advice"]["texture"]["better_by"]["low"] > 0
    assert not done["vaes"][0]["findings"] and {one["encoder"] for one in done["vaes"]} == {"same"}


@pytest.mark.slow
def test_colours_are_nearer_by_a_little() -> None:
    """The gain is small, so that it takes many renders to be told from chance."""
    rng, world = np.random.default_rng(4343), World()
    pixels = torch.cat([roundtrip.to_signal(Image.fromarray(draw(world.picture(rng)))) for _ in range(96)])
    space, rows = families.peek("embedded", embedded_path=tsuika.EMBEDDED), []
    for name in ("builtin", "builtin:colour"):
        vae = space.load_vae(name, CPU)
        made = [roundtrip.decode(vae, roundtrip.encode(vae, part)) for part in pixels.split(16)]
        rows.append([row["colour"] for row in metrics.measure(torch.cat(made), pixels)])
    assert of_differences(rows[1], rows[0]).sign < 0


def test_drawings_go_from_one_to_the_other() -> None:
    """The same latents through each decoder; going back gives the base's own picture again, to the bit."""
    with Renderer() as renderer:
        pictures = []
        for vae in ("builtin", "builtin:texture", "builtin:colour", "builtin"):
            drawing = tsuika.Drawing(
                "a cat on a red background", vae=vae, steps=2, seed=3, precision="fp32", device="cpu"
            )
            renderer.set_up(drawing)
            pictures.append(np.asarray(renderer.draw(drawing)[0]))
    assert np.array_equal(pictures[0], pictures[3])
    differences = [np.abs(one.astype(int) - pictures[0]).mean() for one in pictures[1:3]]
    assert all(0 < difference < 12 for difference in differences)


def test_a_comparison_needs_a_candidate(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="A VAE to compare"):
        _ = tsuika.compare_vae(["builtin"], tmp_path).result
