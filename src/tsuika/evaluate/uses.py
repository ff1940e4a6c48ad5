"""How each program uses a run's result: which folder it goes into, and what to type there.

Sources: A1111's and Forge's `models/` trees, ComfyUI's `models/` tree and nodes, diffusers' loaders, sd-scripts'
gen_img.py and its options.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tsuika.core.texts import Text, _


@dataclass(frozen=True)
class Use:
    """How one program uses a result.

    Attributes:
        program: its name.
        how: what to do with the file and with `paste`.
        paste: text to copy into it.
        file: name of the file that goes into a folder of the program; empty where none does.
        folder: that folder.
        note: what else to know.
    """

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
    # An example, without any program's own syntax.
    prompt: str
    # Of its files, in the run folder.
    paths: tuple[str, ...]


def uses(result: Result) -> tuple[Use, ...]:
    """How each program uses the result; empty for an unknown method and for a run without files."""
    make = _MAKERS.get(result.method)
    return tuple(make(result)) if make and result.paths else ()


def _first(paths: Sequence[str], suffix: str) -> PurePosixPath | None:
    return next((PurePosixPath(path) for path in paths if PurePosixPath(path).suffix == suffix), None)


def _in_tsuika(result: Result, file: PurePosixPath, flag: str) -> Use:
    base = "" if result.base == "embedded" or flag == "--base" else f"--base {shlex.quote(result.base)} "
    prompt, path, image = map(shlex.quote, (result.prompt, str(file), f"{file.stem}.png"))
    command = f"tsuika generate {base}--prompt {prompt} {flag} {path} --out {image}"
    return Use("tsuika", _("On this machine, in the folder of the run:"), command)


def _in_diffusers(result: Result, lines: Sequence[str], source: str = "", prompt: str = "") -> Use:
    pipeline = "StableDiffusionXLPipeline" if result.family == "sdxl" else "StableDiffusionPipeline"
    source = source or result.base
    opened = "from_single_file" if source.endswith((".safetensors", ".ckpt")) else "from_pretrained"
    drawn = json.dumps(prompt or result.prompt, ensure_ascii=False)
    program = [
        f"from diffusers import {pipeline}",
        "",
        f"pipe = {pipeline}.{opened}({json.dumps(source)})",
        *lines,
        f'pipe({drawn}).images[0].save("{result.method}.png")',
    ]
    return Use("diffusers", _("In Python:"), "\n".join(program))


def _in_sd_scripts(result: Result, options: Sequence[str], source: str = "", prompt: str = "") -> Iterator[Use]:
    """sd-scripts' own generation program, which cannot open the embedded base."""
    if result.base == "embedded" and not source:
        return
    family = {"sd2": ["--v2"], "sdxl": ["--sdxl"]}.get(result.family, [])
    words = ["python", "gen_img.py", "--ckpt", source or result.base, *family, *options]
    words += ["--prompt", prompt or result.prompt, "--outdir", "out", "--sdpa"]
    how = _("In the folder of sd-scripts, with the full path of the file:")
    v = _("Add `--v_parameterization` if the base model predicts v (the 768 px models).")
    yield Use("sd-scripts", how, " ".join(map(shlex.quote, words)), note=v if result.family == "sd2" else None)


def _paste(program: str, file: PurePosixPath, folder: str, paste: str, note: Text) -> Use:
    how = _("Put `{file}` into `{folder}` and paste this into the prompt:", file=file.name, folder=folder)
    return Use(program, how, paste, file.name, folder, note)


def _node(program: str, file: PurePosixPath, folder: str, node: str, prompt: str, note: Text | None = None) -> Use:
    how = _(
        "Put `{file}` into `{folder}` and add the node `{node}` between the checkpoint and the sampler. Prompt:",
        file=file.name,
        folder=folder,
        node=node,
    )
    return Use(program, how, prompt, file.name, folder, note)


