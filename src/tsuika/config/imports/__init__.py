"""Settings of other programs as a recipe. Opens no files: what is in one is handed in, and so is what opens another one.

An importer says what a file is, takes over what has a counterpart, with what its program does where the file is silent, and
names what has none. A program is a row of `PROGRAMS`, and its names and meanings are a module beside this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tsuika.config.imports import command, diffusers, onetrainer, onetrainer_concepts, sd_scripts, trained_file
from tsuika.config.imports.command import Script
from tsuika.config.imports.taking import Imported, Read
from tsuika.config.imports.trained_file import TrainedFile
from tsuika.core.texts import Text, _

__all__ = [
    "PROGRAMS",
    "SCRIPTS",
    "TENSORS",
    "Imported",
    "Program",
    "Read",
    "Script",
    "TrainedFile",
    "find",
    "why_unknown",
]

SCRIPTS: Final = command.SUFFIXES
TENSORS: Final = trained_file.SUFFIXES


class Program(NamedTuple):
    """What a file holds: tables, a list, a `Script` or a `TrainedFile`."""

    fits: Callable[[Any], bool]
    read: Callable[[Any, Read], Imported]


def _is_command(content: Any) -> bool:
    return isinstance(content, Script) and any(_of(one) is not None for one in command.commands(content))


def _of(one: command.Command) -> Callable[[command.Command, Read], Imported] | None:
    starters = ((sd_scripts.SCRIPTS, sd_scripts.command), (diffusers.SCRIPTS, diffusers.command))
    return next((read for scripts, read in starters if scripts.fullmatch(one.script)), None)


def _command(content: Script, read: Read) -> Imported:
    """The first command that is known; others in the same file are named."""
    known = [(one, found) for one in command.commands(content) if (found := _of(one)) is not None]
    (first, importer), *others = known
    imported = importer(first, read)
    more = [f"{one.script}.py {one.values.get('output_name', '')}".strip() for one, _importer in others]
    return Imported(imported.settings, imported.kind, (*imported.lost, *more), imported.silent)


PROGRAMS: Final = (
    Program(sd_scripts.is_dataset, sd_scripts.dataset),
    Program(onetrainer.is_configuration, onetrainer.configuration),
    Program(onetrainer_concepts.is_concepts, onetrainer_concepts.concepts),
    Program(sd_scripts.is_training, sd_scripts.configuration),
    Program(_is_command, _command),
    Program(trained_file.is_known, trained_file.settings),
)


def find(content: Any) -> Callable[[Any, Read], Imported] | None:
    """What imports a file that holds this; None: it is no other program's."""
    return next((program.read for program in PROGRAMS if program.fits(content)), None)


def why_unknown(content: Any) -> Text:
    """Why a file that can only be another program's is none."""
    if isinstance(content, Script):
        return _("No command in it starts a training script of sd-scripts or of diffusers.")
    if isinstance(content, TrainedFile):
        return _("Nothing in it says how it was trained.")
    return _("It is JSON of no program that is known here.")
