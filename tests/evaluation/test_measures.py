"""Measures of drawings: a copy machine is found out, sameness is seen, and the base is at no distance from itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tsuika.config import build
from tsuika.data.subjects import subjects_of
from tsuika.embedded import gadget, mascot
from tsuika.evaluation import encoders
from tsuika.evaluation.measures import Ruler
from tsuika.evaluation.prompts import Asked
from tsuika.evaluation.verdict import Point, judge

SEEDS = (1, 2, 3, 4)
ASKED = (
    Asked("a tsuipi character at night", "subject"),
    Asked("a tsuipi character under the sea", "subject"),
    Asked("a tsuipi character in the snow", "subject"),
    Asked("a cat on the beach", "unrelated"),
    Asked("a tsuipi character on a white background", "captions"),
)
SUBJECTS = subjects_of(build({"data": {"trigger": "tsuipi", "class_word": "character"}}).data)
TRAINING = mascot.pictures(12)


def images(drawn: list[mascot.Illustration]) -> list[Image.Image]:
    return [Image.fromarray(one.pixels).resize((64, 64)) for one in drawn]


def drawings(pool: list[Image.Image]) -> dict[str, list[Image.Image]]:
    """Four of the pool for each prompt, in turn."""
    return {one.text: [pool[(4 * number + i) % len(pool)] for i in range(4)] for number, one in enumerate(ASKED)}


OTHERS = drawings(
    [Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)) for i in range(20)]
)
FRESH = drawings(images(mascot.held_out(20, seed=9, trained_backgrounds=True)))


@pytest.fixture(scope="module")
def ruler() -> Ruler:
    pictures = [(one.name, Image.fromarray(one.pixels)) for one in TRAINING]
    return Ruler(encoders.load("embedded", torch.device("cpu")), ASKED, OTHERS, SEEDS, pictures, SUBJECTS)


def test_the_base_is_itself(ruler: Ruler) -> None:
    base, _ = ruler.measure(OTHERS)
    assert base.drift is not None and not base.drift.any() and not base.copies.any()
    again, _ = ruler.measure(OTHERS)
    for name in ("fidelity", "adherence", "others", "diversity", "copies"):
        assert np.array_equal(getattr(base, name), getattr(again, name))
    assert base.fidelity is not None and base.fidelity.shape == (3, 4) and base.copies.shape == (4, 4)


def test_true_new_pictures_are_like_the_training_pictures_and_no_copies(ruler: Ruler) -> None:
    (base, _), (found, pairs) = ruler.measure(OTHERS), ruler.measure(FRESH)
    assert found.fidelity is not None and base.fidelity is not None and found.drift is not None
    assert found.fidelity.mean() > 0.8 > 2 * base.fidelity.mean()
    assert ruler.scale.real is not None and abs(ruler.scale.real - found.fidelity.mean()) < 0.1
    assert found.copies.sum() <= 1 and found.drift.mean() > 0
    assert len(pairs) == 16 and pairs[0].resemblance.similarity == max(pair.resemblance.similarity for pair in pairs)


def test_a_copy_machine_is_found_out(ruler: Ruler) -> None:
    machine = drawings(images(TRAINING))
    found, pairs = ruler.measure(machine)
    assert found.copies.all() and all(pair.copies for pair in pairs)
    verdict = judge(ruler.measure(OTHERS)[0], [Point("copier", "", 1, 1.0, found, True)], ruler.scale)
    assert verdict.grade == "copies" and verdict.best is None


def test_a_model_that_draws_one_picture_has_no_diversity(ruler: Ruler) -> None:
    stiff = {text: pictures[:1] * 4 for text, pictures in FRESH.items()}
    found, _ = ruler.measure(stiff)
    assert found.diversity is not None and not found.diversity.any()
    grey = {text: [Image.new("RGB", (64, 64), "grey")] * 4 for text in FRESH}
    flat, _ = ruler.measure(grey)
    assert flat.diversity is not None and not flat.diversity.any()


def test_one_seed_has_no_diversity_to_speak_of() -> None:
    one = {text: pictures[:1] for text, pictures in OTHERS.items()}
    ruler = Ruler(None, ASKED, one, (1,), [("a.png", Image.fromarray(TRAINING[0].pixels))], SUBJECTS)
    found, _ = ruler.measure(one)
    assert (
        found.diversity is None
        and found.fidelity is None
        and ruler.scale.real is None
        and ruler.scale.other_prompt is None
    )


def test_each_of_several_subjects_is_measured_against_its_own_images() -> None:
    """Against an independent sum: a ruler that knows one subject alone gives the same rows; swapped, likeness falls."""
    mascots, gadgets = images(mascot.pictures(6)), images(gadget.pictures(6))
    sets = [{"images": name, "trigger": name} for name in ("tsuipi", "daruma")]
    subjects = subjects_of(build({"data": {"sets": sets}}).data)
    both = (
        Asked("a tsuipi at night", "subject", (0,)),
        Asked("a daruma at night", "subject", (1,)),
        Asked("a tsuipi and a daruma", "subject", (0, 1)),
    )
    drawn = {both[0].text: mascots[:2], both[1].text: gadgets[:2], both[2].text: [mascots[3], gadgets[3]]}
    encoder = encoders.load("embedded", torch.device("cpu"))
    pictures = [(str(i), one) for i, one in enumerate([*mascots, *gadgets])]

    def fidelity(asked: tuple[Asked, ...], named: list[tuple[str, Image.Image]], homes: list[int]) -> np.ndarray:
        table = Ruler(encoder, asked, drawn, (1, 2), named, subjects, homes).measure(drawn)[0].fidelity
        assert table is not None
        return table

    found = fidelity(both, pictures, [0] * 6 + [1] * 6)
    alone = [
        fidelity(tuple(Asked(one.text, "subject") for one in both), part, [0] * 6)
        for part in (pictures[:6], pictures[6:])
    ]
    assert np.allclose(found[0], alone[0][0]) and np.allclose(found[1], alone[1][1])
    assert np.allclose(found[2], (alone[0][2] + alone[1][2]) / 2)
    swapped = fidelity(both, pictures, [1] * 6 + [0] * 6)
    assert (found[:2] > swapped[:2] + 0.2).all()
