"""From a wish to one recommendation and two alternatives: measurements first, then publications, folklore last.

The candidates are ranked by what bench/methods measured for this goal at the nearest number of pictures. Methods that cannot
be told from the best, or are near it, are told apart by what their results are good for: programs and file size. Limits of
memory, file and program are never broken. No device, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tsuika.advise import recipes, sizes
from tsuika.advise.base import Base
from tsuika.advise.estimate import Estimate
from tsuika.advise.evidence import BENCH, METHODS, RULES, Cell, Goal, Rule, Statement, Strength, Table
from tsuika.advise.programs import works_in
from tsuika.advise.reasons import against, combinations, for_it, title, verdict
from tsuika.advise.recipes import Candidate, Subject, Thrift
from tsuika.core.config import Recipe
from tsuika.core.errors import RecipeError
from tsuika.core.words import Words

NEAR: Final = 0.1  # of the best gain: within this, programs and file size decide
FAR: Final = 0.35
RANKS: Final = (16, 8, 4, 2, 1)
VECTORS: Final = (4, 2, 1)
# Where nothing is measured: the order that publications suggest.
DEFAULT_ORDER: Final = ("lora", "dreambooth", "textual-inversion", "hypernetwork")

Estimator = Callable[[Recipe], Estimate]


@dataclass(frozen=True)
class Wish:
    """What somebody wants, and what there is to do it with."""

    subject: Subject
    goal: Goal
    vram_gb: float | None = None  # 10^9 bytes; None: no limit
    max_file_mb: float | None = None  # 10^6 bytes
    program: str = ""  # one of `programs.PROGRAMS`


@dataclass(frozen=True)
class Option:
    """One way to go, with everything that speaks for and against it."""

    method: str
    recipe: Recipe
    toml: str
    estimate: Estimate
    file_bytes: int
    works_in: tuple[str, ...]
    reasons: tuple[Statement, ...]
    against: tuple[Statement, ...]
    strength: Strength
    cell: Cell | None = None


class Unfit(NamedTuple):
    """A method that is not offered, and why."""

    method: str
    why: Statement
    short: str = ""  # the same in no language


@dataclass(frozen=True)
class Advice:
    """What comes of a wish: the recommendation first, then up to two alternatives."""

    wish: Wish
    options: tuple[Option, ...]
    unfit: tuple[Unfit, ...] = ()
    combine: tuple[Statement, ...] = ()
    folklore: tuple[Statement, ...] = ()
    notes: tuple[Statement, ...] = field(default=())


def order(table: Table, goal: str, pictures: int, *, embedded: bool = False) -> list[str]:
    """The methods from the best down, by what was measured; the rest after these, by publications.

    Next after the equals come those that are not far, and the one whose pictures were most like the real thing.
    """
    row = table.row(goal, pictures)
    best = max((cell.gain.mean for cell in row.values()), default=0.0)
    likest = "" if goal == "style" else max(row, key=lambda method: row[method].fidelity, default="")

    def tier(method: str) -> tuple[int, float, int]:
        missing = -len(works_in(method, embedded=embedded))
        if method not in row:
            return (3, 0.0, DEFAULT_ORDER.index(method))
        cell = row[method]
        lost = best - cell.gain.mean
        even = cell.against is not None and not cell.against.sign
        if lost <= NEAR * best or even:
            return (0, missing, cell.bytes)
        merit = lost <= FAR * best or (method == likest and cell.gain.sign > 0)
        return (1 if merit else 2, lost, 0)

    return sorted(METHODS, key=tier)


def advise(wish: Wish, base: Base, table: Table, estimate: Estimator, memory: Callable[[Recipe], float]) -> Advice:
    """The advice.

    Args:
        estimate: of a recipe: steps, time, memory; may measure, so it is asked for what is offered alone.
        memory: GiB that a recipe takes, counted; cheap.

    Raises:
        RecipeError: RC026, nothing keeps within the limits.
    """
    options: list[Option] = []
    unfit: list[Unfit] = []
    row = table.row(wish.goal, wish.subject.pictures)
    ranked = order(table, wish.goal, wish.subject.pictures, embedded=wish.subject.embedded)
    for method in ranked:
        found = _fit(wish, base, method, memory)
        if isinstance(found, Unfit):
            unfit.append(found)
            continue
        options.append(_option(wish, base, row, method, *found, estimate))
        if len(options) == 3:
            break
    if len(options) < 3:  # a smaller result of a method that is there already
        options += _smaller(wish, base, row, options, estimate, memory, 3 - len(options))
    if not options:
        en, ja = (", ".join(f"{title(one.method, lang)}: {one.short}" for one in unfit) for lang in ("en", "ja"))
        raise RecipeError("RC026", why=Words(en, ja))
    shown = {option.method for option in options}
    left = [Unfit(m, _not_among(m, row, options[0])) for m in ranked if m not in shown | {one.method for one in unfit}]
    rules = tuple(
        verdict(rule, table, wish.goal, wish.subject.pictures) for rule in _rules(wish.goal, options[0].method)
    )
    return Advice(wish, tuple(options), (*unfit, *left), combinations(table, wish.goal, options[0].method), rules)


def _rules(goal: str, method: str) -> Sequence[Rule]:
    """The rules of thumb that say something here: about the goal, and about the number of pictures of the recommended method."""
    return [rule for rule in RULES if goal in rule.goals or (rule.pictures and rule.methods == (method,))]


def _candidates(method: str, embedded: bool) -> list[Candidate]:
    if method == "lora":
        return [Candidate(method, rank=rank) for rank in RANKS]
    if method == "textual-inversion":
        return [Candidate(method, vectors=n) for n in (VECTORS if embedded else VECTORS[1:])]
    return [Candidate(method)]


def _fit(
    wish: Wish, base: Base, method: str, memory: Callable[[Recipe], float], start: int = 0
) -> tuple[Candidate, Thrift, int] | Unfit:
    """The largest result of a method, trained the quickest way, that keeps within the limits; or why there is none."""
    programs = works_in(method, embedded=wish.subject.embedded)
    if wish.program and wish.program not in programs:
        return Unfit(
            method,
            Statement(
                f"{wish.program} does not apply its results.",
                f"{wish.program}では使えません。",
                "known",
                "programs' own source",
            ),
            f"✕ {wish.program}",
        )
    smallest, least = 0.0, 0.0
    for candidate in _candidates(method, wish.subject.embedded)[start:]:
        size = sizes.file_bytes(base, recipes.recipe_of(wish.subject, candidate))
        smallest = size / 1e6
        if wish.max_file_mb is not None and smallest > wish.max_file_mb:
            continue
        for thrift in recipes.ways(candidate, embedded=wish.subject.embedded):
            least = memory(recipes.recipe_of(wish.subject, candidate, thrift)) * 2**30 / 1e9
            if wish.vram_gb is None or least <= wish.vram_gb:
                return candidate, thrift, size
    if wish.max_file_mb is not None and smallest > wish.max_file_mb:
        return Unfit(
            method,
            Statement(
                f"Its file has {_megabytes(smallest)} MB at least.",
                f"ファイルが最小でも{_megabytes(smallest)} MBになります。",
                "known",
                "counted from the base's shapes",
            ),
            f"≥ {_megabytes(smallest)} MB",
        )
    return Unfit(
        method,
        Statement(
            f"It takes about {least:.1f} GB of memory at least.",
            f"メモリが少なくとも約{least:.1f} GB必要です。",
            "known",
            "counted from the base's shapes",
        ),
        f"≥ {least:.1f} GB",
    )


def _megabytes(size: float) -> str:
    return f"{size:,.0f}" if size >= 10 else f"{size:.2g}"


def _option(
    wish: Wish,
    base: Base,
    row: dict[str, Cell],
    method: str,
    candidate: Candidate,
    thrift: Thrift,
    size: int,
    estimate: Estimator,
) -> Option:
    recipe = recipes.recipe_of(wish.subject, candidate, thrift)
    toml = recipes.toml_of(wish.subject, candidate, thrift)
    programs, cell = works_in(method, embedded=wish.subject.embedded), row.get(method)
    reasons = for_it(wish.goal, wish.subject.pictures, method, row, size, programs)
    return Option(
        method,
        recipe,
        toml,
        estimate(recipe),
        size,
        programs,
        reasons,
        against(wish.goal, wish.subject, method, row, size, thrift, base),
        reasons[0].strength,
        cell,
    )


def _smaller(
    wish: Wish,
    base: Base,
    row: dict[str, Cell],
    options: list[Option],
    estimate: Estimator,
    memory: Callable[[Recipe], float],
    count: int,
) -> list[Option]:
    found: list[Option] = []
    for option in options:
        others = _candidates(option.method, wish.subject.embedded)
        sizes_here = [option.file_bytes]
        for start in range(1, len(others)):
            fit = _fit(wish, base, option.method, memory, start)
            if len(found) < count and not isinstance(fit, Unfit) and fit[2] < min(sizes_here):
                found.append(_option(wish, base, row, option.method, *fit, estimate))
                sizes_here.append(fit[2])
    return found


def _not_among(method: str, row: dict[str, Cell], best: Option) -> Statement:
    cell = row.get(method)
    if cell is None or best.cell is None:
        return Statement("Others come first.", "ほかの方法を優先しました。", "folklore")
    return Statement(
        f"It gained {cell.gain.mean:.0f} % where {title(best.method, 'en')} gained {best.cell.gain.mean:.0f} %.",
        f"改善は{cell.gain.mean:.0f}%で、{title(best.method, 'ja')}の{best.cell.gain.mean:.0f}%に及びませんでした。",
        "measured",
        BENCH,
    )
