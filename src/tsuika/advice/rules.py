"""From a request to one recommendation and two alternatives: measurements first, then publications, folklore last.

The candidates are ranked by what bench/methods measured for this goal at the nearest number of images. Methods that cannot
be told from the best, or are near it, are told apart by what their results are good for: programs and file size. Limits of
memory, file and program are never broken. No device, no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tsuika import methods
from tsuika.advice import reasons, recipes, sizes
from tsuika.advice.base import KnownBase
from tsuika.advice.estimate import Cost, Machine
from tsuika.advice.evidence import BENCH, GUIDANCE, METHODS, Cell, Measurements, Statement, Strength
from tsuika.advice.recipes import MethodSize, Subject, Thrift
from tsuika.config import Recipe
from tsuika.core.errors import RecipeError, no_such
from tsuika.core.texts import _, listed
from tsuika.families import FAMILIES
from tsuika.methods import title
from tsuika.methods.guidance import Goal
from tsuika.pages import in_languages, verbatim

# Shares of the best gain. Within NEAR, programs and file size decide.
NEAR: Final = 0.1
FAR: Final = 0.35
OFFERED: Final = 3  # options that are offered

PROGRAMS: Final = ("tsuika", "A1111", "Forge", "ComfyUI", "diffusers")
_ALIASES: Final = {"automatic1111": "A1111", "webui": "A1111", "comfy": "ComfyUI"}


@dataclass(frozen=True)
class Request:
    """What somebody wants, and what there is to do it with."""

    subject: Subject
    goal: Goal
    vram_gb: float | None = None  # in 10^9 bytes; None for no limit
    max_file_mb: float | None = None  # in 10^6 bytes
    program: str = ""  # one of PROGRAMS


@dataclass(frozen=True)
class Option:
    """One way to go, with everything that speaks for and against it."""

    method: str
    recipe: Recipe
    toml: str
    estimate: Cost
    file_bytes: int
    works_in: tuple[str, ...]
    reasons: tuple[Statement, ...]
    against: tuple[Statement, ...]
    cell: Cell | None = None

    @property
    def strength(self) -> Strength:
        """Of the strongest evidence for it."""
        return self.reasons[0].strength

    def to_dict(self) -> dict[str, Any]:
        """For JSON; texts by language."""
        found, train = self.estimate, self.recipe.train
        return {
            "method": self.method,
            "title": in_languages(verbatim(title(self.method))),
            "strength": self.strength,
            "steps": found.steps,
            "batch_size": train.batch_size * train.accumulate,
            "step_seconds": found.step_s,
            "seconds": found.seconds,
            "trainings": found.trainings,
            "time_basis": found.time_basis,
            "measured_on": found.measured_on or None,
            "memory_gb": round(found.memory_gib * 2**30 / 1e9, 2),
            "memory_basis": found.memory_basis,
            "trained_numbers": found.trained,
            "file_bytes": self.file_bytes,
            "works_in": list(self.works_in),
            "reasons": [one.to_dict() for one in self.reasons],
            "against": [one.to_dict() for one in self.against],
            "recipe": self.toml,
        }


class NotOffered(NamedTuple):
    """A method that is not offered, and why: in a sentence, and in short without words."""

    method: str
    why: Statement
    short: str = ""


@dataclass(frozen=True)
class Advice:
    """The answer to a request: the recommendation first, then up to two alternatives."""

    request: Request
    options: tuple[Option, ...]
    not_offered: tuple[NotOffered, ...] = ()
    combine: tuple[Statement, ...] = ()
    folklore: tuple[Statement, ...] = ()
    notes: tuple[Statement, ...] = ()

    def to_dict(self, machine: Machine) -> dict[str, Any]:
        """For JSON; texts by language."""
        request, options = self.request, [option.to_dict() for option in self.options]
        return {
            "goal": request.goal,
            "pictures": request.subject.image_count,
            "images": request.subject.images,
            "base": request.subject.base,
            "limits": {"vram_gb": request.vram_gb, "max_file_mb": request.max_file_mb, "program": request.program},
            "machine": {"device": machine.device, "name": machine.name, "precision": machine.precision},
            "recommendation": options[0],
            "alternatives": options[1:],
            "not_recommended": [
                {"method": one.method, "title": in_languages(verbatim(title(one.method))), "why": one.why.to_dict()}
                for one in self.not_offered
            ],
            "combine": [one.to_dict() for one in self.combine],
            "rules_of_thumb": [one.to_dict() for one in self.folklore],
            "notes": [one.to_dict() for one in self.notes],
        }


def order(
    table: Measurements, goal: str, images: int, *, family: str = FAMILIES[0].name, embedded: bool = False
) -> list[str]:
    """The methods from the best down, by what was measured; the rest after these, by publications.

    Next after the equals come those that are not far, and the one whose images were most like the real thing.
    """
    row = table.row(goal, images)
    best = max((cell.gain.mean for cell in row.values()), default=0.0)
    likest = "" if goal == "style" else max(row, key=lambda method: row[method].fidelity, default="")

    def tier(method: str) -> tuple[int, float, int]:
        missing = -len(works_in(method, family, embedded=embedded))
        if method not in row:
            return (3, 0.0, GUIDANCE[method].place)
        cell = row[method]
        lost = best - cell.gain.mean
        even = cell.against is not None and not cell.against.sign
        if lost <= NEAR * best or even:
            return (0, missing, cell.bytes)
        merit = lost <= FAR * best or (method == likest and cell.gain.sign > 0)
        return (1 if merit else 2, lost, 0)

    return sorted(METHODS, key=tier)


def advise(
    request: Request,
    base: KnownBase,
    table: Measurements,
    estimate: Callable[[Recipe], Cost],
    memory: Callable[[Recipe], float],
) -> Advice:
    """The advice.

    Args:
        estimate: of a recipe: steps, time, memory; asked for what is offered alone.
        memory: GiB that a recipe takes, counted; cheap.

    Raises:
        RecipeError: RC026, nothing keeps within the limits.
    """
    options: list[Option] = []
    not_offered: list[NotOffered] = []
    goal, subject = request.goal, request.subject
    row = table.row(goal, subject.image_count)
    family = base.family.name
    ranked = order(table, goal, subject.image_count, family=family, embedded=subject.embedded)

    def option(method: str, candidate: MethodSize, thrift: Thrift, size: int) -> Option:
        recipe, toml = recipes.recipe_of(subject, candidate, thrift), recipes.toml_of(subject, candidate, thrift)
        programs = works_in(method, family, embedded=subject.embedded)
        for_it = tuple(reasons.for_it(goal, method, row, size, programs))
        against = tuple(reasons.against(goal, subject, method, row, size, thrift, base))
        return Option(method, recipe, toml, estimate(recipe), size, programs, for_it, against, row.get(method))

    for method in ranked:
        found = _fit(request, base, method, memory)
        if isinstance(found, NotOffered):
            not_offered.append(found)
            continue
        options.append(option(method, *found))
        if len(options) == OFFERED:
            break
    # Else smaller results of the methods that are there already.
    for one in tuple(options):
        smallest = one.file_bytes
        for start in range(1, len(recipes.sizes(one.method, embedded=subject.embedded))):
            fit = _fit(request, base, one.method, memory, start)
            if len(options) < OFFERED and not isinstance(fit, NotOffered) and fit[2] < smallest:
                options.append(option(one.method, *fit))
                smallest = fit[2]
    if not options:
        short = [_("{method}: {why}", method=title(one.method), why=one.short) for one in not_offered]
        raise RecipeError("RC026", why=listed(short))
    best = options[0]
    known = {option.method for option in options} | {one.method for one in not_offered}
    left = [NotOffered(method, _not_among(method, row, best)) for method in ranked if method not in known]
    unknown = Statement(_("Nobody has measured it, and nothing is published of it that is known here."), "known", BENCH)
    left += [NotOffered(method, unknown) for method in methods.METHODS if method not in METHODS]
    return Advice(
        request,
        tuple(options),
        (*not_offered, *left),
        tuple(reasons.combinations(table, goal, best.method)),
        (reasons.goal_verdict(table, goal, subject.image_count), reasons.count_verdict(table, goal, best.method)),
    )


def program(name: str) -> str:
    """The program's own name; empty for none.

    Raises:
        RecipeError: RC002, it is not known.
    """
    aliases = {"": "", **{one.lower(): one for one in PROGRAMS}, **_ALIASES}
    if (found := aliases.get(name.casefold())) is None:
        raise no_such("--for", name, PROGRAMS)
    return found


def works_in(method: str, family: str, *, embedded: bool) -> tuple[str, ...]:
    """The programs that apply a result of this method. What was trained on the embedded base needs that base: tsuika alone."""
    apply = ("tsuika",) if embedded else methods.METHODS[method].programs(family)
    return tuple(name for name in PROGRAMS if name in apply)


def _fit(
    request: Request, base: KnownBase, method: str, memory: Callable[[Recipe], float], start: int = 0
) -> tuple[MethodSize, Thrift, int] | NotOffered:
    """The largest result of a method, trained the quickest way, that keeps within the limits; or why there is none."""
    embedded, program = request.subject.embedded, request.program
    try:
        methods.METHODS[method].settings().check(base.family.facts)
    except RecipeError as error:
        return NotOffered(
            method, Statement(error.text("why"), "known", reasons.PROGRAMS_SOURCE), f"✕ {base.family.title}"
        )
    if program and program not in works_in(method, base.family.name, embedded=embedded):
        why = _("{program} does not apply its results.", program=program)
        return NotOffered(method, Statement(why, "known", reasons.PROGRAMS_SOURCE), f"✕ {program}")
    smallest, least = 0.0, 0.0
    for candidate in recipes.sizes(method, embedded=embedded)[start:]:
        size = sizes.file_bytes(base, recipes.recipe_of(request.subject, candidate))
        smallest = size / 1e6
        if request.max_file_mb is not None and smallest > request.max_file_mb:
            continue
        for thrift in recipes.ways(candidate, embedded=embedded):
            least = memory(recipes.recipe_of(request.subject, candidate, thrift)) * 2**30 / 1e9
            if request.vram_gb is None or least <= request.vram_gb:
                return candidate, thrift, size
    if request.max_file_mb is not None and smallest > request.max_file_mb:
        shown = f"{smallest:,.0f} MB" if smallest >= 10 else f"{smallest:.2g} MB"
        why = _("Its file has {size} at least.", size=shown)
    else:
        shown = f"{least:.1f} GB"
        why = _("It takes about {size} of memory at least.", size=shown)
    return NotOffered(method, Statement(why, "known", reasons.COUNTED), f"≥ {shown}")


def _not_among(method: str, row: dict[str, Cell], best: Option) -> Statement:
    cell = row.get(method)
    if cell is None or best.cell is None:
        return Statement(_("Others come first."), "folklore")
    text = _(
        "It gained {gain} where {best} gained {most}.",
        gain=f"{cell.gain.mean:.0f}%",
        best=title(best.method),
        most=f"{best.cell.gain.mean:.0f}%",
    )
    return Statement(text, "measured", BENCH)
