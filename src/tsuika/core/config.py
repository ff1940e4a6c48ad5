"""`Recipe`: everything that decides a run, as one frozen tree.

The fields' metadata (help in English and Japanese, unit, everyday or expert) is the only source of command-line help,
the settings page and, later, the web forms. Imports no torch, so that `--help` is quick.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tomlkit
import tomlkit.exceptions
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from tsuika.core.errors import RecipeError

Level = Literal["everyday", "expert"]


@dataclass(frozen=True)
class Help:
    """What a setting is, for people."""

    en: str
    ja: str
    unit: str = ""
    level: Level = "everyday"


def _expert(en: str, ja: str, unit: str = "") -> Help:
    return Help(en, ja, unit, "expert")


class Section(BaseModel):
    """A frozen part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Base(Section):
    """The model that is trained on."""

    model: Annotated[
        str,
        Help(
            "Base model: `embedded`, a diffusers folder, a .safetensors/.ckpt file, or a hub id",
            "ベースモデル: `embedded`、diffusersフォルダー、.safetensors/.ckptファイル、ハブのID",
        ),
    ] = "embedded"
    tokenizer: Annotated[
        str,
        _expert(
            "Folder with the tokenizer files, for a single-file base without network",
            "単一ファイルのベースをオフラインで使うときのトークナイザーのフォルダー",
        ),
    ] = ""
    vae: Annotated[str, Help("VAE: `builtin`, a file or a folder", "VAE: `builtin`、ファイル、フォルダー")] = "builtin"


class Data(Section):
    """The pictures and what is done to them."""

    images: Annotated[
        str,
        Help(
            "Folder of training images, searched recursively; never changed",
            "学習用画像のフォルダー(サブフォルダーも探します。元の画像は変更しません)",
        ),
    ] = ""
    trigger: Annotated[
        str,
        Help(
            "Trigger word: the new word that calls up what is learnt",
            "トリガーワード: 学習した内容を呼び出す新しい単語",
        ),
    ] = ""
    class_word: Annotated[
        str,
        Help(
            "What kind of thing it is: `dog`, `character`, `style`", "種類を表す言葉: `dog`、`character`、`style` など"
        ),
    ] = ""
    size_px: Annotated[
        int,
        Help(
            "Training size: side of a square with the same area; 0 = the base's own",
            "学習サイズ(同じ面積の正方形の一辺)。0 = ベースモデルの標準",
            "px",
        ),
        Field(ge=0, le=4096),
    ] = 0
    min_size_px: Annotated[
        int,
        _expert(
            "Smaller pictures are left out; 0 = half the training size",
            "これより小さい画像は使いません。0 = 学習サイズの半分",
            "px",
        ),
        Field(ge=0),
    ] = 0
    buckets: Annotated[
        bool,
        _expert(
            "Train each picture near its own aspect ratio instead of cropping to a square",
            "正方形に切り抜かず、画像の縦横比ごとにサイズ分け(バケット)する",
        ),
    ] = True
    repeats: Annotated[
        int,
        _expert(
            "How often each picture counts in an epoch (times a kohya folder's own number)",
            "1エポックでの各画像の繰り返し回数(kohya形式フォルダーの数と掛け合わせます)",
        ),
        Field(ge=1, le=10_000),
    ] = 1
    caption_dropout: Annotated[
        float,
        _expert(
            "Share of steps with an empty caption, which keeps guidance (CFG) working",
            "キャプションを空にする割合(CFGの効きを保ちます)",
        ),
        Field(ge=0, le=1),
    ] = 0.05
    shuffle_tags: Annotated[bool, _expert("Shuffle comma-separated tags", "カンマ区切りのタグをシャッフルする")] = False
    keep_tokens: Annotated[
        int, _expert("Tags at the front that are never shuffled", "シャッフルしない先頭タグの数"), Field(ge=0)
    ] = 1
    flip: Annotated[
        bool,
        Help(
            "Mirror half of the variants; leave off for text or one-sided things",
            "左右反転した画像も使う(文字や左右非対称のものではオフ)",
        ),
    ] = False
    crop: Annotated[
        float,
        _expert(
            "Random crop: the smallest share of the side that is kept; 1 = no crop",
            "ランダム切り抜きで残す辺の割合の下限。1 = 切り抜かない",
        ),
        Field(gt=0.3, le=1),
    ] = 1.0
    rotate_deg: Annotated[
        float,
        _expert("Random rotation, up to this angle either way", "ランダム回転の最大角度", "°"),
        Field(ge=0, le=45),
    ] = 0.0
    colour: Annotated[
        float,
        _expert(
            "Random brightness, contrast and saturation, up to this share",
            "明るさ・コントラスト・彩度をランダムに変える幅",
        ),
        Field(ge=0, le=0.5),
    ] = 0.0
    variants: Annotated[
        int,
        _expert("Augmented variants encoded and cached per picture", "画像1枚あたりキャッシュする拡張バリエーション数"),
        Field(ge=1, le=64),
    ] = 8
    cache: Annotated[
        bool, _expert("Keep encoded latents on disk between runs", "エンコード済みlatentを次回のためディスクに残す")
    ] = True


