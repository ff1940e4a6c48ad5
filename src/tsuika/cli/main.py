"""`tsuika`: parse, call `tsuika.api`, print. No logic, and no torch until a command runs."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from tsuika.cli import (
    advise,
    annotating,
    check,
    drawing,
    early,
    evaluate,
    language,
    progress,
    publishing,
    runs,
    screen,
    searching,
    studio,
    tools,
    usage,
)
from tsuika.cli import vae as vae_commands
from tsuika.cli.flags import BaseModel, ClassWord, Device, Images, Json, Method, RecipeFile, Set, Trigger, Vae, built
from tsuika.core.texts import _

app = typer.Typer(
    name="tsuika",
    cls=usage.Group,
    help=_("Additional training for Stable Diffusion: from a folder of images to a file that works in your program."),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(lang: Annotated[str, typer.Option("--lang", help=usage.LANGUAGE)] = language.AUTO) -> None:
    """What all commands share."""
    # `screen.run` has taken the flag off the line already, wherever it was; another caller may not have.
    if lang != language.AUTO:
        language.use(language.chosen(lang, os.environ))


@app.command(
    cls=usage.Command,
    help=_("Train the embedded base model on a new character and compare before and after: minutes on 2 CPU cores."),
)
def demo(
    out: Annotated[Path, typer.Option("--out", help=_("Folder to make."))] = Path("tsuika-demo"),
    steps: Annotated[Optional[int], typer.Option("--steps", help=_("Training steps."))] = None,
    json: Json = False,
) -> None:
    """`tsuika demo`."""
    import tsuika

    progress.follow(tsuika.demo(out, steps=steps, language=language.asked()), out, as_json=json)


@app.command(cls=usage.Command, help=_("Train on a folder of images."))
def train(
    method: Method = "",
    images: Images = "",
    out: Annotated[Optional[Path], typer.Option("--out", help=_("Run folder to make."))] = None,
    base: BaseModel = "",
    trigger: Trigger = "",
    class_word: ClassWord = "",
    recipe: RecipeFile = None,
    set_: Set = None,
    steps: Annotated[Optional[int], typer.Option("--steps", help=_("Training steps."))] = None,
    seed: Annotated[Optional[int], typer.Option("--seed", help=_("Seed."))] = None,
    reg_images: Annotated[
        str, typer.Option("--reg-images", help=_("Folder of regularization images: the class without the subject."))
    ] = "",
    vae: Vae = "",
    guard: Annotated[
        str,
        typer.Option(
            "--guard",
            help=_("Overfitting guard: on stops when the result no longer improves, warn only says so, or off."),
        ),
    ] = "",
    folds: Annotated[
        Optional[int], typer.Option("--folds", help=_("Cross-validation folds; 0 chooses by the number of images."))
    ] = None,
    device: Device = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=_("Check everything, print the recipe, train nothing."))
    ] = False,
    json: Json = False,
) -> None:
    """`tsuika train`."""
    given = locals()
    from tsuika.config import FLAGS
    from tsuika.core.errors import RecipeError

    settings = built(method, recipe, set_, **{name: given[name] for name in FLAGS})
    if out is None:
        raise RecipeError("RC005", found="--out", do=f"tsuika train {settings.method.name} --images DIR --out RUN")
    early.check(base=settings.base.model, vae=settings.base.vae, images=settings.data.images)
    import tsuika

    if dry_run:
        screen.result(tsuika.dry_run(settings, out).result, as_json=json)
    else:
        progress.follow(tsuika.train(settings, out, language=language.asked()), out, as_json=json)


@app.command(cls=usage.Command, help=_("Go on exactly where a training run stopped."))
def resume(run: Annotated[Path, typer.Argument(help=_("Run folder."))], json: Json = False) -> None:
    """`tsuika resume`."""
    early.check(run=run)
    import tsuika

    progress.follow(tsuika.resume(run, language=language.asked()), run, as_json=json)


for command, text in (
    (advise.advise, _("Recommend a method for your images, with a recipe to start from and the evidence for it.")),
    (studio.studio, _("Open the studio: everything in the browser, on this machine.")),
    (runs.status, _("Show what a training run is doing, in this process or another.")),
    (runs.stop, _("Stop a training run between two steps; everything is saved, and it can be resumed.")),
    (runs.sample, _("Have a running training generate its previews now.")),
    (runs.export, _("Copy a result into a program's folder, read it back, with an image and a card beside it.")),
    (
        publishing.publish,
        _(
            "Upload a result to the Hugging Face hub with a model card, or write that into a folder, with a text for Civitai."
        ),
    ),
    (check.check, _("Check a folder of images: unreadable, small, blurred, near-duplicates, captions, variety.")),
    (annotating.mask, _("Make masks for images by a model: shown first, and with --out beside linked copies.")),
    (annotating.caption, _("Write captions for images by a model: shown first, and with --out beside linked copies.")),
    (drawing.generate, _("Generate images, with LoRAs, embeddings and hypernetworks at any strength.")),
    (drawing.grid, _("Compare: one image for every value of up to three axes, on one labelled sheet.")),
    (
        evaluate.evaluate,
        _("Measure a result against the base model: likeness, adherence, diversity, drift and copies, with a verdict."),
    ),
    (tools.convert, _("Write a file in another program's format, read it back and compare.")),
    (tools.merge, _("Merge LoRAs into one (exactly, or to a rank), or into the weights of a base model.")),
    (tools.extract, _("Make a LoRA of what fine-tuning changed in a base model.")),
    (tools.resize, _("Give a LoRA a smaller rank, losing as little as possible.")),
    (
        searching.find_rate,
        _("Find a learning rate: a few steps at several rates, judged by held-out images. Keeps no file."),
    ),
    (
        searching.search,
        _(
            "Search settings by short training runs with the guard, and write the best ones as a recipe. Several"
            " processes, one for each GPU with its --device, may run the same command at once."
        ),
    ),
):
    app.command(cls=usage.Command, help=text)(command)
app.add_typer(vae_commands.app, name="vae")


@app.command(cls=usage.Command, help=_("Say what a file is. Nothing in it is ever run."))
def inspect(
    file: Annotated[Path, typer.Argument(help=_("Any model file, LoRA, VAE or run folder."))], json: Json = False
) -> None:
    """`tsuika inspect`."""
    early.check(file)
    import tsuika

    screen.result(tsuika.inspect(file).result.to_dict(), as_json=json)


@app.command(cls=usage.Command, help=_("List every setting of a recipe with its default and meaning."))
def settings(
    key: Annotated[str, typer.Argument(help=_("Show only settings with this in their key."))] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help=_("As the settings page of the documentation."))] = False,
) -> None:
    """`tsuika settings`."""
    from tsuika.cli import settings_page
    from tsuika.config import settings as known
    from tsuika.core.errors import misspelt

    if not any(key in one.key for one in known()):
        raise misspelt("KEY", key, [one.key for one in known()])
    write = settings_page.markdown if markdown else settings_page.table
    screen.print_out(write(language.current(), key))


@app.command(cls=usage.Command, help=_("Show what this machine has: device, memory, disk, libraries."))
def doctor(json: Json = False) -> None:
    """`tsuika doctor`."""
    import tsuika

    screen.result(tsuika.doctor().result.to_dict(), as_json=json)


def main() -> None:
    """The program: errors become one block and an exit status, never a traceback on the screen."""
    # Torch's threads (GNU OpenMP) wait for each other spinning; beside another busy program that takes 2 to 3 times as long.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Where torchao is installed its import tells of kernels that do not fit this machine, and of names that it has no longer.
    for name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
        logging.getLogger(name).setLevel(logging.ERROR)
    screen.run(app, sys.argv[1:])
