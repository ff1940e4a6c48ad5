"""`generate`: images of a drawing, with artifacts at their strengths."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from tsuika import families
from tsuika.api.display import gallery
from tsuika.api.models import EMBEDDED, defaults_of, load, public, remarks
from tsuika.api.run import Events, starts
from tsuika.api.states import Files
from tsuika.config import prompt_lines
from tsuika.core import files
from tsuika.core.errors import FormatError, RecipeError
from tsuika.core.events import Event, Phase, Progress, Warned, note
from tsuika.core.files import at_home, sha256, split_strength
from tsuika.core.safetensors import header_or_none
from tsuika.core.texts import _, listed
from tsuika.core.types import Model
from tsuika.generation import compose, pipeline, png_info
from tsuika.generation.compose import Combination, Composition, Requested, describe
from tsuika.generation.drawing import FLAGS, Drawing
from tsuika.generation.lookup import Library
from tsuika.generation.prompt import Tag, parse, without_tags
from tsuika.methods import METHODS, Method, with_outside


@dataclass(frozen=True)
class Drawn(Event):
    """An image is written."""

    path: str
    seed: int


@dataclass(frozen=True)
class Generated:
    """Images that are written, and what was applied to the base.

    Attributes:
        images: the files that were written.
        combination: what was applied to the base, and how strongly.
        notes: findings.
    """

    images: tuple[Path, ...]
    combination: Combination
    notes: tuple[Warned, ...]

    def to_dict(self) -> dict[str, Any]:
        """As `tsuika generate --json` prints it."""
        return {"pictures": list(map(str, self.images)), **asdict(self.combination), "notes": list(self.notes)}

    def _repr_html_(self) -> str:
        return gallery(self.images)


def as_drawing(request: Drawing | str, settings: Mapping[str, Any]) -> Drawing:
    """A drawing, of a prompt and its fields or as it is.

    Raises:
        RecipeError: a number that cannot be (RC002).
        TypeError: there is no such field.
    """
    return Drawing(request, **settings) if isinstance(request, str) else replace(request, **settings)


@starts
def generate(
    drawing: Drawing | str,
    out: Path | str,
    *,
    num: int = 1,
    prompts: Path | str | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Events[Generated]:
    """Draw `num` images, at seed, seed + 1, ...: into the file `out` if it is one `.png`, else into that folder.

    In a folder an image is called by its seed, and has a number behind it where one of that name is there. What is drawn
    is written at once, a few images at a time.

    Args:
        drawing: what is drawn, or just its prompt.
        out: the file or folder.
        num: how many, of each prompt.
        prompts: a file with prompts, one a line, in place of the drawing's; options in kohya's form may follow
            (`config.prompt_lines`), and stand above the drawing's own.
        overwrite: whether a file may be replaced.
        settings: fields of `Drawing`: `lora=("cat.safetensors:0.8",), seed=3`.

    Raises:
        TsuikaError: a file that is missing or made for another family, a size, seed or sampler that cannot be, or an
            `out` that is there already (RC007) and may not be replaced.
    """
    drawing, out = as_drawing(drawing, settings), Path(out)
    if num < 1:
        raise RecipeError("RC002", key="num", found=num, why="≥ 1")
    drawings = [drawing] if prompts is None else list(_by_line(drawing, Path(prompts)))
    for one in drawings:
        replace(one, seed=one.seed + num - 1)  # this seed must be one, too
    file = out if num == len(drawings) == 1 and out.suffix.lower() == ".png" else None
    folder = file.parent if file else out.with_suffix("") if out.suffix.lower() == ".png" else out
    files.check_out(file, overwrite=overwrite) if file else files.check_place(folder, is_folder=True)
    written: list[Path] = []
    with Renderer() as renderer:
        for one in drawings:
            check_strengths([one], renderer.requests(one))
        yield Phase("load")
        combination = renderer.set_up(drawings[0])
        yield from renderer.notes
        yield Phase("draw", num * len(drawings))
        for place, each in enumerate(drawings):
            renderer.set_up(each)
            beginning = f"{place:02d}-" if prompts is not None else ""
            for first in range(each.seed, each.seed + num, pipeline.BATCH):
                some = replace(each, seed=first)
                for number, image in enumerate(renderer.draw(some, min(pipeline.BATCH, each.seed + num - first))):
                    one = replace(each, seed=first + number)
                    path = file or files.unused(folder, f"{beginning}{one.seed:05d}", ".png")
                    png_info.write_png(path, image, renderer.info(one, image.size), renderer.own(one))
                    written.append(path)
                    yield Drawn(str(path), one.seed)
                    yield Progress("draw", len(written), num * len(drawings))
    return Generated(tuple(written), combination, tuple(renderer.notes))


def _by_line(drawing: Drawing, file: Path) -> Iterator[Drawing]:
    for text in prompt_lines.read(file, key="--prompts FILE"):
        line = prompt_lines.parse(text)
        own = {name: getattr(line, name) for name in ("negative", "seed", "cfg", "steps", "sampler")}
        own["size"] = line.size_px and "x".join(map(str, line.size_px))
        yield replace(drawing, prompt=line.prompt, **{name: value for name, value in own.items() if value is not None})


class Renderer:
    """A base with artifacts on it that goes from one drawing to the next and loads only what differs.

    `notes` are the warnings so far, each once.
    """

    def __init__(self) -> None:
        self.notes: list[Warned] = []
        self._base: tuple[object, ...] = ()
        self._model: Model | None = None
        self._vaes: dict[str, nn.Module] = {}
        self._composition: Composition | None = None
        self._library = cache(Library.of)
        self._hashes: dict[str, str | None] = {}
        self._sha256 = cache(lambda path: sha256(path)[:10] if path.is_file() else None)

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self._take_off()

    @property
    def model(self) -> Model:
        """The base that is set up."""
        assert self._model is not None, "set_up comes first"
        return self._model

    def set_up(self, drawing: Drawing) -> Combination:
        """Make the model ready for a drawing, and tell what is on it.

        Raises:
            TsuikaError: a file that is missing, or that does not fit.
        """
        requests = self.requests(drawing)
        asked = (drawing.base, drawing.tokenizer, drawing.device, drawing.precision, drawing.overrides)
        if asked != self._base:
            self._take_off()
            self._model, self._vaes, self._base = None, {}, ()  # the old one goes before the new one comes
            self._model = load(
                drawing.base,
                tokenizer=drawing.tokenizer,
                vae=drawing.vae,
                device=drawing.device,
                precision=drawing.precision,
                overrides=drawing.overrides,
            )
            self._vaes, self._base = {drawing.vae: self._model.vae}, asked
            for told in remarks(self._model):
                self._note(told)
        if drawing.vae not in self._vaes:
            self._vaes[drawing.vae] = families.load_vae(self.model, drawing.vae, embedded_path=EMBEDDED)
        self.model.vae = self._vaes[drawing.vae]
        return describe(self._set_artifacts(requests, with_outside(drawing.method)))

    def draw(self, drawing: Drawing, num: int = 1) -> list[Image.Image]:
        """Images of what was set up, at seed, seed + 1, ...

        Raises:
            RecipeError: size, steps, num or sampler that cannot be (RC002).
        """
        pixels = pipeline.sample(
            self.model,
            parse(drawing.prompt),
            negative=drawing.negative,
            seed=drawing.seed,
            num=num,
            steps=drawing.steps,
            cfg=drawing.cfg,
            sampler=drawing.sampler,
            size_px=_size(drawing.size),
            defaults=defaults_of(self.model),
            warn=self._note,
        )
        return pipeline.to_images(pixels)

    def info(self, drawing: Drawing, size_px: tuple[int, int]) -> png_info.GenerationInfo:
        """What the image's `parameters` say: the prompt has a tag for every artifact at the strength it was drawn."""
        defaults, parts = defaults_of(self.model), self._composition.parts if self._composition else ()
        tags = []
        for part in parts:
            one = part.request
            if tag := METHODS[part.method].tag if part.method in METHODS else "":
                text = one.strength if one.text_strength is None else one.text_strength
                tags.append(str(Tag(tag, one.path.stem, one.strength, text)))
        prompt = " ".join([without_tags(drawing.prompt), *tags])
        hashes: dict[str, dict[str, str]] = {png_info.LORA_HASHES: {}, png_info.TI_HASHES: {}}
        for part in parts:
            field = METHODS[part.method].png_hashes if part.method in METHODS else ""
            if field and (digest := self._short(part, tensors_only=field == png_info.LORA_HASHES)):
                hashes[field][part.request.called or part.request.path.stem] = digest
        vae = None if drawing.vae == "builtin" else drawing.vae
        return png_info.GenerationInfo(
            prompt,
            drawing.negative,
            steps=drawing.steps or defaults.steps,
            sampler=drawing.sampler or defaults.sampler,
            cfg=defaults.cfg if drawing.cfg is None else drawing.cfg,
            seed=drawing.seed,
            size_px=size_px,
            model=Path(self.model.source).name,
            model_hash=(self.model.sha256 or "")[:10] or None,
            vae=vae and Path(vae).name,
            vae_hash=vae and self._sha256(at_home(vae)),
            clip_skip=drawing.clip_skip if drawing.clip_skip > 1 else None,
            lora_hashes=hashes[png_info.LORA_HASHES],
            ti_hashes=hashes[png_info.TI_HASHES],
            version=f"tsuika {version('tsuika')}",
        )

    def own(self, drawing: Drawing) -> dict[str, Any]:
        """The recipe of the combination, for tsuika's own text in an image: files by name and hash, no folders."""
        assert self._composition is not None, "set_up comes first"
        told = asdict(describe(self._composition))
        for key, fields in (("artifacts", ("file",)), ("refused", ("file",)), ("conflicts", ("first", "second"))):
            told[key] = [{**row, **{name: Path(row[name]).name for name in fields}} for row in told[key]]
        return {"prompt": drawing.prompt, "base": public(drawing.base), "vae": public(drawing.vae), **told}

    def requests(self, drawing: Drawing) -> list[Requested]:
        """The artifacts of a drawing: by flag, by tag, by word.

        Raises:
            FormatError: the folder to look in is not there (FM004).
            ModelError: a tag names none (MD006), or a name stands for several files (MD021).
        """
        flags = [
            Requested(*split_strength(text), method=method)
            for flag, method in FLAGS.items()
            for text in getattr(drawing, flag)
        ]
        if drawing.artifacts is not None and not drawing.artifacts.is_dir():
            raise FormatError("FM004", where=drawing.artifacts)
        library, files = self._library(drawing.artifacts), Files()
        parsed = parse(drawing.prompt)
        flags += library.tagged(parsed.tags, files) if parsed.tags else []
        at_hand = {one.path.stem for one in flags if not one.method or METHODS[one.method].adds_words}
        base = at_home(drawing.base)
        if header := header_or_none(base) if base.is_file() else None:
            # A tuned model that is one file calls for its words as an artifact does.
            at_hand |= set(re.split(r"[\s,]+", header.metadata.get("modelspec.trigger_phrase", "")))
        negative = parse(drawing.negative)
        for tag in negative.tags:
            self._note(note("GN003", found=tag))
        texts = [parsed.text, negative.text]
        requests = [*flags, *library.embeddings(texts, files, at_hand, self._note)]
        there = {name.casefold() for name in at_hand} | {one.called.casefold() for one in requests}
        for name in (*parsed.words, *negative.words):
            if name.casefold() not in there:
                requests.append(library.embedding(name, files))
        for name, strength in drawing.strengths:
            for row, one in enumerate(requests):
                if name in ("", one.path.stem):
                    requests[row] = replace(one, strength=strength, text_strength=None)
        return requests

    def _set_artifacts(self, requests: list[Requested], methods: dict[str, Method]) -> Composition:
        def files(many: list[Requested]) -> list[Requested]:
            return [replace(one, strength=1.0, text_strength=None) for one in many]

        if self._composition:
            now = [part.request for part in self._composition.parts]
            refused = files([request for request, _error in self._composition.refused])
            usable = [one for one, neutral in zip(requests, files(requests)) if neutral not in refused]
            if files(now) == files(usable):
                for number, (old, new) in enumerate(zip(now, usable)):
                    if old != new:
                        self._composition.set_strength(number, new.strength, new.text_strength)
                return self._composition
        self._take_off()
        self._composition = compose.compose(self.model, requests, Files.of(*methods.values()), methods, warn=self._note)
        return self._composition

    def _take_off(self) -> None:
        if self._composition:
            self._composition.detach()
            self._composition = None

    def _short(self, part: compose.Applied, *, tensors_only: bool) -> str | None:
        key = str(part.request.path)
        if key not in self._hashes:
            self._hashes[key] = png_info.short_hash(part.request.path, part.sha256, tensors_only=tensors_only)
        return self._hashes[key]

    def _note(self, warned: Warned) -> None:
        if warned not in self.notes:
            self.notes.append(warned)


