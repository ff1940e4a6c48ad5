"""`tsuika vae`: parse, call `tsuika.api`, print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Optional

import typer

from tsuika.cli import early, language, layout, progress, screen, usage
from tsuika.cli.flags import BaseModel, Device, Json, Overwrite, Vae
from tsuika.cli.language import local
from tsuika.core.texts import Text, _, listed

app = typer.Typer(
    name="vae",
    cls=usage.Group,
    help=_("Compare VAEs on your images, put one into a base model, or tune one."),
    no_args_is_help=True,
)

Images = Annotated[Path, typer.Option("--images", help=_("Folder of images; only read."))]
Seed = Annotated[int, typer.Option("--seed", help=_("Seed."))]
Size = Annotated[
    int, typer.Option("--size", min=0, help=_("Shorter side of the images in px; 0 = the size of the base model."))
]

# Measure, heading, form.
_COLUMNS: Final = (
    ("psnr", _("PSNR"), ".2f"),
    ("ssim", _("SSIM"), ".4f"),
    ("colour", _("ΔE"), ".2f"),
    ("colour_p95", _("ΔE p95"), ".2f"),
    ("chroma", _("chroma"), ".3f"),
    ("texture", _("detail"), ".3f"),
    ("texture_error", _("error"), ".3f"),
)
_PURPOSES: Final[Mapping[str, Text]] = {"texture": _("texture"), "colour": _("colour"), "lines": _("line art")}
_ENCODERS: Final[Mapping[str, Text]] = {
    "same": _("{vae}: same encoder as the base model"),
    "rounded": _("{vae}: same encoder as the base model, rounded"),
    "other": _("{vae}: another encoder than the base model"),
}


@app.command(
    cls=usage.Command,
    help=_(
        "Encode and decode your images with several VAEs and the one of the base model; say which is best for what."
    ),
)
def compare(
    vaes: Annotated[list[str], typer.Argument(help=_("VAEs: builtin:NAME, files, folders or Hugging Face model ids."))],
    images: Images,
    base: BaseModel = "embedded",
    out: Annotated[
        Optional[Path], typer.Option("--out", help=_("Page to write (.html) with crops and difference maps."))
    ] = None,
    size: Size = 0,
    max_pictures: Annotated[
        int, typer.Option("--max-pictures", min=1, help=_("Most images to compare, taken evenly from the folder."))
    ] = 32,
    precision: Annotated[str, typer.Option("--precision", help=_("Precision: fp32, bf16 or fp16."))] = "fp32",
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """`tsuika vae compare`."""
    for one in vaes:
        early.check(vae=one)
    early.check(base=base, images=str(images))
    import tsuika

    run = tsuika.compare_vae(
        vaes,
        images,
        base=base,
        size_px=size,
        max_pictures=max_pictures,
        precision=precision,
        device=device,
        seed=seed,
        out=out,
        lang=language.current(),
        overwrite=overwrite,
    )
    done = progress.watch(run).to_dict()
    if json:
        screen.result(done, as_json=True)
        return
    screen.print_out(_table(done["vaes"]))
    for row in done["vaes"][1:]:
        screen.print_out(local(_ENCODERS[row["encoder"]].filled({"vae": row["vae"]})))
    for purpose, row in done["advice"].items():
        screen.print_out(layout.wrap(local(_advice(_PURPOSES[purpose], row)), rest="  "))
    if done["page"]:
        screen.print_out(str(done["page"]))
    else:
        screen.say(_("For crops and difference maps as a page, add --out PAGE.html"))


@app.command(cls=usage.Command, help=_("Put a VAE into a checkpoint; everything else in it stays, bit for bit."))
def bake(
    base: BaseModel,
    vae: Vae,
    out: Annotated[Path, typer.Option("--out", help=_("File to make; a folder if the base model is one."))],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """`tsuika vae bake`."""
    early.check(base=base, vae=vae)
    import tsuika

    progress.show(tsuika.bake_vae(base, vae, out, overwrite=overwrite), as_json=json)


@app.command(
    cls=usage.Command,
    help=_("Tune the decoder of a VAE on your images; written only if it is better on held-out images."),
)
def tune(
    images: Images,
    out: Annotated[Path, typer.Option("--out", help=_("File (.safetensors) to make, or a folder for diffusers."))],
    base: BaseModel = "embedded",
    vae: Vae = "builtin",
    purpose: Annotated[str, typer.Option("--purpose", help=_("Purpose: balanced, texture or colour."))] = "balanced",
    steps: Annotated[int, typer.Option("--steps", min=1, help=_("Most training steps."))] = 600,
    batch: Annotated[int, typer.Option("--batch", min=1, help=_("Batch size: crops in a step."))] = 4,
    crop: Annotated[int, typer.Option("--crop", min=16, help=_("Side of the crops in px."))] = 256,
    size: Size = 0,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help=_("Learning rate; 0 = chosen by the width of the decoder."))
    ] = 0.0,
    precision: Annotated[str, typer.Option("--precision", help=_("Precision: auto, bf16 or fp32."))] = "auto",
    device: Device = "auto",
    seed: Seed = 0,
    keep_anyway: Annotated[bool, typer.Option("--keep-anyway", help=_("Write it even if it is not better."))] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """`tsuika vae tune`."""
    early.check(base=base, vae=vae, images=str(images))
    import tsuika

    run = tsuika.tune_vae(
        images,
        out,
        base=base,
        vae=vae,
        purpose=purpose,
        steps=steps,
        batch=batch,
        crop_px=crop,
        size_px=size,
        learning_rate=learning_rate,
        precision=precision,
        device=device,
        seed=seed,
        keep_anyway=keep_anyway,
        overwrite=overwrite,
    )
    done = progress.watch(run).to_dict()
    if json:
        screen.result(done, as_json=True)
        return
    for name, row in done["measures"].items():
        means = {key: _or_dash(row[key], ".4g") for key in ("before", "after")}
        ends = {key: _or_dash(row["change"][key], "+.3g") for key in ("low", "high")}
        screen.say(_("{measure}: {before} -> {after} (change {low} to {high})", measure=name, **means, **ends))
    screen.say(_("Measured on images that were not used for the tuning; best step: {step}", step=done["best_step"]))
    if not done["proven"]:
        screen.say(_("It is not proven to be better; written because of --keep-anyway."))
    screen.print_out(str(done["out"]))


def _table(vaes: Sequence[Mapping[str, Any]]) -> str:
    rows = [["", *(local(heading) for _name, heading, _form in _COLUMNS), local(_("s/MP"))]]
    for row in vaes:
        means = [_or_dash(row["measures"][name]["mean"], form) for name, _heading, form in _COLUMNS]
        rows.append([row["vae"], *means, f"{row['decode_s_per_megapixel']:.1f}"])
    return layout.table(rows, right=range(1, len(_COLUMNS) + 1))


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _advice(purpose: Text, row: Mapping[str, Any]) -> Text:
    if row["better_by"] is None:
        return _("{purpose}: no difference; keep the VAE of the base model", purpose=purpose)
    found = {"purpose": purpose, "vae": row["vae"], "others": listed(row["as_good"]), **row["better_by"]}
    if row["as_good"]:
        return _(
            "{purpose}: take {vae} (error {mean:.3g} lower, {low:.3g} to {high:.3g}); as good on these images: {others}",
            **found,
        )
    return _("{purpose}: take {vae} (error {mean:.3g} lower, {low:.3g} to {high:.3g})", **found)
