"""A search over settings: ordinary runs under guard, chosen by Optuna, compared by what the guard has measured.

All of a search is in its folder: `search.db` (Optuna's study, SQLite; or in a database that several machines share), `trials/`
(run folders), `recipe.toml` (what all trials share), and at the end `search.json` and `best.toml`. Several processes may work in
one folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsuika import config
from tsuika.api import search_space, search_store, training
from tsuika.api.run import Events, starts
from tsuika.api.search_space import Over
from tsuika.api.search_store import InFolder, OnServer, Store
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
from tsuika.training import folder as run_folder

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
def search(
    recipe: Recipe,
    out: Path | str,
    over: Sequence[str],
    *,
    trials: int = 0,
    timeout_s: float | None = None,
    storage: str = "",
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
        storage: address of a PostgreSQL database, for machines that search together, each with a folder of the same name.

    Raises:
        RecipeError: RC021, what cannot be searched; RC022, Optuna is missing; RC023, another search's folder; RC006, it
            holds something else; RC024, there
            is no held-out image; RC029, no such address.
        NetworkError: NW007, the database cannot be reached, or refuses.
        TsuikaError: what is wrong with images, base or machine.
    """
    overs, out = [search_space.read(text, recipe) for text in over], Path(out)
    if not overs or len({one.key for one in overs}) != len(overs):
        raise RecipeError("RC021", found=" ".join(over), why=_("Each setting once, and at least one, is needed."))
    if recipe.guard.mode == "off":
        raise RecipeError("RC024", why=_("The guard is off."))
    run_folder.check_images(recipe)
    # A folder without a search that holds anything else is left alone: perhaps it is that of the images.
    if not (out / "trials").is_dir():
        RunDir(out).check_free()
    began = time.monotonic()
    try:
        searching = _Search(recipe, out, overs, trials, storage)
        while timeout_s is None or time.monotonic() - began < timeout_s:
            with ExitStack() as held:
                trial = searching.next(held)
                if trial is None:
                    break
                yield from searching.run(trial)
        return (yield from searching.finish())
    # The database names no file in its errors.
    except Exception as error:
        if (ours := search_store.failure(error, storage) or outer_cause(error, where=out)) is None:
            raise
        raise ours from error


