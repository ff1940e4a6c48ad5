"""The recipe's sections that are the same for every method: base, pictures, loop, previews, output.

Each field carries its help (English and Japanese, unit, everyday or expert). Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tsuika.core.section import Help, Section, expert
from tsuika.core.words import Words


class Base(Section):
    """The model that is trained on."""

    model: Annotated[
        str,
        Help(
            "Base model: `embedded`, a diffusers folder, a .safetensors/.ckpt file, or a hub id",
            "ベースモデル: `embedded`、diffusers形式のフォルダー、.safetensors/.ckptファイル、ハブのID",
        ),
    ] = "embedded"
    tokenizer: Annotated[
        str,
        expert(
            "Folder with the tokenizer files, for a single-file base without network",
            "単一ファイルのベースモデルをオフラインで使うときの、トークナイザーのフォルダー",
        ),
    ] = ""
    vae: Annotated[
        str,
        Help(
            "VAE: `builtin`, `builtin:NAME`, a file, a folder or a hub id",
            "VAE: `builtin`、`builtin:名前`、ファイル、フォルダー、ハブのID",
        ),
    ] = "builtin"
    artifacts: Annotated[
        tuple[str, ...],
        expert(
            "Finished results laid on the base before training, as FILE or FILE:STRENGTH; they stay as they are",
            "学習前にベースモデルへ重ねる完成済みの学習結果(FILE または FILE:強さ)。重ねたものは変わりません",
        ),
    ] = ()


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
            "What kind of thing it is: `dog`, `character`, `style`",
            "クラスワード(対象の種類を表す言葉): `dog`、`character`、`style` など",
        ),
    ] = ""
    template: Annotated[
        Literal["none", "object", "style"],
        expert(
            "Wording of pictures without a caption file: the trigger alone, or varied sentences for an object or a style",
            "キャプションファイルのない画像に付ける文: トリガーワードのみ、または物・画風向けのさまざまな文",
        ),
    ] = "none"
    reg_images: Annotated[
        str,
        Help(
            "Folder of pictures of the class without the subject (regularization images), for prior preservation",
            "正則化画像のフォルダー(同じ種類で、学習対象の写っていない画像)。同じ種類のほかのものが変わるのを防ぎます",
        ),
    ] = ""
    reg_generate: Annotated[
        int,
        Help(
            "Draw this many class pictures with the base where no folder is given; 0 = no prior preservation",
            "フォルダーの指定がないとき、ベースモデルで生成する正則化画像の数。0 = 正則化画像を使わない",
        ),
        Field(ge=0, le=10_000),
    ] = 0
    reg_weight: Annotated[
        float, expert("Weight of class pictures in the loss", "ロスでの正則化画像の重み"), Field(ge=0, le=10)
    ] = 1.0
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
        expert(
            "Smaller pictures are left out; 0 = half the training size",
            "これより小さい画像は使いません。0 = 学習サイズの半分",
            "px",
        ),
        Field(ge=0),
    ] = 0
    buckets: Annotated[
        bool,
        expert(
            "Train each picture near its own aspect ratio instead of cropping to a square",
            "正方形に切り抜かず、各画像をその縦横比に近いサイズで学習する(バケット)",
        ),
    ] = True
    repeats: Annotated[
        int,
        expert(
            "How often each picture counts in an epoch (times a kohya folder's own number)",
            "1エポックでの各画像の繰り返し回数(kohya形式フォルダーの回数と掛け合わせます)",
        ),
        Field(ge=1, le=10_000),
    ] = 1
    caption_dropout: Annotated[
        float,
        expert(
            "Share of steps with an empty caption, which keeps guidance (CFG) working",
            "キャプションを空にするステップの割合(CFGの効きを保ちます)",
        ),
        Field(ge=0, le=1),
    ] = 0.05
    shuffle_tags: Annotated[bool, expert("Shuffle comma-separated tags", "カンマ区切りのタグをシャッフルする")] = False
    keep_tokens: Annotated[
        int, expert("Tags at the front that are never shuffled", "シャッフルしない先頭タグの数"), Field(ge=0)
    ] = 1
    flip: Annotated[
        bool,
        Help(
            "Mirror half of the variants; leave off for text or one-sided things",
            "バリエーションの半分を左右反転する(文字や左右非対称のものではオフにしてください)",
        ),
    ] = False
    crop: Annotated[
        float,
        expert(
            "Random crop: the smallest share of the side that is kept; 1 = no crop",
            "ランダム切り抜きで残す辺の長さの割合の下限。1 = 切り抜かない",
        ),
        Field(gt=0.3, le=1),
    ] = 1.0
    rotate_deg: Annotated[
        float,
        expert("Random rotation, up to this angle either way", "ランダム回転の最大角度(両方向)", "°"),
        Field(ge=0, le=45),
    ] = 0.0
    colour: Annotated[
        float,
        expert(
            "Random brightness, contrast and saturation, up to this share",
            "明るさ・コントラスト・彩度をランダムに変える割合の上限",
        ),
        Field(ge=0, le=0.5),
    ] = 0.0
    variants: Annotated[
        int,
        expert(
            "Augmented variants encoded and cached per picture",
            "画像1枚ごとにエンコードしてキャッシュする、データ拡張のバリエーション数",
        ),
        Field(ge=1, le=64),
    ] = 8
    cache: Annotated[
        bool,
        expert(
            "Keep encoded latents on disk between runs",
            "エンコードした潜在表現(latent)を、次回の学習のためにディスクに残す",
        ),
    ] = True


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
        expert(
            "Batches per step: a step sees batch_size x accumulate pictures",
            "1ステップに使うバッチ数(1ステップの画像数 = batch_size x accumulate)",
        ),
        Field(ge=1, le=256),
    ] = 1
    learning_rate: Annotated[float, Help("Learning rate", "学習率"), Field(gt=0, le=10)] = 1e-4
    optimizer: Annotated[
        Literal["adamw", "adamw8bit", "adafactor", "prodigy", "schedule-free", "riemannian"],
        expert(
            "Optimizer; `riemannian` turns vectors without changing their length, for new words only",
            "オプティマイザー。`riemannian` はベクトルの長さを変えずに向きだけを学習します(新しい単語専用)",
        ),
    ] = "adamw"
    schedule: Annotated[
        Literal["cosine", "constant", "linear"],
        expert(
            "Learning-rate schedule after warm-up; where the guard looks for the best step, of the training that follows",
            "ウォームアップ後の学習率スケジュール。ガードが最良のステップを探すときは、その後の学習に使う",
        ),
    ] = "cosine"
    warmup: Annotated[
        float, expert("Warm-up, as a share of the steps", "ウォームアップ(全ステップに対する割合)"), Field(ge=0, lt=1)
    ] = 0.05
    weight_decay: Annotated[float, expert("Decoupled weight decay", "重み減衰(decoupled方式)"), Field(ge=0)] = 0.0
    clip_norm: Annotated[
        float, expert("Largest gradient norm; 0 = no clipping", "勾配ノルムの上限。0 = 制限なし"), Field(ge=0)
    ] = 1.0
    ema: Annotated[
        float,
        expert("Exponential moving average of the weights; 0 = off", "重みの指数移動平均(EMA)。0 = オフ"),
        Field(ge=0, lt=1),
    ] = 0.99
    min_snr_gamma: Annotated[
        float,
        expert(
            "Min-SNR loss weighting (Hang et al. 2023); 0 = off",
            "Min-SNRによるロスの重み付け(Hang et al. 2023)。0 = オフ",
        ),
        Field(ge=0),
    ] = 5.0
    noise_offset: Annotated[
        float,
        expert("Per-channel constant added to the noise", "ノイズに加える、チャンネルごとの定数"),
        Field(ge=0, le=1),
    ] = 0.0
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        expert(
            "Precision the base is computed in; trained weights stay fp32 unless the method says otherwise",
            "ベースモデルの計算精度(学習する重みは、方法ごとの設定で変えない限りfp32)",
        ),
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool, expert("Trade a third more time for less memory", "時間を3分の1ほど余計にかけて、メモリを節約する")
    ] = False
    compile: Annotated[
        bool, expert("Compile the UNet; pays only on long runs", "UNetをコンパイルする(長い学習でのみ得になります)")
    ] = False
    device: Annotated[
        str, expert("`auto`, `cpu`, `cuda`, `cuda:1`, `mps`", "`auto`、`cpu`、`cuda`、`cuda:1`、`mps`")
    ] = "auto"
    seed: Annotated[
        int,
        Help(
            "Same recipe, same seed, same machine: same result",
            "同じレシピ・同じシード・同じマシンなら同じ結果になります",
        ),
        Field(ge=0),
    ] = 0
    checkpoint_every: Annotated[
        int,
        expert("Steps between saved states; 0 = ten in a run", "途中保存の間隔(ステップ数)。0 = 全体で10回"),
        Field(ge=0),
    ] = 0


class Regularize(Section):
    """Penalties on what is learnt, as steps of their own after the optimizer's (`train.penalize`).

    All three act on weights. Prior preservation (`data.reg_images`, `data.reg_generate`) is the same wish as `l2` on what
    the model does with pictures of the class, at twice the time.
    """

    l2: Annotated[
        float,
        expert(
            "L2 towards the base: without gradients, this alone would shrink the update to exp(-l2) of itself over the"
            " whole run, whatever rate and steps; 0 = off",
            "ベースモデルへ引き戻すL2正則化。勾配がなければ、学習による変化は全ステップで exp(-l2) 倍に縮みます"
            "(学習率やステップ数に関係なく)。0 = オフ",
        ),
        Field(ge=0),
    ] = 0.0
    l1: Annotated[
        float,
        expert(
            "L1, proximal: this share of each optimizer step is taken back, and what does not pull steadily stays exactly"
            " at the base (ranks of a LoRA, nets of a hypernetwork, single weights in DreamBooth); 0 = off, 1 = nothing"
            " is learnt",
            "L1正則化(近接法): 各ステップの変化のうちこの割合を戻し、一貫した勾配のない部分をベースモデルのまま残します"
            "(LoRAではrank、ハイパーネットワークではネット、DreamBoothでは個々の重みの単位)。0 = オフ、1 = 何も学習しない",
        ),
        Field(ge=0),
    ] = 0.0
    max_norm: Annotated[
        float,
        expert(
            "Largest norm of what is added to the weight of any layer (new words: of any vector); 0 = no limit",
            "各層の重みに加わる変化のノルムの上限(新しい単語では各ベクトルの長さの上限)。0 = 制限なし",
        ),
        Field(ge=0),
    ] = 0.0


class Preview(Section):
    """Pictures drawn while training, at fixed seeds."""

    prompts: Annotated[
        tuple[str, ...],
        Help(
            "Prompts to draw; `{trigger}` stands for the trigger word; none = made from trigger and class word",
            "プレビューのプロンプト。`{trigger}` はトリガーワードに置き換わります。空 = トリガーワードとクラスワードから作ります",
        ),
    ] = ()
    every: Annotated[
        int,
        Help("Steps between previews; 0 = only before and after", "プレビューの間隔(ステップ数)。0 = 学習前後のみ"),
        Field(ge=0),
    ] = 0
    num: Annotated[
        int,
        expert(
            "Pictures per prompt, at seed, seed + 1, ...; 0 = no previews",
            "プロンプトごとの枚数(シードを1ずつ増やします)。0 = プレビューなし",
        ),
        Field(ge=0, le=64),
    ] = 2
    seed: Annotated[int, expert("Seed of the first preview", "最初のプレビューのシード"), Field(ge=0)] = 1
    steps: Annotated[
        int,
        expert("Sampling steps; 0 = the base's own default", "サンプリングステップ数。0 = ベースモデルの標準"),
        Field(ge=0, le=1000),
    ] = 0
    cfg: Annotated[
        float, expert("Guidance; 0 = the base's own default", "CFGスケール。0 = ベースモデルの標準"), Field(ge=0)
    ] = 0.0


class Guard(Section):
    """Overfitting: what is measured, and whether it may end the run."""

    mode: Annotated[
        Literal["on", "warn", "off"],
        Help(
            "Guard against overfitting: stop when nothing is gained any more, warn only, or off",
            "過学習ガード: `on` は改善がなくなったら停止、`warn` は警告のみ、`off` は使わない",
        ),
    ] = "on"
    folds: Annotated[
        int,
        Help(
            "Cross-validation folds; 0 = hold pictures out from 10 on, leave one out in turn from 3 to 9",
            "交差検証の分割数。0 = 自動(10枚以上は一部を検証用に取り分け、3〜9枚は1枚ずつ順に外す)",
        ),
        Field(ge=0, le=50),
    ] = 0
    held_out: Annotated[
        float,
        expert(
            "Share of the pictures that is held out (12 at most; at least 4, or 2 where they are not trained on afterwards)",
            "検証用に取り分ける画像の割合(最大12枚。最低4枚、あとでその画像を学習しない場合は2枚)",
        ),
        Field(gt=0, le=0.5),
    ] = 0.15
    patience: Annotated[
        float,
        expert(
            "How long to wait for a better step, as a share of the best step so far",
            "改善を待つ長さ(それまでの最良のステップ数に対する割合)",
        ),
        Field(gt=0, le=10),
    ] = 0.5
    overhead: Annotated[
        float,
        expert(
            "Most time the guard's measurements may take, as a share of the training time; 0 = no limit",
            "ガードの測定に使う時間の上限(学習時間に対する割合)。0 = 制限なし",
        ),
        Field(ge=0, le=1),
    ] = 0.04
    refit: Annotated[
        bool,
        expert(
            "Afterwards the result learns from all pictures; false = keep the run without the held-out ones",
            "最後に全画像で学習する。false = 検証用画像を除いた学習結果をそのまま使う",
        ),
    ] = True
    lanes: Annotated[
        int,
        expert(
            "Folds in one forward pass; fewer take less memory; 0 = all of them",
            "交差検証で同時に計算する分割数。少ないほどメモリを節約できます。0 = すべて",
        ),
        Field(ge=0, le=51),
    ] = 0

    @field_validator("folds")
    @classmethod
    def _more_than_one(cls, value: int) -> int:
        if value == 1:
            why = Words(
                "It must be 0, or 2 to 50: one fold would train on nothing.",
                "0、または2〜50で指定してください。1分割では学習に使う画像が残りません。",
            )
            raise ValueError(why)
        return value


class Output(Section):
    """What is written."""

    name: Annotated[
        str,
        Help("File name of the result; empty = the run folder's name", "結果のファイル名。空 = 出力フォルダーの名前"),
    ] = ""
    dtype: Annotated[
        Literal["fp16", "bf16", "fp32"], expert("Precision of the written file", "書き出すファイルの精度")
    ] = "fp16"
    keep_states: Annotated[int, expert("Saved states to keep", "残す途中保存の数"), Field(ge=1)] = 2
