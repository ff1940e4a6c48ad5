"""`tsuika vae`: parse, call `tsuika.api`, print."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from tsuika.cli import screen
from tsuika.cli.flags import BaseModel, Json, Vae
from tsuika.core.events import Event, Phase, Progress, Warned

app = typer.Typer(
    name="vae", help="Compare VAEs on your pictures, put one into a base, or tune one.", no_args_is_help=True
)

Images = Annotated[Path, typer.Option("--images", help="Folder of pictures; only read.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
Size = Annotated[int, typer.Option("--size", min=0, help="Shorter side of the pictures in px; 0: the base's own size.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the --out file if there is one.")]

_WORDS = {
    "en": {
        "compare-vaes": "Through the VAEs and back",
        "tune-vae": "Tuning the decoder",
        "prove": "Measuring on pictures that had no part in it",
        "texture": "texture",
        "colour": "colour",
        "lines": "line art",
        "take": "{purpose}: take {vae} (error {mean:.3g} lower, {low:.3g} to {high:.3g})",
        "as-good": "; as good here: {names}",
        "keep": "{purpose}: no difference, keep the built-in",
        "own": "the base's own",
        "same": "same encoder",
        "rounded": "same encoder (rounded)",
        "other": "another encoder",
        "head": "PSNR dB    SSIM  colour dE  worst 5%  chroma  detail  texture error  s/MP  encoder",
        "page": "Crops and difference maps as a page: add --out PAGE.html",
        "tuned": "{measure}: {before} -> {after} ({low} to {high}) on pictures never seen; best step {step}",
        "not-proven": "not proven better; written because of --keep-anyway",
    },
    "ja": {
        "compare-vaes": "画像をVAEで潜在表現にして戻しています",
        "tune-vae": "デコーダーを調整しています",
        "prove": "調整に使っていない画像で測っています",
        "texture": "質感",
        "colour": "色",
        "lines": "線画",
        "take": "{purpose}: {vae} がおすすめ(誤差が {mean:.3g} 小さい、{low:.3g}〜{high:.3g})",
        "as-good": "。この画像では同等: {names}",
        "keep": "{purpose}: 差なし。内蔵VAEのままで構いません",
        "own": "ベースモデルのもの",
        "same": "エンコーダーは同じ",
        "rounded": "エンコーダーは同じ(丸めのみ)",
        "other": "エンコーダーは別物",
        "head": "PSNR dB    SSIM    色差dE    最悪5%    彩度    細部     質感の誤差  秒/MP  エンコーダー",
        "page": "切り抜きと差分を見るには: --out PAGE.html を付けてください",
        "tuned": "{measure}: {before} -> {after}({low}〜{high}、調整に使っていない画像)。最良のステップ: {step}",
        "not-proven": "改善は確認できませんでした(--keep-anyway の指定により書き出しました)",
    },
}

_COLUMNS = (  # measure, form, width
    ("psnr", ".2f", 7),
    ("ssim", ".4f", 7),
    ("colour", ".2f", 9),
    ("colour_p95", ".2f", 9),
    ("chroma", ".3f", 7),
    ("texture", ".3f", 7),
    ("texture_error", ".3f", 14),
)


def _say(key: str, **values: object) -> str:
    return _WORDS[screen.language()][key].format(**values)


@app.command()
def compare(
    vaes: Annotated[list[str], typer.Argument(help="builtin:NAME, files, folders or hub ids.")],
    images: Images,
    base: BaseModel = "embedded",
    out: Annotated[Optional[Path], typer.Option("--out", help="Page to write, .html: crops, difference maps.")] = None,
    size: Size = 0,
    max_pictures: Annotated[int, typer.Option("--max-pictures", min=1, help="Of more, some are taken evenly.")] = 32,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Encode and decode your pictures with several VAEs and the base's own; say which to take for what."""
    from tsuika import api

    done = api.compare_vae(
        vaes,
        images,
        base=base,
        size_px=size,
        max_pictures=max_pictures,
        precision=precision,
        device=device,
        seed=seed,
        out=out,
        lang=screen.language(),
        overwrite=overwrite,
        say=_follow,
    )
    if json:
        screen.result(done, as_json=True)
        return
    _table(done)
    for purpose, row in done["advice"].items():
        screen.print_out(_advice(purpose, row))
    if done["page"]:
        screen.print_out(done["page"])
    else:
        sys.stderr.write(_say("page") + "\n")


