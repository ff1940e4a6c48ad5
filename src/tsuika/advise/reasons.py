"""Why, and why not: statements with their evidence, in both languages, and what became of the rules of thumb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tsuika.advise.base import Base
from tsuika.advise.evidence import BENCH, PUBLISHED_AGAINST, PUBLISHED_FOR, Cell, Rule, Statement, Table, said, wanted
from tsuika.advise.recipes import Subject, Thrift
from tsuika.core.intervals import Interval
from tsuika.data.split import LEAST_TO_TRUST

TITLES: Final = {
    "lora": ("LoRA", "LoRA"),
    "textual-inversion": ("Textual Inversion", "Textual Inversion"),
    "dreambooth": ("DreamBooth", "DreamBooth"),
    "hypernetwork": ("Hypernetwork", "ハイパーネットワーク"),
    "textual-inversion + lora": ("Textual Inversion, then LoRA", "Textual Inversionの後にLoRA"),
}
GOAL_WORDS: Final = {
    "character": ("a character", "キャラクター"),
    "style": ("a style", "画風"),
    "object": ("an object", "物"),
    "concept": ("a concept", "概念(構図・動作など)"),
}
_MODULES: Final = "programs' own source"
_COUNTED: Final = "counted from the base's shapes"


def title(method: str, lang: str) -> str:
    """The method's name for people."""
    return TITLES[method][lang == "ja"]


def _range(found: Interval) -> str:
    return f"{found.mean:.0f} % ({found.low:.0f} … {found.high:.0f})"


def _range_ja(found: Interval) -> str:
    return f"{found.mean:.0f}%({found.low:.0f}〜{found.high:.0f})"


def _small(found: Interval) -> tuple[str, str]:
    """Where a per cent more or less matters; in both languages."""
    return (
        f"{found.mean:.1f} % ({found.low:.1f} … {found.high:.1f})",
        f"{found.mean:.1f}%({found.low:.1f}〜{found.high:.1f})",
    )


def _change(less: Interval) -> tuple[str, str]:
    """Of the loss, by how much less it is; more is said as more."""
    more = less.mean < 0
    shown, shown_ja = _small(Interval(-less.mean, -less.high, -less.low) if more else less)
    return f"{shown} {'more' if more else 'less'} loss", f"誤差は{shown_ja}{'増えました' if more else '減りました'}"


def _seeds(cell: Cell) -> tuple[str, str]:
    count = cell.seeds
    return f"{count} seed{'s' if count > 1 else ''}", f"シード{count}個"


def _where(cell: Cell) -> tuple[str, str]:
    en, ja = _seeds(cell)
    goal = GOAL_WORDS[cell.goal]
    return (
        f"{goal[0]}, {cell.pictures} pictures, {cell.seconds:.0f} s of training each, {en}",
        f"{goal[1]}、画像{cell.pictures}枚、学習時間は各{cell.seconds:.0f}秒、{ja}",
    )


def _gain(row: Mapping[str, Cell], method: str) -> Statement:
    cell, best = row[method], max(row.values(), key=lambda one: one.gain.mean)
    where = _where(cell)
    if cell is best:
        place = "the most of all methods", "全方法の中で最大"
    elif cell.against is not None and not cell.against.sign:
        place = (
            f"no less than {title(best.method, 'en')}, within the error",
            f"{title(best.method, 'ja')}と誤差の範囲で同等",
        )
    else:
        gain = f"{best.gain.mean:.0f}"
        place = f"where {title(best.method, 'en')} gained {gain} %", f"最良の{title(best.method, 'ja')}は{gain}%"
    return Statement(
        f"It lowered the loss on fresh pictures by {_range(cell.gain)}, {place[0]} [{where[0]}].",
        f"学習に使っていない画像での誤差を{_range_ja(cell.gain)}下げました。{place[1]}です[{where[1]}]。",
        "measured",
        BENCH,
    )