class Lora(Section):
    """Low-rank adaptation (Hu et al. 2021) and its relatives, through peft."""

    name: Literal["lora"] = "lora"
    adapter: Annotated[
        Literal["lora", "dora", "loha", "lokr", "oft"],
        _expert(
            "Kind of adapter; only `lora` loads in every program",
            "アダプターの種類。すべてのソフトで使えるのは `lora` だけです",
        ),
    ] = "lora"
    rank: Annotated[
        int,
        Help("Rank (dim): how much can be learnt, and the file's size", "次元数(rank): 覚えられる量とファイルサイズ"),
        Field(ge=1, le=1024),
    ] = 16
    alpha: Annotated[
        float, _expert("Scale is alpha / rank; 0 = same as rank", "倍率は alpha / rank。0 = rankと同じ"), Field(ge=0)
    ] = 0.0
    rank_stabilized: Annotated[
        bool,
        _expert("rsLoRA: scale by alpha / sqrt(rank) (Kalajdzievski 2023)", "rsLoRA: 倍率を alpha / sqrt(rank) にする"),
    ] = False
    conv: Annotated[bool, _expert("Adapt convolutions as well (LoCon)", "畳み込み層も学習する(LoCon)")] = False
    conv_rank: Annotated[
        int,
        _expert("Rank of 3x3 convolutions; 0 = same as rank", "3x3畳み込みの次元数。0 = rankと同じ"),
        Field(ge=0, le=1024),
    ] = 0
    text_encoder: Annotated[bool, Help("Train the text encoders as well", "テキストエンコーダーも学習する")] = False
    text_learning_rate: Annotated[
        float,
        _expert(
            "Learning rate of the text encoders; 0 = a tenth of the main one",
            "テキストエンコーダーの学習率。0 = 全体の10分の1",
        ),
        Field(ge=0, le=1),
    ] = 0.0
    dropout: Annotated[
        float, _expert("Dropout inside the adapter", "アダプター内のドロップアウト率"), Field(ge=0, lt=1)
    ] = 0.0


