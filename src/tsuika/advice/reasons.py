"""Why, and why not: statements with their evidence, and what became of the rules of thumb."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tsuika.advice.base import KnownBase
from tsuika.advice.evidence import BENCH, GUIDANCE, RULES, Cell, Measurements, Statement
from tsuika.advice.recipes import Subject, Thrift
from tsuika.core.intervals import Interval
from tsuika.core.texts import Text, _, _n, listed
from tsuika.data.split import LEAST_TO_HOLD_OUT
from tsuika.methods import METHODS, title
from tsuika.pages import sentences, span_of

GOALS: Final[Mapping[str, Text]] = {
    "character": _("a character"),
    "style": _("a style"),
    "object": _("an object"),
    "concept": _("a concept"),
}
PROGRAMS_SOURCE: Final = "programs' own source"
COUNTED: Final = "counted from the base's shapes"
# The parts that the pairs of bench/methods are made of.
_PARTS: Final[Mapping[str, Text]] = {
    "character LoRA": _("a character LoRA"),
    "style LoRA": _("a style LoRA"),
    "object LoRA": _("an object LoRA"),
    "object word": _("an object's new word"),
    "character DreamBooth": _("a DreamBooth character"),
    "style hypernetwork": _("a style hypernetwork"),
}
_PART_OF: Final[Mapping[str, str]] = {
    "lora": "LoRA",
    "dreambooth": "DreamBooth",
    "textual-inversion": "word",
    "hypernetwork": "hypernetwork",
}
# A result this small or this large is worth a word.
_TINY_BYTES: Final = 100_000
_WHOLE_MODEL_BYTES: Final = 500_000_000


def _measured(text: Text) -> Statement:
    return Statement(text, "measured", BENCH)


def _known(text: Text, source: str = COUNTED) -> Statement:
    return Statement(text, "known", source)


def _ends(found: Interval) -> Text:
    return span_of(f"{found.low:.0f}", f"{found.high:.0f}%")


def _change(less: Interval) -> dict[str, object]:
    """The change of the loss with its interval, where a percent more or less matters; `less` is by how much it fell."""
    change = -less
    mean, low, high = (f"{round(value, 1) + 0.0:+.1f}" for value in (change.mean, change.low, change.high))
    return {"change": f"{mean}%", "interval": span_of(low, f"{high}%")}


def _setting(cell: Cell) -> Text:
    return _(
        "{goal}, {images}, {seconds} s of training each, {seeds}",
        goal=GOALS[cell.goal],
        images=_n("{count} image", "{count} images", cell.images),
        seconds=f"{cell.seconds:.0f}",
        seeds=_n("{count} seed", "{count} seeds", cell.seeds),
    )


def _gain(row: Mapping[str, Cell], method: str) -> Statement:
    cell, best = row[method], max(row.values(), key=lambda one: one.gain.mean)
    shown: dict[str, object] = {
        "gain": f"{cell.gain.mean:.0f}%",
        "interval": _ends(cell.gain),
        "setting": _setting(cell),
        "best": title(best.method),
    }
    if cell is best:
        text = _(
            "It lowered the loss on fresh images by {gain} ({interval}), the most of all methods [{setting}].", **shown
        )
    elif cell.against is not None and not cell.against.sign:
        text = _(
            "It lowered the loss on fresh images by {gain} ({interval}); the difference from {best} is within chance"
            " [{setting}].",
            **shown,
        )
    else:
        shown["most"] = f"{best.gain.mean:.0f}%"
        text = _("It lowered the loss on fresh images by {gain} ({interval}), {best} by {most} [{setting}].", **shown)
    return _measured(text)


def for_it(goal: str, method: str, row: Mapping[str, Cell], size: int, programs: Sequence[str]) -> Iterator[Statement]:
    """What speaks for a method, the strongest evidence first."""
    cell = row.get(method)
    if cell is not None and cell.gain.sign > 0:
        yield _gain(row, method)
        others = [one.fidelity for name, one in row.items() if name != method]
        if others and goal != "style" and cell.fidelity > max(others):
            yield _measured(
                _(
                    "Its images were the most like the real thing (likeness {likeness}, the next best {next}; a few images,"
                    " so take it as a hint).",
                    likeness=f"{cell.fidelity:.2f}",
                    next=f"{max(others):.2f}",
                )
            )
        if cell.drift < 0.005:
            yield _measured(_("Prompts without its word come out as before: nothing of the base model changes."))
    said = GUIDANCE[method].said_for
    yield from (Statement.of(said[key]) for key in (goal, "") if key in said)
    if method in RULES[goal]:
        yield Statement(_("The rules of thumb name it for {goal}.", goal=GOALS[goal]), "folklore")
    if size < _TINY_BYTES:
        yield _known(_("The file is tiny: {size}.", size=f"{size / 1000:.0f} kB"))
    if len(elsewhere := [name for name in programs if name != "tsuika"]) > 2:
        yield _known(_("{programs} load it.", programs=listed(elsewhere)), PROGRAMS_SOURCE)


def against(
    goal: str, subject: Subject, method: str, row: Mapping[str, Cell], size: int, thrift: Thrift, base: KnownBase
) -> Iterator[Statement]:
    """What speaks against it."""
    cell = row.get(method)
    if cell is not None:
        yield from _measured_against(goal, cell)
    if row and not base.is_embedded:
        yield _known(_("Measured on the small embedded base, not on yours: a hint, no proof."), BENCH)
    low, high = METHODS[method].images
    if not low <= subject.image_count <= high:
        about = {"low": low, "high": high, "count": subject.image_count}
        yield Statement(
            _("The rules of thumb want {low} to {high} images for it; there are {count}.", **about), "folklore"
        )
    if (claim := GUIDANCE[method].said_against) is not None:
        yield Statement.of(claim)
    if size > _WHOLE_MODEL_BYTES:
        yield _known(_("The file is a whole model: {size}.", size=f"{size / 1e9:.1f} GB"))
    if (unsupported := GUIDANCE[method].unsupported) is not None and not base.is_embedded:
        yield _known(unsupported, PROGRAMS_SOURCE)
    if thrift.checkpointing:
        yield _known(_("To fit into the memory it recomputes much, which takes about a third more time."))
    if thrift.frugal and "base.quantize" in GUIDANCE[method].frugal:
        how = {"do": 'pip install "tsuika[quantize]"'}
        yield _known(
            _("To fit into the memory it trains beside a base of fewer bits, which needs torchao: {do}", **how)
        )
    if subject.image_count < LEAST_TO_HOLD_OUT:
        text = _(
            "With fewer than 4 images no validation can be trusted; look at the previews, and rather stop too early."
        )
        yield _known(text, "tsuika's guard")


def _measured_against(goal: str, cell: Cell) -> Iterator[Statement]:
    if cell.gain.sign <= 0:
        about: dict[str, object] = {"gain": f"{cell.gain.mean:.0f}%", "interval": _ends(cell.gain)}
        yield _measured(
            _("It gained next to nothing: {gain} ({interval}) [{setting}].", **about, setting=_setting(cell))
        )
    if cell.against is not None and cell.against.high < 0:
        about = {"best": title(cell.rival), "more": f"{-cell.against.mean:.0f}%", "interval": _ends(-cell.against)}
        yield _measured(_("{best} did better: the loss of this one was {more} above it ({interval}).", **about))
    if goal != "style" and cell.drift > 0.1:
        # Without a number: it was measured on a scale that no other page has.
        yield _measured(_("Other prompts change as well."))


def combinations(table: Measurements, goal: str, method: str) -> Iterator[Statement]:
    """Combinations with the recommended method that won, and those that did not: what to add to get more."""
    for pair in sorted(table.pairs, key=lambda one: -one.over_best_alone.mean):
        if method not in _PART_OF or f"{goal} {_PART_OF[method]}" not in pair.name:
            continue
        first, second = (_PARTS[part] for part in pair.name.split(" + "))
        shown = {"first": first, "second": second, **_change(pair.over_best_alone)}
        if pair.won:
            text = _("Combine {first} and {second}: loss {change} ({interval}) against the better one alone.", **shown)
        elif pair.over_best_alone.sign < 0:
            text = _(
                "Together, {first} and {second} are worse than the better one alone (loss {change}, {interval}).",
                **shown,
            )
        else:
            text = _(
                "Together, {first} and {second} are no better than one alone, within chance (loss {change}, {interval}).",
                **shown,
            )
        yield _measured(text)
    yield from _pivotal(table, goal)


def _pivotal(table: Measurements, goal: str) -> Iterator[Statement]:
    cell = next((one for one in table.cells if one.goal == goal and one.method == "textual-inversion + lora"), None)
    if cell is None or cell.against is None:
        return
    shown: dict[str, object] = {
        "goal": GOALS[goal],
        "images": _n("{count} image", "{count} images", cell.images),
        "recipe": "examples/pivotal-1-word.toml",
        **_change(cell.against),
    }
    if cell.against.sign > 0:
        text = _(
            "First a new word, then a LoRA on it ({recipe}): loss {change} ({interval}) against any one method in the same"
            " time ({goal}, {images}).",
            **shown,
        )
    elif cell.against.sign < 0:
        text = _(
            "First a new word, then a LoRA on it ({recipe}): worse than one method alone in the same time (loss {change},"
            " {interval}; {goal}, {images}).",
            **shown,
        )
    else:
        text = _(
            "First a new word, then a LoRA on it ({recipe}): no better than one method alone in the same time, within chance"
            " (loss {change}, {interval}; {goal}, {images}).",
            **shown,
        )
    likest = max((one.fidelity for one in table.row(goal, cell.images).values()), default=1.0)
    more = None
    if goal != "style" and cell.fidelity > likest:
        found = {"likeness": f"{cell.fidelity:.2f}", "next": f"{likest:.2f}"}
        more = _("But its images were most like the real thing ({likeness}, one method alone {next} at most).", **found)
    yield _measured(sentences(text, more))


def goal_verdict(table: Measurements, goal: str, images: int) -> Statement:
    """What the rule of thumb about a goal says, and whether the measurements agree."""
    methods = RULES[goal]
    named: Text | str = title(methods[0])
    for method in methods[1:]:
        named = _("{first} or {second}", first=named, second=title(method))
    shown: dict[str, object] = {"goal": GOALS[goal], "methods": named}
    row = table.row(goal, images)
    measured = [row[method] for method in methods if method in row]
    if not measured:
        return Statement(_("“{goal}: {methods}”: not measured here yet.", **shown), "folklore")
    best = max(row.values(), key=lambda cell: cell.gain.mean)
    mine = max(measured, key=lambda cell: cell.gain.mean)
    gains = [best] if mine is best else [mine, best]
    shown |= {
        "images": _n("{count} image", "{count} images", best.images),
        "gains": listed(
            [_("{method} {gain}", method=title(one.method), gain=f"{one.gain.mean:.0f}%") for one in gains]
        ),
    }
    if mine is best or (mine.against is not None and not mine.against.sign):
        return _measured(_("“{goal}: {methods}”: held with {images} ({gains}).", **shown))
    return _measured(_("“{goal}: {methods}”: did not hold with {images} ({gains}).", **shown))


def count_verdict(table: Measurements, goal: str, method: str) -> Statement:
    """What the rule of thumb says about the number of images for a method, and what was measured."""
    low, high = METHODS[method].images
    shown: dict[str, object] = {"method": title(method), "low": low, "high": high, "goal": GOALS[goal]}
    curve = [one for one in table.cells if (one.goal, one.method) == (goal, method)]
    if len(curve) < 2:
        return Statement(_("“{method}: {low} to {high} images”: not measured here yet.", **shown), "folklore")
    curve.sort(key=lambda one: one.images)
    gains = [_("{count}: {gain}", count=one.images, gain=f"{one.gain.mean:.0f}%") for one in curve]
    shown["gains"] = listed(gains)
    return _measured(
        _("“{method}: {low} to {high} images”: measured gain for {goal} by number of images: {gains}.", **shown)
    )
