"""Where a search keeps its trials: Optuna's study in the search's folder, or in a PostgreSQL database that machines share.

It knows no run. In one folder locks of files tell who is at work; between machines a lock of the database, and signs of life.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final, Protocol

from tsuika.api import search_space
from tsuika.core.errors import NetworkError, RecipeError, TsuikaError
from tsuika.core.files import locked
from tsuika.core.texts import _

if TYPE_CHECKING:
    import optuna

ALIVE_S: Final = 30  # between two signs of life of a trial
SILENT_S: Final = 300  # without one, its process or machine is gone
_LOCK: Final = 0x7473756B69  # any number of our own, among the database's advisory locks


class Store(Protocol):
    """The study's place. `place` tells the folder of a trial from those on other machines; empty where there is one alone."""

    place: str
    storage: optuna.storages.RDBStorage
    study: str

    def alone(self) -> AbstractContextManager[object]:
        """Within, no other process takes a trial, or makes the study."""

    def hold(self, number: int) -> AbstractContextManager[object]:
        """Within, a trial gives signs of life, the first one at once."""

    def hand_on_silent(self, study: optuna.Study) -> None:
        """Fail the trials of which there is no sign of life; what was to be done then is called for each."""


class InFolder:
    """A file in the search's folder, for the processes of this machine."""

    place, study = "", "search"

    def __init__(self, out: Path) -> None:
        import optuna

        self._lock = out / "trials" / "next.lock"
        with self.alone():
            self.storage = optuna.storages.RDBStorage(
                f"sqlite:///{(out / search_space.STUDY).absolute()}", engine_kwargs={"connect_args": {"timeout": 60}}
            )

    def alone(self) -> AbstractContextManager[object]:
        return locked(self._lock, wait=True)

    def hold(self, number: int) -> AbstractContextManager[object]:
        return nullcontext()

    def hand_on_silent(self, study: optuna.Study) -> None:
        pass


class OnServer:
    """A PostgreSQL database; the study has the name of the search's folder, which is the same on all machines."""

    def __init__(self, out: Path, url: str, silent: Callable[[optuna.Study, optuna.trial.FrozenTrial], None]) -> None:
        import optuna
        import sqlalchemy

        out = out.absolute()
        self.place, self.study = f"{socket.gethostname()}:{out}", f"tsuika {out.name}"
        settings = {"pool_pre_ping": True}  # a trial takes hours, and idle connections are cut
        address = _address(url)
        try:
            self._engine = sqlalchemy.create_engine(address, **settings)
        except ImportError as error:
            raise _unusable(
                _("Its driver is not installed ({error}): pip install 'psycopg[binary]'", error=error)
            ) from None
        with self.alone(), unnoticed():
            try:
                self.storage = optuna.storages.RDBStorage(
                    address.render_as_string(hide_password=False),
                    engine_kwargs=settings,
                    heartbeat_interval=ALIVE_S,
                    grace_period=SILENT_S,
                    heartbeat_stale_trial_callback=silent,
                )
            # Its tables are another version's.
            except RuntimeError as error:
                raise _unusable(str(error)) from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        import sqlalchemy

        # The lock goes with the connection, so also with a process that is killed.
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
            yield

    @contextmanager
    def hold(self, number: int) -> Iterator[None]:
        import optuna
        import sqlalchemy

        storage, over = self.storage, Event()
        trial = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(self.study), number)
        storage.record_heartbeat(trial)

        def live() -> None:
            while not over.wait(ALIVE_S):
                # The next one may come through; if none does, the trial's end tells.
                with suppress(sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError):
                    storage.record_heartbeat(trial)

        thread = Thread(target=live, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def hand_on_silent(self, study: optuna.Study) -> None:
        import optuna

        with unnoticed():
            optuna.storages.fail_stale_trials(study)


def failure(error: Exception, url: str) -> TsuikaError | None:
    """Our error for one of the database server; None where it is another one."""
    if not url or isinstance(error, TsuikaError):
        return None
    import sqlalchemy

    # Optuna wraps some of them.
    known = next((one for one in (error, error.__cause__) if isinstance(one, sqlalchemy.exc.DBAPIError)), None)
    if known is None:
        return None
    said = str(known.orig).strip().partition("\n")[0]
    return NetworkError("NW007", where=_address(url).render_as_string(hide_password=True), why=said)


def _address(url: str) -> Any:
    """Raises RecipeError (RC029): it is no address of a PostgreSQL database."""
    import sqlalchemy

    try:
        address = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise _unusable(_("It is no address of a database.")) from None
    if address.get_backend_name() not in ("postgresql", "postgres"):
        raise _unusable(_("Only PostgreSQL is known here; without the option a file in the folder does.")) from None
    return address.set(drivername="postgresql+psycopg")


def _unusable(why: object) -> RecipeError:
    return RecipeError("RC029", why=why)


@contextmanager
def unnoticed() -> Iterator[None]:
    """Within, Optuna does not say that its signs of life are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