def for_it(
    goal: str, pictures: int, method: str, row: Mapping[str, Cell], size: int, programs: Sequence[str]
) -> tuple[Statement, ...]:
    """What speaks for a method, the strongest evidence first."""
    found: list[Statement] = []
    if method in row and row[method].gain.sign > 0:
        found.append(_gain(row, method))
        cell, others = row[method], [one for name, one in row.items() if name != method]
        if others and goal != "style" and cell.fidelity > max(one.fidelity for one in others):
            found.append(
                Statement(
                    f"Its pictures were the most like the real thing (likeness {cell.fidelity:.2f}, the next best"
                    f" {max(one.fidelity for one in others):.2f}; a few pictures, so take it as a hint).",
                    f"生成画像が本物に最も似ていました(再現度{cell.fidelity:.2f}、次点{max(one.fidelity for one in others):.2f}。"
                    "枚数が少ないため、目安です)。",
                    "measured",
                    BENCH,
                )
            )
        if cell.drift < 0.005:
            found.append(
                Statement(
                    "Prompts without its word come out as before: nothing of the base changes.",
                    "専用の単語を使わないプロンプトの結果は以前と同じです。ベースモデルはまったく変わりません。",
                    "measured",
                    BENCH,
                )
            )
    for key in ((method, goal), (method, "")):
        if key in PUBLISHED_FOR:
            found.append(PUBLISHED_FOR[key])
    if method in said(goal):
        found.append(
            Statement(
                f"The rules of thumb name it for {GOAL_WORDS[goal][0]}.",
                f"一般に{GOAL_WORDS[goal][1]}に向くとされています。",
                "folklore",
            )
        )
    if size < 100_000:
        found.append(
            Statement(
                f"The file is tiny: {size / 1000:.0f} KB.",
                f"ファイルはわずか{size / 1000:.0f} KBです。",
                "known",
                _COUNTED,
            )
        )
    if len(programs) >= 5:
        found.append(
            Statement(
                "A1111, Forge, ComfyUI and diffusers load it.",
                "A1111、Forge、ComfyUI、diffusersで使えます。",
                "known",
                _MODULES,
            )
        )
    return tuple(found)


def against(
    goal: str, subject: Subject, method: str, row: Mapping[str, Cell], size: int, thrift: Thrift, base: Base
) -> tuple[Statement, ...]:
    """What speaks against it."""
    found: list[Statement] = []
    cell = row.get(method)
    if cell is not None and cell.gain.sign <= 0:
        found.append(
            Statement(
                f"It gained next to nothing: {_range(cell.gain)} [{_where(cell)[0]}].",
                f"ほとんど改善がありませんでした: {_range_ja(cell.gain)} [{_where(cell)[1]}]。",
                "measured",
                BENCH,
            )
        )
    if cell is not None and cell.against is not None and cell.against.high < 0:
        found.append(
            Statement(
                f"{title(cell.rival, 'en')} did better: this one's loss was {-cell.against.mean:.0f} % above it"
                f" ({-cell.against.high:.0f} … {-cell.against.low:.0f}).",
                f"{title(cell.rival, 'ja')}のほうが良く、誤差は{-cell.against.mean:.0f}%大きくなりました"
                f"({-cell.against.high:.0f}〜{-cell.against.low:.0f})。",
                "measured",
                BENCH,
            )
        )
    if cell is not None and goal != "style" and cell.drift > 0.1:
        found.append(
            Statement(
                f"Other prompts change as well: {100 * cell.drift:.0f} % of what the base said to unrelated ones.",
                f"無関係なプロンプトの結果も変わります(ベースモデルの出力に対して{100 * cell.drift:.0f}%)。",
                "measured",
                BENCH,
            )
        )
    if row and not base.is_embedded:
        found.append(
            Statement(
                "Measured on the small embedded base, not on yours: a hint, no proof.",
                "お使いのベースモデルではなく、同梱の小さなベースモデルでの測定です。証明ではなく目安としてご覧ください。",
                "known",
                BENCH,
            )
        )
    low, high = wanted(method)
    if not low <= subject.pictures <= high:
        found.append(
            Statement(
                f"The rules of thumb want {low} to {high} pictures for it; there are {subject.pictures}.",
                f"一般に{low}〜{high}枚が目安とされていますが、お使いの画像は{subject.pictures}枚です。",
                "folklore",
            )
        )
    if method in PUBLISHED_AGAINST:
        found.append(PUBLISHED_AGAINST[method])
    if size > 500_000_000:
        found.append(
            Statement(
                f"The file is a whole model: {size / 1e9:.1f} GB.",
                f"ファイルはモデル全体({size / 1e9:.1f} GB)です。",
                "known",
                _COUNTED,
            )
        )
    if method == "hypernetwork" and not base.is_embedded:
        found.append(_FORGE)
    if thrift.checkpointing:
        found.append(_RECOMPUTES)
    if subject.pictures < LEAST_TO_TRUST:
        found.append(_TOO_FEW)
    return tuple(found)


