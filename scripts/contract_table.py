"""The contract suite's result as a table, methods by families, from pytest's report of it.

python -m pytest tests/methods/test_method_contract.py --junitxml contract.xml
python scripts/contract_table.py contract.xml
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree  # a report that this machine has just written

from tsuika.families import FAMILIES
from tsuika.methods import METHODS


def main() -> None:
    cases: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)  # (method, family) -> promise -> kept
    for case in ElementTree.parse(Path(sys.argv[1])).getroot().iter("testcase"):
        if found := re.fullmatch(r"test_(\w+)\[([a-z-]+)-(sd1|sd2|sdxl)\]", case.get("name", "")):
            kept = not {child.tag for child in case} & {"failure", "error", "skipped"}
            cases[found[2], found[3]][found[1].replace("_", " ")] = kept
    families = [row.facts.family for row in FAMILIES]
    print(f"| method | {' | '.join(families)} |\n|---|{'---|' * len(families)}")
    for method in METHODS:
        counts = [cases[method, family].values() for family in families]
        print(f"| {method} | {' | '.join(f'{sum(count)} of {len(count)}' for count in counts)} |")
    print("\nThe promises: " + "; ".join(dict.fromkeys(name for kept in cases.values() for name in kept)) + ".")


if __name__ == "__main__":
    main()
