"""What `check` says to people of each fault: what it is, why it matters, what to do; English and Japanese."""

from __future__ import annotations

from typing import Any, Final

from tsuika.core.words import Lang, in_language
from tsuika.data.check_report import Finding, Report

_Parts = tuple[str, str, str]


def _f(en: _Parts, ja: _Parts) -> dict[Lang, _Parts]:
    return {"en": en, "ja": ja}


_AGAIN: Final = "Get the file again, or leave it out: --fix does"
_AGAIN_JA: Final = "ファイルを入手し直すか、除外してください(--fix で除外できます)"

# code -> language -> what, why, what to do. A finding's values fill them, with `count`, the number of its pictures.
FAULTS: Final[dict[str, dict[Lang, _Parts]]] = {
    "unreadable": _f(
        (
            "cannot be read",
            "The file or folder does not open: {words}",
            "Look at its permissions, or whether it is there",
        ),
        (
            "読み込めません",
            "ファイルまたはフォルダーを開けません: {words}",
            "アクセス権や、実際に存在するかを確認してください",
        ),
    ),
    "empty": _f(("empty file", "It holds 0 bytes", _AGAIN), ("中身が空です", "0バイトのファイルです", _AGAIN_JA)),
    "not-a-picture": _f(
        ("not a picture", "No picture format begins like it", _AGAIN),
        ("画像ではありません", "先頭のデータが、どの画像形式とも一致しません", _AGAIN_JA),
    ),
    "damaged": _f(
        ("damaged or cut off", "It cannot be decoded to the end: {words}", _AGAIN),
        ("壊れているか、途中で切れています", "最後まで読み取れません: {words}", _AGAIN_JA),
    ),
    "too-large": _f(
        ("too large", "{words}", "Save it smaller; training shrinks it anyway"),
        ("大きすぎます", "{words}", "縮小して保存してください(学習時にはどのみち縮小されます)"),
    ),
    "too-small": _f(
        (
            "too small",
            "It has less than half of the training size ({words}); enlarged so far, it would teach blur",
            "Find a larger original, or leave it out: --fix does",
        ),
        (
            "小さすぎます",
            "学習サイズの半分に足りません({words})。ここまで拡大すると、ぼやけを学習してしまいます",
            "大きい元画像を探すか、除外してください(--fix で除外できます)",
        ),
    ),
    "unsupported": _f(
        ("kind of picture not supported", "{words}", "Save it as PNG or JPEG"),
        ("対応していない画像形式です", "{words}", "PNGまたはJPEGで保存し直してください"),
    ),
    "no-repeats": _f(
        (
            "in a folder with 0 repeats",
            "A kohya folder `0_name` asks for it not to be used",
            "Rename the folder, if that is not meant",
        ),
        (
            "繰り返し回数0のフォルダーにあります",
            "kohya形式の `0_名前` フォルダーは「使わない」という意味です",
            "意図と違う場合はフォルダー名を変えてください",
        ),
    ),
    "empty-tail": _f(
        (
            "ends in nothing",
            "The last bytes are zeros: probably a download that broke off; its lower part may be grey",
            "Look at it; get the file again",
        ),
        (
            "末尾のデータが空です",
            "最後の部分が0で埋まっています。ダウンロードが途中で切れ、下のほうが灰色になっているかもしれません",
            "画像を目で確認し、ファイルを入手し直してください",
        ),
    ),
    "blurred": _f(
        (
            "blurrier than the others",
            "It has less than half of the detail that is usual in this set; its blur would be learnt",
            "Take a sharper one, or leave it out",
        ),
        (
            "ほかの画像よりぼやけています",
            "細部の量が、このセットの標準の半分もありません。ぼやけも学習されてしまいます",
            "鮮明な画像に替えるか、除外してください",
        ),
    ),
    "upscaled": _f(
        (
            "enlarged from a smaller picture, or soft",
            "It holds no more detail than about {detail_px} px (training size {size_px} px)",
            "Look for the original; where the training size is smaller than that, it does no harm",
        ),
        (
            "小さい画像を拡大したものか、全体にぼやけ気味の画像です",
            "細部は約{detail_px} px分しかありません(学習サイズは {size_px} px)",
            "元画像を探してください。学習サイズがその大きさより小さければ問題ありません",
        ),
    ),
    "overexposed": _f(
        (
            "overexposed",
            "Up to {share} % of the pixels are at their limit, far more than is usual in this set: no detail is left there",
            "Make it darker from the original, or leave it out; ignore this if the white is meant",
        ),
        (
            "露出オーバーです",
            "画素の最大{share}%が白飛びなどで上限に達していて、このセットの標準よりはるかに多くなっています。そこには細部が残っていません",
            "元データから暗めに現像し直すか、除外してください。意図した白なら、そのままで構いません",
        ),
    ),
    "underexposed": _f(
        (
            "underexposed",
            "Even the brightest parts are dark (grey level {grey} of 255)",
            "Brighten it, or leave it out; ignore this if the night is meant",
        ),
        (
            "露出アンダーです",
            "いちばん明るい部分でも暗いままです(255段階中 {grey})",
            "明るくするか、除外してください。夜景など意図した暗さなら、そのままで構いません",
        ),
    ),
    "near-duplicate": _f(
        (
            "almost the same picture as another",
            "Also mirrored, cropped or resized. It counts twice, is memorised sooner, and spoils the test on held-out pictures",
            "Keep the best of each group: --fix does",
        ),
        (
            "ほかとほぼ同じ画像です",
            "左右反転・切り抜き・拡大縮小も含みます。二重に数えられて丸暗記が早まり、検証用画像での判断も狂います",
            "各グループでいちばん良い1枚を残してください(--fix で整理できます)",
        ),
    ),
    "bars": _f(
        ("even bars at the sides", "They would be learnt as part of the picture", "Crop them: --fix does"),
        ("両端に単色の帯があります", "帯も絵の一部として学習されます", "切り落としてください(--fix で切り落とせます)"),
    ),
    "odd-aspect": _f(
        (
            "very long or very wide",
            "Training shows {kept} % of the most extreme one; the rest is cropped",
            "Crop it yourself around the subject",
        ),
        (
            "縦横比が極端です",
            "学習に使われるのは画像の{kept}%(最も極端なもの)で、残りは切り取られます",
            "対象が収まるように自分で切り抜いてください",
        ),
    ),
    "small": _f(
        (
            "smaller than the training size",
            "It is enlarged, by up to x{factor}, and so gets less sharp",
            "A few do no harm; find larger originals, or train at a smaller size",
        ),
        (
            "学習サイズより小さい画像です",
            "最大{factor}倍に拡大されるため、その分ぼやけます",
            "数枚なら問題ありません。大きい元画像を探すか、学習サイズを小さくしてください",
        ),
    ),
    "caption-none": _f(
        (
            "no caption",
            "There is neither a caption file nor a trigger or class word to say what it is",
            "Write NAME.txt beside NAME.png, or give --trigger and --class-word",
        ),
        (
            "キャプションがありません",
            "キャプションファイルも、代わりになるトリガーワードやクラスワードもありません",
            "画像と同じ名前の .txt を置くか、--trigger と --class-word を指定してください",
        ),
    ),
    "caption-none-all": _f(
        (
            "no captions",
            "No picture has a caption file, and there is neither a trigger nor a class word to call them by",
            "Give --trigger and --class-word; captions that say what else is in the picture help more (NAME.txt beside NAME.png)",
        ),
        (
            "キャプションがありません",
            "どの画像にもキャプションファイルがなく、代わりになるトリガーワードやクラスワードもありません",
            "--trigger と --class-word を指定してください。対象以外に何が写っているかを書いたキャプション(画像と同じ名前の .txt)があれば、さらに効果的です",
        ),
    ),
    "caption-built": _f(
        (
            "no caption file, while others have one",
            "It is called by the trigger or class word alone",
            "Write one, so that all are described alike",
        ),
        (
            "ほかの画像と違い、キャプションファイルがありません",
            "トリガーワードかクラスワードだけがキャプションになります",
            "ほかと同じようにキャプションを書いてください",
        ),
    ),
    "caption-empty": _f(
        (
            "caption file is empty",
            "It counts as none: the picture is called by the trigger or class word alone",
            "Write the caption, or delete the file",
        ),
        (
            "キャプションファイルが空です",
            "ないものとして扱われ、トリガーワードかクラスワードだけがキャプションになります",
            "キャプションを書くか、ファイルを削除してください",
        ),
    ),
    "caption-identical": _f(
        (
            "shares its caption with others",
            "What differs between these pictures is then tied to the same words",
            "Say what is different: background, pose, light",
        ),
        (
            "ほかの画像と同じキャプションです",
            "画像ごとの違いが、すべて同じ言葉に結び付きます",
            "背景・ポーズ・光など、違うところを書いてください",
        ),
    ),
    "caption-all-identical": _f(
        (
            "all captions are the same",
            "Backgrounds and poses will be learnt as part of the subject: “{caption}”",
            "Say in each what is not the subject",
        ),
        (
            "すべてのキャプションが同じです",
            "背景やポーズまで対象の一部として学習されます: 「{caption}」",
            "対象以外に何が写っているかを、それぞれに書いてください",
        ),
    ),
    "caption-cp932": _f(
        (
            "caption is not UTF-8",
            "It was read as cp932 (Japanese Windows); other programs may read garbage",
            "Save it as UTF-8: --fix does",
        ),
        (
            "キャプションがUTF-8ではありません",
            "cp932(日本語版Windowsの文字コード)として読みました。ほかのソフトでは文字化けするかもしれません",
            "UTF-8で保存し直してください(--fix で直せます)",
        ),
    ),
    "caption-unreadable": _f(
        (
            "caption file cannot be read",
            "It is text in no encoding we know; the picture is treated as without a caption",
            "Save it as UTF-8",
        ),
        (
            "キャプションファイルを読めません",
            "文字コードが分からないため、キャプションなしとして扱います",
            "UTF-8で保存し直してください",
        ),
    ),
    "caption-both": _f(
        ("two caption files", "The .txt is used, the .caption is not", "Delete the one that is not meant"),
        ("キャプションファイルが2つあります", ".txt を使い、.caption は使いません", "不要なほうを削除してください"),
    ),
    "caption-long": _f(
        (
            "caption too long",
            "Up to {tokens} tokens, and the base reads {room}: the rest is cut off",
            "Shorten it, the important words first",
        ),
        (
            "キャプションが長すぎます",
            "最大{tokens}トークンありますが、ベースモデルが読むのは{room}までで、残りは切り捨てられます",
            "大事な言葉を前に置いて、短くしてください",
        ),
    ),
    "caption-common": _f(
        (
            "the same words in every caption",
            "{phrases}: what stands in all captions is learnt as part of the subject, like the trigger",
            "Fine if it belongs to it; else vary the wording",
        ),
        (
            "すべてのキャプションに同じ言葉があります",
            "{phrases}: 全部に出てくる言葉は、トリガーワードのように対象と一体で学習されます",
            "対象の一部を表す言葉なら、このままで構いません。そうでなければ、画像ごとに言い方を変えてください",
        ),
    ),
    "caption-torn": _f(
        (
            "words that the base does not know",
            "The tokenizer tears them into pieces, which mean little together: {words}",
            "Common English words carry more; names of your own are fine",
        ),
        (
            "ベースモデルが知らない言葉があります",
            "トークナイザーが細切れにするため、意味がほとんど伝わりません: {words}",
            "一般的な英単語のほうが伝わります。独自の名前はそのままで構いません",
        ),
    ),
    "caption-foreign": _f(
        (
            "caption is not in English",
            "The text encoder learnt English; other scripts are read byte by byte",
            "Write captions in English",
        ),
        (
            "キャプションが英語ではありません",
            "テキストエンコーダーは英語で学習されていて、ほかの文字は1バイトずつ読まれます",
            "キャプションは英語で書いてください",
        ),
    ),
    "trigger-missing": _f(
        (
            "caption without the trigger word",
            "`{trigger}` stands in {with_trigger} of {usable}; training puts it in front of the others",
            "Nothing need be done",
        ),
        (
            "トリガーワードのないキャプションです",
            "`{trigger}` があるのは{usable}枚中{with_trigger}枚です。残りには、学習時に先頭へ自動で付け足されます",
            "何もしなくて構いません",
        ),
    ),
    "profile-ignored": _f(
        ("colour profile ignored", "It is taken as sRGB: {words}", "Look whether its colours are right"),
        ("カラープロファイルを無視しました", "sRGBとして扱います: {words}", "色がおかしくないか確認してください"),
    ),
    "exif-ignored": _f(
        (
            "EXIF ignored",
            "It cannot be read, so that the picture may lie on its side: {words}",
            "Look whether it is upright",
        ),
        (
            "EXIFを無視しました",
            "読み取れないため、画像が横倒しになっているかもしれません: {words}",
            "向きを確認してください",
        ),
    ),
    "own-output": _f(
        (
            "folder written by tsuika, passed over",
            "It holds {words}, no pictures to learn from",
            "Nothing need be done",
        ),
        ("tsuikaの出力フォルダーのため対象外です", "学習用の画像ではありません({words})", "何もしなくて構いません"),
    ),
    "same-background": _f(
        (
            "the same background",
            "It stands behind {count} of {different} pictures (told from the colours along the edges) and will be learnt along with the subject",
            "Add pictures elsewhere, or name the background in the captions; fine for a style",
        ),
        (
            "背景が同じです",
            "{different}枚中{count}枚の背景が同じに見えます(画像の端の色から判断)。背景も対象と一緒に学習されます",
            "別の場所の画像を足すか、キャプションに背景を書いてください。画風の学習なら問題ありません",
        ),
    ),
    "nothing-found": _f(
        (
            "no pictures",
            "The folder and its subfolders hold no file that looks like a picture",
            "Put JPEG, PNG or WebP pictures into it, and check its path",
        ),
        (
            "画像がありません",
            "フォルダーにもサブフォルダーにも、画像らしいファイルがありません",
            "JPEG、PNG、WebPなどの画像を入れ、パスも確認してください",
        ),
    ),
    "nothing-usable": _f(
        (
            "no usable picture",
            "None of the {left} files that were found can be used",
            "See below why; save them again as JPEG or PNG, or find larger ones",
        ),
        (
            "使える画像がありません",
            "見つかった{left}個のファイルは、どれも使えません",
            "理由は下をご覧ください。JPEGやPNGで保存し直すか、大きい画像を探してください",
        ),
    ),
}

