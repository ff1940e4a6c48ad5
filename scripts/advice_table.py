"""The tables of docs/advise.md and docs/advise.ja.md: what is advised in twelve situations, and the measurements behind it.

    python scripts/advice_table.py [--check]

Replaces what stands between `<!-- advice -->` and `<!-- /advice -->`. With --check writes nothing and fails if it would.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tsuika import EMBEDDED
from tsuika.advice import estimate, evidence, reasons, rules
from tsuika.advice.base import describe_base
from tsuika.advice.estimate import Machine
from tsuika.advice.evidence import GOALS, METHODS, Cell, Statement
from tsuika.advice.recipes import Subject
from tsuika.core.texts import in_language
from tsuika.methods import title

DOCS = Path(__file__).parent.parent / "docs"
COUNTS = (4, 16, 100)
MACHINE = Machine("cpu", "", "bf16", 1000.0)
HEADS = {
    "en": ("goal", "images", "recommended", "alternatives", "gain of each method, % (95% interval)"),
    "ja": ("目的", "枚数", "おすすめ", "ほかの選択肢", "各方法の改善 %(95%信頼区間)"),
}
ELSEWHERE = {
    "en": "On SD 1.x, where the LoRA that is advised has no convolutions (measured on the embedded base, without them):",
    "ja": "SD 1.xの場合です。おすすめのLoRAには畳み込み層がないので、同梱のベースモデルでも畳み込み層なしで測った値を使います。",
}
RULES = {"en": "What became of the rules of thumb:", "ja": "一般に言われる目安の検証結果:"}
COMBINED = {"en": "Two results laid together:", "ja": "2つの結果を重ねた場合:"}


def gains(row: dict[str, Cell], lang: str) -> str:
    """Every method's, the best first; bold where it is the best or cannot be told from it."""
    ordered = sorted((row[method] for method in METHODS if method in row), key=lambda cell: -cell.gain.mean)
    parts = []
    for cell in ordered:
        text = (
            f"{in_language(title(cell.method), lang)} {cell.gain.mean:.0f} ({cell.gain.low:.0f} … {cell.gain.high:.0f})"
        )
        even = cell.against is not None and not cell.against.sign
        parts.append(f"**{text}**" if cell is ordered[0] or even else text)
    return ", ".join(parts) or "–"


def lines(lang: str) -> Iterator[str]:
    told: dict[str, list[Statement]] = {"rules": [], "combined": []}
    for name in ("embedded", "sd1"):
        base, is_own = describe_base(name, EMBEDDED), name == "embedded"
        table, step = evidence.measured(embedded=is_own), estimate.step_of(base)
        if not is_own:
            yield f"\n{ELSEWHERE[lang]}\n"
        yield f"| {' | '.join(HEADS[lang])} |"
        yield "|" + "---|" * len(HEADS[lang])
        for goal, count in product(GOALS, COUNTS):
            subject = Subject(goal, "pictures", count, name, trigger="zoka", embedded=is_own)
            found = rules.advise(
                rules.Request(subject, goal),
                base,
                table,
                lambda recipe, n=count, base=base, step=step: estimate.estimate(base, recipe, MACHINE, n, step),
                lambda recipe, base=base, step=step: estimate.memory_gib(base, recipe, MACHINE, step),
            )
            names = [in_language(title(option.method), lang) for option in found.options]
            words = reasons.GOALS[goal].to(lang).removeprefix("a ").removeprefix("an ")
            row = table.row(goal, count)
            exact = {method: cell for method, cell in row.items() if cell.images == count}
            yield f"| {words} | {count} | {names[0]} | {', '.join(names[1:])} | {gains(exact, lang)} |"
            if is_own:
                told["rules"] += [
                    one for one in found.folklore if one.strength == "measured" and one not in told["rules"]
                ]
                told["combined"] += [one for one in found.combine if one not in told["combined"]]
    for heading, statements in ((RULES[lang], told["rules"]), (COMBINED[lang], told["combined"])):
        if statements:
            yield f"\n{heading}\n"
            yield from (f"- {one.text.to(lang)}" for one in statements)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for lang, name in (("en", "advise.md"), ("ja", "advise.ja.md")):
        path = DOCS / name
        text = path.read_text(encoding="utf-8")
        body = "\n".join(lines(lang))
        fresh = re.sub(
            r"(<!-- advice -->\n).*?(<!-- /advice -->)", lambda m, b=body: f"{m[1]}{b}\n{m[2]}", text, flags=re.DOTALL
        )
        if fresh != text and options.check:
            sys.exit(f"{name} is not what {Path(__file__).name} writes")
        path.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
