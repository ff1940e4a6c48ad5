"""Texts for a result that is given to others: a model card for the hub, and what Civitai's form asks. In Markdown.

They tell what `report.json` and the file itself say: no folder, no training image, no caption.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tsuika.core.texts import Text, _, _n, in_language
from tsuika.evaluation.report_guard import loss_change
from tsuika.families import title_of
from tsuika.formats.provenance import Provenance
from tsuika.methods import METHODS, is_read_elsewhere, title
from tsuika.methods.uses import Use
from tsuika.pages import sentences, span_of

LIBRARY: Final = "diffusers"


@dataclass(frozen=True)
class Sample:
    """A prompt, and files with its drawing by the base and by the result, beside the card."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is told of a result.

    Attributes:
        name: of its file.
        report: the content of `report.json`.
        provenance: what its file says of its training; None for nothing.
        verdict: of an evaluation, by language; empty if there was none.
        base: what the base is called.
        base_id: its name on the hub; empty if it has none.
        trigger: the trigger words, with commas.
        licence: an id such as the hub knows; empty if none was named.
        repository: `USER/NAME` on the hub; empty if it goes elsewhere.
        uses: how programs use it.
        samples: images.
        hashes: AutoV2 of each weight file, by name.
    """

    name: str
    report: Mapping[str, Any]
    provenance: Provenance | None
    verdict: Mapping[str, str]
    base: str
    base_id: str
    trigger: str
    licence: str
    repository: str
    uses: Sequence[Use]
    samples: Sequence[Sample]
    hashes: Mapping[str, str]

    def front_matter(self) -> dict[str, Any]:
        """What the hub reads of a model card, see "Model Cards" of its documentation; without what is empty."""
        method = METHODS.get(self.report["method"])
        in_diffusers = any(use.program == LIBRARY for use in self.uses)
        found = {
            "license": self.licence,
            "base_model": self.base_id,
            "base_model_relation": ("finetune" if method and method.whole_model else "adapter") if self.base_id else "",
            "library_name": LIBRARY if in_diffusers else "tsuika",
            "pipeline_tag": "text-to-image",
            "tags": ["text-to-image", "stable-diffusion", self.report["method"].replace("-", "_"), "tsuika"],
            "instance_prompt": self.trigger,
            "widget": [{"text": one.prompt, "output": {"url": one.after}} for one in self.samples],
        }
        return {key: value for key, value in found.items() if value}

    def model_card(self, lang: str) -> str:
        """The text under the front matter."""
        return _joined(self._model_card(), lang)

    def civitai(self, lang: str) -> str:
        """What Civitai's form asks, and a description to paste."""
        return _joined(self._civitai(), lang)

    def _model_card(self) -> Iterator[Text | str]:
        yield f"# {_plain(self.name)}"
        yield _(
            "{method} for {family}, trained with tsuika.",
            method=title(self.report["method"]),
            family=title_of(self.report["family"]),
        )
        yield _rows(self._facts())
        if self.samples:
            yield _heading(_("Samples"))
            words = {"base": _("Base model"), "result": _("Result")}
            for sample in self.samples:
                yield code(sample.prompt)
                yield Text(
                    "| {base} | {result} |\n|---|---|\n| ![]({before}) | ![]({after}) |", {**words, **vars(sample)}
                )
        if self.uses:
            yield _heading(_("How to use it"))
            if self.repository:
                yield block(f"hf download {self.repository} --local-dir {self.repository}")
            yield from self._how()
        yield from self._proof()

    def _civitai(self) -> Iterator[Text | str]:
        yield f"# {_plain(self.name)}"
        related = _("{family}; if {base} is a relative such as Pony or Illustrious, choose that", **self._names())
        yield _rows(
            [
                (_("Type"), title(self.report["method"])),
                (_("Base model"), related),
                (_("Trigger words"), code(self.trigger) if self.trigger else "–"),
                (_("Strength"), "1"),
                (_("Training steps"), f"{self.report['steps_done']:,}"),
                *((_("AutoV2 hash of {file}", file=code(file)), digest) for file, digest in self.hashes.items()),
            ]
        )
        yield _heading(_("Description"))
        yield _("{method} for {family}, trained with tsuika.", method=title(self.report["method"]), **self._names())
        yield from self._how("A1111", "Forge", "ComfyUI")
        yield from self._proof()

    def _names(self) -> dict[str, str]:
        return {"family": title_of(self.report["family"]), "base": code(self.base)}

    def _facts(self) -> Iterator[tuple[Text, Text | str]]:
        yield (
            _("Base model"),
            f"[{self.base_id}](https://huggingface.co/{self.base_id})" if self.base_id else code(self.base),
        )
        if self.provenance and (digest := self.provenance.base.get("sha256")):
            yield _("SHA-256 of the base model"), code(digest)
        if self.trigger:
            yield _("Trigger word"), code(self.trigger)
        done = self.provenance.steps if self.provenance else self.report["steps_done"]
        steps = _n("{steps} step", "{steps} steps", done, steps=f"{done:,}")
        images = _n("{count} image", "{count} images", len(self.report["pictures"]))
        yield _("Trained"), _("{steps} on {images}", steps=steps, images=images)
        if self.licence:
            yield _("Licence"), code(self.licence)

    def _how(self, *programs: str) -> Iterator[Text | str]:
        if not is_read_elsewhere(self.report["method"], self.report["family"]):
            yield _("No other program is known to read results of this method: generate with tsuika.")
        for use in self.uses:
            if not programs or any(name in use.program for name in programs):
                yield f"### {use.program}"
                yield _("On the command line:") if use.program == "tsuika" else use.how
                yield block(use.paste)
                if use.note:
                    yield use.note

    def _proof(self) -> Iterator[Text | str]:
        """What was measured: by the guard, by an evaluation, with which versions."""
        guard, proved = self.report["guard"], self.provenance
        if guard or proved:
            yield _heading(_("What the guard against overfitting measured"))
        if guard:
            yield Told(guard["sentence"])
        if proved:
            yield sentences(*proved.words[1:])
        if proved and proved.guard and proved.guard.curve:
            yield _(
                "Loss on images that were held out, beside the base model (less is better), with its 95% interval where"
                " there is one:"
            )
            yield _table(proved.guard.curve, proved.guard.best_step)
        if self.verdict:
            yield _heading(_("Evaluation"))
            yield Told(self.verdict)
        if proved:
            yield _heading(_("Versions"))
            yield ", ".join(f"{name} {number}" for name, number in proved.programs.items())


