"""Model files on this machine, and the folders of programs that results may be copied into."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final, Literal

from tsuika.api import places
from tsuika.api.exporting import MAIN
from tsuika.core import kinds
from tsuika.core.safetensors import header_or_none
from tsuika.core.weights import read_json
from tsuika.evaluation.report_guard import role
from tsuika.methods import METHODS
from tsuika.studio.state import Studio

# Where files of weights that were dropped on a page are kept, in the home.
DROPPED: Final = "dropped"
# A search of the disk is used again for so long.
KEPT_S: Final = 600.0
WEIGHTS: Final = frozenset({".safetensors", ".pt", ".ckpt", ".bin"})
VAE: Final = kinds.VAE.name
# Those of `generation.pipeline`, which loads torch; a test compares them.
SAMPLERS: Final = ("DPM++ 2M Karras", "DPM++ 2M", "Euler a", "Euler", "Heun", "DDIM", "LCM", "TCD", "UniPC")


def bases(studio: Studio) -> list[dict[str, str]]:
    """Base models: those that were picked before, then those of programs."""
    picked = [Path(one) for one in studio.home.db.setting("bases") or []]
    rows = [_base(path, path.parent.name) for path in picked if path.exists()]
    for program in _found(studio):
        rows += [_base(path, program.name) for path in program.bases()]
    known: dict[str, dict[str, str]] = {}
    for row in rows:
        known.setdefault(row["base"], row)
    return list(known.values())[: places.MOST]


def _base(path: Path, place: str) -> dict[str, str]:
    return {"base": str(path), "name": path.name, "place": place}


def remember(studio: Studio, path: Path) -> dict[str, str]:
    """Offer a file or folder as a base model from here on."""
    kept = [one for one in studio.home.db.setting("bases") or [] if one != str(path)]
    studio.home.db.keep("bases", [str(path), *kept][: places.MOST])
    return _base(path, path.parent.name)


def _found(studio: Studio) -> list[places.Program]:
    """The programs of this machine, searched for now and then."""
    kept = studio.home.db.setting("programs") or {"at": 0.0, "roots": []}
    if abs(time.time() - kept["at"]) > KEPT_S:
        kept = {"at": time.time(), "roots": [str(one.root) for one in places.programs()]}
        studio.home.db.keep("programs", kept)
    return [found for root in kept["roots"] if (found := places.program_at(Path(root)))]


def programs(studio: Studio) -> list[dict[str, Any]]:
    """Folders that results may be copied into. Those that were only found must be allowed first."""
    allowed = [Path(one) for one in studio.home.db.setting("allowed") or []]
    rows = [_program(studio, path, allowed=True) for path in allowed if path.is_dir()]
    rows += [_program(studio, one.root, allowed=False) for one in _found(studio) if one.root not in allowed]
    return rows


def _program(studio: Studio, path: Path, *, allowed: bool) -> dict[str, Any]:
    known = places.program_at(path)
    about = {"id": studio.home.key_of(path), "place": studio.picker.handle(path), "path": str(path)}
    return {**about, "name": known.name if known else path.name, "program": bool(known), "allowed": allowed}


def allow(studio: Studio, path: Path) -> list[dict[str, Any]]:
    """Allow a folder, once and for all."""
    kept = [one for one in studio.home.db.setting("allowed") or [] if one != str(path)]
    studio.home.db.keep("allowed", [*kept, str(path)])
    return programs(studio)


def allowed(studio: Studio, key: str) -> Path | None:
    """An allowed folder by its key."""
    every = (Path(one) for one in studio.home.db.setting("allowed") or [])
    return next((path for path in every if studio.home.key_of(path) == key and path.is_dir()), None)


def artifacts(studio: Studio) -> list[dict[str, str]]:
    """The main results of finished runs, the newest first, and what lies in `results/`."""
    rows = []
    for run in studio.home.runs():
        if run.report_json.is_file():
            report = read_json(run.report_json)
            every = [row["path"] for row in report["artifacts"]]
            whole = report["method"] in METHODS and METHODS[report["method"]].whole_model
            named: dict[str, Path] = {}
            for path in every:
                if (run.root / path).is_file():
                    named.setdefault(role(path, every), run.root / path)
            kind = "base" if whole else report["method"]
            about = {"run": studio.home.key_of(run.root)}
            rows += [{**artifact(path, kind), **about, "which": one or MAIN} for one, path in named.items()]
    for folder in ("results", DROPPED):
        files = sorted((studio.home.root / folder).glob("*"))
        rows += [artifact(path) for path in files if path.suffix in (".safetensors", ".pt")]
    known = {row["file"] for row in rows}
    picked = [Path(one) for one in studio.home.db.setting("artifacts") or [] if one not in known]
    return rows + [artifact(path) for path in picked if path.exists()]


def vaes(studio: Studio) -> list[dict[str, str]]:
    """VAEs in files: those that were picked before, made here, or belong to programs."""
    picked = [Path(one) for one in studio.home.db.setting("vaes") or []]
    rows = [artifact(path, VAE) for path in picked if path.exists()]
    rows += [one for one in artifacts(studio) if one["kind"] == VAE]
    rows += [artifact(path, VAE) for program in _found(studio) for path in program.vaes()]
    return list({row["file"]: row for row in rows}.values())[: places.MOST]


def take(studio: Studio, path: Path, kind: Literal["artifacts", "vaes"]) -> dict[str, str]:
    """Offer a file that was picked for the playground from here on."""
    kept = [one for one in studio.home.db.setting(kind) or [] if one != str(path)]
    studio.home.db.keep(kind, [str(path), *kept][: places.MOST])
    return artifact(path, VAE if kind == "vaes" else "")


def artifact(path: Path, kind: str = "") -> dict[str, str]:
    """A file of a result; `kind` is its method, `base` for a whole model, or `vae`; if it is not given, the names in the file tell.
    Empty: of another kind, or a pickle, in which nothing is read here."""
    header = None if kind else header_or_none(path)
    if header is not None:
        name = kinds.of_tensors(header.shapes).name
        kind = "base" if name == kinds.CHECKPOINT.name else name if name in (*kinds.OF_METHODS, VAE) else ""
    return {"file": str(path), "name": path.stem, "kind": kind, "place": path.parent.parent.name}
