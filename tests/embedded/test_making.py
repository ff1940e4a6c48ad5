"""Making the base: deterministic, and after a kill it goes on to the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from base import common, examiner, hands, scenes, unet, vae, yardstick
from base.export import export
from base.mixture import Mixture
from base.plan import Plan, plan_of
from base.ship import take_up
from base.sources import HANDS, UNSEEN_HAND
from base.tokenizer import train_tokenizer
from tsuika.embedded.hands import GLYPH_PX
from tsuika.embedded.things import KNOWN
from tsuika.embedded.world import BACKGROUNDS, PLAIN, SCENES, SIZE_PX, draw

PLAN = Plan(
    seed=1, vae_steps=4, vae_decay=2, vae_batch=4, save_every_s=0,
    unet_steps=4, unet_decay=2, unet_batch=2, unet_warmup=2, pool=4, views=2, judged=2, judge_every=2,
    examiner_steps=3, yardstick_steps=2, judge_batch=4,
)  # fmt: skip


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def atlases(tmp_path_factory: pytest.TempPathFactory) -> hands.Atlases:
    """Blots in place of the real hands' drawings."""
    folder, rng = tmp_path_factory.mktemp("hands"), np.random.default_rng(0)
    names = [*(scenes.icon(name) for name in scenes.NAMES), "blot", "spot", *hands.UNSEEN_THINGS[:2]]
    (folder / "names.json").write_text(json.dumps(names))
    for hand in (*HANDS, UNSEEN_HAND):
        cells = rng.integers(0, 256, (len(names), 7, 7, 4), dtype=np.uint8)
        large = [np.asarray(Image.fromarray(cell).resize((GLYPH_PX, GLYPH_PX))) for cell in cells]
        np.save(folder / f"{hand.name}.npy", np.stack(large))
    return hands.Atlases(folder)


@pytest.fixture(scope="module")
def mixture(atlases: hands.Atlases) -> Mixture:
    return Mixture(atlases, [np.random.default_rng(1).integers(0, 256, (90, 70, 3), dtype=np.uint8)])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, atlases: hands.Atlases) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder, seed=1, strangers=atlases.names, captions=400, size=700)
    return CLIPTokenizer.from_pretrained(folder)


