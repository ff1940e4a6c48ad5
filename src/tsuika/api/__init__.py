"""What tsuika can do, as functions: the only door for the command line and the web app.

Every command of the program is a function here of the same name, and in `tsuika` itself. A call returns a `Run`: iterate it
for events, ask it for its `result`, close it to stop (a training saves its state first).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tsuika.api.advising import advise
    from tsuika.api.checking import check, clean, contact_sheet
    from tsuika.api.converting import convert
    from tsuika.api.drawing import generate
    from tsuika.api.evaluating import Evaluated, evaluate
    from tsuika.api.files import inspect
    from tsuika.api.machine import doctor
    from tsuika.api.merging import extract, merge, resize
    from tsuika.api.models import EMBEDDED, load
    from tsuika.api.rates import RateFound, find_rate
    from tsuika.api.searching import Searched, TrialEnded, TrialStarted, search
    from tsuika.api.sheets import CellDrawn, SheetWritten, grid
    from tsuika.api.training import DEMO_PICTURES, DEMO_RECIPE, demo, dry_run, resume, train
    from tsuika.api.vaes import bake_vae, compare_vae, tune_vae
    from tsuika.generation.drawing import Drawing

__all__ = [
    "DEMO_PICTURES",
    "DEMO_RECIPE",
    "EMBEDDED",
    "CellDrawn",
    "Drawing",
    "Evaluated",
    "RateFound",
    "Searched",
    "SheetWritten",
    "TrialEnded",
    "TrialStarted",
    "advise",
    "bake_vae",
    "check",
    "clean",
    "compare_vae",
    "contact_sheet",
    "convert",
    "demo",
    "doctor",
    "dry_run",
    "evaluate",
    "extract",
    "find_rate",
    "generate",
    "grid",
    "inspect",
    "load",
    "merge",
    "resize",
    "resume",
    "search",
    "train",
    "tune_vae",
]

_PLACES: Final = {
    "tsuika.api.advising": "advise",
    "tsuika.api.checking": "check clean contact_sheet",
    "tsuika.api.converting": "convert",
    "tsuika.api.drawing": "generate",
    "tsuika.api.evaluating": "Evaluated evaluate",
    "tsuika.api.files": "inspect",
    "tsuika.api.machine": "doctor",
    "tsuika.api.merging": "extract merge resize",
    "tsuika.api.models": "EMBEDDED load",
    "tsuika.api.rates": "RateFound find_rate",
    "tsuika.api.searching": "Searched TrialEnded TrialStarted search",
    "tsuika.api.sheets": "CellDrawn SheetWritten grid",
    "tsuika.api.training": "DEMO_PICTURES DEMO_RECIPE demo dry_run resume train",
    "tsuika.api.vaes": "bake_vae compare_vae tune_vae",
    "tsuika.generation.drawing": "Drawing",
}
_MODULE: Final = {name: module for module, names in _PLACES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Load a function's module when it is first asked for: looking at pictures needs no transformers and no peft."""
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE[name]), name)


def __dir__() -> list[str]:
    return __all__
