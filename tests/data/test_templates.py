"""Templates: varied sentences for pictures without a caption file, by seed and step alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tsuika.core.sections import Data
from tsuika.core.seeds import generator
from tsuika.data.bank import Bank, BucketLatents
from tsuika.data.caption import TEMPLATES, complete, has_word, vary, wordings
from tsuika.data.manifest import Sample


def config(template: str = "object", **more: object) -> Data:
    return Data.model_validate(
        {"trigger": "tsuipi", "class_word": "dog", "template": template, "caption_dropout": 0, **more}
    )


def bank(data: Data, *captions: str | None) -> Bank:
    samples = []
    for number, found in enumerate(captions):
        words, source = complete(found, data)
        samples.append(Sample(Path(f"{number}.png"), f"{number}", words, 8, 8, 1, "", caption_source=source))
    return Bank([BucketLatents(8, 8, tuple(samples), torch.zeros(len(samples), 1, 4, 1, 1))], data, torch.device("cpu"))


@pytest.mark.parametrize("template", ["object", "style"])
def test_sentences_hold_the_word_once_and_differ(template: str) -> None:
    sentences = TEMPLATES[template]
    assert len(set(sentences)) == len(sentences) >= 15
    for sentence in sentences:
        assert sentence.count("{}") == 1
        assert has_word(sentence.replace("{}", "tsuipi"), "tsuipi")
        assert not set(sentence) & set(",:;()[]")


def test_all_sentences_come_and_captions_from_files_stay() -> None:
    data = config()
    drawn = Counter(text for step in range(300) for text in bank(data, None, "on a table").batch(step, 2, 7).captions)
    assert drawn.pop("tsuipi, on a table") == 300
    assert set(drawn) == {sentence.replace("{}", "tsuipi") for sentence in TEMPLATES["object"]}
    assert max(drawn.values()) < 3 * 300 / len(drawn)
    assert not any("dog" in text for text in drawn)


def test_a_visit_is_a_function_of_seed_and_step() -> None:
    data = config()
    forwards = [bank(data, None).batch(step, 2, 3).captions for step in range(20)]
    backwards = [bank(data, None).batch(step, 2, 3).captions for step in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert forwards != [bank(data, None).batch(step, 2, 4).captions for step in range(20)]


def test_dropout_drops_the_same_visits_with_a_template() -> None:
    plain, varied = config("none", caption_dropout=0.4), config(caption_dropout=0.4)
    for step in range(100):
        draws = [generator(0, "caption", step) for _ in range(2)]
        dropped = [not vary("tsuipi", data, draw, "built") for data, draw in zip((plain, varied), draws, strict=True)]
        assert dropped[0] == dropped[1]


def test_without_a_template_nothing_changes() -> None:
    assert complete(None, config("none")) == ("tsuipi dog", "built")
    assert complete(None, config()) == ("tsuipi", "built")
    assert complete(None, config(trigger="")) == ("dog", "built")
    assert complete(None, config(trigger="", class_word=""), "sks dog") == ("sks dog", "built")
    assert wordings("tsuipi dog", "built", config("none")) == ("tsuipi dog",)
    assert wordings("", "built", config()) == ("",)