class _Search:
    """One process's hand in a search."""

    def __init__(self, recipe: Recipe, out: Path, overs: Sequence[Over], trials: int, storage: str) -> None:
        self._recipe, self._out, self._overs, self._trials = recipe, out, overs, out / "trials"
        points = search_space.grid(overs)
        self._total = trials or len(points) or TRIALS
        self._optuna = _optuna()
        self._store: Store = OnServer(out, storage, self._silent) if storage else InFolder(out)
        with self._store.alone():
            self._study = self._open(points if len(points) <= self._total else [])

    def _open(self, points: Sequence[dict[str, Any]]) -> optuna.Study:
        optuna = self._optuna
        study = optuna.create_study(
            storage=self._store.storage,
            study_name=self._store.study,
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
        known = {one.user_attrs.get("folder") for one in study.get_trials(deepcopy=False) if self._is_here(one)}
        if foreign := sorted(one.name for one in self._trials.glob("*") if one.is_dir() and one.name not in known):
            why = _("{folder} is of no trial that is known there.", folder=self._trials / foreign[0])
            raise RecipeError("RC023", where=self._out, why=why)
        for key, text in described.items():
            study.set_user_attr(key, text)
        if not (self._out / "recipe.toml").exists():
            write_text(self._out / "recipe.toml", config.dump(shared))
        for point in points:
            study.enqueue_trial(point, skip_if_exists=True)
        return study

    def next(self, held: ExitStack) -> optuna.Trial | None:
        """The next trial, locked for this process until `held` ends; None where all are done or in other hands."""
        states = self._optuna.trial.TrialState
        with self._store.alone():
            for one in filter(self._is_here, self._study.get_trials(deepcopy=False, states=(states.RUNNING,))):
                with locked(self._lock_of(one.number)) as abandoned:
                    if abandoned:
                        self._take_over(one)
            # After those of this folder, which go on where they stopped.
            self._store.hand_on_silent(self._study)
            known = self._study.get_trials(deepcopy=False)
            waiting = any(one.state == states.WAITING for one in known)
            counted = [one for one in known if one.state != states.FAIL or "why" in one.user_attrs]
            if not waiting and len(counted) >= self._total:
                return None
            with search_store.unnoticed():
                trial = self._study.ask()
            held.enter_context(locked(self._lock_of(trial.number)))
            held.enter_context(self._store.hold(trial.number))
            for over in self._overs:
                _suggest(trial, over)
            if "folder" not in trial.user_attrs or not self._is_here(trial):
                trial.set_user_attr("folder", _name(trial.number))
            trial.set_user_attr("place", self._store.place)
        return trial

    def _is_here(self, one: optuna.trial.FrozenTrial | optuna.Trial) -> bool:
        """Whether its folder is in this one. One without a place was being taken when its process ended: it is nobody's."""
        return bool(one.user_attrs.get("place", self._store.place) == self._store.place)

    def _take_over(self, one: optuna.trial.FrozenTrial) -> None:
        """A trial of this folder whose process is gone: handed on; if it was over, no more."""
        if "why" in one.user_attrs:
            self._tell(one.number, one.user_attrs["state"], one.user_attrs["value"])
            return
        self._study.tell(one.number, state=self._optuna.trial.TrialState.FAIL)
        folder = one.user_attrs.get("folder", _name(one.number))
        begun = RunDir(self._trials / folder).recipe.exists()
        self._hand_on(one, {"folder": folder, "place": self._store.place} if begun else {})

    def _silent(self, study: optuna.Study, one: optuna.trial.FrozenTrial) -> None:
        """A trial of any folder that has failed for want of a sign of life: begun anew, unless it was over."""
        if "why" not in one.user_attrs:
            self._hand_on(one, {})

    def _hand_on(self, one: optuna.trial.FrozenTrial, more: dict[str, str]) -> None:
        """The same settings under the next number."""
        # All that it was to try, of which params may be a part.
        point = one.system_attrs.get("fixed_params", one.params)
        if point.keys() == {over.key for over in self._overs}:
            self._study.enqueue_trial(point, user_attrs=more)

    def _lock_of(self, number: int) -> Path:
        return self._trials / f"{_name(number)}.lock"

    def run(self, trial: optuna.Trial) -> Iterator[Event]:
        """One trial; closing it leaves a run that the next process goes on with."""
        yield TrialStarted(trial.number, self._total, dict(trial.params))
        try:
            yield from self._tried(trial, self._trials / trial.user_attrs["folder"])
        except self._optuna.exceptions.UpdateFinishedTrialError:
            yield note("GD041", number=trial.number, seconds=search_store.SILENT_S)

    def _tried(self, trial: optuna.Trial, folder: Path) -> Iterator[Event]:
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
        found = results.measured(folder) if state != "failed" else {}
        heard = results.checks_of(folder) if state == "done" else []
        worst = min(WORST, results.standing(heard[-1])) if heard else WORST
        value = found.get("value", worst)
        # "why" is the last: with it, the trial counts even if this process ends here.
        for name, of_it in {"state": state, "measured": found, "value": value, "why": str(why)}.items():
            trial.set_user_attr(name, of_it)
        self._tell(trial.number, state, value)
        yield TrialEnded(trial.number, state, found.get("value"), found.get("se"), found.get("step", 0))

    def _tell(self, number: int, state: str, value: float) -> None:
        """Optuna's part of a trial's end."""
        states = self._optuna.trial.TrialState
        if state in ("done", "diverged"):
            self._study.tell(number, value)
        else:
            self._study.tell(number, state=states.PRUNED if state == "pruned" else states.FAIL)

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
        place = "" if self._is_here(one) else f"{one.user_attrs['place']}/"
        recipe = search_space.apply(self._recipe, one.params)
        return Trial(
            one.number,
            one.params,
            state,
            **one.user_attrs.get("measured", {}),
            learning_rate=recipe.train.learning_rate,
            rank=getattr(recipe.method, "rank", 0),
            folder=f"{place}trials/{name}",
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
