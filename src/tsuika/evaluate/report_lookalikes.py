"""The report's section on copying: the drawings that are nearest to a training picture, side by side with it."""

# ruff: noqa: E501 - a table of sentences

from __future__ import annotations

from typing import Final

from markupsafe import Markup

from tsuika.evaluate.inline import data_uri
from tsuika.evaluate.pairs import Lookalikes, Pair
from tsuika.evaluate.wording import LANGUAGES

SHOWN: Final = 6
SIDE_PX: Final = 256

TEXTS: Final[dict[str, dict[str, str]]] = {
    "en": {
        "title": "Does it copy its training pictures?",
        "some": "{copies} of the {drawings} drawings compared reproduce a training picture, layout and all. Stop earlier, or train on more and more varied pictures.",
        "none": "None of the {drawings} drawings compared reproduces a training picture.",
        "captions": "Among them are drawings of training captions, where copying shows first.",
        "no-captions": "No training caption was drawn, where copying shows first; so this says little of prompts that are worded like one.",
        "leak": "{recalled} of the {asked} training captions tried call up a training picture before the first step of a drawing, out of pure noise: its layout is learnt by heart.",
        "no-leak": "None of the {asked} training captions tried calls up a training picture out of pure noise.",
        "how": "Each drawing stands beside the training picture it is most like, the most alike first. Similarity compares the pixels of small thumbnails, also mirrored: 1 is the same picture. What the base drew at the same prompt and seed is given beside it.",
        "encoder": "“Same subject” is what the encoder of the embedded base sees. A subject that was learnt well is high there, copied or not.",
        "no-encoder": "No encoder knows what this base draws, so pixels alone were compared.",
        "drawing": "drawn",
        "picture": "training picture",
        "copy": "copy",
        "similarity": "similarity",
        "base": "base",
        "subject": "same subject",
        "seed": "seed",
        "caption": "training caption",
    },
    "ja": {
        "title": "学習用画像を丸写ししていませんか?",
        "some": "比べた{drawings}枚のうち{copies}枚が、学習用画像を構図ごと丸写ししています。もっと早いステップで止めるか、枚数が多く変化に富んだ画像で学習してください。",
        "none": "比べた{drawings}枚の中に、学習用画像の丸写しはありません。",
        "captions": "丸写しがいちばん先に現れる、学習用キャプションで生成した画像も含みます。",
        "no-captions": "丸写しがいちばん先に現れる、学習用キャプションでは生成していません。そのため、学習用キャプションに近いプロンプトについては、ほとんど何も言えません。",
        "leak": "試した学習用キャプション{asked}件のうち{recalled}件では、生成の最初のステップより前に、ただのノイズから学習用画像が現れます。構図を丸暗記しています。",
        "no-leak": "試した学習用キャプション{asked}件の中に、ただのノイズから学習用画像が現れるものはありません。",
        "how": "生成画像を、いちばん似ている学習用画像と並べています。似ているものが先です。類似度は、小さな縮小画像の画素を左右反転も含めて比べたもので、1は同じ画像です。かっこ内は、同じプロンプトとシードでベースモデルが生成した画像の値です。",
        "encoder": "「同じ対象」は同梱ベースモデルのエンコーダーによる値です。対象をよく学習していれば、丸写しでなくても高くなります。",
        "no-encoder": "このベースモデルの画像を評価できるエンコーダーがないため、画素だけを比べました。",
        "drawing": "生成画像",
        "picture": "学習用画像",
        "copy": "丸写し",
        "similarity": "類似度",
        "base": "ベース",
        "subject": "同じ対象",
        "seed": "シード",
        "caption": "学習用キャプション",
    },
}