_FORGE: Final = Statement(
    "Forge lists hypernetworks but does not apply them; diffusers has no loader.",
    "Forgeはハイパーネットワークを一覧に表示しますが、適用しません。diffusersには読み込み機能がありません。",
    "known",
    _MODULES,
)
_RECOMPUTES: Final = Statement(
    "To fit into the memory it recomputes much, which takes about a third more time.",
    "メモリに収めるために再計算が多くなり、時間が3分の1ほど長くなります。",
    "known",
    _COUNTED,
)
_TOO_FEW: Final = Statement(
    "With fewer than 4 pictures no validation can be trusted; look at the previews, and rather stop too early.",
    "画像が4枚未満では、信頼できる検証になりません。プレビューを見て、早めに止めてください。",
    "known",
    "tsuika's guard",
)
# The parts that the pairs of bench/methods are made of.
_PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "character LoRA": ("a character LoRA", "キャラクターのLoRA"),
    "style LoRA": ("a style LoRA", "画風のLoRA"),
    "object LoRA": ("an object LoRA", "物のLoRA"),
    "object word": ("an object's new word", "物の新しい単語"),
    "character DreamBooth": ("a DreamBooth character", "DreamBoothのキャラクター"),
    "style hypernetwork": ("a style hypernetwork", "画風のハイパーネットワーク"),
}


def combinations(table: Table, goal: str, method: str) -> tuple[Statement, ...]:
    """Combinations with the recommended method that won, and those that did not: what to add to get more."""
    name = {"lora": "LoRA", "dreambooth": "DreamBooth", "textual-inversion": "word", "hypernetwork": "hypernetwork"}[
        method
    ]
    found = []
    for pair in sorted(table.pairs, key=lambda one: -one.over_best_alone.mean):
        if f"{goal} {name}" not in pair.name:
            continue
        parts = [_PARTS[part] for part in pair.name.split(" + ")]
        en, ja = " and ".join(part[0] for part in parts), "と".join(part[1] for part in parts)
        change, change_ja = _change(pair.over_best_alone)
        if pair.won:
            words = (
                f"Lay {en} on the base together: {change} than the better one alone.",
                f"{ja}を重ねて使えます。良いほう単独よりも{change_ja}。",
            )
        else:
            words = (
                f"Together, {en} were no better than one alone: {change}.",
                f"{ja}を重ねても、単独より良くはなりませんでした({change_ja})。",
            )
        found.append(Statement(*words, "measured", BENCH))
    found += _pivotal(table, goal)
    return tuple(found)


