"""`tsuika`: parse, call `tsuika.api`, print. No logic, and no torch until a command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from tsuika.cli import advise, check, drawing, evaluate, screen, searching, tools
from tsuika.cli import vae as vae_commands
from tsuika.cli.flags import BaseModel, ClassWord, Device, Images, Json, Method, RecipeFile, Set, Trigger, Vae, built

app = typer.Typer(
    name="tsuika",
    help="Additional training (追加学習) for Stable Diffusion: from a folder of pictures to a file that works in your program.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    lang: Annotated[str, typer.Option("--lang", help="Language of messages: en, ja or auto.")] = "auto",
) -> None:
    """Set what all commands share."""
    screen.use_language(lang, os.environ.get("TSUIKA_LANG") or os.environ.get("LC_ALL") or os.environ.get("LANG") or "")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")] = Path("tsuika-demo"),
    steps: Annotated[Optional[int], typer.Option("--steps", help="Training steps.")] = None,
    json: Json = False,
) -> None:
    """Teach the embedded base a new character, and show it before and after: a few minutes on 2 CPU cores."""
    from tsuika import api

    screen.follow(api.demo(out, steps=steps, language=screen.page_language()), out, as_json=json)


@app.command()
def train(
    method: Method = "",
    images: Images = "",
    out: Annotated[Optional[Path], typer.Option("--out", help="Run folder to make.")] = None,
    base: BaseModel = "",
    trigger: Trigger = "",
    class_word: ClassWord = "",
    recipe: RecipeFile = None,
    set_: Set = None,
    steps: Annotated[Optional[int], typer.Option("--steps", help="Training steps.")] = None,
    seed: Annotated[Optional[int], typer.Option("--seed", help="Seed.")] = None,
    reg_images: Annotated[
        str, typer.Option("--reg-images", help="Folder of class pictures without the subject (prior preservation).")
    ] = "",
    vae: Vae = "",
    guard: Annotated[
        str, typer.Option("--guard", help="on: stop when nothing is gained any more; warn: only say so; off.")
    ] = "",
    folds: Annotated[
        Optional[int], typer.Option("--folds", help="Cross-validation folds; 0 chooses by the number of pictures.")
    ] = None,
    device: Device = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the recipe, train nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Train on a folder of pictures."""
    from tsuika.core.errors import RecipeError

    flags = {
        "method.name": method,
        "data.images": images,
        "base.model": base,
        "data.trigger": trigger,
        "data.class_word": class_word,
        "data.reg_images": reg_images,
        "train.steps": steps,
        "train.seed": seed,
        "base.vae": vae,
        "train.device": device,
        "guard.mode": guard,
        "guard.folds": folds,
    }
    wish = built(recipe, flags, set_)
    if out is None:
        raise RecipeError("RC005", found="--out", do=f"tsuika train {wish.method.name} --images DIR --out RUN")
    if dry_run:
        from tsuika import api

        screen.told(api.dry_run(wish, out), as_json=json)
        return
    from tsuika import api

    screen.follow(api.train(wish, out, language=screen.page_language()), out, as_json=json)


@app.command()
def resume(run: Annotated[Path, typer.Argument(help="Run folder.")], json: Json = False) -> None:
    """Go on exactly where a run stopped."""
    from tsuika import api

    screen.follow(api.resume(run, language=screen.page_language()), run, as_json=json)


app.command()(advise.advise)
app.command()(check.check)
app.command()(drawing.generate)
app.command()(drawing.grid)
app.command()(evaluate.evaluate)
tools.register(app)
searching.register(app)
app.add_typer(vae_commands.app, name="vae")


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="Any model or LoRA file.")], json: Json = False) -> None:
    """Say what a file is, from its header alone; nothing in it is ever run."""
    from tsuika import api

    screen.result(api.inspect(file), as_json=json)


@app.command()
def settings(
    key: Annotated[str, typer.Argument(help="Show only settings whose key contains this.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="As the settings page of the documentation.")] = False,
) -> None:
    """List every setting of a recipe with its default and meaning."""
    from tsuika.cli import settings_page

    screen.print_out(
        settings_page.markdown(screen.language(), key) if markdown else settings_page.table(screen.language(), key)
    )


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine has: device, memory, disk, libraries."""
    from tsuika import api

    screen.result(api.doctor(), as_json=json)


def main() -> None:
    """The program: errors become one block and an exit status, never a traceback on the screen."""
    screen.run(app, sys.argv[1:])
