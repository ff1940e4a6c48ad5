"""Base models, ready to draw with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from tsuika import families
from tsuika.core.events import Warned, note
from tsuika.core.files import at_home
from tsuika.core.given import fitting
from tsuika.core.types import AS_STORED, Model, Overrides
from tsuika.generation import pipeline
from tsuika.training.device import DTYPES, pick_device, pick_precision

EMBEDDED = Path(str(files("tsuika.embedded"))) / "base"


@fitting
def load(
    base: str = "embedded",
    *,
    tokenizer: str = "",
    vae: str = "builtin",
    device: str = "auto",
    precision: str = "auto",
    overrides: Overrides = AS_STORED,
) -> Model:
    """A base model, ready to draw with.

    Args:
        base: a diffusers folder, a single file, a Hugging Face model id, or `embedded`.
        tokenizer: a folder, for a base that has none of its own.
        vae: another VAE: a file, a folder or a Hugging Face model id; `builtin`: the base's own.
        device: auto, cpu, cuda, ...
        precision: auto, bf16, fp16 or fp32.
        overrides: what is known better than its files say.

    Raises:
        ModelError: missing, damaged or of no known family.
        NetworkError: the hub was needed and could not be reached.
    """
    place = pick_device(device)
    dtype = DTYPES[pick_precision(precision, place)]
    return families.load(
        base,
        tokenizer=tokenizer,
        vae=vae,
        device=place,
        dtype=dtype,
        embedded_path=EMBEDDED,
        overrides=overrides,
        hashes=cache_folder() / "hashes",
    )


def remarks(model: Model) -> Iterator[Warned]:
    """What somebody who draws with a base should know."""
    if model.inpaints:
        yield note("GN009")
    if (few := model.few_steps) is not None:
        told = {"kind": few.kind, "why": few.why, "steps": few.steps, "cfg": f"{few.cfg:g}", "sampler": few.sampler}
        yield note("GN008", **told)


def defaults_of(model: Model) -> pipeline.Defaults:
    """The base's own sampling defaults; the embedded base is called by name, so its folder is named here."""
    return pipeline.defaults_for(model, EMBEDDED if model.source == "embedded" else None)


def public(spec: str) -> str:
    """A path without its folders; a word or a hub id as it is."""
    return Path(spec).name if at_home(spec).exists() else spec


def cache_folder() -> Path:
    """Where tsuika keeps what it can make again: in the platform's cache folder, else with temporary files."""
    asked = os.environ.get("XDG_CACHE_HOME")
    home = at_home("~/.cache")
    return Path(asked or (home if home.is_absolute() else tempfile.gettempdir())) / "tsuika"
