"""Reports to ask questions of: one with everything, a bare one, and a page taken apart."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from tsuika.evaluation import report

NASTY = "<script>alert('x')</script> \"&amp;\" https://example.org/{steps}"


def image(value=120, size=(64, 64)):
    return Image.new("RGB", size, (value, 80, 200))


def full(**changes):
    data = report.ReportData(
        title="Tsuipi",
        method="lora",
        family="sd1",
        base="some/base",
        trigger="tsuipi",
        example_prompt="a tsuipi character in the snow",
        stopped_by="steps",
        steps_planned=40,
        steps_done=40,
        images=tuple(report.TrainingImage(f"{i}.png", f"caption {i}", image(i)) for i in range(3)),
        left_out=(report.LeftOutRow("bad.png", "cannot be read"),),
        recipe_toml="version = 1\n",
        losses=tuple(float(x) for x in np.linspace(0.6, 0.3, 40)),
        seconds={"load": 1.0, "train": 30.0, "a phase of tomorrow": 2.0},
        images_per_second=12.5,
        peak_memory_bytes=1_500_000_000,
        before_after=(
            report.BeforeAfter("a tsuipi at night", (1, 2), (image(), image()), (image(1), image(2))),
            report.BeforeAfter("a cat", (1, 2), (image(), image()), (image(1), image(2)), control=True),
        ),
        scores=(report.Score("likeness", (0.1, 0.2), (0.8, 0.9), 0.95),),
        artifacts=(
            report.WrittenFile("artifacts/tsuipi.safetensors", "kohya", 1_840_220, "ab" * 32, 2e-4),
            report.WrittenFile("artifacts/tsuipi/", "diffusers", 1_840_220, "cd" * 32, 3e-4),
        ),
        command="tsuika train --recipe recipe.toml --out again",
        warnings=(report.Notice("XX001", {"en": "something was ignored"}),),
    )
    return replace(data, **changes)


BARE = report.ReportData(
    title="Bare",
    method="lora",
    family="sd1",
    base="embedded",
    trigger="",
    example_prompt="a cat",
    stopped_by="diverged",
    steps_planned=10,
    steps_done=0,
)


class Page(HTMLParser):
    """Checks that tags are balanced and gathers attributes and the words a language shows."""

    VOID = frozenset({"meta", "img", "link", "br", "path"})

    def __init__(self, page, language="en"):
        super().__init__()
        self.stack, self.attributes, self.words, self.language, self.hidden = [], [], [], language, 0
        self.tags = []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            hides = tag in ("style", "script") or (("class", "t") in attrs and dict(attrs).get("lang") != self.language)
            self.hidden += hides
            self.stack.append((tag, hides))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            opened, hides = self.stack.pop()
            assert opened == tag
            self.hidden -= hides

    def handle_data(self, data):
        if not self.hidden:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))
