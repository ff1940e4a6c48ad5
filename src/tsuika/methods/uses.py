"""How each program uses a run's result: which folder it goes into, and what to type there. What the methods share.

Folders, prompt syntax and what each program cannot do: A1111's and Forge's `models/` trees, ComfyUI's `models/` tree and
nodes, diffusers' loaders, sd-scripts' gen_img.py and its options.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tsuika.core.texts import _


@dataclass(frozen=True)
class Use:
    """One program: what to say first (of the file and its folder), what to say then, and text to paste.

    `then` and `note` are `Text`, empty for nothing; so are `file` and `folder` where no file has to be moved.
    """

    program: str
    then: str
    paste: str
    file: str = ""
    folder: str = ""
    note: str = ""

    @property
    def intro(self) -> str:
        """What is said before the folder; empty where no file has to be moved."""
        return _("Put `{file}` into", file=self.file) if self.file else ""


@dataclass(frozen=True)
class Result:
    """What of a run decides how it is used."""

    method: str
    family: str
    base: str
    trigger: str
    prompt: str  # an example, without any program's own syntax
    paths: tuple[str, ...]  # of its files, in the run folder

    @property
    def on_embedded(self) -> bool:
        """Whether it needs the embedded base, which only tsuika can open."""
        return self.base == "embedded"

    def first(self, suffix: str) -> PurePosixPath | None:
        """Its first file with this suffix; of an empty suffix its first folder."""
        return next((path for path in map(PurePosixPath, self.paths) if path.suffix == suffix), None)


def in_tsuika(result: Result, flag: str = "--artifact", file: PurePosixPath | None = None) -> Iterator[Use]:
    """tsuika's own command line, from the run's folder.

    Args:
        flag: Takes the file.
        file: By default the first of the result.
    """
    file = file or PurePosixPath(result.paths[0])
    words = ["tsuika", "generate"]
    words += ["--base", result.base] if not result.on_embedded and flag != "--base" else []
    words += ["--method", result.method] if ":" in result.method else []
    command = shlex.join([*words, "--prompt", result.prompt, flag, str(file), "--out", f"{file.stem}.png"])
    yield Use("tsuika", _("On this machine, from the run's folder:"), command)


def in_diffusers(result: Result, lines: Sequence[str], *, source: str = "", prompt: str = "") -> Iterator[Use]:
    """A Python script; `lines` load the result after the pipeline was opened from `source` (by default the base)."""
    pipeline = "StableDiffusionXLPipeline" if result.family == "sdxl" else "StableDiffusionPipeline"
    source = source or result.base
    opened = "from_single_file" if source.endswith((".safetensors", ".ckpt")) else "from_pretrained"
    drawn = json.dumps(prompt or result.prompt, ensure_ascii=False)
    script = [
        f"from diffusers import {pipeline}",
        "",
        f"pipe = {pipeline}.{opened}({json.dumps(source)})",
        *lines,
        f'pipe({drawn}).images[0].save("{result.method}.png")',
    ]
    yield Use("diffusers", _("In Python:"), "\n".join(script))


def in_sd_scripts(result: Result, options: Sequence[str], *, source: str = "", prompt: str = "") -> Iterator[Use]:
    """sd-scripts' own drawing program."""
    family = {"sd2": ["--v2"], "sdxl": ["--sdxl"]}.get(result.family, [])
    words = ["python", "gen_img.py", "--ckpt", source or result.base, *family, *options]
    command = shlex.join([*words, "--prompt", prompt or result.prompt, "--outdir", "out", "--sdpa"])
    note = _("Add `--v_parameterization` if the base predicts v (the 768 px models).") if result.family == "sd2" else ""
    yield Use("sd-scripts", _("In the folder of sd-scripts, with the file's path in full:"), command, note=note)
