"""The weights that a run has kept, and drawings with them: every cell in a file of its own, so that nothing is drawn twice."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from PIL import Image

from tsuika.api import states
from tsuika.api.models import defaults_of, load, remarks
from tsuika.config import Recipe
from tsuika.core.errors import InterruptedRunError, RecipeError
from tsuika.core.events import Warned
from tsuika.core.files import at_home, sha256, split_strength
from tsuika.core.rundir import RunDir
from tsuika.core.types import Artifact, Attachment, Model, model_tensors
from tsuika.evaluation import run_record
from tsuika.evaluation.report_guard import role
from tsuika.generation import compose, pipeline, png_info
from tsuika.generation.compose import Composition, Requested
from tsuika.methods import METHODS, find, with_outside
from tsuika.training import checkpoint

BATCH: Final = 8  # images at once; a part of what a drawing is, to its last bit


@dataclass(frozen=True)
class Snapshot:
    """Weights of a run: a result, or a saved state."""

    name: str  # of its sheet and for people: `mascot`, `mascot-safe`, `step-000060`
    paths: tuple[Path, ...]  # several where a result has several new words
    step: int
    main: bool = False  # the result without an ending


def snapshots(folder: RunDir) -> list[Snapshot]:
    """Everything a finished run has kept, the main result first, then by step; of two of one step the first.

    Raises:
        RecipeError: TR002, this is no run folder; EV004, the run has no result yet.
    """
    if not folder.recipe.is_file():
        raise RecipeError("TR002", where=folder.root)
    if not folder.report_json.is_file():
        raise InterruptedRunError("EV004", where=folder.root)
    content = run_record.read_report(folder.report_json)
    files = [row["path"] for row in content["artifacts"]]
    by_role: dict[str, dict[str, list[Path]]] = {}
    for row in content["artifacts"]:
        path = folder.root / row["path"]
        if path.exists():
            by_role.setdefault(role(row["path"], files), {}).setdefault(row["format"], []).append(path)
    found = []
    whole = content["method"] in METHODS and METHODS[content["method"]].whole_model
    for role_, formats in by_role.items():
        of_format = list(formats.values())
        # A folder of a whole model has its tokenizer with it; of all else the first format will do.
        paths = next((paths for paths in of_format if whole and paths[0].is_dir()), of_format[0])
        step = content["range"].get(role_) if role_ else content["steps_done"]
        name = paths[0].stem if paths[0].is_file() else paths[0].name
        found.append(Snapshot(name, tuple(paths), step or 0, not role_))
    if not found:
        raise InterruptedRunError("EV004", where=folder.root)
    found.sort(key=lambda one: (not one.main, one.step))
    for step in sorted(checkpoint.steps(folder.checkpoints)):
        path = checkpoint.place(folder.checkpoints, step)
        found.append(Snapshot(path.name, (path,), step))
    steps: dict[int, Snapshot] = {}
    for one in found:
        steps.setdefault(one.step, one)
    return list(steps.values())


def choose(found: Sequence[Snapshot], steps: Sequence[int], most: int) -> list[Snapshot]:
    """Those of the steps asked for; by default every result, and saved states on the way to the main one up to `most`.

    Raises:
        RecipeError: EV006, no such step is kept.
    """
    by_step = {one.step: one for one in found}
    if steps:
        for step in steps:
            if step not in by_step:
                raise RecipeError("EV006", found=step, kept=", ".join(map(str, sorted(by_step))))
        return [by_step[step] for step in sorted(set(steps))]
    chosen = [one for one in found if not one.name.startswith("step-")]
    others = [one for one in found if one not in chosen]
    missing = most - len(chosen)
    for number in range(1, missing + 1):
        goal = chosen[0].step * number / (missing + 1)
        if others:
            nearest = min(others, key=lambda one: abs(one.step - goal))
            others.remove(nearest)
            chosen.append(nearest)
    return sorted(chosen, key=lambda one: one.step)


class SnapshotRenderer:
    """A run's base with one of its kept weights on it at a time, which draws fixed prompts at fixed seeds.

    What is drawn lies in `cells`: one PNG a prompt, its seeds side by side, under a name made of all that decides it.
    """

    def __init__(self, recipe: Recipe, cells: Path, seeds: Sequence[int], *, device: str, precision: str) -> None:
        """Load the base.

        Raises:
            ModelError, NetworkError: it cannot be had.
        """
        base = recipe.base
        self.model: Model = load(
            base.model,
            tokenizer=base.tokenizer,
            vae=base.vae,
            device=device,
            precision=precision,
            overrides=base.overrides,
        )
        self.seeds, self.notes = tuple(seeds), [*remarks(self.model)]
        self._recipe, self._cells, self._asked = recipe, cells, (device, precision)
        self._below = [Requested(*split_strength(text)) for text in base.artifacts]
        self._on: Snapshot | None = None
        self._composition: Composition | None = None
        self._whole: Attachment | None = None
        self._stack = ExitStack()
        self._hashes: dict[Path, str] = {}
        defaults = defaults_of(self.model)
        preview = recipe.preview
        self._how = pipeline.Defaults(preview.cfg or defaults.cfg, preview.steps or defaults.steps, defaults.sampler)
        # For prompts that are training captions: guidance makes copying stronger (arXiv:2509.25705).
        self._most = replace(self._how, cfg=max(self._how.cfg, defaults.cfg))
        self.captions: Collection[str] = ()

    def __enter__(self) -> SnapshotRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def draw(
        self, texts: Sequence[str], one: Snapshot | None, strength: float
    ) -> Iterator[tuple[str, list[Image.Image]]]:
        """Each prompt with its images, one a seed; None is the base alone.

        Raises:
            TsuikaError: the weights cannot be read, or do not fit.
        """
        for text in texts:
            path = self._place(text, one, strength)
            if not path.is_file():
                self._set(one, strength)
                self._write(path, text, one, strength)
            with Image.open(path) as strip:
                wide = strip.convert("RGB")
            width = wide.width // len(self.seeds)
            yield text, [wide.crop((i * width, 0, (i + 1) * width, wide.height)) for i in range(len(self.seeds))]

    def _how_of(self, text: str) -> pipeline.Defaults:
        return self._most if text in self.captions else self._how

    def _write(self, path: Path, text: str, one: Snapshot | None, strength: float) -> None:
        how: dict[str, Any] = {"defaults": self._how_of(text), "batch_size": BATCH, "warn": self._note}
        pixels = pipeline.sample(self.model, text, seed=self.seeds[0], num=len(self.seeds), **how)
        images = pipeline.to_images(pixels)
        width, height = images[0].size
        strip = Image.new("RGB", (width * len(images), height))
        for number, image in enumerate(images):
            strip.paste(image, (number * width, 0))
        content = {"prompt": text, "kept": one.name if one else "", "strength": strength, "seeds": list(self.seeds)}
        png_info.write_png(path, strip, None, content)

    def _place(self, text: str, one: Snapshot | None, strength: float) -> Path:
        model, base = self.model, self._recipe.base
        content = {
            "tsuika": version("tsuika"),
            "torch": version("torch"),
            "base": [model.source, model.sha256, _stamp(base.model)],
            "vae": [base.vae, _stamp(base.vae)],
            "prediction": model.prediction,
            "device": model.device.type,
            "dtype": str(next(model.unet.parameters()).dtype),
            "how": vars(self._how_of(text)),
            "prompt": text,
            "below": [[self._hash(wanted.path), wanted.strength] for wanted in self._below],
            "seeds": self.seeds,
            "weights": [self._hash(path) for path in one.paths] if one else [],
            "strength": strength if one else 0.0,
        }
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        words = re.sub(r"[^0-9A-Za-z]+", "-", text).strip("-")[:40]
        return self._cells / (f"{one.name}-{strength:g}" if one else "base") / f"{words}-{key}.png"

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
            self._hashes[path] = " ".join(map(sha256, files))
        return self._hashes[path]

    def _set(self, one: Snapshot | None, strength: float) -> None:
        if self._on != one or self._composition is None:
            self._stack.close()
            self._composition, self._whole, self._on = None, None, one
            method = find(self._recipe.method.name)
            whole = one is not None and method.whole_model
            mine = [Requested(path) for path in one.paths] if one and not whole else []
            about = states.Files.of(method), with_outside([method.name])
            composed = compose.compose(self.model, [*self._below, *mine], *about, warn=self._note)
            self._composition = self._stack.enter_context(composed)
            if one is not None and whole:
                self._whole = method.restore(self.model, self._read_whole(one.paths[0]))
                self._stack.callback(self._whole.detach)
        if self._whole is not None:
            self._whole.set_strength(strength)
        for number in range(len(self._below), len(self._composition.parts)):
            self._composition.set_strength(number, strength)

    def _read_whole(self, path: Path) -> Artifact:
        """A DreamBooth result, or its saved state, as the tensors of a whole model.

        Raises:
            FormatError: TR011, the state is not whole.
        """
        family = self.model.facts.family
        if (path / "manifest.json").is_file():
            state = checkpoint.load(path)
            return Artifact(self._recipe.method.name, family, {**state.weights, **state.average})
        device, precision = self._asked
        tuned = load(str(path), tokenizer=self._recipe.base.tokenizer, device=device, precision=precision)
        return Artifact(self._recipe.method.name, family, model_tensors(tuned))

    def _note(self, warned: Warned) -> None:
        if warned not in self.notes:
            self.notes.append(warned)


def _stamp(name: str) -> list[tuple[str, int, int]]:
    """What tells a file or folder from what it was before; nothing for a name."""
    path = at_home(name)
    files = [path] if path.is_file() else sorted(path.glob("*/*.safetensors")) if path.is_dir() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