NOT_JUDGED: Final[dict[str, dict[Lang, str]]] = {
    "text": {
        "en": "writing and watermarks inside pictures: they cannot be told from the rest without a trained detector",
        "ja": "画像内の文字や透かし: 学習済みの検出器なしでは、ほかの部分と区別できません",
    },
    "few": {
        "en": "blur, enlargement and variety: they are judged against the set, and four pictures are the least for that",
        "ja": "ぼやけ・拡大・バリエーション: セット全体と比べて判断するため、4枚以上必要です",
    },
    "drawn": {
        "en": "exposure of flat drawings: their tones are meant",
        "ja": "ベタ塗りの絵の露出: 明暗は意図したものとみなします",
    },
    "tokens": {
        "en": "length of captions and unknown words: there is no tokenizer of the base here",
        "ja": "キャプションの長さと未知の単語: このマシンにベースモデルのトークナイザーがありません",
    },
}


def _values(finding: Finding, lang: Lang) -> dict[str, Any]:
    return in_language({"count": len(finding.pictures), **finding.values}, lang)


def what(finding: Finding, lang: Lang) -> str:
    """The fault in a few words."""
    return FAULTS[finding.code][lang][0].format(**_values(finding, lang))


def why(finding: Finding, lang: Lang) -> str:
    """Why it is one, with the numbers it stands on."""
    return FAULTS[finding.code][lang][1].format(**_values(finding, lang))


def todo(finding: Finding, lang: Lang) -> str:
    """What can be done."""
    return FAULTS[finding.code][lang][2].format(**_values(finding, lang))


def spread(share: float, lang: Lang) -> str:
    """A spread of `Variety` in a word."""
    words = {"en": ("narrow", "middling", "wide"), "ja": ("狭い", "ふつう", "広い")}[lang]
    return words[0 if share < 0.4 else 1 if share < 0.75 else 2]


def headline(report: Report, lang: Lang) -> str:
    """The line at the top: pictures, usable, to look at, captions."""
    count, usable = report.total, len(report.usable)
    looks, captions = len(report.to_look_at), report.captions.from_files
    if lang == "ja":
        return f"{count}枚 ・ 使える {usable} ・ 要確認 {looks} ・ キャプション {captions}/{usable}"
    pictures = "picture" if count == 1 else "pictures"
    return f"{count} {pictures} · usable {usable} · to look at {looks} · captions {captions}/{usable}"