def _of_lora(result: Result) -> Iterator[Use]:
    if (file := _first(result.paths, ".safetensors")) is None:
        return
    yield _in_tsuika(result, file, "--lora")
    strength = _("The number after the last colon is the strength; try 0.6 to 1.")
    yield _paste("A1111 / Forge", file, "models/Lora/", f"{result.prompt} <lora:{file.stem}:1>", strength)
    no_tag = _("In ComfyUI the prompt has no `<lora:…>` tag.")
    yield _node("ComfyUI", file, "models/loras/", "Load LoRA", result.prompt, no_tag)
    # The embedded base has no address that diffusers could load.
    if result.base != "embedded":
        load = f"pipe.load_lora_weights({json.dumps(str(file.parent))}, weight_name={json.dumps(file.name)})"
        yield _in_diffusers(result, [load])
    yield from _in_sd_scripts(result, ["--network_module", "networks.lora", "--network_weights", str(file)])


def _of_embedding(result: Result) -> Iterator[Use]:
    if (file := _first(result.paths, ".safetensors")) is None:
        return

    def prompt(word: str) -> str:
        """The prompt with the new word as this program calls it."""
        if not result.trigger:
            return f"{result.prompt}, {word}"
        return re.sub(re.escape(result.trigger), lambda match: word, result.prompt, flags=re.IGNORECASE)

    def in_folder(program: str, folder: str, word: str, note: Text | None = None) -> Use:
        how = _(
            "Put `{file}` into `{folder}` and write its name into the prompt where the new word belongs:",
            file=file.name,
            folder=folder,
        )
        return Use(program, how, prompt(word), file.name, folder, note)

    yield _in_tsuika(result, file, "--embedding")
    renamed = _(
        "The word is the name of the file: rename the file and the word is renamed. `(name:0.8)` makes it weaker."
    )
    yield in_folder("A1111 / Forge", "embeddings/", file.stem, renamed)
    yield in_folder("ComfyUI", "models/embeddings/", f"embedding:{file.stem}")
    if result.base != "embedded":
        where, token = json.dumps(str(file)), json.dumps(file.stem)
        lines = [f"pipe.load_textual_inversion({where}, token={token})"]
        if result.family == "sdxl":
            lines = [
                "from safetensors.torch import load_file",
                f"vectors, name = load_file({where}), {token}",
                'pipe.load_textual_inversion(vectors["clip_l"], name, pipe.tokenizer, pipe.text_encoder)',
                'pipe.load_textual_inversion(vectors["clip_g"], name, pipe.tokenizer_2, pipe.text_encoder_2)',
            ]
        yield _in_diffusers(result, lines, prompt=prompt(file.stem))
    yield from _in_sd_scripts(result, ["--textual_inversion_embeddings", str(file)], prompt=prompt(file.stem))


def _of_checkpoint(result: Result) -> Iterator[Use]:
    file, folder = _first(result.paths, ".safetensors"), _first(result.paths, "")
    if file is None:
        return

    def as_model(program: str, place: str, note: Text | None = None) -> Use:
        how = _(
            "Put `{file}` into `{folder}`, choose it as the model, and use a prompt like this:",
            file=file.name,
            folder=place,
        )
        return Use(program, how, result.prompt, file.name, place, note)

    yield _in_tsuika(result, folder or file, "--base")
    yaml = _(
        "If there is a `.yaml` file of the same name, put it into the same folder: it says that the model predicts v."
    )
    yield as_model("A1111 / Forge", "models/Stable-diffusion/", yaml)
    yield as_model("ComfyUI", "models/checkpoints/")
    yield _in_diffusers(result, [], source=str(folder or file))
    if result.base != "embedded":
        yield from _in_sd_scripts(result, [], source=str(file))


def _of_hypernetwork(result: Result) -> Iterator[Use]:
    if (file := _first(result.paths, ".pt")) is None:
        return
    yield _in_tsuika(result, file, "--hypernetwork")
    forge = _("The number is the strength. Forge lists hypernetworks but does not apply them.")
    yield _paste("A1111", file, "models/hypernetworks/", f"{result.prompt} <hypernet:{file.stem}:1>", forge)
    yield _node("ComfyUI", file, "models/hypernetworks/", "HypernetworkLoader", result.prompt)


_MAKERS = {
    "lora": _of_lora,
    "textual-inversion": _of_embedding,
    "dreambooth": _of_checkpoint,
    "hypernetwork": _of_hypernetwork,
}