_STYLE: Final = Markup("""<style>
.alike { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 14px; margin-top: 14px; }
.alike > div { border: 1px solid var(--line); border-radius: 12px; padding: 12px; break-inside: avoid; }
.alike > .copy { border-color: var(--note); background: var(--note-soft); }
.alike .two { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
.alike figure { margin: 0; }
.alike img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 9px; display: block; background: var(--well); }
.alike .prompt { font-weight: 600; line-height: 1.4; overflow-wrap: anywhere; margin-top: 6px; }
.alike .numbers { display: flex; flex-wrap: wrap; gap: 0 16px; font-variant-numeric: tabular-nums; font-size: .88rem; }
.alike .flag { color: var(--note); border-color: var(--note); }
</style>""")


def lookalikes_html(pairs: Lookalikes, lang: str) -> str:
    """The section, in both languages as the rest of the page; `lang` is the one of what has no element of its own.

    Raises:
        OSError: a picture is not there or no picture.
    """
    verdict = ["some" if pairs.copies else "none", "captions" if pairs.asked_captions else "no-captions"]
    values: dict[str, object] = {"copies": pairs.copies, "drawings": len(pairs.pairs)}
    if pairs.leaks:
        verdict.append("leak" if pairs.leaks.recalled else "no-leak")
        values |= {"recalled": pairs.leaks.recalled, "asked": len(pairs.leaks.leaks)}
    return Markup(
        '{style}<section class="card{note}"><h2>{title}</h2><p>{verdict}</p><p class="soft small">{how}</p>'
        '<div class="alike">{shown}</div></section>\n'
    ).format(
        style=_STYLE,
        note=" note" if pairs.copies else "",
        title=_both("title"),
        verdict=_both(*verdict, **values),
        how=_both("how", "encoder" if pairs.encoder else "no-encoder"),
        shown=Markup("").join(_pair(pair, lang) for pair in pairs.pairs[:SHOWN]),
    )


def _pair(pair: Pair, lang: str) -> Markup:
    numbers = [_number("similarity", pair.resemblance.similarity, pair.resemblance.base)]
    if pair.likeness is not None:
        numbers.append(_number("subject", pair.likeness.similarity, pair.likeness.base))
    tags = [Markup('<span class="tag flag">{}</span>').format(_both("copy"))] if pair.copies else []
    tags += [Markup('<span class="tag">{}</span>').format(_both("caption"))] if pair.of_training else []
    figures = Markup("").join(
        Markup('<figure><img src="{}" alt="{}"><figcaption>{}</figcaption></figure>').format(
            data_uri(image, SIDE_PX), f"{TEXTS[lang][kind]}: {words}", caption
        )
        for kind, image, words, caption in (
            ("drawing", pair.drawing, pair.prompt, _both("drawing")),
            ("picture", pair.image, pair.picture, Markup("{} {}").format(_both("picture"), pair.picture)),
        )
    )
    return Markup(
        '<div{copy}><div class="two">{figures}</div><div class="prompt">{prompt}</div>'
        '<div class="numbers">{numbers}<span class="soft">{seed} {number}</span></div>{tags}</div>'
    ).format(
        copy=Markup(' class="copy"') if pair.copies else "",
        figures=figures,
        prompt=pair.prompt,
        numbers=Markup("").join(numbers),
        seed=_both("seed"),
        number=pair.seed,
        tags=Markup(" ").join(tags),
    )


def _number(key: str, value: float, base: float | None) -> Markup:
    beside = Markup(' <span class="soft">({} {:.2f})</span>').format(_both("base"), base) if base is not None else ""
    return Markup("<span>{} <b>{:.2f}</b>{}</span>").format(_both(key), value, beside)


def _both(*keys: str, **values: object) -> Markup:
    """Sentences in every language, of which the page shows one; Japanese has no space between them."""
    said = {language: [TEXTS[language][key].format(**values) for key in keys] for language in LANGUAGES}
    return Markup("").join(
        Markup('<span class="t" lang="{}">{}</span>').format(language, ("" if language == "ja" else " ").join(parts))
        for language, parts in said.items()
    )
