"""How each program uses a run's result: which folder it goes into, and what to type there. What the methods share.
Folders, prompt syntax and what each program cannot do: A1111's and Forge's `models/` trees, ComfyUI's `models/` tree
and nodes, diffusers' loaders, sd-scripts' gen_img.py and its options."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tsuika.core.texts import Text, _
from tsuika.families import family


@dataclass(frozen=True)
class Use:
    """How one program uses a result: what to do with the file and with `paste`, the text to copy into it; the file's
    name and the program's folder that it goes into (empty where none does); what else to know."""

    program: str
    how: Text
    paste: str
    file: str = ""
    folder: str = ""
    note: Text | None = None


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

    @property
    def is_joint(self) -> bool:
        """Whether it is for SD3: A1111 1.10.1 and sd-scripts' `gen_img.py` then apply nothing, and diffusers loads only
        LoRA folders and whole models."""
        return family(self.family).facts.attention == "joint"

    def first(self, suffix: str) -> PurePosixPath | None:
        """Its first file with this suffix; of an empty suffix its first folder."""
        return next((path for path in map(PurePosixPath, self.paths) if path.suffix == suffix), None)


def in_tsuika(result: Result, flag: str = "--artifact", file: PurePosixPath | None = None) -> Iterator[Use]:
    """tsuika's own command line, from the run's folder. `flag` takes the file, by default the first of the result."""
    if not result.paths:
        return
    file = file or PurePosixPath(result.paths[0])
    words = ["tsuika", "generate"]
    words += ["--base", result.base] if not result.on_embedded and flag != "--base" else []
    words += ["--method", result.method] if ":" in result.method else []
    command = shlex.join([*words, "--prompt", result.prompt, flag, str(file), "--out", f"{file.stem}.png"])
    yield Use("tsuika", _("On this machine, in the folder of the run:"), command)


def in_diffusers(result: Result, lines: Sequence[str], *, source: str = "", prompt: str = "") -> Iterator[Use]:
    """A Python script; `lines` load the result after the pipeline was opened from `source` (by default the base)."""
    pipeline = family(result.family).names.model_index["_class_name"]
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
    kind = family(result.family)
    words = ["python", "gen_img.py", "--ckpt", source or result.base, *kind.names.sd_scripts, *options]
    command = shlex.join([*words, "--prompt", prompt or result.prompt, "--outdir", "out", "--sdpa"])
    how = _("In the folder of sd-scripts, with the full path of the file:")
    v = _("Add `--v_parameterization` if the base model predicts v (the 768 px models).")
    yield Use("sd-scripts", how, command, note=v if kind.facts.prediction == "v_prediction" else None)


def text_encoders(result: Result) -> list[tuple[str, str, str]]:
    """Of the result's family: what embedding files call its vectors, and the pipeline's tokenizer and text encoder."""
    return [(tower.embedding, tower.tokenizer, tower.component) for tower in family(result.family).towers]


def by_tag(program: str, file: PurePosixPath, folder: str, paste: str, note: Text) -> Use:
    """A file in a folder, and a tag in the prompt."""
    how = _("Put `{file}` into `{folder}` and paste this into the prompt:", file=file.name, folder=folder)
    return Use(program, how, paste, file.name, folder, note)


def by_node(file: PurePosixPath, folder: str, node: str, prompt: str, note: Text | None = None) -> Use:
    """ComfyUI: a file in a folder, and a node."""
    how = _(
        "Put `{file}` into `{folder}` and add the node `{node}` between the checkpoint and the sampler. Prompt:",
        file=file.name,
        folder=folder,
        node=node,
    )
    return Use("ComfyUI", how, prompt, file.name, folder, note)