class Train(Section):
    """The loop."""

    steps: Annotated[int, Help("Optimizer steps", "学習ステップ数"), Field(ge=1, le=1_000_000)] = 800
    batch_size: Annotated[
        int,
        Help("Pictures per forward pass, over all processes", "1回の計算で使う画像数(全プロセス合計)"),
        Field(ge=1, le=4096),
    ] = 4
    accumulate: Annotated[
        int,
        _expert(
            "Batches per step: a step sees batch_size x accumulate pictures",
            "1ステップに使うバッチ数(1ステップの画像数 = batch_size x accumulate)",
        ),
        Field(ge=1, le=256),
    ] = 1
    learning_rate: Annotated[float, Help("Learning rate", "学習率"), Field(gt=0, le=10)] = 1e-4
    optimizer: Annotated[
        Literal["adamw", "adamw8bit", "prodigy", "schedule-free"], _expert("Optimizer", "オプティマイザー")
    ] = "adamw"
    schedule: Annotated[
        Literal["cosine", "constant", "linear"],
        _expert("Learning-rate schedule after warm-up", "ウォームアップ後の学習率スケジュール"),
    ] = "cosine"
    warmup: Annotated[float, _expert("Warm-up, as a share of the steps", "ウォームアップの割合"), Field(ge=0, lt=1)] = (
        0.05
    )
    weight_decay: Annotated[float, _expert("Decoupled weight decay", "重み減衰"), Field(ge=0)] = 0.0
    clip_norm: Annotated[
        float, _expert("Largest gradient norm; 0 = no clipping", "勾配ノルムの上限。0 = 制限なし"), Field(ge=0)
    ] = 1.0
    ema: Annotated[
        float,
        _expert("Exponential moving average of the weights; 0 = off", "重みの指数移動平均(EMA)。0 = オフ"),
        Field(ge=0, lt=1),
    ] = 0.99
    min_snr_gamma: Annotated[
        float, _expert("Min-SNR loss weighting (Hang et al. 2023); 0 = off", "Min-SNR損失重み。0 = オフ"), Field(ge=0)
    ] = 5.0
    noise_offset: Annotated[
        float,
        _expert("Per-channel constant added to the noise", "ノイズに足すチャンネルごとのオフセット"),
        Field(ge=0, le=1),
    ] = 0.0
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        _expert(
            "Precision of the frozen base; trained weights stay fp32",
            "凍結したベースの計算精度(学習する重みはfp32のまま)",
        ),
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool, _expert("Trade a third more time for less memory", "時間を3分の1ほど余計に使ってメモリを節約する")
    ] = False
    compile: Annotated[
        bool, _expert("Compile the UNet; pays only on long runs", "UNetをコンパイルする(長い学習のみ有効)")
    ] = False
    device: Annotated[
        str, _expert("`auto`, `cpu`, `cuda`, `cuda:1`, `mps`", "`auto`、`cpu`、`cuda`、`cuda:1`、`mps`")
    ] = "auto"
    seed: Annotated[
        int,
        Help("Same recipe, same seed, same machine: same result", "同じレシピ・同じシード・同じ機械なら同じ結果"),
        Field(ge=0),
    ] = 0
    checkpoint_every: Annotated[
        int,
        _expert("Steps between saved states; 0 = ten in a run", "途中保存の間隔(ステップ)。0 = 全体で10回"),
        Field(ge=0),
    ] = 0


class Preview(Section):
    """Pictures drawn while training, at fixed seeds."""

    prompts: Annotated[
        tuple[str, ...],
        Help(
            "Prompts to draw; `{trigger}` stands for the trigger word; none = made from trigger and class word",
            "描くプロンプト。`{trigger}` はトリガーワードに置き換わります。空 = トリガーワードと種類から作ります",
        ),
    ] = ()
    every: Annotated[
        int,
        Help("Steps between previews; 0 = only before and after", "プレビューの間隔(ステップ)。0 = 学習前後のみ"),
        Field(ge=0),
    ] = 0
    num: Annotated[
        int,
        _expert(
            "Pictures per prompt, at seed, seed + 1, ...; 0 = no previews",
            "プロンプトごとの枚数(シードを1ずつ増やします)。0 = プレビューなし",
        ),
        Field(ge=0, le=64),
    ] = 2
    seed: Annotated[int, _expert("Seed of the first preview", "プレビューのシード"), Field(ge=0)] = 1
    steps: Annotated[
        int,
        _expert("Sampling steps; 0 = the base's own default", "サンプリングステップ数。0 = ベースモデルの標準"),
        Field(ge=0, le=1000),
    ] = 0
    cfg: Annotated[
        float, _expert("Guidance; 0 = the base's own default", "CFGスケール。0 = ベースモデルの標準"), Field(ge=0)
    ] = 0.0


