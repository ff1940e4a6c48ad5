"""What tsuika says to people when something is wrong: code -> language -> what, why, do. A table, kept in code order.

RC recipe and usage, DS pictures, MD models, FM file formats, RS resources, TR training, GD guard, EV evaluation, GN
generation (notes), NW network, VA VAEs.
"""

from __future__ import annotations

import math
from typing import Final

Message = dict[str, dict[str, str]]


def _m(en: tuple[str, str, str], ja: tuple[str, str, str]) -> Message:
    parts = ("what", "why", "do")
    return {"en": dict(zip(parts, en, strict=True)), "ja": dict(zip(parts, ja, strict=True))}


MESSAGES: Final[dict[str, Message]] = {
    "RC001": _m(
        ("Unknown setting `{key}`", "There is no setting of this name.", "Did you mean `{nearest}`?"),
        ("設定 `{key}` はありません", "その名前の設定は存在しません。", "`{nearest}` のことでしょうか?"),
    ),
    "RC002": _m(
        (
            "Setting `{key}` cannot be `{found}`",
            "{why}",
            "Give `{key}` another value: by its option, in the recipe or with --set.",
        ),
        (
            "設定 `{key}` を `{found}` にはできません",
            "{why}",
            "オプション、レシピ、--set のいずれかで `{key}` に別の値を指定してください。",
        ),
    ),
    "RC003": _m(
        ("The recipe is not valid TOML", "{why}", "Correct the line named above."),
        ("レシピがTOMLとして読めません", "{why}", "上に示した行を直してください。"),
    ),
    "RC004": _m(
        (
            "`{found}` is not of the form key=value",
            "A setting needs a key, `=`, and a value.",
            "For example: --set train.steps=400",
        ),
        ("`{found}` は key=value の形ではありません", "設定にはキー、`=`、値が必要です。", "例: --set train.steps=400"),
    ),
    "RC005": _m(
        ("{found} is needed", "Without it there is nothing to do.", "{do}"),
        ("{found} が必要です", "これがないと始められません。", "{do}"),
    ),
    "RC006": _m(
        (
            "The output folder is already in use",
            "It holds another run, and nothing is ever overwritten.",
            "Choose another --out, or go on with: tsuika resume {where}",
        ),
        (
            "出力フォルダーはすでに使われています",
            "別の学習結果が入っています。上書きはしません。",
            "別の --out を指定するか、tsuika resume {where} で続けてください。",
        ),
    ),
    "RC007": _m(
        (
            "The output exists already",
            "Nothing is overwritten unasked.",
            "Choose another --out, or add --overwrite (files only).",
        ),
        (
            "出力先はすでに存在します",
            "指示がない限り上書きはしません。",
            "別の --out を指定するか、--overwrite を付けてください(ファイルのみ)。",
        ),
    ),
    "RC008": _m(
        (
            "L1 cannot be used on the vectors of a new word",
            "Its zeros depend on the axes of the embedding space, which mean nothing by themselves.",
            "Use regularize.l2, which pulls the vectors towards where they began: --set regularize.l1=0",
        ),
        (
            "新しい単語のベクトルにL1正則化は使えません",
            "どの成分が0になるかは埋め込み空間の軸の取り方で決まり、軸そのものに意味がないためです。",
            "ベクトルを初期値へ引き戻す regularize.l2 を使ってください: --set regularize.l1=0",
        ),
    ),
    "RC009": _m(
        (
            "`{key}` does not apply to what is trained here",
            "It measures a plain difference of weights; a hypernetwork, or an adapter other than `lora`, is none.",
            "Use regularize.l2: --set {key}=0",
        ),
        (
            "ここで学習するものに `{key}` は使えません",
            "重みの差として測れるものが対象で、ハイパーネットワークや `lora` 以外のアダプターは当てはまりません。",
            "regularize.l2 を使ってください: --set {key}=0",
        ),
    ),
    "RC010": _m(
        (
            "`regularize.l1` does not go with `train.ema`",
            "The average of weights that are zero now and then is never zero.",
            "Switch one of them off: --set train.ema=0",
        ),
        (
            "`regularize.l1` と `train.ema` は同時に使えません",
            "時々0になる重みの平均は0にならないためです。",
            "どちらかをオフにしてください: --set train.ema=0",
        ),
    ),
    "RC011": _m(
        (
            "The settings of `regularize` do not go with the optimizer `schedule-free`",
            "It keeps its weights in two places and would undo what is done to one.",
            "Choose another optimizer: --set train.optimizer=adamw",
        ),
        (
            "`regularize` の設定はオプティマイザー `schedule-free` と同時に使えません",
            "重みを2か所に持つため、一方への変更が打ち消されます。",
            "別のオプティマイザーを選んでください: --set train.optimizer=adamw",
        ),
    ),
    "RC012": _m(
        (
            "`regularize.max_norm` does not go with the optimizer `riemannian`",
            "It keeps the length of vectors anyway.",
            "Switch it off: --set regularize.max_norm=0",
        ),
        (
            "`regularize.max_norm` はオプティマイザー `riemannian` と同時に使えません",
            "ベクトルの長さはもともと変わらないためです。",
            "オフにしてください: --set regularize.max_norm=0",
        ),
    ),
    "RC013": _m(
        (
            "A hypernetwork that ends in a sigmoid cannot be pulled towards the base",
            "Its output is never zero, so it never leaves the base as it is.",
            "Set method.activate_output=false, or choose another activation.",
        ),
        (
            "出力の活性化関数がsigmoidのハイパーネットワークは、ベースモデルへ引き戻せません",
            "出力が0にならず、ベースモデルと同じ状態がないためです。",
            "method.activate_output=false にするか、別の活性化関数を選んでください。",
        ),
    ),
    "RC020": _m(
        (
            "There is no learning rate to find: the optimizer {found} finds it by itself",
            "Its rate is a factor on what it finds, best left at 1.",
            "Choose another optimizer: --set {key}=adamw",
        ),
        (
            "オプティマイザー {found} は学習率を自動で決めるため、探す必要はありません",
            "設定する学習率はその倍率になるため、1のままにするのが最適です。",
            "探すには別のオプティマイザーを選んでください: --set {key}=adamw",
        ),
    ),
    "RC021": _m(
        (
            "`--over {found}` cannot be searched",
            "{why}",
            "For example: --over train.learning_rate=1e-4..3e-3 --over method.rank=8,16,32",
        ),
        (
            "`--over {found}` では探索できません",
            "{why}",
            "例: --over train.learning_rate=1e-4..3e-3 --over method.rank=8,16,32",
        ),
    ),
    "RC022": _m(
        (
            "A search needs the package optuna",
            "It is not installed here ({why}).",
            'pip install "tsuika[search]", or pip install optuna',
        ),
        (
            "探索にはoptunaパッケージが必要です",
            "インストールされていません({why})。",
            'pip install "tsuika[search]" または pip install optuna を実行してください。',
        ),
    ),
    "RC023": _m(
        (
            "The output folder holds another search",
            "Its recipe or what is searched over differs: {why}",
            "Give the same settings to go on with it, or choose another --out.",
        ),
        (
            "出力フォルダーには別の探索が入っています",
            "レシピまたは探索する設定が異なります: {why}",
            "同じ設定で続けるか、別の --out を指定してください。",
        ),
    ),
    "RC024": _m(
        (
            "A search needs held-out pictures to compare by",
            "{why}",
            "Give at least 4 different pictures, and leave --guard on.",
        ),
        (
            "探索には、比較に使う検証用画像が必要です",
            "{why}",
            "異なる画像を4枚以上用意し、ガードはオンのままにしてください。",
        ),
    ),
    "RC025": _m(
        (
            "This cannot be searched side by side",
            "It takes lists of values, and of learning rate, rank, alpha or penalties only. What learns must be plain LoRA layers without dropout, new words, or a hypernetwork; in one process, without fp16 and without a compiled UNet.",
            "Leave --lanes out: the trials then run one after another.",
        ),
        (
            "この探索は並行して実行できません",
            "対象は、学習率・rank・alpha・正則化の値を一覧で指定した場合だけです。また、ドロップアウトなしの通常のLoRA、新しい単語、ハイパーネットワークのいずれかを、1プロセスで、fp16とUNetのコンパイルを使わずに学習する場合に限ります。",
            "--lanes を外すと、試行を1つずつ実行します。",
        ),
    ),
    "RC026": _m(
        ("Nothing keeps within these limits", "{why}", "Raise --vram-gb or --max-file-mb, or leave --for out."),
        (
            "この条件に収まる方法がありません",
            "{why}",
            "--vram-gb や --max-file-mb を大きくするか、--for を外してください。",
        ),
    ),
    "DS001": _m(
        ("The picture folder does not exist", "No folder of this name was found.", "Check its path."),
        ("画像フォルダーがありません", "その名前のフォルダーが見つかりません。", "パスを確認してください。"),
    ),
    "DS002": _m(
        (
            "{usable} of {total} pictures can be used; at least {needed} are needed",
            "{why}",
            "Add pictures, or look at the list of pictures left out: {report}",
        ),
        (
            "{total}枚中{usable}枚しか使えません(最低{needed}枚必要です)",
            "{why}",
            "画像を追加するか、除外された画像の一覧を確認してください: {report}",
        ),
    ),
    "DS003": _m(
        ("This picture cannot be used", "{why}", "Remove it from the folder, or save it again as PNG or JPEG."),
        ("この画像は使えません", "{why}", "フォルダーから外すか、PNGまたはJPEGで保存し直してください。"),
    ),
    "DS004": _m(
        (
            "The VAE turned this picture into numbers that are not finite",
            "{why}",
            "Half precision overflows in some VAEs: --set train.precision=fp32, or another VAE with --vae.",
        ),
        (
            "VAEでこの画像を変換すると、NaNまたは無限大になりました",
            "{why}",
            "VAEによっては、半精度で桁あふれします。--set train.precision=fp32 か、--vae で別のVAEを試してください。",
        ),
    ),
    "DS005": _m(
        ("The cleaned copy cannot be written there", "{why}", "Choose another place with --out."),
        ("整理したコピーをその場所には書き出せません", "{why}", "--out で別の場所を指定してください。"),
    ),
    "DS006": _m(("{name} is left out: {reason}", "{words}", ""), ("{name} は使いません: {reason}", "{words}", "")),
    "DS007": _m(("Noticed about {name}: {reason}", "{words}", ""), ("{name} について: {reason}", "{words}", "")),
    "DS008": _m(
        (
            "{count} pictures are smaller than the training size and are enlarged",
            "They are: {names}.",
            "Where you have larger originals, take those: blur is learnt, too.",
        ),
        (
            "{count}枚の画像は学習サイズより小さいため拡大します",
            "対象: {names}。",
            "大きい元画像があれば差し替えてください。ぼやけも学習されてしまいます。",
        ),
    ),
    "DS009": _m(
        ("What was stored of {name} cannot be used", "{why}", "It is encoded again."),
        ("{name} の保存済みデータは使えません", "{why}", "もう一度エンコードします。"),
    ),
    "MD001": _m(
        (
            "The base model was not found",
            "{why}",
            "Give a diffusers folder, a .safetensors or .ckpt file, a hub id, or `embedded`.",
        ),
        (
            "ベースモデルが見つかりません",
            "{why}",
            "diffusers形式のフォルダー、.safetensors/.ckptファイル、ハブのID、または `embedded` を指定してください。",
        ),
    ),
    "MD002": _m(
        (
            "This file is not a Stable Diffusion model that tsuika knows",
            "Found: {found}",
            "Use an SD1.x, SD2.x or SDXL model.",
        ),
        (
            "tsuikaが扱えるStable Diffusionモデルではありません",
            "見つかったもの: {found}",
            "SD1.x、SD2.x、SDXLのモデルを使ってください。",
        ),
    ),
    "MD003": _m(
        ("The file is damaged or not complete", "{why}", "Download or copy it again."),
        ("ファイルが壊れているか、途中で切れています", "{why}", "もう一度ダウンロードまたはコピーしてください。"),
    ),
    "MD004": _m(
        (
            "{artifact} was made for {found}, not for {expected}",
            "Layers of the two differ, so it would fail, or do nothing at all.",
            "Use it with the kind of base that it was made for.",
        ),
        (
            "{artifact} は {found} 用で、{expected} には使えません",
            "層の形状が違うため、動かないか、効果がありません。",
            "作成時と同じ種類のベースモデルで使ってください。",
        ),
    ),
    "MD005": _m(
        (
            "The file holds more than numbers and was refused",
            "{why}",
            "Get it as .safetensors; a pickle can run programs when opened.",
        ),
        (
            "数値以外のものを含むため、このファイルは開きません",
            "{why}",
            ".safetensors 版を入手してください。pickleは、開くだけでプログラムが実行されるおそれがあります。",
        ),
    ),
    "MD006": _m(
        (
            "No file for `{found}` was found",
            "Looked for it in: {folders}",
            "Check the name (nearest: {nearest}), or give the folder with --artifacts.",
        ),
        (
            "`{found}` のファイルが見つかりません",
            "探した場所: {folders}",
            "名前を確認するか(近い名前: {nearest})、--artifacts でフォルダーを指定してください。",
        ),
    ),
    "MD007": _m(
        (
            "The word `{word}` is new in two results at once",
            "A prompt could mean only one of them.",
            "Use one of the two, or rename one of the files.",
        ),
        (
            "単語 `{word}` が2つの学習結果の両方にあります",
            "プロンプトではどちらか一方の意味にしかなりません。",
            "どちらか一方だけを使うか、ファイル名を変えてください。",
        ),
    ),
    "MD008": _m(
        (
            "The word `{word}` cannot be used in a prompt",
            "It holds a space, a comma, a colon, a slash or a bracket.",
            "Rename the file: where a file names no word, its own name is the word. Letters, digits, `-` and `_` are best.",
        ),
        (
            "単語 `{word}` はプロンプトで使えません",
            "空白・カンマ・コロン・スラッシュ・括弧のいずれかが含まれています。",
            "ファイル名を変えてください(単語の指定がないファイルでは、ファイル名が単語になります)。英数字、`-`、`_` をおすすめします。",
        ),
    ),
    "MD009": _m(
        ("The VAE was not found", "There is no such file or folder.", "Give `builtin`, a file, a folder or a hub id."),
        (
            "VAEが見つかりません",
            "その名前のファイルもフォルダーもありません。",
            "`builtin`、ファイル、フォルダー、またはハブのIDを指定してください。",
        ),
    ),
    "MD010": _m(
        (
            "The base has no VAE called `{found}`",
            "It has: {known}.",
            "Give one of these, a file, a folder or a hub id.",
        ),
        (
            "このベースモデルに `{found}` というVAEはありません",
            "使えるもの: {known}。",
            "このいずれか、ファイル、フォルダー、またはハブのIDを指定してください。",
        ),
    ),
    "FM001": _m(
        ("This file is of no format that tsuika can read here", "Found: {found}", "Expected: {expected}"),
        ("この形式のファイルは読み込めません", "見つかったもの: {found}", "必要なもの: {expected}"),
    ),
    "FM002": _m(
        ("{format} cannot hold this result", "{why}", "{do}"),
        ("この結果は {format} 形式では保存できません", "{why}", "{do}"),
    ),
    "FM003": _m(
        (
            "The written file does not do what the trained model does",
            "{why}",
            "This is a bug: please report it with the log file.",
        ),
        ("書き出したファイルの効果が学習結果と一致しません", "{why}", "不具合です。ログを添えて報告してください。"),
    ),
    "FM004": _m(
        ("There is no such file", "Nothing was found under this name.", "Check the path."),
        ("ファイルがありません", "その名前のファイルが見つかりません。", "パスを確認してください。"),
    ),
    "FM005": _m(
        ("This cannot be done with these files", "{why}", "{do}"), ("これらのファイルではできません", "{why}", "{do}")
    ),
    "FM006": _m(
        (
            "{file} has copies in place of the text encoder's last block and projection",
            "The base came without them. Nothing computes with them, but programs look for these tensors.",
            "",
        ),
        (
            "{file} では、テキストエンコーダーの最終ブロックと射影を複製で補いました",
            "ベースモデルになかったためです。計算には使われませんが、これらのテンソルを探すソフトがあります。",
            "",
        ),
    ),
    "FM007": _m(
        ("Keys that were not understood are left out", "They are: {keys}", ""),
        ("認識できないキーは書き出しません", "対象: {keys}", ""),
    ),
    "FM008": _m(
        ("{kind} became a plain LoRA of rank {rank} at most", "Relative error of a layer: {error}.", ""),
        ("{kind} をrank {rank}以下の通常のLoRAにしました", "層ごとの相対誤差: {error}。", ""),
    ),
    "FM009": _m(
        (
            "0.18215 (SD1, SD2) is written as the latent scale",
            "The file does not say its own.",
            "For SDXL: --base SDXL-BASE",
        ),
        (
            "潜在表現のスケールとして0.18215(SD1、SD2)を書き込みました",
            "ファイルに記載がないためです。",
            "SDXLの場合: --base SDXLのモデル",
        ),
    ),
    "FM010": _m(
        ("{file} went along", "Programs read there that the model predicts v.", ""),
        ("{file} も書き出しました", "各ソフトは、v予測モデルであることをこのファイルから読み取ります。", ""),
    ),
    "RS001": _m(("Not enough memory", "{why}", "{do}"), ("メモリが足りません", "{why}", "{do}")),
    "RS002": _m(
        ("Not enough disk space", "{why}", "Free some space or choose another --out."),
        ("ディスクの空きが足りません", "{why}", "空きを作るか、別の --out を指定してください。"),
    ),
    "TR001": _m(
        (
            "Training diverged at step {step}",
            "The loss of these pictures was not a finite number: {pictures}. The last good state (step {kept}) is kept.",
            "Try a third of the learning rate: --set train.learning_rate={rate}",
        ),
        (
            "ステップ{step}で学習が発散しました",
            "次の画像のロスがNaNまたは無限大になりました: {pictures}。最後の正常な状態(ステップ{kept})は残してあります。",
            "学習率を3分の1にしてみてください: --set train.learning_rate={rate}",
        ),
    ),
    "TR002": _m(
        ("There is nothing to go on from", "{why}", "Start a new run with: tsuika train"),
        ("再開できる状態が見つかりません", "{why}", "tsuika train で新しく始めてください。"),
    ),
    "TR003": _m(
        (
            "The new word `{word}` stands in no caption",
            "So it learns nothing.",
            "Write it into the captions of its pictures.",
        ),
        (
            "新しい単語 `{word}` はどのキャプションにもありません",
            "そのため何も学習しません。",
            "対象の画像のキャプションに書き加えてください。",
        ),
    ),
    "TR004": _m(
        (
            "Weight decay does next to nothing here",
            "Learning rate x train.weight_decay x steps is {strength}: the whole run takes this share off the weights.",
            "Leave it at 0; regularize.l2 is a penalty whose strength does not depend on the learning rate.",
        ),
        (
            "この設定では重み減衰の効果はほとんどありません",
            "学習率 x train.weight_decay x ステップ数は{strength}で、全ステップを通して重みがこの割合だけ小さくなります。",
            "0のままで構いません。学習率によらない正則化には regularize.l2 を使ってください。",
        ),
    ),
    "TR005": _m(
        (
            "{count} layers hold numbers too small for {precision} to keep exactly, such as {layer}",
            "",
            "If it matters: --set output.dtype=fp32",
        ),
        (
            "{precision} では正確に表せないほど小さな値を含む層が{count}個あります({layer} など)",
            "",
            "気になる場合: --set output.dtype=fp32",
        ),
    ),
    "TR006": _m(
        ("train.ema and train.schedule are not used", "Schedule-free averages weights by itself.", ""),
        ("train.ema と train.schedule は使いません", "schedule-freeは自動で重みの平均を取るためです。", ""),
    ),
    "TR007": _m(
        ("train.schedule is not used after the warm-up", "Prodigy finds its rate by itself.", ""),
        ("ウォームアップ後は train.schedule を使いません", "Prodigyは学習率を自動で決めるためです。", ""),
    ),
    "TR008": _m(
        (
            "The pictures are not those that this run began with",
            "{why}. Which are held out, and when each is learnt, was settled at its beginning.",
            "Put them back as they were, or start a new run with: tsuika train",
        ),
        (
            "画像がこの学習を始めたときと異なります",
            "{why}。どの画像を検証用に取り分け、いつ学習するかは開始時に決まっています。",
            "画像を元に戻すか、tsuika train で新しく始めてください",
        ),
    ),
    "TR009": _m(
        (
            "Captions have changed since this run began: {names}",
            "From here on the new ones are learnt, so it will not end as it would have.",
            "",
        ),
        (
            "この学習を始めたあとでキャプションが変わりました: {names}",
            "ここからは新しいキャプションで学習するため、元のまま続けた場合とは結果が変わります。",
            "",
        ),
    ),
    "TR010": _m(
        ("`{name}` was closed before its end", "So there is no result.", ""),
        ("`{name}` は最後まで進む前に閉じられました", "そのため結果はありません。", ""),
    ),
    "GD001": _m(
        (
            "Stopped at step {step}: the loss is no longer a finite number",
            "The state of step {best} is kept (0 is the untrained base).",
            "Try a third of the learning rate: --set train.learning_rate={rate}",
        ),
        (
            "ステップ{step}で停止: ロスがNaNまたは無限大になりました",
            "ステップ{best}の状態を残してあります(0は学習前)。",
            "学習率を3分の1にしてみてください: --set train.learning_rate={rate}",
        ),
    ),
    "GD002": _m(
        (
            "Stopped at step {step}: held-out pictures are now served worse than by the untrained base ({percent} loss)",
            "The state of step {best} is kept (0 is the untrained base).",
            "Try a third of the learning rate: --set train.learning_rate={rate}",
        ),
        (
            "ステップ{step}で停止: 検証用画像のロスが学習前より悪くなりました({percent})",
            "ステップ{best}の状態を残してあります(0は学習前)。",
            "学習率を3分の1にしてみてください: --set train.learning_rate={rate}",
        ),
    ),
    "GD003": _m(
        (
            "Stopped at step {step}: even the training pictures get worse from check to check",
            "The learning rate is too high. The state of step {best} is kept (0 is the untrained base).",
            "Try a third of it: --set train.learning_rate={rate}",
        ),
        (
            "ステップ{step}で停止: 学習用画像のロスまで上がり続けています",
            "学習率が高すぎます。ステップ{best}の状態を残してあります(0は学習前)。",
            "3分の1にしてみてください: --set train.learning_rate={rate}",
        ),
    ),
    "GD004": _m(
        (
            "Stopped at step {step}: nothing has been learnt",
            "Neither the training pictures nor the held-out ones are better than with the untrained base.",
            "Check the captions, the trigger word and the VAE, or raise the learning rate.",
        ),
        (
            "ステップ{step}で停止: 何も学習できていません",
            "学習用画像でも検証用画像でも、学習前より良くなっていません。",
            "キャプション、トリガーワード、VAEを確認するか、学習率を上げてください。",
        ),
    ),
    "GD005": _m(
        (
            "Stopped at step {step}: what is learnt does not carry over to pictures that were held out",
            "Training pictures: {train} loss; held-out pictures: {percent}.",
            "Check that all pictures show the same thing and that the captions fit; add more varied pictures, or lower the learning rate.",
        ),
        (
            "ステップ{step}で停止: 学習した内容が検証用画像には通用していません",
            "学習用画像のロスは{train}、検証用画像は{percent}です。",
            "すべての画像が同じ対象で、キャプションが合っているか確認してください。変化に富んだ画像を足すか、学習率を下げるのも有効です。",
        ),
    ),
    "GD006": _m(
        (
            "Stopped at step {step}: nothing has been gained on held-out pictures since step {best}",
            "Step {best} is the best ({gain} loss against the base); training on would only memorize the pictures.",
            "",
        ),
        (
            "ステップ{step}で停止: ステップ{best}以降、検証用画像での改善がありません",
            "ステップ{best}が最良です(学習前に比べてロス{gain})。これ以上続けても、画像を丸暗記するだけです。",
            "",
        ),
    ),
    "GD007": _m(
        (
            "The training pictures are being memorized (step {step})",
            "They are ahead of held-out pictures by {gap_mid} in detail and {gap_high} in layout.",
            "Use the state of step {best}, or an earlier one.",
        ),
        (
            "学習用画像を丸暗記し始めています(ステップ{step})",
            "検証用画像との差は、細部で{gap_mid}、構図で{gap_high}です。",
            "ステップ{best}か、それより前の状態を使ってください。",
        ),
    ),
    "GD008": _m(
        (
            "Still learning at step {step}: held-out pictures have never been better ({percent} loss against the base)",
            "",
            "",
        ),
        ("ステップ{step}: まだ学習が進んでいます。検証用画像は今が最良です(学習前に比べてロス{percent})", "", ""),
    ),
    "GD009": _m(
        (
            "Step {step}: training goes on soundly, but no picture is held out, so overfitting cannot be seen",
            "Training pictures: {percent} loss against the base.",
            "",
        ),
        (
            "ステップ{step}: 学習は正常に進んでいますが、検証用画像がないため過学習は判断できません",
            "学習用画像のロスは学習前に比べて{percent}です。",
            "",
        ),
    ),
    "GD010": _m(
        ("Step {step}: no gain on held-out pictures since step {best}; waiting a little longer", "", ""),
        ("ステップ{step}: ステップ{best}以降、検証用画像での改善がありません。もう少し様子を見ます", "", ""),
    ),
    "GD011": _m(
        ("Step {step}: held-out pictures are not yet better than with the base ({percent} loss)", "", ""),
        ("ステップ{step}: 検証用画像はまだ学習前より良くなっていません(ロス{percent})", "", ""),
    ),
    "GD012": _m(
        (
            "{found} pictures that differ are too few: no validation can be trusted",
            "{then}",
            "With 4 or more different pictures overfitting can be seen; 10 or more are better.",
        ),
        (
            "異なる画像が{found}枚では少なすぎて、信頼できる検証になりません",
            "{then}",
            "異なる画像が4枚以上あれば過学習を判断できます。10枚以上がおすすめです。",
        ),
    ),
    "GD013": _m(
        ("{held_out} of {found} pictures are held out to see overfitting", "They are: {names}.", "{then}"),
        ("過学習を調べるため、{found}枚のうち{held_out}枚を検証用に取り分けました", "検証用画像: {names}。", "{then}"),
    ),
    "GD014": _m(
        (
            "{names} show the same picture",
            "Copies, crops and mirrored copies never stand on both sides of the split.",
            "",
        ),
        (
            "{names} は同じ画像とみなしました",
            "コピー、切り抜き、左右反転した画像は、学習用と検証用に分かれないようにします。",
            "",
        ),
    ),
    "GD015": _m(
        (
            "Cross-validation: {folds} folds of {found} pictures, each trained without the pictures that it is judged by",
            "They learn side by side with the run on all pictures, so a step computes {times} times as much.",
            "Fewer folds are quicker: --folds 2; none: --guard off",
        ),
        (
            "交差検証: {found}枚の画像を{folds}分割し、それぞれ検証用画像を除いて学習します",
            "全画像での学習と並行して進めるため、1ステップの計算量は{times}倍になります。",
            "速くするには分割数を減らすか(--folds 2)、ガードをオフにしてください(--guard off)。",
        ),
    ),
    "GD016": _m(
        (
            "Cross-validation: {folds} folds of {found} pictures, one after another",
            "{why}",
            "Fewer folds are quicker: --folds 2; none: --guard off",
        ),
        (
            "交差検証: {found}枚の画像を{folds}分割し、順番に学習します",
            "{why}",
            "速くするには分割数を減らすか(--folds 2)、ガードをオフにしてください(--guard off)。",
        ),
    ),
    "GD017": _m(
        (
            "No step was better on held-out pictures than the untrained base",
            "The file holds step {step}, which did least harm. Do not expect much of it.",
            "Check that all pictures show the same thing and that the captions fit, or lower the learning rate.",
        ),
        (
            "検証用画像では、どのステップも学習前より良くなりませんでした",
            "ファイルには、悪影響が最も小さかったステップ{step}を保存しました。あまり効果は期待できません。",
            "すべての画像が同じ対象で、キャプションが合っているか確認してください。学習率を下げるのも有効です。",
        ),
    ),
    "GD020": _m(
        (
            "Best of the rates that were tried: {rate} (loss {gain} after {after} steps)",
            "Estimates: at this rate, held constant, a run is at its best near step {best}; over your {run} steps with their schedule a rate of {slower} learns as much.",
            "--set train.learning_rate={slower}; or {rate} and fewer steps",
        ),
        (
            "試した中で最良の学習率: {rate}({after}ステップ後のロス{gain})",
            "推定では、この学習率のまま進めると最良になるのはステップ{best}付近です。設定中の{run}ステップとスケジュールでは、学習率{slower}で同じ学習量になります。",
            "--set train.learning_rate={slower} とするか、{rate} のままステップ数を減らしてください。",
        ),
    ),
    "GD021": _m(
        (
            "Best of the rates that were tried: {rate} (loss {gain} after {after} steps)",
            "None of them was past its best after {steps} steps, so how many steps it needs cannot be told.",
            "--set train.learning_rate={rate}",
        ),
        (
            "試した中で最良の学習率: {rate}({after}ステップ後のロス{gain})",
            "{steps}ステップではどの学習率も改善が続いていたため、必要なステップ数は推定できません。",
            "--set train.learning_rate={rate}",
        ),
    ),
    "GD022": _m(
        (
            "No learning rate from {lowest} to {highest} can be recommended",
            "After {steps} steps none of them is better than the untrained model by more than chance.",
            "Try more steps (--steps) or other rates (--rates), and check the captions and the trigger word.",
        ),
        (
            "{lowest}から{highest}の範囲では、おすすめできる学習率がありません",
            "{steps}ステップでは、どの学習率でも学習前より偶然以上には良くなりませんでした。",
            "ステップ数(--steps)を増やすか、別の学習率(--rates)を試してください。キャプションとトリガーワードも確認してください。",
        ),
    ),
    "GD023": _m(
        (
            "Learning rates {rates} are tried for {steps} steps each",
            "They are judged by {measured} of the {found} pictures, which are not trained on here.",
            "",
        ),
        (
            "学習率 {rates} を{steps}ステップずつ試します",
            "{found}枚のうち{measured}枚を検証用に取り分け、比較に使います。",
            "",
        ),
    ),
    "GD024": _m(
        (
            "Learning rates {rates} are tried for {steps} steps each",
            "{found} different pictures are too few to hold one out: the rates are judged by pictures that are trained on, which cannot show overfitting.",
            "",
        ),
        (
            "学習率 {rates} を{steps}ステップずつ試します",
            "異なる画像が{found}枚では少なすぎて、検証用に取り分けられません。学習に使う画像で比較するため、過学習は分かりません。",
            "",
        ),
    ),
    "GD025": _m(("Trial {number} is left out", "{why}", ""), ("試行{number}は除外しました", "{why}", "")),
    "GD026": _m(
        (
            "{count} trials are being run by other processes",
            "The result below is without them.",
            "The same command shows it again once they are done.",
        ),
        (
            "ほかのプロセスが{count}件の試行を実行中です",
            "下の結果には含まれていません。",
            "終わってから同じコマンドを実行すると、すべて含めた結果を表示します。",
        ),
    ),
    "GD027": _m(
        (
            "{points} settings learn side by side, judged by {held_out} of the {found} pictures, which are not trained on here",
            "The worse half leaves after a third of the steps.",
            "",
        ),
        (
            "{points}通りの設定を並行して学習し、{found}枚のうち{held_out}枚(学習には使いません)で比較します",
            "ステップの3分の1で、成績の悪い半分を打ち切ります。",
            "",
        ),
    ),
    "GD028": _m(
        (
            "Best of the rates that were tried: {rate} (loss {gain} after {after} steps)",
            "Estimate: at this rate, held constant, a run is at its best near step {best}; your {run} steps with their schedule end before that.",
            "--set train.learning_rate={rate}, and more steps",
        ),
        (
            "試した中で最良の学習率: {rate}({after}ステップ後のロス{gain})",
            "推定では、この学習率のまま進めると最良になるのはステップ{best}付近です。設定中の{run}ステップとスケジュールでは、その手前で終わります。",
            "--set train.learning_rate={rate} とし、ステップ数を増やしてください。",
        ),
    ),
    "GD029": _m(
        (
            "Cross-validation: {folds} folds of {found} pictures, one after another",
            "{why} Each fold has half of the pictures and overfits much sooner: the step for all of them is a rough estimate, {times} times theirs.",
            "Other folds: --folds K; none: --guard off",
        ),
        (
            "交差検証: {found}枚の画像を{folds}分割し、順番に学習します",
            "{why}分割ごとに半分の画像だけで学習するため、過学習がかなり早く起こります。全画像でのステップ数は、その約{times}倍という大まかな推定です。",
            "分割数を変えるには --folds K、交差検証をやめるには --guard off",
        ),
    ),
    "GD030": _m(
        (
            "Best of the rates that were tried: {rate} (loss {gain} after {after} steps)",
            "It is the highest of them, and was not past its best after {steps} steps: a higher one may be better still.",
            "--set train.learning_rate={rate}; or try higher ones: --rates {higher}",
        ),
        (
            "試した中で最良の学習率: {rate}({after}ステップ後のロス{gain})",
            "試した中で最も高い学習率で、{steps}ステップではまだ改善が続いていました。もっと高い学習率のほうが良いかもしれません。",
            "--set train.learning_rate={rate} とするか、さらに高い学習率を試してください: --rates {higher}",
        ),
    ),
    "GD031": _m(
        (
            "The guard's checks took {took} of the training time, more than guard.overhead ({most})",
            "The run is short: 4 pictures in 8 checks are the least that a best step can be told by.",
            "Nothing need be done; a larger batch or more steps make the share smaller, and --guard off does without",
        ),
        (
            "ガードの測定に学習時間の{took}がかかり、guard.overhead({most})を超えました",
            "短い学習のためです。最良のステップを見分けるには、少なくとも4枚の画像で8回測る必要があります。",
            "そのままで構いません。バッチサイズやステップ数を増やすと割合は下がります。--guard off では測定しません。",
        ),
    ),
    "EV001": _m(
        (
            "This cannot be opened as an image encoder",
            "{why}",
            "Name a CLIP, SigLIP or DINOv2 by its hub id or folder, with weights as .safetensors; e.g. --encoder openai/clip-vit-base-patch32",
        ),
        (
            "画像エンコーダーとして開けません",
            "{why}",
            "CLIP、SigLIP、DINOv2 を、ハブのIDまたはフォルダーで指定してください(重みは .safetensors)。例: --encoder openai/clip-vit-base-patch32",
        ),
    ),
    "EV002": _m(
        (
            "No encoder was named that knows what this base draws, so likeness to the training pictures, adherence to the prompt and drift are not measured",
            "The embedded yardstick knows the embedded base only. Copies and diversity need no encoder and are measured.",
            "Name one: --encoder openai/clip-vit-base-patch32 (all of it) or --encoder facebook/dinov2-small (finer likeness, no adherence); a hub id or a folder.",
        ),
        (
            "このベースモデルの画像を評価できるエンコーダーがないため、学習用画像の再現度、プロンプトへの忠実さ、ほかへの影響は測れません",
            "同梱の評価モデルは同梱ベースモデル専用です。丸写しと多様さはエンコーダーなしで測ります。",
            "エンコーダーを指定してください: --encoder openai/clip-vit-base-patch32(すべて測定)または --encoder facebook/dinov2-small(再現度をより細かく測れますが、忠実さは測れません)。ハブのIDかフォルダーで指定します。",
        ),
    ),
    "EV003": _m(
        (
            "{encoder} has no text tower, so adherence to the prompt is not measured",
            "It sees pictures only; the best trade is then judged by likeness and diversity.",
            "A CLIP or SigLIP measures it: --encoder openai/clip-vit-base-patch32",
        ),
        (
            "{encoder} は文章を読めないため、プロンプトへの忠実さは測れません",
            "画像だけを見るエンコーダーです。おすすめのステップと強さは、再現度と多様さで判断します。",
            "CLIP や SigLIP なら測れます: --encoder openai/clip-vit-base-patch32",
        ),
    ),
    "EV004": _m(
        (
            "This run holds nothing to evaluate",
            "It has not ended yet (there is no report.json), or its results have been moved away.",
            "Finish it first: tsuika resume {where}",
        ),
        (
            "この学習には評価できるものがありません",
            "まだ終わっていないか(report.json がありません)、学習結果が移動されています。",
            "先に学習を終えてください: tsuika resume {where}",
        ),
    ),
    "EV005": _m(
        (
            "The evaluation is not in a report page",
            "{why}",
            "Its numbers are in evaluation.json, its pictures in the folder evaluation.",
        ),
        (
            "評価をレポートのページに入れられませんでした",
            "{why}",
            "数値は evaluation.json、画像は evaluation フォルダーにあります。",
        ),
    ),
    "EV006": _m(
        (
            "There is no kept step {found}",
            "This run keeps: {kept}.",
            "Choose among them, or keep more when training: --set output.keep_states=9",
        ),
        (
            "ステップ {found} は残っていません",
            "この学習に残っているもの: {kept}。",
            "この中から選ぶか、学習時に残す数を増やしてください: --set output.keep_states=9",
        ),
    ),
    "EV007": _m(
        (
            "Some of the training pictures have changed or are gone",
            "{why}",
            "The evaluation compares with the pictures that are there now. Give their place with --images DIR.",
        ),
        (
            "学習用画像の一部が変わったか、なくなっています",
            "{why}",
            "評価では今ある画像と比べます。場所は --images DIR で指定できます。",
        ),
    ),
    "GN001": _m(
        (
            "No font on this machine can show `{missing}`",
            "These characters are spelt out in the picture instead.",
            "Install a font that has them, for example Noto Sans CJK (Debian, Ubuntu: fonts-noto-cjk; Fedora: google-noto-sans-cjk-fonts).",
        ),
        (
            "このマシンには `{missing}` を表示できるフォントがありません",
            "画像の中では、ローマ字や文字コードに置き換えて表します。",
            "Noto Sans CJK などのフォントを入れてください(Debian・Ubuntu: fonts-noto-cjk、Fedora: google-noto-sans-cjk-fonts)。",
        ),
    ),
    "GN002": _m(
        (
            "Sampler {sampler} cannot start from pure noise",
            "This base was trained down to zero terminal SNR, so dark and bright pictures come out flat.",
            "Use another sampler, for example Euler or DDIM.",
        ),
        (
            "サンプラー {sampler} は純粋なノイズから始められません",
            "このベースモデルはゼロ終端SNRで学習されているため、このサンプラーでは暗い画像や明るい画像が平板になります。",
            "Euler や DDIM など、別のサンプラーを使ってください。",
        ),
    ),
    "GN003": _m(
        (
            "`{found}` in the prompt is not supported",
            "Tags other than lora and hypernet are left out; prompt editing and AND are read as plain text.",
            "",
        ),
        (
            "プロンプトの `{found}` には対応していません",
            "lora と hypernet 以外のタグは無視し、プロンプト編集と AND は普通の文字として読みます。",
            "",
        ),
    ),
    "GN004": _m(
        (
            "Prompt weights are used without restoring the mean",
            "The mean of this text encoder's embeddings is too near to zero to be restored.",
            "",
        ),
        (
            "プロンプトの重みは平均値の補正なしで使います",
            "このテキストエンコーダーの埋め込みは平均がほぼ0で、補正できません。",
            "",
        ),
    ),
    "GN005": _m(
        (
            "{unmatched} of {total} tensors in {artifact} found no place in this base",
            "First of them: {first}",
            "Make sure that the file was made for this kind of base.",
        ),
        (
            "{artifact} の{total}個のテンソルのうち{unmatched}個は、このベースモデルのどこにも対応しません",
            "最初のもの: {first}",
            "この種類のベースモデル用のファイルか確認してください。",
        ),
    ),
    "GN006": _m(
        ("{artifact} is not used", "{why}.", "Move it out of the folders where names are looked up, or rename it."),
        ("{artifact} は使いません", "{why}。", "名前を探すフォルダーの外に移すか、名前を変えてください。"),
    ),
    "NW001": _m(
        (
            "The hub could not be reached or refused",
            "{why}",
            "Check the connection, the name and the licence; or give a folder or file on this machine.",
        ),
        (
            "ハブに接続できないか、ハブに拒否されました",
            "{why}",
            "接続・名前・ライセンスを確認するか、このマシンにあるフォルダーかファイルを指定してください。",
        ),
    ),
    "VA001": _m(
        (
            "{vae} overflows in {precision}",
            "Its layers reach {largest}, more than {precision} can hold, so programs that decode in half precision show black pictures.",
            "Run it in {fallback} or fp32 (A1111: --no-half-vae; ComfyUI: --bf16-vae or --fp32-vae).",
        ),
        (
            "{vae} は{precision}で桁あふれします",
            "層の値が{largest}に達し、{precision}で表せる範囲を超えるため、半精度でデコードするソフトでは真っ黒な画像になります。",
            "{fallback}かfp32で使ってください(A1111は --no-half-vae、ComfyUIは --bf16-vae または --fp32-vae)。",
        ),
    ),
    "VA002": _m(
        (
            "{vae} gives numbers that are not finite",
            "{broken} of {total} pictures came out broken, in fp32 too.",
            "The file is damaged: get it again.",
        ),
        (
            "{vae} の出力がNaNまたは無限大になります",
            "{total}枚中{broken}枚が、fp32でも壊れた画像になりました。",
            "ファイルが壊れています。入手し直してください。",
        ),
    ),
    "VA003": _m(
        (
            "{vae} is a VAE for another kind of base",
            "Its latents have nothing to do with those of this base (correlation {correlation}); what this base draws comes out {lost} dB worse than it could. Such a VAE loads without any error: an SDXL VAE on SD1, for example.",
            "Use it with the base it was made for.",
        ),
        (
            "{vae} は別の種類のベースモデル用のVAEです",
            "潜在表現がこのベースモデルのものと対応していません(相関{correlation})。このベースモデルの画像は、本来より{lost} dB悪くなります。このようなVAEも、エラーなしで読み込まれます(SD1でSDXLのVAEを使った場合など)。",
            "対応するベースモデルで使ってください。",
        ),
    ),
    "VA004": _m(
        (
            "{vae} expects latents {factor} times as large as this base makes them",
            "Its scale is another one; what this base draws comes out {lost} dB worse than it could, and training would see latents of the wrong size. No program says so.",
            "Use a VAE made for this base.",
        ),
        (
            "{vae} に必要な潜在表現の大きさは、このベースモデルの{factor}倍です",
            "スケールが違うため、このベースモデルの画像は本来より{lost} dB悪くなり、学習でも合わない大きさの潜在表現が使われます。どのソフトもエラーを出しません。",
            "このベースモデル用のVAEを使ってください。",
        ),
    ),
    "VA005": _m(
        (
            "The config of {vae} names the latent scale {found}; this base uses {expected}",
            "The base's scale is used here, as in every program.",
            "If colours or contrast look wrong, use a VAE made for this base.",
        ),
        (
            "{vae} の設定にある潜在表現のスケールは{found}、このベースモデルは{expected}です",
            "ほかのソフトと同じく、ここでもベースモデルのスケールを使います。",
            "色やコントラストがおかしいときは、このベースモデル用のVAEを使ってください。",
        ),
    ),
    "VA006": _m(
        (
            "{vae} washes colours out",
            "Of the originals' chroma {chroma} % is left, of their range from dark to light {range} %.",
            "Use another VAE.",
        ),
        (
            "{vae} では色があせます",
            "元の画像に比べて、彩度は{chroma} %、明暗の幅は{range} %になります。",
            "別のVAEを使ってください。",
        ),
    ),
    "VA007": _m(
        (
            "{vae} gives black or flat pictures",
            "Next to nothing of the originals' range from dark to light is left.",
            "Use another VAE, or a higher precision.",
        ),
        (
            "{vae} の出力は真っ黒か単色です",
            "元の画像の明暗がほとんど残りません。",
            "別のVAEを使うか、精度を上げてください。",
        ),
    ),
    "VA008": _m(
        (
            "{vae} shows seams when it decodes in tiles",
            "With tiles of {tile} px the worst hundredth of the pixels differs by ΔE {difference}.",
            "Decode whole pictures where memory allows, or use larger tiles with more overlap.",
        ),
        (
            "{vae} はタイル分割でデコードすると継ぎ目が見えます",
            "{tile} pxのタイルでは、差が最も大きい1 %の画素にΔE {difference}の違いがあります。",
            "メモリが足りるなら分割せずにデコードするか、タイルと重なりを大きくしてください。",
        ),
    ),
    "VA009": _m(
        (
            "{vae} gives numbers that are not finite in {precision}",
            "It was measured in {fallback} instead.",
            "Run it in {fallback}.",
        ),
        (
            "{vae} の出力が{precision}ではNaNまたは無限大になります",
            "代わりに{fallback}で測りました。",
            "{fallback}で使ってください。",
        ),
    ),
    "VA010": _m(
        (
            "{vae} has another encoder than the base's own VAE",
            "So latents and training are affected, not only how pictures look: train with it and draw with it, or do neither.",
            "",
        ),
        (
            "{vae} はエンコーダーがベースモデルのVAEと異なります",
            "見た目だけでなく潜在表現と学習にも影響します。学習と生成の両方で使うか、どちらでも使わないようにしてください。",
            "",
        ),
    ),
    "VA011": _m(
        (
            "{found} different pictures are too few to tell VAEs apart",
            "An interval needs at least {needed}; ten or more are good.",
            "",
        ),
        (
            "異なる画像が{found}枚では、VAEの差を判断できません",
            "区間を求めるには{needed}枚以上必要です。10枚以上をおすすめします。",
            "",
        ),
    ),
    "VA012": _m(
        (
            "{shown} of {found} pictures are compared",
            "They are taken evenly from the folder.",
            "For all: --max-pictures {found}",
        ),
        (
            "{found}枚のうち{shown}枚で比較します",
            "フォルダー全体から均等に選びます。",
            "すべて使うには: --max-pictures {found}",
        ),
    ),
    "VA013": _m(
        (
            "{count} pictures were cut to sides that are multiples of {multiple} px",
            "VAEs take no others; programs cut or stretch them too.",
            "",
        ),
        (
            "{count}枚の画像は、縦横が{multiple} pxの倍数になるように端を切り取りました",
            "VAEが扱えるのはその大きさだけです。ほかのソフトでも、切り取りか伸縮が行われます。",
            "",
        ),
    ),
    "VA020": _m(
        (
            "The tuned decoder is not better than before, so nothing was written",
            "On {proof} held-out pictures {measure} went from {before} to {after} (change: {low} to {high}).",
            "Give more or other pictures, another --purpose, or keep the VAE that you have. To have the file anyway: --keep-anyway",
        ),
        (
            "調整したデコーダーは元より良くならなかったため、何も書き出しませんでした",
            "検証用画像{proof}枚で、{measure}は{before}から{after}になりました(変化: {low}〜{high})。",
            "画像を増やすか変える、--purpose を変える、または今のVAEをそのまま使ってください。それでも書き出すには: --keep-anyway",
        ),
    ),
    "VA021": _m(
        (
            "{found} different pictures are too few to tune a VAE",
            "At least {needed} are needed: some are held out to choose the step and others to prove the gain.",
            "Add pictures; copies and crops of one picture count once.",
        ),
        (
            "異なる画像が{found}枚では、VAEを調整できません",
            "ステップを選ぶ画像と効果を確かめる画像を学習用とは別に取り分けるため、{needed}枚以上必要です。",
            "画像を追加してください。同じ画像のコピーや切り抜きは1枚と数えます。",
        ),
    ),
    "VA022": _m(
        (
            "Tuning diverged at step {step}",
            "The loss was not a finite number; nothing was written.",
            "Try a third of the learning rate: --learning-rate {rate}",
        ),
        (
            "ステップ{step}で調整が発散しました",
            "ロスがNaNまたは無限大になりました。何も書き出していません。",
            "学習率を3分の1にしてみてください: --learning-rate {rate}",
        ),
    ),
    "VA023": _m(
        (
            "{measure} became worse: {mean} ({low} to {high})",
            "That is what the gain costs on the held-out pictures.",
            "Compare the two with: tsuika vae compare",
        ),
        (
            "{measure} は悪くなりました: {mean}({low}〜{high})",
            "検証用画像で測った、改善の代償です。",
            "tsuika vae compare で見比べてください。",
        ),
    ),
    "VA024": _m(
        (
            "{small} of {found} pictures are smaller than the crops of {side} px and are not trained on",
            "Otherwise the smallest would decide the size of all crops.",
            "To train on them as well, give a smaller --crop.",
        ),
        (
            "{found}枚のうち{small}枚は、切り抜き({side}px)より小さいため学習に使いません",
            "使うと、いちばん小さい画像に合わせて、すべての切り抜きが小さくなります。",
            "これらも使うには、--crop に小さい値を指定してください。",
        ),
    ),
}


def percent(log_ratio: float | None) -> str:
    """A log ratio of losses as people read it: `-1.4 %`; a dash for none, and above thousandfold it is only called so."""
    if log_ratio is None or not math.isfinite(log_ratio):
        return "–"
    return f"{100 * math.expm1(log_ratio):+.1f} %" if log_ratio < math.log(1000) else "> 1000×"