def test_the_tokenizer_is_clips_own_kind(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a cat on the beach, 東京!").input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert len(ids) > 8  # unknown words fall apart into bytes instead of vanishing
    assert tokenizer.decode(ids[1:6], clean_up_tokenization_spaces=False).split() == ["a", "cat", "on", "the", "beach"]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_an_icon_is_drawn_whole_and_trimmed() -> None:
    pytest.importorskip("resvg_py")
    icons = {"icons": {"bar": {"body": '<path fill="#f00" d="M2 1h4v8H2z"/>'}}, "width": 30, "height": 10}
    assert 'viewBox="0.0 -10.0 30 30"' in hands.svg(icons, "bar")
    red, _, _, alpha = np.moveaxis(np.asarray(hands.render(icons, "bar")), -1, 0)
    assert alpha.shape == (GLYPH_PX, GLYPH_PX)
    assert (alpha > 128).any(axis=1).all()  # from top to bottom
    assert 0.45 < (alpha > 128).mean() < 0.55
    assert (red[alpha > 128] == 255).all()


def test_nobody_is_shown_the_unseen_hand_or_things(atlases: hands.Atlases, mixture: Mixture) -> None:
    assert len(atlases.shown) == len(scenes.NAMES) + 2 == len(atlases.names) - 2
    assert len(mixture.things) == len(HANDS) * len(atlases.shown)
    assert not any(name.startswith(UNSEEN_HAND.name) for name in mixture.things)
    assert UNSEEN_HAND.name not in scenes.HAND_SHARES
    assert not {scenes.icon(name) for name in scenes.NAMES} & set(hands.UNSEEN_THINGS)


def test_an_example_of_any_kind_is_a_function_of_its_seed(mixture: Mixture) -> None:
    assert set(mixture.kinds) == set(mixture.SHARES)
    assert sum(mixture.SHARES.values()) == pytest.approx(1)
    for make in mixture.kinds.values():
        first, again, other = (make(np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert first.pixels.shape == (SIZE_PX, SIZE_PX, 3) and first.pixels.dtype == np.uint8
        assert np.array_equal(first.pixels, again.pixels) and not np.array_equal(first.pixels, other.pixels)
        assert 0 <= first.x <= SIZE_PX and 0 <= first.y <= SIZE_PX


def test_the_vaes_rate_may_be_ended_early_without_another_past() -> None:
    plan = replace(PLAN, vae_steps=1000, vae_decay=300, vae_warmup=100)
    rates = [vae.rate(plan, step) for step in range(1000)]
    assert rates[0] < rates[50] < rates[100] == rates[699] == plan.vae_lr > rates[900] > rates[999] > 0
    early = replace(plan, vae_steps=600)
    assert [vae.rate(early, step) for step in range(300)] == rates[:300]


def test_the_work_folder_may_change_the_plan(tmp_path: Path) -> None:
    assert plan_of(tmp_path) == Plan()
    (tmp_path / "plan.json").write_text('{"vae_steps": 7}')
    assert plan_of(tmp_path) == replace(Plan(), vae_steps=7)


def test_a_scene_is_a_function_of_its_seed_and_stays_in_the_frame(atlases: hands.Atlases) -> None:
    first, again, other = (scenes.scene(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
    rng, glyphs, hands_seen = np.random.default_rng(3), scenes.source(atlases), set()
    for _ in range(120):
        shown = scenes.scene(rng)
        hands_seen.add(shown.hand)
        assert len(shown.what) == len(shown.picture.things)
        for placed in shown.picture.things:
            assert 0.13 < placed.x < 0.87 and 0.13 < placed.y < 0.87 and 0.25 < placed.size < 1
        assert draw(shown.picture, source=glyphs).shape == (SIZE_PX, SIZE_PX, 3)
    assert hands_seen == set(scenes.HAND_SHARES)


def test_captions_say_what_is_there() -> None:
    rng, words = np.random.default_rng(4), {thing.name: (*thing.words, thing.kind) for thing in KNOWN}
    named = dict.fromkeys(scenes.HAND_SHARES, 0)
    for _ in range(600):
        shown = scenes.scene(rng)
        said = scenes.caption(shown, rng)
        for name in shown.what:
            known = words.get(name, (name,))
            assert any(word in said or scenes.plural(word) in said for word in known), (said, shown)
        for hand, word in scenes.HAND_WORDS.items():
            if f"{word} style" in said:
                assert hand == shown.hand
                named[hand] += 1
        order = [said.find(sign) for sign in (" to the left of ", " to the right of ", " above ", " below ")]
        if max(order) >= 0 and shown.what[0] != shown.what[1]:
            first, second = (placed for placed in shown.picture.things)
            before = min((said.find(word) % 999 for word in words.get(shown.what[0], (shown.what[0],))), default=0)
            assert (first.x < second.x - 0.2) or (first.y < second.y - 0.2)
            assert before < max(order) if order[0] >= 0 or order[2] >= 0 else before > max(order)
    assert all(count > 20 for count in named.values())


@pytest.mark.parametrize(
    ("one", "many"),
    [("cat", "cats"), ("fox", "foxes"), ("bunny", "bunnies"), ("monkey", "monkeys"), ("slice of pizza", "slices of pizza"),
     ("tomato", "tomatoes"), ("cactus", "cactuses")],
)  # fmt: skip
def test_plurals(one: str, many: str) -> None:
    assert scenes.plural(one) == many


def test_what_is_given_of_a_scene_is_kept() -> None:
    rng = np.random.default_rng(5)
    shown = scenes.scene(rng, hand="blobs", relation="beside", things=("cat", "dog"), background="snow")
    assert [placed.thing for placed in shown.picture.things] == ["blobs/cat-face", "blobs/dog-face"]
    assert (shown.hand, shown.what, shown.picture.background) == ("blobs", ("cat", "dog"), "snow")


def test_the_exam_asks_for_everything_alike() -> None:
    asked = examiner.questions(640)
    assert {one.hand for one in asked} == set(scenes.HAND_SHARES)
    assert {one.what[0] for one in asked} == set(scenes.NAMES)
    assert {one.picture.background for one in asked} == set(BACKGROUNDS)
    assert sum(one.relation == "beside" for one in asked) == 128
    assert examiner.prompt(asked[0]).endswith(tuple(w for ws in SCENES.values() for w in ws) + tuple(
        f"on {scenes.article(colour)} background" for colour in PLAIN))  # fmt: skip


def test_the_kernel_distance_is_nothing_between_pictures_of_one_kind_and_grows_with_blur() -> None:
    torch.manual_seed(0)
    judge, rng = examiner.Examiner().eval(), np.random.default_rng(6)
    sets = rng.integers(0, 256, (2, 48, 64, 64, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(p).resize((32, 32)).resize((64, 64))) for p in sets[0]])
    same, other = (examiner.kernel_distance(judge, some, sets[1]) for some in (sets[0], smooth))
    assert abs(same) < 100 < other


def _train(work: Path, mixture: Mixture, tokenizer: CLIPTokenizer) -> dict[str, torch.Tensor]:
    work.mkdir(exist_ok=True)
    encoder = vae.train_vae(PLAN, work, mixture)
    measure = yardstick.train_yardstick(PLAN, work, mixture.atlases)
    judge = examiner.train_examiner(PLAN, work, mixture.atlases)
    averages = unet.train_unet(PLAN, work, encoder, tokenizer, mixture.atlases)
    parts = {"vae": encoder.state_dict(), "examiner": judge.state_dict(), "yardstick": measure.state_dict(), **averages}
    return {f"{part}.{name}": value for part, weights in parts.items() for name, value in weights.items()}


@pytest.mark.slow
def test_after_a_kill_it_goes_on_to_the_same_bits(
    tmp_path: Path, mixture: Mixture, tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _train(tmp_path / "whole", mixture, tokenizer)
    for module, name, killed_at in ((vae, "rate", 2), (common, "judge_rate", 2), (unet, "rate", 3)):
        rate = getattr(module, name)

        def killed(plan: Plan, step: int, *steps: int, rate=rate, killed_at=killed_at) -> float:
            if step == killed_at:
                raise KilledError
            return rate(plan, step, *steps)

        monkeypatch.setattr(module, name, killed)
        with pytest.raises(KilledError):
            _train(tmp_path / "killed", mixture, tokenizer)
        monkeypatch.setattr(module, name, rate)
    assert common.load(tmp_path / "killed/vae.pt")["step"] == PLAN.vae_steps
    assert common.load(tmp_path / "killed/unet.pt")["step"] == 3
    resumed = _train(tmp_path / "killed", mixture, tokenizer)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)

    work, folder = tmp_path / "whole", tmp_path / "exported"
    (work / "hands").symlink_to(mixture.atlases.folder)
    (work / "tokenizer").symlink_to(tokenizer.name_or_path)
    export(PLAN, work, folder, "short")
    assert json.loads((folder / "tsuika.json").read_text())["made"]["unet_steps"] == PLAN.unet_steps
    found = examiner.exam(work, folder, mixture.atlases, count=5)
    assert found["samples"] == 5 and 0 <= found["background"] <= 1


@pytest.mark.slow
def test_what_was_shipped_can_be_taken_up_again(tmp_path: Path, mixture: Mixture, tokenizer: CLIPTokenizer) -> None:
    work, package, again = tmp_path / "work", tmp_path / "package", tmp_path / "again"
    shipped = _train(work, mixture, tokenizer)
    (work / "hands").symlink_to(mixture.atlases.folder)
    (work / "tokenizer").symlink_to(tokenizer.name_or_path)
    export(PLAN, work, package / "base", "short")
    save_file(common.load(work / "yardstick.pt")["model"], package / "yardstick.safetensors")
    plan = take_up(PLAN, again, package)
    assert plan.unet_began == PLAN.unet_steps
    state = common.load(again / "unet.pt")
    for name, value in state["averages"]["long"].items():
        if not name.startswith("questions."):
            torch.testing.assert_close(value, shipped[f"short.{name}"], rtol=1e-3, atol=1e-6)
    further = replace(plan, unet_steps=plan.unet_began + 2)
    averages = unet.train_unet(further, again, vae.trained_vae(again), tokenizer, mixture.atlases)
    before = state["averages"]["short"]
    assert not any(torch.equal(value, before[name]) for name, value in averages["short"].items())
    assert not torch.equal(averages["short"]["unet.conv_in.weight"], averages["long"]["unet.conv_in.weight"])


@pytest.mark.parametrize("began", [0, 5000])
def test_the_rate_warms_up_holds_and_ends_at_zero(began: int) -> None:
    plan = replace(PLAN, unet_began=began, unet_steps=began + 1000, unet_warmup=100, unet_decay=300)
    rates = [unet.rate(plan, began + step) for step in range(1000)]
    assert 0 < rates[0] < rates[50] < rates[100] == rates[699] == plan.unet_lr > rates[900] > rates[999] > 0