class Told(str):
    """A sentence that stands in a file by language; as a string it is English."""

    by_language: Mapping[str, str]

    def __new__(cls, by_language: Mapping[str, str]) -> Told:
        told = super().__new__(cls, by_language.get("en", ""))
        told.by_language = by_language
        return told


def code(text: str) -> str:
    """A text on one line as Markdown's code, whatever is in it."""
    text = " ".join(text.split())
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{room}{text}{room}{ticks}"


def block(text: str) -> str:
    """Lines of code, whatever is in them."""
    ticks = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{ticks}\n{text}\n{ticks}"


def _plain(text: str) -> str:
    """A text that Markdown and HTML take as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&])", r"\\\1", text)


def _heading(text: Text) -> Text:
    return Text("## {text}", {"text": text})


def _rows(rows: Sequence[tuple[Text, Text | str]] | Iterator[tuple[Text, Text | str]]) -> Text:
    """Names and values, one a line."""
    every = [*rows]
    params = {f"{side}{number}": part for number, row in enumerate(every) for side, part in zip("ab", row, strict=True)}
    return Text("\n".join(f"- **{{a{number}}}**: {{b{number}}}" for number in range(len(every))), params)


def _table(curve: Sequence[tuple[int, float, float | None, float | None]], best: int) -> Text:
    """The checks of the guard; the step that it chose is bold."""
    lines, params = ["| {step} | {loss} | 95% |", "|---:|---:|---:|"], {"step": _("Step"), "loss": _("Loss")}
    for number, (step, mean, low, high) in enumerate(curve):
        bold = "**" if step == best else ""
        ends = "–" if low is None or high is None else span_of(loss_change(low), loss_change(high))
        lines.append(f"| {bold}{step:,}{bold} | {bold}{loss_change(mean)}{bold} | {{ends{number}}} |")
        params[f"ends{number}"] = ends  # type: ignore[assignment]
    return Text("\n".join(lines), params)


def _joined(parts: Iterator[Text | str], lang: str) -> str:
    said = (one.by_language.get(lang, one) if isinstance(one, Told) else str(in_language(one, lang)) for one in parts)
    return "\n\n".join(said) + "\n"
