"""The learning-rate finder; and a search over settings: ordinary runs under guard, chosen by Optuna, compared by what the
guard has measured.

All of a search is in its folder: `search.db` (Optuna's study, SQLite), `trials/` (run folders), `recipe.toml` (what all
trials share), and at the end `search.json` and `best.toml`. Several processes may work in one folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, cast

from tsuika import config
from tsuika.api import search_space, training
from tsuika.api.run import Events, starts
from tsuika.api.search_space import Over
from tsuika.config import Recipe
from tsuika.core.errors import DivergedError, RecipeError, ResourceError, outer_cause
from tsuika.core.events import Event, Judged, Warned, note
from tsuika.core.files import locked, write_text
from tsuika.core.plain import jsonable
from tsuika.core.rundir import RunDir
from tsuika.core.seeds import derive
from tsuika.core.texts import _
from tsuika.evaluation import run_record
from tsuika.evaluation import trials as results
from tsuika.evaluation.trials import Trial
from tsuika.training import rate_finder
from tsuika.training.rate_finder import RateFound

if TYPE_CHECKING:
    import optuna

TRIALS: Final = 16  # where a setting has a range
UNTRAINABLE: Final = ("RC002", "RC008", "RC009", "RC010", "RC011", "RC012", "RC013")  # settings that do not go together
WORST: Final = 1.0  # Optuna's value of a run that diverged: e times the base's loss
PRUNE_AFTER: Final = 1 / 3  # of the steps, and
PRUNE_FROM: Final = 4  # finished trials: before that a median says little


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial begins, or goes on."""

    number: int
    total: int
    params: dict[str, Any]


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial is over."""

    number: int
    state: str  # "done", "pruned", "diverged", "failed"
    value: float | None  # log ratio of the held-out loss to the base's
    se: float | None
    step: int


@dataclass(frozen=True)
class Searched(Event):
    """The search is over, or as far as it was asked to go.

    Attributes:
        best: the trial to take; None: no trial is better than the base.
        near: trials that cannot be distinguished from the best one.
        recipe: `best.toml`; empty where there is none.
        trials: each with its settings, state and value.
    """

    best: int | None
    near: list[int]
    recipe: str
    trials: list[dict[str, Any]] = field(default_factory=list)


@starts
def find_rate(recipe: Recipe, *, rates: Sequence[float] = (), steps: int = rate_finder.STEPS) -> Events[RateFound]:
    """Try learning rates for a few steps each on the recipe's images. Keeps no file.

    Args:
        recipe: as for `train`; its own learning rate is the middle of what is tried.
        rates: to try instead of those around the recipe's.
        steps: of each.

    Raises:
        RecipeError: RC020, the optimizer finds its rate by itself.
        TsuikaError: what a run of this recipe would raise.
    """
    with TemporaryDirectory(prefix="tsuika-") as scratch:
        for event in rate_finder.find(recipe, RunDir(Path(scratch)), training.services(), rates, steps):
            yield event
    return cast(RateFound, event)


@starts
def search(
    recipe: Recipe, out: Path | str, over: Sequence[str], *, trials: int = 0, timeout_s: float | None = None
) -> Events[Searched]:
    """Search settings by runs under guard, or go on with a search.

    Each trial is a run folder without a refit and without previews. The same call goes on where it stopped, repeats no
    trial, and may run in several processes at once (each with a `train.device` of its own).

    Args:
        recipe: what all trials share.
        out: the search's folder; a new one, or one of the same search.
        over: settings and their values, as `search_space.read` takes them.
        trials: in all; 0: all points where every setting has a list of values, else TRIALS.
        timeout_s: after this no new trial begins.

    Raises:
        RecipeError: RC021, what cannot be searched; RC022, Optuna is missing; RC023, another search's folder; RC024, there
            is no held-out image.
        TsuikaError: what is wrong with images, base or machine.
    """
    overs, out = [search_space.read(text, recipe) for text in over], Path(out)
    if not overs or len({one.key for one in overs}) != len(overs):
        raise RecipeError("RC021", found=" ".join(over), why=_("Each setting once, and at least one, is needed."))
    if recipe.guard.mode == "off":
        raise RecipeError("RC024", why=_("The guard is off."))
    began = time.monotonic()
    try:
        searching = _Search(recipe, out, overs, trials)
        while timeout_s is None or time.monotonic() - began < timeout_s:
            with ExitStack() as held:
                trial = searching.next(held)
                if trial is None:
                    break
                yield from searching.run(trial)
        return (yield from searching.finish())
    # The database names no file in its errors.
    except Exception as error:
        if (ours := outer_cause(error, where=out)) is None:
            raise
        raise ours from error


class _Search:
    """One process's hand in a search."""

    def __init__(self, recipe: Recipe, out: Path, overs: Sequence[Over], trials: int) -> None:
        self._recipe, self._out, self._overs = recipe, out, overs
        self._trials, self._lock = out / "trials", out / "trials" / "next.lock"
        points = search_space.grid(overs)
        self._total = trials or len(points) or TRIALS
        self._optuna = _optuna()
        out.mkdir(parents=True, exist_ok=True)
        with locked(self._lock, wait=True):
            self._study = self._open(points if len(points) <= self._total else [])

    def _open(self, points: Sequence[dict[str, Any]]) -> optuna.Study:
        optuna = self._optuna
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{(self._out / search_space.STUDY).absolute()}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        study = optuna.create_study(
            storage=storage,
            study_name="search",
            load_if_exists=True,
            direction="minimize",
            sampler=_sampler(self._recipe.train.seed),
            pruner=optuna.pruners.MedianPruner(PRUNE_FROM, round(PRUNE_AFTER * self._recipe.train.steps)),
        )
        shared = self._recipe.model_copy(update={"train": self._recipe.train.model_copy(update={"device": "auto"})})
        described = {"recipe": config.dump(shared, comments=False), "over": "\n".join(map(str, self._overs))}
        before = study.user_attrs
        for key, text in described.items():
            if before.get(key, text) != text:
                lines = zip(before[key].splitlines(), text.splitlines(), strict=False)
                other = _("The number of settings differs.")
                why = next((f"{one} / {two}" for one, two in lines if one != two), other)
                raise RecipeError("RC023", where=self._out, why=why)
            study.set_user_attr(key, text)
        if not before:
            write_text(self._out / "recipe.toml", config.dump(shared))
        for point in points:
            study.enqueue_trial(point, skip_if_exists=True)
        return study

    def next(self, held: ExitStack) -> optuna.Trial | None:
        """The next trial, locked for this process until `held` ends; None where all are done or in other hands."""
        states = self._optuna.trial.TrialState
        with locked(self._lock, wait=True):
            for one in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
                with locked(self._lock_of(one.number)) as abandoned:
                    if abandoned:
                        self._take_over(one)
            known = self._study.get_trials(deepcopy=False)
            waiting = any(one.state == states.WAITING for one in known)
            counted = [one for one in known if one.state != states.FAIL or "why" in one.user_attrs]
            if not waiting and len(counted) >= self._total:
                return None
            trial = self._study.ask()
            held.enter_context(locked(self._lock_of(trial.number)))
            for over in self._overs:
                _suggest(trial, over)
            if "folder" not in trial.user_attrs:
                trial.set_user_attr("folder", _name(trial.number))
        return trial

    def _take_over(self, one: optuna.trial.FrozenTrial) -> None:
        """A trial whose process is gone: the same settings in the same folder, under the next number; if it was over, no more."""
        folder = one.user_attrs.get("folder", _name(one.number))
        if "why" in one.user_attrs:
            self._tell(one.number, one.user_attrs["state"], self._trials / folder)
            return
        self._study.tell(one.number, state=self._optuna.trial.TrialState.FAIL)
        begun = RunDir(self._trials / folder).recipe.exists()
        # All that it was to try, of which params may be a part.
        point = one.system_attrs.get("fixed_params", one.params)
        if point.keys() == {over.key for over in self._overs}:
            self._study.enqueue_trial(point, user_attrs={"folder": folder} if begun else {})

    def _lock_of(self, number: int) -> Path:
        return self._trials / f"{_name(number)}.lock"

    def run(self, trial: optuna.Trial) -> Iterator[Event]:
        """One trial; closing it leaves a run that the next process goes on with."""
        folder = self._trials / trial.user_attrs["folder"]
        yield TrialStarted(trial.number, self._total, dict(trial.params))
        why: str = ""
        try:
            state = yield from self._follow(trial, folder)
        except DivergedError as error:
            state, why = "diverged", error.text("what")
        except (ResourceError, RecipeError) as error:
            if error.code not in ("RS001", *UNTRAINABLE):  # out of memory: less of it may fit; so may other settings
                raise
            state, why = "failed", _("{what}: {why}", what=error.text("what"), why=error.text("why"))
        if why:
            yield note("GD025", number=trial.number, why=why)
        trial.set_user_attr("state", state)
        trial.set_user_attr("why", why)  # with it, the trial counts even if this process ends here
        found = self._tell(trial.number, state, folder)
        yield TrialEnded(trial.number, state, found.get("value"), found.get("se"), found.get("step", 0))

    def _tell(self, number: int, state: str, folder: Path) -> dict[str, Any]:
        """Optuna's part of a trial's end; returns what was measured."""
        states = self._optuna.trial.TrialState
        found = results.measured(folder) if state != "failed" else {}
        if state in ("done", "diverged"):
            heard = results.checks_of(folder) if state == "done" else []
            worst = min(WORST, results.standing(heard[-1])) if heard else WORST
            self._study.tell(number, found.get("value", worst))
        else:
            self._study.tell(number, state=states.PRUNED if state == "pruned" else states.FAIL)
        return found

    def _follow(self, trial: optuna.Trial, folder: Path) -> Generator[Event, None, str]:
        """The run's events; returns "done", or "pruned" if it was given up."""
        run, reported = RunDir(folder), set()
        for judged in results.checks_of(folder):  # of an earlier process
            trial.report(results.standing(judged), judged.step)
            reported.add(judged.step)
        if run_record.is_over(run.report_json):
            return "done"
        if run.recipe.exists():
            events = training.resume(folder)
        else:
            own = {"guard.mode": "on", "guard.refit": False, "preview.num": 0, "output.name": "", "train.notify": ()}
            events = training.train(search_space.apply(self._recipe, {**trial.params, **own}), folder)
        with closing(events):
            for event in events:
                yield event
                if isinstance(event, Warned) and event.code == "GD012":
                    raise RecipeError("RC024", why=_("Fewer than four different images were found."))
                if not isinstance(event, Judged) or event.fold or event.step in reported:
                    continue
                trial.report(results.standing(event), event.step)
                if event.verdict != "stop" and trial.should_prune():
                    return "pruned"
        return "done"

    def finish(self) -> Events[Searched]:
        """Write `best.toml` and `search.json`."""
        states = self._optuna.trial.TrialState
        # Neither waiting nor handed on under another number.
        found = [
            self._read(one)
            for one in self._study.get_trials(deepcopy=False)
            if one.state != states.WAITING and (one.state != states.FAIL or "why" in one.user_attrs)
        ]
        if running := sum(one.state == "running" for one in found):
            yield note("GD026", count=running)
        best, near = results.choose(found), [one.number for one in results.near_the_best(found)]
        path = self._out / "best.toml"
        if best is not None:
            write_text(path, config.dump(search_space.apply(self._recipe, best.params)))
        rows = []
        found.sort(key=lambda one: (one.value is None or one.state != "done", one.value or 0.0, one.number))
        for row in map(asdict, found):
            del row["grid"], row["probes"], row["overlap"]
            rows.append(jsonable(row))
        event = Searched(best.number if best else None, near, str(path) if best else "", rows)
        write_text(self._out / "search.json", json.dumps(asdict(event), ensure_ascii=False, indent=1))
        yield event
        return event

    def _read(self, one: optuna.trial.FrozenTrial) -> Trial:
        name = one.user_attrs.get("folder", _name(one.number))
        running = one.state == self._optuna.trial.TrialState.RUNNING
        state = one.user_attrs.get("state", "running" if running else "failed")
        numbers = results.measured(self._trials / name) if state in ("done", "pruned", "diverged") else {}
        recipe = search_space.apply(self._recipe, one.params)
        return Trial(
            one.number,
            one.params,
            state,
            **numbers,
            learning_rate=recipe.train.learning_rate,
            rank=getattr(recipe.method, "rank", 0),
            folder=f"trials/{name}",
            why=one.user_attrs.get("why", ""),
        )


def _name(number: int) -> str:
    return f"{number:03d}"


def _suggest(trial: optuna.Trial, over: Over) -> None:
    if over.choices:
        trial.suggest_categorical(over.key, over.choices)
    elif over.whole:
        trial.suggest_int(over.key, int(over.low), int(over.high), log=over.log)
    else:
        trial.suggest_float(over.key, over.low, over.high, log=over.log)


def _optuna() -> Any:
    """The package, silenced.

    Raises:
        RecipeError: RC022, it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise RecipeError("RC022", why=error) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _sampler(seed: int) -> Any:
    """TPE (Bergstra et al. 2011), seeded anew for each trial by its number.

    So what a trial tries hangs on the trials that are finished, not on how often or in how many processes the search was
    started; one generator, seeded once, would draw its first settings again in each of them.
    """
    from optuna.samplers import BaseSampler, TPESampler

    class Sampler(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            own = derive(seed, f"search {param_name}", trial.number) % 2**32
            sampler = TPESampler(seed=own, n_startup_trials=PRUNE_FROM)
            return sampler.sample_independent(study, trial, param_name, param_distribution)

    return Sampler()