def check_strengths(drawings: Iterable[Drawing], requests: Iterable[Requested]) -> None:
    """Every strength is of some artifact.

    Raises:
        RecipeError: one is of none (RC002).
    """
    known = {one.path.stem for one in requests}
    for name, strength in {pair for drawing in drawings for pair in drawing.strengths}:
        if name not in known and (name or not known):
            if known:
                why = _(
                    "`{name}` is none of the files that are applied: {known}", name=name, known=listed(sorted(known))
                )
            else:
                why = _("There is nothing whose strength it is: give a file, for example --lora FILE.")
            raise RecipeError("RC002", key="strength", found=strength, why=why)


def check_files(drawings: Collection[Drawing], requests: Iterable[Requested]) -> None:
    """Every base, VAE and artifact is there, as far as headers show it: said before the first image, not when its turn comes.

    Raises:
        TsuikaError: the first that cannot be used.
    """
    for base, vae in dict.fromkeys((one.base, one.vae) for one in drawings):
        families.check(base, vae)
    methods = [method for name in {one.method for one in drawings} for method in with_outside(name).values()]
    reader = Files.of(*methods)
    for path in dict.fromkeys(one.path for one in requests if not one.called):
        reader.find(path)


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    width, _x, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise RecipeError("RC002", key="size", found=text, why=_("WIDTHxHEIGHT, e.g. 512x768"))
    return int(width), int(height)
