"""What tsuika says to people when something is wrong: code -> language -> what, why, do. A table, kept in code order.

RC recipe and usage, DS pictures, MD models, FM file formats, RS resources, TR training, GN generation (notes), NW network.
"""

from __future__ import annotations

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
        ("Setting `{key}` cannot be `{found}`", "{why}", "Change `{key}` in the recipe or with --set {key}=…"),
        ("設定 `{key}` を `{found}` にはできません", "{why}", "レシピまたは --set {key}=… で直してください"),
    ),
    "RC003": _m(
        ("The recipe is not valid TOML", "{why}", "Correct the line named above."),
        ("レシピがTOMLとして読めません", "{why}", "上の行を直してください。"),
    ),
    "RC004": _m(
        ("`{found}` is not of the form key=value", "A setting needs a key, `=`, and a value.", "For example: --set train.steps=400"),
        ("`{found}` は key=value の形ではありません", "設定には キー、`=`、値 が必要です。", "例: --set train.steps=400"),
    ),
    "RC005": _m(
        ("{found} is needed", "Without it there is nothing to do.", "{do}"),
        ("{found} が必要です", "これがないと始められません。", "{do}"),
    ),
    "RC006": _m(
        ("The output folder is already in use", "It holds another run, and nothing is ever overwritten.", "Choose another --out, or go on with: tsuika resume {where}"),
        ("出力フォルダーはすでに使われています", "別の学習結果があり、上書きはしません。", "別の --out を指定するか、tsuika resume {where} で続けてください"),
    ),
    "RC007": _m(
        ("The output exists already", "Nothing is overwritten unasked.", "Choose another --out, or add --overwrite (files only)."),
        ("出力先はすでに存在します", "指示がない限り上書きはしません。", "別の --out を指定するか、--overwrite を付けてください(ファイルのみ)。"),
    ),
    "DS001": _m(
        ("The picture folder does not exist", "No folder of this name was found.", "Check the path given with --images."),
        ("画像フォルダーがありません", "その名前のフォルダーが見つかりません。", "--images のパスを確認してください。"),
    ),
    "DS002": _m(
        ("{usable} of {total} pictures can be used; at least {needed} are needed", "{why}", "Add pictures, or look at the list of pictures left out: {report}"),
        ("{total}枚中{usable}枚しか使えません(最低{needed}枚必要です)", "{why}", "画像を追加するか、除外された画像の一覧を確認してください: {report}"),
    ),
    "DS003": _m(
        ("This picture cannot be used", "{why}", "Remove it from the folder, or save it again as PNG or JPEG."),
        ("この画像は使えません", "{why}", "フォルダーから外すか、PNGまたはJPEGで保存し直してください。"),
    ),
    "DS004": _m(
        ("The VAE turned this picture into numbers that are not finite", "{why}", "Half precision overflows in some VAEs: --set train.precision=fp32, or another VAE with --vae."),
        ("VAEがこの画像を有限でない数に変換しました", "{why}", "半精度では桁あふれするVAEがあります。--set train.precision=fp32 か、--vae で別のVAEを試してください。"),
    ),
    "MD001": _m(
        ("The base model was not found", "{why}", "Give a diffusers folder, a .safetensors or .ckpt file, a hub id, or `embedded`."),
        ("ベースモデルが見つかりません", "{why}", "diffusers形式のフォルダー、.safetensors/.ckptファイル、ハブのID、または `embedded` を指定してください。"),
    ),
    "MD002": _m(
        ("This file is not a Stable Diffusion model that tsuika knows", "Found: {found}", "Use an SD1.x, SD2.x or SDXL model."),
        ("tsuikaが扱えるStable Diffusionモデルではありません", "見つかったもの: {found}", "SD1.x、SD2.x、SDXLのモデルを使ってください。"),
    ),
    "MD003": _m(
        ("The file is damaged or not complete", "{why}", "Download or copy it again."),
        ("ファイルが壊れているか、途中で切れています", "{why}", "もう一度ダウンロードまたはコピーしてください。"),
    ),
    "MD004": _m(
        ("{artifact} was made for {found}, not for {expected}", "Layers of the two differ, so it would not work or do nothing.", "Use it with a {found} base."),
        ("{artifact} は {found} 用で、{expected} には使えません", "層の形が違うため、動かないか効果がありません。", "{found} のベースモデルで使ってください。"),
    ),
    "MD005": _m(
        ("The file holds more than numbers and was refused", "{why}", "Get it as .safetensors; a pickle can run programs when opened."),
        ("数値以外のものを含むため、このファイルは開きません", "{why}", ".safetensors 版を入手してください。pickleは開くだけでプログラムを実行できます。"),
    ),
    "MD006": _m(
        ("No file for `{found}` was found", "Looked for it in: {folders}", "Check the name (nearest: {nearest}), or give the folder with --artifacts."),
        ("`{found}` のファイルが見つかりません", "探した場所: {folders}", "名前を確認するか(近い名前: {nearest})、--artifacts でフォルダーを指定してください。"),
    ),
    "MD007": _m(
        ("The word `{word}` is new in two results at once", "A prompt could mean only one of them.", "Use one of the two, or rename one of the files."),
        ("単語 `{word}` が2つの学習結果で重なっています", "プロンプトではどちらか一方しか使えません。", "どちらか一方だけを使うか、ファイル名を変えてください。"),
    ),
    "MD008": _m(
        ("The word `{word}` cannot be used in a prompt", "It holds a space, a comma, a colon, a slash or a bracket.", "Rename the file: where a file names no word, its own name is the word. Letters, digits, `-` and `_` are best."),
        ("単語 `{word}` はプロンプトで使えません", "空白・カンマ・コロン・スラッシュ・括弧のいずれかが含まれています。", "ファイル名を変えてください(単語の指定がないファイルでは、ファイル名が単語になります)。英数字、`-`、`_` をおすすめします。"),
    ),
    "FM001": _m(
        ("This file is of no format that tsuika can read here", "Found: {found}", "Expected: {expected}"),
        ("この形式のファイルは読み込めません", "見つかったもの: {found}", "必要なもの: {expected}"),
    ),
    "FM002": _m(
        ("{format} cannot hold this result", "{why}", "{do}"),
        ("{format} 形式では保存できません", "{why}", "{do}"),
    ),
    "FM003": _m(
        ("The written file does not do what the trained model does", "{why}", "This is a bug: please report it with the log file."),
        ("書き出したファイルの効果が学習結果と一致しません", "{why}", "不具合です。ログを添えて報告してください。"),
    ),
    "FM004": _m(
        ("There is no such file", "Nothing was found under this name.", "Check the path."),
        ("ファイルがありません", "その名前のファイルが見つかりません。", "パスを確認してください。"),
    ),
    "FM005": _m(
        ("This cannot be done with these files", "{why}", "{do}"),
        ("これらのファイルではできません", "{why}", "{do}"),
    ),
    "RS001": _m(
        ("Not enough memory", "{why}", "Try --set train.batch_size={smaller}, or --set train.gradient_checkpointing=true"),
        ("メモリが足りません", "{why}", "--set train.batch_size={smaller} または --set train.gradient_checkpointing=true を試してください"),
    ),
    "RS002": _m(
        ("Not enough disk space", "{why}", "Free some space or choose another --out."),
        ("ディスクの空きが足りません", "{why}", "空きを作るか、別の --out を指定してください。"),
    ),
    "TR001": _m(
        ("Training diverged at step {step}", "The loss of these pictures was not a finite number: {pictures}. The last good state (step {kept}) is kept.", "Try a third of the learning rate: --set train.learning_rate={rate}"),
        ("ステップ{step}で学習が発散しました", "次の画像のロスが有限の数になりませんでした: {pictures}。直前の正常な状態(ステップ{kept})は残してあります。", "学習率を3分の1にしてみてください: --set train.learning_rate={rate}"),
    ),
    "TR002": _m(
        ("There is nothing to go on from", "{why}", "Start a new run with: tsuika train"),
        ("再開できる状態が見つかりません", "{why}", "tsuika train で新しく始めてください"),
    ),
    "GN001": _m(
        ("No font on this machine can show `{missing}`", "These characters are spelt out in the picture instead.", "Install a font that has them, for example Noto Sans CJK (Debian, Ubuntu: fonts-noto-cjk; Fedora: google-noto-sans-cjk-fonts)."),
        ("`{missing}` を表示できるフォントがありません", "画像の中では別の綴りで表しています。", "Noto Sans CJK などのフォントを入れてください(Debian・Ubuntu: fonts-noto-cjk、Fedora: google-noto-sans-cjk-fonts)。"),
    ),
    "GN002": _m(
        ("Sampler {sampler} cannot start from pure noise", "This base was trained down to zero terminal SNR, so dark and bright pictures come out flat.", "Use another sampler, for example Euler or DDIM."),
        ("サンプラー {sampler} は純粋なノイズから始められません", "このベースモデルはゼロ終端SNRで学習されているため、明暗の幅が狭くなります。", "Euler や DDIM など、別のサンプラーを使ってください。"),
    ),
    "GN003": _m(
        ("`{found}` in the prompt is not supported", "Tags other than lora and hypernet are left out; prompt editing and AND are read as plain text.", ""),
        ("プロンプトの `{found}` には対応していません", "lora と hypernet 以外のタグは無視し、プロンプト編集と AND はただの文字として読みます。", ""),
    ),
    "GN004": _m(
        ("Prompt weights are used without restoring the mean", "The mean of this text encoder's embeddings is too near to zero to be restored.", ""),
        ("プロンプトの重みは平均値の補正なしで使います", "このテキストエンコーダーの埋め込みは平均がほぼ0で、補正できません。", ""),
    ),
    "GN005": _m(
        ("{unmatched} of {total} tensors in {artifact} found no place in this base", "First of them: {first}", "Make sure that the file was made for this kind of base."),
        ("{artifact} の{total}個のテンソルのうち{unmatched}個は、このベースモデルに合う場所がありません", "最初のもの: {first}", "このベースモデル用のファイルか確認してください。"),
    ),
    "GN006": _m(
        ("{artifact} is not used", "{why}", "Move it out of the folders where names are looked up, or rename it."),
        ("{artifact} は使いません", "{why}", "名前を探すフォルダーの外に移すか、名前を変えてください。"),
    ),
    "NW001": _m(
        ("The hub could not be reached or refused", "{why}", "Check the connection, the name and the licence; or give a folder or file on this machine."),
        ("ハブに接続できないか、拒否されました", "{why}", "接続・名前・ライセンスを確認するか、手元のフォルダーかファイルを指定してください。"),
    ),
}  # fmt: skip
