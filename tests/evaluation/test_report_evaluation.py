"""The evaluation on the report page: both languages, nothing from elsewhere, no words of users as markup."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from reports import NASTY, Page, full
from test_verdict import BASE, PROMPTS, SCALE, SEEDS, tables

from tsuika.core.texts import _, languages
from tsuika.evaluation import report
from tsuika.evaluation.evaluation import Evaluation, said
from tsuika.evaluation.prompts import Asked
from tsuika.evaluation.report_evaluation import GRADES, section
from tsuika.evaluation.verdict import Point, judge


def made(name: str = "mascot", **parts: object) -> tuple[Evaluation, list[dict[str, Image.Image]]]:
    asked = (*(Asked(f"{name} {i}", "subject") for i in range(PROMPTS)), Asked("a cat", "unrelated"))
    points = tuple(
        Point(
            state,
            f"artifacts/{state}.safetensors",
            step,
            strength,
            tables(0.1 + 0.004 * step * strength, 0.8 - 0.1 * strength),
            state == name,
        )
        for state, step in (("early", 60), (name, 120))
        for strength in (0.5, 1.0)
    )
    found = judge(BASE, points, SCALE)
    evaluation = Evaluation(
        name, "tsuipi", "embedded", asked, tuple(range(SEEDS)), BASE, points, SCALE, found, (), **parts
    )  # type: ignore[arg-type]
    shown = [{one.text: Image.new("RGB", (64, 64), (20 * i, 90, 9)) for one in asked} for i in range(1 + len(points))]
    return evaluation, shown


def page_of(evaluation: Evaluation, shown: list[dict[str, Image.Image]]) -> str:
    return report.with_evaluation(report.render(full(), "en"), section(evaluation, shown))


@pytest.mark.parametrize("language", languages())
def test_a_language_shows_its_own_words_only(language: str) -> None:
    evaluation, shown = made()
    page = Page(page_of(evaluation, shown), language)
    for words in (
        _("Evaluation of the result"),
        _("Look for yourself"),
        _("How this was measured"),
        GRADES[evaluation.verdict.grade],
    ):
        assert words.to(language) in page.text
        assert all(words.to(other) not in page.text for other in languages() if other != language)
    assert evaluation.to_dict()["verdict"]["sentence"][language] in page.text


def test_it_asks_the_network_for_nothing_and_takes_no_words_for_markup() -> None:
    note = {"code": "EV002", "en": NASTY, "ja": NASTY}
    evaluation, shown = made(NASTY, notes=(note,))
    html = page_of(evaluation, shown)
    page = Page(html)
    assert page.tags.count("script") == 1 and not any(name.startswith("on") for _, name, _ in page.attributes)
    assert all(value.startswith("data:image/") for _, name, value in page.attributes if name in ("src", "href"))
    assert not re.search(r"url\(|@import", html)


def test_a_second_evaluation_takes_the_place_of_the_first() -> None:
    evaluation, shown = made()
    once = page_of(evaluation, shown)
    assert report.with_evaluation(once, section(evaluation, shown)) == once
    assert once.count('id="evaluation"') == 1
    assert report.with_evaluation(once, "").count('id="evaluation"') == 0
    with pytest.raises(ValueError, match="place"):
        report.with_evaluation("<html></html>", "")


def test_every_point_is_in_the_table_and_on_the_plot() -> None:
    evaluation, shown = made()
    html = section(evaluation, shown)
    assert html.count('class="dot ') == 5 and html.count("<tr") == 6
    places = [float(value) for value in re.findall(r'class="dot [^>]*left:([-\d.]+)%', html)]
    assert all(0 <= value <= 100 for value in places)
    assert html.count(" best") >= 1
    # More likeness is further right: the base, then the strengths of each step.
    assert places == sorted(places[:3]) + places[3:] and places[3] < places[4]


def test_without_an_encoder_there_is_a_table_and_no_plot() -> None:
    from dataclasses import replace

    evaluation, shown = made()

    def blind(found: object) -> object:
        return replace(found, fidelity=None, adherence=None, others=None, drift=None)  # type: ignore[type-var]

    points = tuple(replace(point, tables=blind(point.tables)) for point in evaluation.points)
    base, scale = blind(BASE), replace(SCALE, real=None, other_prompt=None)
    found = judge(base, points, scale)  # type: ignore[arg-type]
    html = section(replace(evaluation, base=base, points=points, scale=scale, verdict=found, encoder=""), shown)  # type: ignore[arg-type]
    assert 'class="dot ' not in html and _("diversity").to("ja") in html and "No encoder was given" in html


def test_the_report_knows_no_torch() -> None:
    code = "import sys, tsuika.evaluation.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_numbers_of_the_table_are_plain(tmp_path: object) -> None:
    evaluation, _ = made()
    told = evaluation.to_dict()
    assert told["points"][0]["fidelity"]["difference"]["mean"] == pytest.approx(
        np.mean(evaluation.points[0].tables.fidelity) - np.mean(BASE.fidelity)  # type: ignore[arg-type]
    )
    assert evaluation.to_json() == evaluation.to_json() and "NaN" not in evaluation.to_json()


@pytest.mark.parametrize("language", languages())
def test_of_several_subjects_each_is_shown_and_the_one_without_gain_is_named(language: str) -> None:
    evaluation, shown = made()
    about = [(0,) if i % 2 else (1,) for i in range(PROMPTS)]
    asked = (*(Asked(f"p {i}", "subject", places) for i, places in enumerate(about)), Asked("a cat", "unrelated", ()))
    rows = np.array([places == (1,) for places in about])

    def held(one: Point) -> Point:
        fidelity = one.tables.fidelity.copy()  # type: ignore[union-attr]
        fidelity[rows] = BASE.fidelity[rows]  # type: ignore[index]
        return replace(one, tables=replace(one.tables, fidelity=fidelity))

    both = replace(evaluation, asked=asked, points=tuple(map(held, evaluation.points)), subjects=("zuzu cat", NASTY))
    shown = [{one.text: Image.new("RGB", (64, 64)) for one in asked} for _ in shown]
    page = Page(page_of(both, shown), language)
    assert _("Each subject by itself").to(language) in page.text and "zuzu cat" in page.text
    sentence = said(both).to(language)
    assert f"`{NASTY}`" in sentence and "`zuzu cat` 0." in sentence
    (first, second) = both.to_dict()["subjects"]
    assert (
        first["points"][-1]["fidelity"]["difference"]["mean"]
        > 0
        == second["points"][-1]["fidelity"]["difference"]["mean"]
    )
    assert (
        not evaluation.to_dict()["subjects"]
        and _("Each subject by itself").to(language) not in Page(page_of(*made()), language).text
    )
