"""Comparing VAEs whose faults are known because they were put in."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from toy_vaes import Toy, blurred, noisy, pale, pictures

from tsuika.core.bootstrap import of_differences, of_values
from tsuika.core.errors import ModelError
from tsuika.core.events import Warned, drained
from tsuika.core.intervals import Interval, student
from tsuika.vae import faults, metrics, roundtrip
from tsuika.vae.compare import ComparedImage, Comparison, LoadedVae, compare


def measured(*arguments: Any, **options: Any) -> Comparison:
    return drained(compare(*arguments, **options))


def compared(own: nn.Module, **others: nn.Module) -> Comparison:
    candidates = [LoadedVae(name, vae) for name, vae in others.items()]
    return measured(LoadedVae("builtin", own), candidates, pictures(), scale=1.0)


def codes(comparison: Comparison, name: str) -> set[str]:
    return {w.code for one in comparison.results if one.name == name for w in one.findings}


def advised(comparison: Comparison) -> dict[str, str]:
    return {one.purpose: one.vae for one in comparison.advice}


def test_a_vae_without_loss_is_perfect_and_nothing_is_advised_against_itself() -> None:
    done = compared(Toy(), twin=Toy())
    for result in done.results:
        assert all(row["psnr"] > 100 and row["colour"] < 0.01 for row in result.rows)
        assert not result.findings and result.encoder == "same"
    assert set(advised(done).values()) == {"builtin"}
    assert all(advice.better_by is None for advice in done.advice)


def test_the_best_is_advised_by_purpose() -> None:
    """Noise everywhere against a blur that leaves flat places alone: the built-in loses to each where it should."""
    done = compared(Toy(lambda x: blurred(blurred(x))), once=Toy(blurred), good=Toy(noisy))
    assert set(advised(done).values()) == {"good"}
    texture = [metrics.mean(one.rows, "texture") for one in done.results]
    assert texture[0] < texture[1] < texture[2] and done.pareto == ("good",)
    better = next(one for one in done.advice if one.purpose == "texture").better_by
    assert better is not None and 0 < better.low < better.mean < better.high


def test_faults_are_told_and_never_advised() -> None:
    swap = torch.arange(48).roll(16)  # red for green for blue
    done = compared(
        Toy(blurred),
        pale=Toy(pale),
        scaled=Toy(scale=1.4),
        foreign=Toy(order=swap),
        broken=Toy(lambda x: x * math.nan),
        black=Toy(lambda x: 0 * x - 1),
    )
    assert faults.PALE in codes(done, "pale")
    assert faults.OTHER_SCALE in codes(done, "scaled") and "VA010" in codes(done, "scaled")
    assert faults.OTHER_LATENTS in codes(done, "foreign")
    assert faults.BROKEN in codes(done, "broken") and faults.FLAT in codes(done, "black")
    assert set(advised(done).values()) == {"builtin"}
    assert next(w.params["factor"] for w in done.results[2].findings if "factor" in w.params) == "1.40"
    json.dumps(done.to_dict(), allow_nan=False)


def test_a_decoder_for_other_latents_is_told_from_its_pictures_alone() -> None:
    """The same encoder, but a decoder that expects larger latents: nothing in the file says so."""
    wrong = Toy()
    wrong.decoder.weight.mul_(0.5)
    assert faults.OTHER_SCALE in codes(compared(Toy(), wrong=wrong), "wrong")


@pytest.mark.parametrize(("precision", "used"), [("fp16", "bf16"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_half_precision_that_overflows_is_told_and_left(precision: str, used: str) -> None:
    loud = LoadedVae("loud", Toy(peak=1e6))
    done = measured(LoadedVae("builtin", Toy()), [loud], pictures(4), scale=1.0, precision=precision)
    assert done.results[1].precision == used and done.results[0].precision == precision
    found = {w.code for w in done.results[1].findings}
    assert "VA001" in found and ("VA009" in found) == (precision == "fp16")
    assert all(math.isfinite(row["colour"]) for row in done.results[1].rows)


def test_findings_are_told_in_both_languages() -> None:
    events = compare(LoadedVae("builtin", Toy()), [LoadedVae("pale", Toy(pale))], pictures(4), scale=1.0)
    told = [event for event in events if isinstance(event, Warned)]
    assert told and all("pale" in one.words(lang) for one in told for lang in ("en", "ja"))


def test_encoders_that_were_only_stored_in_half_precision_count_as_the_same() -> None:
    own, rounded, other = Toy(scale=1.2345), Toy(scale=1.2345), Toy(scale=1.3)
    rounded.encoder.weight.copy_(rounded.encoder.weight.half())
    assert roundtrip.encoders(own, own) == "same"
    assert roundtrip.encoders(own, rounded) == "rounded" and roundtrip.encoders(own, other) == "other"


def test_pictures_are_cut_to_what_a_vae_takes() -> None:
    from PIL import Image

    for size in ((333, 500), (20, 33), (900, 100), (64, 64)):
        made = roundtrip.fitted(Image.new("RGB", size), 96, 8)
        assert made.width % 8 == made.height % 8 == 0 and 16 <= min(made.size) <= 96 and max(made.size) <= 192
    pixels = roundtrip.to_signal(Image.new("RGB", (8, 8), (255, 0, 128)))
    assert (roundtrip.to_bytes(pixels[0])[0, 0] == (255, 0, 128)).all()


@pytest.mark.parametrize("count", [3, 4, 6])
@pytest.mark.parametrize("level", [0.95, 0.9875])
def test_intervals_hold_their_level_with_few_pictures(count: int, level: float) -> None:
    """Of intervals over so many normal numbers, nearly that share holds the true mean; by 5 standard errors of 400 draws."""
    generator = torch.Generator().manual_seed(3)
    rows = (torch.randn(400, count, generator=generator) + 2).tolist()
    held = sum(1 for row in rows if (found := of_values(row, level=level)).low <= 2 <= found.high)
    assert held / len(rows) >= level - 5 * math.sqrt(level * (1 - level) / len(rows))
    if (count, level) == (6, 0.95):
        assert held < len(rows), "nor is everything inside"


def test_copies_of_a_picture_do_not_make_an_interval_narrower() -> None:
    values = [0.0, 1.0, 2.0, 5.0]
    once, twice = of_values(values), of_values(values * 3, [0, 1, 2, 3] * 3)
    assert once.high - once.low == pytest.approx(twice.high - twice.low, rel=0.1)
    assert of_values(values * 3, [0, 0, 0, 0] * 3) == Interval(2.0)
    assert of_differences([math.inf, 1.0, 2.0], [math.inf, 1.0, 2.0]).mean == 0
    thrice = [replace(one, group=0) for one in pictures(3)]
    (only,) = measured(LoadedVae("builtin", Toy()), [], thrice, scale=1.0).results
    assert not any(found.is_bounded for found in only.means().values()), "three copies are one picture"


def test_student_against_tables() -> None:
    """Two-sided 95% points of Student's t."""
    for freedom, point in ((1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (10**6, 1.968)):
        assert student(0.95, freedom) == pytest.approx(point, rel=1e-3)
    assert student(0.99, 4) == pytest.approx(4.604, rel=1e-3)


def test_tiles_of_a_decoder_that_sees_far_show_seams() -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()
    found = faults.seams(vae, pictures(1, 32)[0].pixels_13HW)
    assert found is not None and found > 0 and not vae.use_tiling
    assert faults.seams(Toy(), pictures(1)[0].pixels_13HW) is None


def test_the_page_holds_every_vae_and_asks_for_nothing_outside() -> None:
    from tsuika.vae import report

    shown = pictures(5, 160)
    done = measured(LoadedVae("builtin", Toy(blurred)), [LoadedVae("a<b>", Toy(noisy))], shown, scale=1.0)
    for lang in ("en", "ja"):
        page = report.render(done, shown, base="embedded", size_px=160, lang=lang)
        assert f'<html lang="{lang}">' in page and "a&lt;b&gt;" in page and "a<b>" not in page
        assert "http" not in page.replace("http-equiv", "") and page.count("<polyline") == 1
        assert len(re.findall(r'src="data:image/png;base64,[^"]+"', page)) == report.SHOWN * (1 + 2 * 2)


def test_errors_name_the_variants_of_a_base() -> None:
    import tsuika

    with pytest.raises(ModelError) as caught:
        tsuika.load("embedded", vae="builtin:nothing")
    assert caught.value.code == "MD010"


def test_one_picture_says_nothing() -> None:
    one: list[ComparedImage] = pictures(1)
    done = measured(LoadedVae("builtin", Toy(blurred)), [LoadedVae("good", Toy())], one, scale=1.0)
    assert set(advised(done).values()) == {"builtin"}
    json.dumps(done.to_dict(), allow_nan=False)
