"""The verdict of an evaluation in sentences, English and Japanese."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tsuika.core.intervals import Interval
from tsuika.evaluate.wording import Language

if TYPE_CHECKING:
    from tsuika.evaluate.evaluation import Evaluation

TEXTS: Final[dict[Language, dict[str, str]]] = {
    "en": {
        "good": "Better than the base at what you trained: {like}. Nothing else has measurably suffered.",
        "trade": "Better than the base at what you trained: {like}. It costs something: {costs}.",
        "dear": "It draws what you trained: {like}. But the price is too high: {costs}.",
        "copies": "It copies: {copies} of {drawings} drawings are a training picture again.",
        "copies.like": " Likeness: {like}.",
        "copies.costs": " It also costs: {costs}.",
        "nothing": "No better than the base at what you trained: {like}. That is within chance, or too little to see.",
        "less": "Less like what you trained than the base: {like}.",
        "nothing.costs": " It costs all the same: {costs}.",
        "stiff": "Drawings of one prompt have become nearly the same: {costs}. Whether they are like your pictures was not measured.",
        "unmeasured": "Whether the result is like your pictures was not measured, for want of an encoder: judge by the pictures.",
        "like": "likeness {before} → {after} ({interval}{share})",
        "share": "; {share} of the way to your own pictures",
        "adherence": "prompts are followed less ({before} → {after})",
        "others": "prompts without the trigger word are followed less ({before} → {after})",
        "diversity": "drawings of one prompt vary less ({before} → {after})",
        "no-copies": " None of {drawings} drawings copies a training picture.",
        "few-copies": " {copies} of {drawings} drawings resemble a training picture; that many may be chance.",
        "drift": " Drawings that have nothing to do with it have moved by {share} of what lies between two prompts.",
        "best.same": " As it is, at strength {strength}, it is the best trade of those tried.",
        "best": " The best trade of those tried is step {step} at strength {strength} ({state}).",
        "best.none": " No kept step and strength can be recommended.",
        "matched.same": " At equal likeness ({level}) no kept step follows prompts measurably better than another.",
        "matched": " At equal likeness ({level}) step {first} follows prompts better than step {second}: {interval}.",
        "and": ", ",
    },
    "ja": {
        "good": "学習した対象は、学習前より良く描けます。{like}。ほかに測定で分かる悪化はありません。",
        "trade": "学習した対象は、学習前より良く描けます。{like}。ただし代償もあります: {costs}。",
        "dear": "学習した対象は描けます。{like}。しかし、代償が大きすぎます: {costs}。",
        "copies": "学習用画像を丸写ししています。生成した{drawings}枚のうち{copies}枚が、学習用画像そのままです。",
        "copies.like": "{like}。",
        "copies.costs": "代償もあります: {costs}。",
        "nothing": "学習した対象は、学習前より良くなっていません。{like}。偶然の範囲か、見ても分からないほどの差です。",
        "less": "学習した対象に、学習前より似なくなりました。{like}。",
        "nothing.costs": "それでも代償はあります: {costs}。",
        "stiff": "同じプロンプトの画像が、ほとんど同じになりました: {costs}。学習用画像に似ているかどうかは測っていません。",
        "unmeasured": "エンコーダーがないため、学習結果が学習用画像に似ているかどうかは測っていません。画像を見て判断してください。",
        "like": "再現度は {before} → {after}({interval}{share})",
        "share": "、学習用画像どうしの値までの差の{share}",
        "adherence": "プロンプトへの忠実さが下がりました({before} → {after})",
        "others": "トリガーワードのないプロンプトへの忠実さが下がりました({before} → {after})",
        "diversity": "同じプロンプトの画像の多様さが減りました({before} → {after})",
        "no-copies": "生成した{drawings}枚の中に、学習用画像の丸写しはありません。",
        "few-copies": "生成した{drawings}枚のうち{copies}枚が学習用画像によく似ていますが、偶然でもありうる枚数です。",
        "drift": "関係のないプロンプトの画像の変化は、2つのプロンプトの画像どうしの違いの{share}です。",
        "best.same": "試した中では、このまま強さ{strength}で使うのがいちばんおすすめです。",
        "best": "試した中でいちばんのおすすめは、ステップ{step}・強さ{strength}です({state})。",
        "best.none": "残してあるステップと強さの中に、おすすめできるものはありません。",
        "matched.same": "再現度をそろえて比べると({level})、プロンプトへの忠実さにステップによる差は認められません。",
        "matched": "再現度をそろえて比べると({level})、ステップ{first}はステップ{second}よりプロンプトに忠実です({interval})。",
        "and": "、",
    },
}


def sentences(evaluation: Evaluation, language: Language) -> str:
    """What was found, in a few sentences: what was gained, what it costs, copies, the best trade, steps at equal likeness."""
    told, verdict = TEXTS[language], evaluation.verdict
    main, row = evaluation.points[verdict.main], verdict.judgements[verdict.main]
    costs = told["and"].join(
        _cost(evaluation, name, language) for name in (row.dear if row.grade in ("dear", "stiff") else row.lost)
    )
    numbers: dict[str, object] = {
        "like": _like(evaluation, language),
        "costs": costs,
        "copies": row.copies,
        "drawings": row.drawings,
    }
    parts: list[str] = ["less" if row.gain is not None and row.gain.sign < 0 and row.grade == "nothing" else row.grade]
    if row.grade == "copies" and row.gain is not None:
        parts.append("copies.like")
    if row.grade in ("copies", "nothing") and row.lost:
        parts.append(f"{row.grade}.costs")
    if row.grade != "copies":
        parts.append("few-copies" if row.copies else "no-copies")
    drift, other = main.tables.drift, evaluation.scale.other_prompt
    if drift is not None and other:
        parts.append("drift")
        numbers["share"] = f"{100 * float(drift.mean()) / other:.0f} %"
    if row.gain is not None:
        best = None if verdict.best is None else evaluation.points[verdict.best]
        parts.append("best.none" if best is None else "best.same" if verdict.best == verdict.main else "best")
        if best is not None:
            numbers |= {"step": f"{best.step:,}", "strength": f"{best.strength:g}", "state": best.state}
    if (equal := verdict.matched) is not None:
        first, second = equal.states[0], equal.states[1]
        parts.append("matched" if equal.lead.sign > 0 else "matched.same")
        numbers |= {
            "level": f"{equal.fidelity:.2f}",
            "first": f"{first[1]:,}",
            "second": f"{second[1]:,}",
            "interval": _signed(equal.lead, language),
        }
    return "".join(told[part].format(**numbers) for part in parts).strip()


def _like(evaluation: Evaluation, language: Language) -> str:
    row = evaluation.verdict.judgements[evaluation.verdict.main]
    before, after = evaluation.base.fidelity, evaluation.points[evaluation.verdict.main].tables.fidelity
    if row.gain is None or before is None or after is None:
        return ""
    real, start = evaluation.scale.real, float(before.mean())
    share = ""
    if real is not None and real > start and row.gained:
        share = TEXTS[language]["share"].format(share=f"{100 * row.gain.mean / (real - start):.0f} %")
    return TEXTS[language]["like"].format(
        before=f"{start:.2f}", after=f"{after.mean():.2f}", interval=_signed(row.gain, language), share=share
    )


def _cost(evaluation: Evaluation, name: str, language: Language) -> str:
    before, after = (getattr(one, name) for one in (evaluation.base, evaluation.points[evaluation.verdict.main].tables))
    return TEXTS[language][name].format(before=f"{np.nanmean(before):.2f}", after=f"{np.nanmean(after):.2f}")


def _signed(value: Interval, language: Language) -> str:
    """`+0.38, 95 %: +0.33 … +0.41`."""
    if not value.is_bounded:
        return signed(value.mean)
    ends = (" … " if language == "en" else "〜").join((signed(value.low), signed(value.high)))
    return f"{signed(value.mean)}, 95 %: {ends}" if language == "en" else f"{signed(value.mean)}、95%区間 {ends}"


def signed(value: float) -> str:
    """`+0.38`; never `-0.00`."""
    return f"{round(value, 2) + 0.0:+.2f}"