class Output(Section):
    """What is written."""

    name: Annotated[
        str,
        Help("File name of the result; empty = the run folder's name", "結果のファイル名。空 = 出力フォルダーの名前"),
    ] = ""
    dtype: Annotated[
        Literal["fp16", "bf16", "fp32"], _expert("Precision of the written file", "書き出すファイルの精度")
    ] = "fp16"
    keep_states: Annotated[int, _expert("Saved states to keep", "残す途中保存の数"), Field(ge=1)] = 2


class Recipe(Section):
    """Everything that decides a run."""

    version: Literal[1] = 1
    base: Base = Base()
    data: Data = Data()
    method: Lora = Lora()
    train: Train = Train()
    preview: Preview = Preview()
    output: Output = Output()


@dataclass(frozen=True)
class Setting:
    """One leaf of the recipe, as help and forms need it."""

    key: str
    type: Any
    default: Any
    help: Help
    field: FieldInfo


def settings(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[Setting]:
    """Every setting in the recipe's order."""
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{key}.")
        else:
            for note in field.metadata:
                if isinstance(note, Help):
                    yield Setting(key, field.annotation, field.default, note, field)


def _nearest(key: str) -> str:
    keys = [setting.key for setting in settings()]
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in keys}
    close = difflib.get_close_matches(key, keys, 1, 0.5)
    if not close:
        close = [by_leaf[leaf] for leaf in difflib.get_close_matches(key.rsplit(".", 1)[-1], by_leaf, 1, 0.5)]
    return close[0] if close else "tsuika train --help"


def build(data: Mapping[str, Any], where: str = "") -> Recipe:
    """A checked recipe from nested tables.

    Raises:
        RecipeError: unknown key (RC001, names the nearest one) or a value out of range (RC002).
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise RecipeError("RC001", where=where, key=key, nearest=_nearest(key)) from None
        raise RecipeError("RC002", where=where, key=key, found=first["input"], why=first["msg"]) from None


def load(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        RecipeError: not there, not TOML, or not a recipe.
    """
    return build(read_tables(path), where=str(path))


def read_tables(path: Path) -> dict[str, Any]:
    """A recipe file as nested tables, not yet checked.

    Raises:
        RecipeError: not there or not TOML (RC003).
    """
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8-sig")).unwrap()
    except (OSError, UnicodeDecodeError, tomlkit.exceptions.TOMLKitError) as error:
        raise RecipeError("RC003", where=path, why=str(error)) from None


def override(tables: Mapping[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with dotted keys set: `{"train.steps": 400}`."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tables.items()}
    for dotted, value in assignments.items():
        *parents, leaf = dotted.replace("-", "_").split(".")
        table = result
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise RecipeError("RC001", key=dotted, nearest=_nearest(dotted))
        table[leaf] = value
    return result


def parse_assignment(text: str) -> tuple[str, Any]:
    """`train.steps=400` to a dotted key and a TOML value; what is not TOML is a string.

    Raises:
        RecipeError: no `=` in it (RC004).
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError("RC004", found=text)
    try:
        return key.strip(), tomlkit.parse(f"value = {value}").unwrap()["value"]
    except tomlkit.exceptions.TOMLKitError:
        return key.strip(), value


def dump(recipe: Recipe, *, comments: bool = True) -> str:
    """The recipe as TOML, every setting with what it means; `load` of it gives the same recipe."""
    document = tomlkit.document()
    document.add(tomlkit.comment("tsuika recipe: running it again repeats the run."))
    document["version"] = recipe.version
    helps = {setting.key: setting.help for setting in settings()}
    for name in (n for n in Recipe.model_fields if n != "version"):
        section = getattr(recipe, name)
        table = tomlkit.table()
        for leaf, value in section.model_dump(mode="json").items():
            item = tomlkit.item(value)
            if comments and (note := helps.get(f"{name}.{leaf}")):
                item.comment(note.en + (f" [{note.unit}]" if note.unit else ""))
            table.add(leaf, item)
        document[name] = table
    return tomlkit.dumps(document)


def choices(setting: Setting) -> tuple[str, ...]:
    """The allowed words of a setting, or none."""
    return tuple(map(str, get_args(setting.type))) if get_origin(setting.type) is Literal else ()
