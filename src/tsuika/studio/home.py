"""The studio's home: a folder with projects, results, and a database (SQLite, WAL) of projects and jobs."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tsuika.api.image_set import ImageSet
from tsuika.core import names
from tsuika.core.errors import RecipeError
from tsuika.core.rundir import RunDir
from tsuika.core.texts import _

SCHEMA: Final = """
create table if not exists projects (
    id text primary key, folder text not null unique, name text not null, created real not null, touched real not null,
    plan text not null default '{}'
);
create table if not exists jobs (
    id text primary key, project text not null default '', kind text not null, about text not null default '{}',
    argv text not null, lane text not null, place real not null, state text not null, run text not null default '',
    created real not null, started real, ended real, pid integer, pid_started real, status integer, error text
);
create table if not exists settings (key text primary key, value text not null);
create table if not exists contents (file text primary key, sha256 text not null);
"""


class Database:
    """One connection that all threads share, a statement at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.Lock()
        with self._lock:
            self._connection.execute("pragma journal_mode=wal")
            self._connection.execute("pragma busy_timeout=5000")
            self._connection.executescript(SCHEMA)

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Run a statement; its rows."""
        with self._lock:
            return [dict(row) for row in self._connection.execute(statement, values).fetchall()]

    def insert(self, table: str, **values: Any) -> None:
        """Add a row."""
        marks = ", ".join("?" * len(values))
        self.rows(f"insert into {table} ({', '.join(values)}) values ({marks})", *values.values())  # noqa: S608 - our names

    def update(self, table: str, key: str, **values: Any) -> None:
        """Change a row by its id."""
        sets = ", ".join(f"{name} = ?" for name in values)
        self.rows(f"update {table} set {sets} where id = ?", *values.values(), key)  # noqa: S608 - our names

    def setting(self, key: str) -> Any:
        """What was kept under a key; None: nothing."""
        found = self.rows("select value from settings where key = ?", key)
        return json.loads(found[0]["value"]) if found else None

    def keep(self, key: str, value: Any) -> None:
        """Keep something under a key."""
        text = json.dumps(value, ensure_ascii=False)
        self.rows("insert into settings values (?, ?) on conflict (key) do update set value = ?", key, text, text)


@dataclass(frozen=True)
class Project:
    """Images, a plan and runs.

    Attributes:
        id: as in addresses.
        folder: of the project.
        name: for people.
        created: seconds since 1970.
        touched: when it was last worked on.
        plan: what was answered and set so far.
    """

    id: str
    folder: Path
    name: str
    created: float
    touched: float
    plan: Mapping[str, Any]

    @property
    def images(self) -> ImageSet:
        """Its images."""
        return ImageSet(self.folder)

    @property
    def runs(self) -> tuple[RunDir, ...]:
        """Its run folders, the newest first."""
        return runs_in(self.folder / "runs")


@dataclass(frozen=True)
class Home:
    """Everything that the studio keeps."""

    root: Path
    db: Database = field(repr=False)

    @classmethod
    def open(cls, root: Path) -> Home:
        """The home in a folder; made if need be.

        Raises:
            RecipeError: RC002, it cannot be.
        """
        try:
            for name in ("projects", "jobs", "results", "runs"):
                (root / name).mkdir(parents=True, exist_ok=True)
            return cls(root.resolve(), Database(root / "studio.db"))
        except (OSError, sqlite3.Error) as error:
            why = _("The folder cannot be used: {error}", error=error)
            raise RecipeError("RC002", key="--home", found=root, why=why) from None

    def secret(self) -> bytes:
        """Of this home: made once, readable by its owner alone."""
        file = self.root / ".secret"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_bytes(secrets.token_bytes(32))
        return file.read_bytes()

    def projects(self) -> list[Project]:
        """All projects, the one that was worked on last first."""
        rows = self.db.rows("select * from projects order by touched desc")
        return [self._project(row) for row in rows if (self.root / row["folder"]).is_dir()]

    def project(self, key: str) -> Project | None:
        """A project by its id."""
        rows = self.db.rows("select * from projects where id = ?", key)
        return self._project(rows[0]) if rows and (self.root / rows[0]["folder"]).is_dir() else None

    def _project(self, row: Mapping[str, Any]) -> Project:
        plan = json.loads(row["plan"])
        return Project(row["id"], self.root / row["folder"], row["name"], row["created"], row["touched"], plan)

    def new_project(self, name: str) -> Project:
        """A project of this name; its folder gets a number where there is one of that name."""
        name = " ".join(name.split())[:80] or "project"
        folder = free_folder(self.root / "projects", name)
        (folder / "images").mkdir(parents=True)
        now, key = time.time(), secrets.token_hex(6)
        row = {"id": key, "folder": folder.relative_to(self.root).as_posix(), "name": name}
        self.db.insert("projects", **row, created=now, touched=now)
        return Project(key, folder, name, now, now, {})

    def change_project(self, key: str, *, name: str | None = None, plan: Mapping[str, Any] | None = None) -> None:
        """Give it another name or plan, and note that it was worked on."""
        values: dict[str, Any] = {"touched": time.time()}
        if name is not None:
            values["name"] = " ".join(name.split())[:80] or "project"
        if plan is not None:
            values["plan"] = json.dumps(plan, ensure_ascii=False)
        self.db.update("projects", key, **values)

    def remove_project(self, project: Project) -> None:
        """Take a project out of the list; its folder goes to `trash/` and is not deleted."""
        (self.root / "trash").mkdir(exist_ok=True)
        project.folder.rename(free_folder(self.root / "trash", project.folder.name))
        self.db.rows("delete from projects where id = ?", project.id)

    def runs(self) -> list[RunDir]:
        """Every run folder of the home: of projects, and those made on a terminal in `runs/`."""
        found = [run for project in self.projects() for run in project.runs]
        return [*found, *runs_in(self.root / "runs")]

    def key_of(self, path: Path) -> str:
        """What stands for a file or folder in an address."""
        return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def run(self, key: str) -> RunDir | None:
        """A run folder by its key."""
        return next((run for run in self.runs() if self.key_of(run.root) == key), None)


def runs_in(folder: Path) -> tuple[RunDir, ...]:
    """Run folders in a folder, the newest first."""
    found = [RunDir(path.parent) for path in folder.glob("*/recipe.toml")]
    return tuple(sorted(found, key=lambda run: run.recipe.stat().st_mtime, reverse=True))


def free_folder(parent: Path, name: str) -> Path:
    """A folder of this name, or of this name with a number, that is not there yet."""
    stem = names.shortened(names.stem_of(name), 80)
    number = 1
    while (path := parent / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return path
