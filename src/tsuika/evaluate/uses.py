"""How each program uses a run's result: which folder it goes into, and what to type there.

Folders, prompt syntax and what each program cannot do: A1111's and Forge's `models/` trees, ComfyUI's `models/` tree and
nodes, diffusers' loaders, sd-scripts' gen_img.py and its options.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Use:
    """One program: what to say first (with the file and its folder), what to say then, and text to paste.

    `intro`, `then` and `note` are keys of `report_texts.TEXTS`, empty for nothing.
    """

    program: str
    file: str
    intro: str
    folder: str
    then: str
    paste: str
    note: str = ""


@dataclass(frozen=True)
class Result:
    """What of a run decides how it is used."""

    method: str
    family: str
    base: str
    trigger: str
    prompt: str  # an example, without any program's own syntax
    paths: tuple[str, ...]  # of its files, in the run folder


def uses(result: Result) -> tuple[Use, ...]:
    """How each program uses the result; nothing for a method that is not known or has no files."""
    make = _MAKERS.get(result.method)
    return tuple(make(result)) if make and result.paths else ()


def _first(paths: Sequence[str], suffix: str) -> PurePosixPath | None:
    return next((PurePosixPath(path) for path in paths if PurePosixPath(path).suffix == suffix), None)


def _command(result: Result, file: PurePosixPath, flag: str, prompt: str = "") -> str:
    base = "" if result.base == "embedded" or flag == "--base" else f"--base {shlex.quote(result.base)} "
    words = shlex.quote(prompt or result.prompt)
    return f"tsuika generate {base}--prompt {words} {flag} {shlex.quote(str(file))} --out {shlex.quote(file.stem + '.png')}"


def _python(result: Result, lines: Sequence[str], source: str = "", prompt: str = "") -> str:
    pipeline = "StableDiffusionXLPipeline" if result.family == "sdxl" else "StableDiffusionPipeline"
    source = source or result.base
    opened = "from_single_file" if source.endswith((".safetensors", ".ckpt")) else "from_pretrained"
    drawn = json.dumps(prompt or result.prompt, ensure_ascii=False)
    return "\n".join(
        [
            f"from diffusers import {pipeline}",
            "",
            f"pipe = {pipeline}.{opened}({json.dumps(source)})",
            *lines,
            f'pipe({drawn}).images[0].save("{result.method}.png")',
        ]
    )


def _sd_scripts(result: Result, options: Sequence[str], source: str = "", prompt: str = "") -> Iterator[Use]:
    """sd-scripts' own drawing program; the embedded base is none that it could open."""
    if result.base == "embedded" and not source:
        return
    family = {"sd2": ["--v2"], "sdxl": ["--sdxl"]}.get(result.family, [])
    words = [
        "python",
        "gen_img.py",
        "--ckpt",
        source or result.base,
        *family,
        *options,
        "--prompt",
        prompt or result.prompt,
    ]
    command = " ".join(map(shlex.quote, [*words, "--outdir", "out", "--sdpa"]))
    yield Use("sd-scripts", "", "", "", "use.sd-scripts", command, "use.sd-scripts.v" if result.family == "sd2" else "")


def _of_lora(result: Result) -> Iterator[Use]:
    if (file := _first(result.paths, ".safetensors")) is None:
        return
    yield Use("tsuika", "", "", "", "use.tsuika", _command(result, file, "--lora"))
    a1111 = f"{result.prompt} <lora:{file.stem}:1>"
    yield Use("A1111 / Forge", file.name, "use.folder", "models/Lora/", "use.prompt", a1111, "use.a1111")
    yield Use("ComfyUI", file.name, "use.folder", "models/loras/", "use.comfyui", result.prompt)
    if result.base != "embedded":  # the embedded base has no address that diffusers could load
        load = f"pipe.load_lora_weights({json.dumps(str(file.parent))}, weight_name={json.dumps(file.name)})"
        yield Use("diffusers", "", "", "", "use.diffusers", _python(result, [load]))
    yield from _sd_scripts(result, ["--network_module", "networks.lora", "--network_weights", str(file)])


def _of_embedding(result: Result) -> Iterator[Use]:
    if (file := _first(result.paths, ".safetensors")) is None:
        return

    def asking(name: str) -> str:
        """The prompt with the word as this program calls it."""
        if not result.trigger:
            return f"{result.prompt}, {name}"
        return re.sub(re.escape(result.trigger), lambda _: name, result.prompt, flags=re.IGNORECASE)

    yield Use("tsuika", "", "", "", "use.tsuika", _command(result, file, "--embedding"))
    a1111, comfy = asking(file.stem), asking(f"embedding:{file.stem}")
    yield Use("A1111 / Forge", file.name, "use.folder", "embeddings/", "use.word", a1111, "use.word.name")
    yield Use("ComfyUI", file.name, "use.folder", "models/embeddings/", "use.word", comfy)
    if result.base != "embedded":
        where, token = json.dumps(str(file)), json.dumps(file.stem)
        if result.family == "sdxl":
            lines = [
                "from safetensors.torch import load_file",
                f"vectors, name = load_file({where}), {token}",
                'pipe.load_textual_inversion(vectors["clip_l"], name, pipe.tokenizer, pipe.text_encoder)',
                'pipe.load_textual_inversion(vectors["clip_g"], name, pipe.tokenizer_2, pipe.text_encoder_2)',
            ]
        else:
            lines = [f"pipe.load_textual_inversion({where}, token={token})"]
        yield Use("diffusers", "", "", "", "use.diffusers", _python(result, lines, prompt=asking(file.stem)))
    yield from _sd_scripts(result, ["--textual_inversion_embeddings", str(file)], prompt=asking(file.stem))


def _of_checkpoint(result: Result) -> Iterator[Use]:
    file, folder = _first(result.paths, ".safetensors"), _first(result.paths, "")
    if file is None:
        return
    yield Use("tsuika", "", "", "", "use.tsuika", _command(result, folder or file, "--base"))
    yield Use(
        "A1111 / Forge",
        file.name,
        "use.folder",
        "models/Stable-diffusion/",
        "use.checkpoint",
        result.prompt,
        "use.yaml",
    )
    yield Use("ComfyUI", file.name, "use.folder", "models/checkpoints/", "use.checkpoint", result.prompt)
    yield Use("diffusers", "", "", "", "use.diffusers", _python(result, [], source=str(folder or file)))
    if result.base != "embedded":
        yield from _sd_scripts(result, [], source=str(file))


def _of_hypernetwork(result: Result) -> Iterator[Use]:
    if (file := _first(result.paths, ".pt")) is None:
        return
    yield Use("tsuika", "", "", "", "use.tsuika", _command(result, file, "--hypernetwork"))
    a1111 = f"{result.prompt} <hypernet:{file.stem}:1>"
    yield Use("A1111", file.name, "use.folder", "models/hypernetworks/", "use.prompt", a1111, "use.hypernet.others")
    yield Use("ComfyUI", file.name, "use.folder", "models/hypernetworks/", "use.comfyui.hypernet", result.prompt)


_MAKERS = {
    "lora": _of_lora,
    "textual-inversion": _of_embedding,
    "dreambooth": _of_checkpoint,
    "hypernetwork": _of_hypernetwork,
}