@app.command()
def bake(
    base: BaseModel,
    vae: Vae,
    out: Annotated[Path, typer.Option("--out", help="File (or folder, for a base that is one) to make.")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Put a VAE into a checkpoint; everything else in it stays, bit for bit."""
    from tsuika import api

    done = api.bake_vae(base, vae, out, overwrite=overwrite)
    screen.told(done, as_json=json)


@app.command()
def tune(
    images: Images,
    out: Annotated[Path, typer.Option("--out", help=".safetensors file, or a folder for diffusers.")],
    base: BaseModel = "embedded",
    vae: Vae = "builtin",
    purpose: Annotated[str, typer.Option("--purpose", help="balanced, texture or colour.")] = "balanced",
    steps: Annotated[int, typer.Option("--steps", min=1, help="At most.")] = 600,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Crops a step.")] = 4,
    crop: Annotated[int, typer.Option("--crop", min=16, help="Side of the crops in px.")] = 256,
    size: Size = 0,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="0: by the decoder's width.")] = 0.0,
    precision: Annotated[str, typer.Option("--precision", help="auto, bf16 or fp32.")] = "auto",
    device: Device = "auto",
    seed: Seed = 0,
    keep_anyway: Annotated[bool, typer.Option("--keep-anyway", help="Write it even if it is not better.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fine-tune a VAE's decoder on your pictures; written only if it is better on pictures held out."""
    from tsuika import api

    done = api.tune_vae(
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
        say=_follow,
    )
    if json:
        screen.result(done, as_json=True)
        return
    for name, row in done["measures"].items():
        means = {key: _or_dash(row[key], ".4g") for key in ("before", "after")}
        ends = {key: _or_dash(row["change"][key], "+.3g") for key in ("low", "high")}
        line = _say("tuned", measure=name, step=done["best_step"], **means, **ends)
        sys.stderr.write(line + "\n")
    if not done["proven"]:
        sys.stderr.write(_say("not-proven") + "\n")
    screen.print_out(done["out"])


def _follow(event: Event) -> None:
    match event:
        case Phase(name=name):
            words = _say(name) if name in _WORDS["en"] else screen.say(name)
            sys.stderr.write(words + "\n")
        case Progress(done=done, total=total) if sys.stderr.isatty():
            sys.stderr.write(f"\r    {done}/{total}" + ("\n" if done == total else ""))
        case Warned():
            sys.stderr.write(screen.note(event) + "\n")


def _table(done: Mapping[str, Any]) -> None:
    width = max(len(row["vae"]) for row in done["vaes"])
    screen.print_out(f"{'':{width}}  {_say('head')}")
    for number, row in enumerate(done["vaes"]):
        mean = {name: value["mean"] for name, value in row["measures"].items()}
        cells = [f"{_or_dash(mean[name], form):>{wide}}" for name, form, wide in _COLUMNS]
        cells.append(f"{row['decode_s_per_megapixel']:>5.1f}")
        encoder = _say("own" if number == 0 else row["encoder"])
        screen.print_out(f"{row['vae']:{width}}  {' '.join(cells)}  {encoder}")


def _or_dash(value: float | None, form: str) -> str:
    """A number as told; a dash for one that is not finite."""
    return "-" if value is None else format(value, form)


def _advice(purpose: str, row: Mapping[str, Any]) -> str:
    if row["better_by"] is None:
        return _say("keep", purpose=_say(purpose))
    words = _say("take", purpose=_say(purpose), vae=row["vae"], **row["better_by"])
    return words + (_say("as-good", names=", ".join(row["as_good"])) if row["as_good"] else "")