def _pivotal(table: Table, goal: str) -> list[Statement]:
    cell = next((one for one in table.cells if one.goal == goal and one.method == "textual-inversion + lora"), None)
    if cell is None or cell.against is None:
        return []
    change, change_ja = _change(cell.against)
    of = GOAL_WORDS[goal]
    if cell.against.sign > 0:
        en = f"{change} than any one method in the same time ({of[0]}, {cell.pictures} pictures)."
        ja = f"同じ時間でどの単独の方法よりも{change_ja}({of[1]}、画像{cell.pictures}枚)。"
    else:
        en = f"no better than one method alone in the same time: {change} ({of[0]}, {cell.pictures} pictures)."
        ja = f"同じ時間の単独の方法より良くはなりませんでした({change_ja}。{of[1]}、画像{cell.pictures}枚)。"
    likest = max((one.fidelity for one in table.row(goal, cell.pictures).values()), default=1.0)
    if goal != "style" and cell.fidelity > likest:
        en += f" But its pictures were most like the real thing ({cell.fidelity:.2f}, one method alone {likest:.2f} at most)."
        ja += f"ただし、生成画像は本物に最も似ていました({cell.fidelity:.2f}、単独では最高{likest:.2f})。"
    words = (
        f"First a new word, then a LoRA on it (examples/pivotal-1-word.toml): {en}",
        f"先に新しい単語、次にその上でLoRAを学習(examples/pivotal-1-word.toml): {ja}",
    )
    return [Statement(*words, "measured", BENCH)]


def verdict(rule: Rule, table: Table, goal: str, pictures: int) -> Statement:
    """What a rule of thumb says here, and whether the measurements agree."""
    if rule.pictures:
        return _count_verdict(rule, table, goal, pictures)
    names = [
        " or ".join(title(method, "en") for method in rule.methods),
        "か".join(title(m, "ja") for m in rule.methods),
    ]
    en, ja = f"“{GOAL_WORDS[goal][0]}: {names[0]}”", f"「{GOAL_WORDS[goal][1]}には{names[1]}」"
    row = table.row(goal, pictures)
    if not row:
        return Statement(f"{en}: not measured here yet.", f"{ja}: まだ測定していません。", "folklore")
    best = max(row.values(), key=lambda cell: cell.gain.mean)
    mine = max((row[method] for method in rule.methods), key=lambda cell: cell.gain.mean)
    held = mine is best or (mine.against is not None and not mine.against.sign)
    gains = f"{title(mine.method, 'en')} {mine.gain.mean:.0f} %, {title(best.method, 'en')} {best.gain.mean:.0f} %"
    gains_ja = f"{title(mine.method, 'ja')} {mine.gain.mean:.0f}%、{title(best.method, 'ja')} {best.gain.mean:.0f}%"
    if mine is best:
        gains, gains_ja = gains.partition(",")[0], gains_ja.partition("、")[0]
    count = best.pictures
    return Statement(
        f"{en}: {'held' if held else 'did not hold'} with {count} pictures ({gains}).",
        f"{ja}: 画像{count}枚では{'当たりました' if held else '外れました'}({gains_ja})。",
        "measured",
        BENCH,
    )


def _count_verdict(rule: Rule, table: Table, goal: str, pictures: int) -> Statement:
    method = rule.methods[0]
    low, high = rule.pictures or (0, 0)
    en, ja = f"“{title(method, 'en')}: {low} to {high} pictures”", f"「{title(method, 'ja')}は{low}〜{high}枚」"
    curve = sorted(
        (one for one in table.cells if (one.goal, one.method) == (goal, method)), key=lambda one: one.pictures
    )
    if len(curve) < 2:
        return Statement(f"{en}: not measured here yet.", f"{ja}: まだ測定していません。", "folklore")
    gains = ", ".join(f"{one.pictures}: {one.gain.mean:.0f} %" for one in curve)
    gains_ja = "、".join(f"{one.pictures}枚 {one.gain.mean:.0f}%" for one in curve)
    of = GOAL_WORDS[goal]
    return Statement(
        f"{en}: measured gain for {of[0]} by number of pictures: {gains}.",
        f"{ja}: {of[1]}での画像の枚数ごとの改善: {gains_ja}。",
        "measured",
        BENCH,
    )
