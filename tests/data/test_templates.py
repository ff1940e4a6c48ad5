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
from tsuika.data.manifest import CaptionSource, Sample


def config(template: str = "object", **more: object) -> Data:
    return Data.model_validate(
        {"trigger": "tsuipi", "class_word": "dog", "template": template, "caption_dropout": 0, **more}
    )


def sample(words: str, source: CaptionSource, name: str = "0", alternatives: tuple[str, ...] = ()) -> Sample:
    return Sample(Path(f"{name}.png"), name, words, 8, 8, 1, "", caption_source=source, alternatives=alternatives)


def bank(data: Data, *captions: str | None) -> Bank:
    samples = []
    for number, found in enumerate(captions):
        words, source = complete([found] if found else [], data)
        samples.append(sample(words[0], source, str(number)))
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
        dropped = [
            not vary(sample("tsuipi", "built"), data, draw) for data, draw in zip((plain, varied), draws, strict=True)
        ]
        assert dropped[0] == dropped[1]


def test_without_a_template_nothing_changes() -> None:
    assert complete([], config("none")) == (("tsuipi dog",), "built")
    assert complete([], config()) == (("tsuipi",), "built")
    assert complete([], config(trigger="")) == (("dog",), "built")
    assert complete([], config(trigger="", class_word=""), "sks dog") == (("sks dog",), "built")
    assert wordings(sample("tsuipi dog", "built"), config("none")) == ("tsuipi dog",)
    assert wordings(sample("", "built"), config()) == ("",)


def test_alternatives_are_drawn_by_seed_and_step_alike_and_measured_by_the_first() -> None:
    data = config("none")
    lines = ("tsuipi, a hat", "tsuipi, a red hat", "tsuipi in a hat")
    one, other = sample("tsuipi", "file"), sample(lines[0], "file", "1", lines)
    pair = [BucketLatents(8, 8, (one, other), torch.zeros(2, 1, 4, 1, 1))]
    made = Bank(pair, data, torch.device("cpu"))
    drawn = [dict(zip(batch.names, batch.captions)) for batch in (made.batch(step, 2, 5) for step in range(300))]
    counts = Counter(batch["1"] for batch in drawn if "1" in batch)
    assert set(counts) == set(lines) and min(counts.values()) > 0.6 * counts.total() / 3
    assert {batch["0"] for batch in drawn if "0" in batch} == {"tsuipi"}
    again = Bank(pair, data, torch.device("cpu"))
    assert [again.batch(step, 2, 5).captions for step in (7, 3)] == [made.batch(step, 2, 5).captions for step in (7, 3)]
    assert [batch.captions[0] for batch in made.plain()] == ["tsuipi", lines[0]]


def test_lines_of_a_caption_by_the_setting() -> None:
    lines = ["a hat", "tsuipi sits.", "a hat"]
    assert complete(lines, config("none")) == (("tsuipi, a hat", "tsuipi sits."), "file+trigger")
    assert complete(lines, config("none", caption_lines="first")) == (("tsuipi, a hat",), "file+trigger")
    assert complete(lines, config("none", caption_lines="join")) == (("a hat, tsuipi sits. a hat",), "file")
