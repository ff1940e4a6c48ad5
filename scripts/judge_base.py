"""Make the two judges of the embedded base, and question them.

python scripts/judge_base.py yardstick --work DIR    train, and show that it separates things it never saw
python scripts/judge_base.py question --work DIR     show that again
python scripts/judge_base.py examiner --work DIR     is the examiner that make_base.py has trained fit to judge?
python scripts/judge_base.py exam --work DIR --base FOLDER   judge samples over the whole vocabulary
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from base.examiner import check, exam
from base.hands import Atlases
from base.plan import plan_of
from base.yardstick import question_yardstick, train_yardstick


def main() -> None:
    """One judge at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("yardstick", "question", "examiner", "exam"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500, help="yardstick: how long to train")
    parser.add_argument("--base", type=Path, help="exam: the diffusers folder to judge")
    parser.add_argument("--count", type=int, default=1000, help="exam: how many samples")
    parser.add_argument("--sheet", type=Path, help="exam: write the samples as one picture")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    match options.what:
        case "exam":
            found = exam(work, options.base, Atlases(work / "hands"), options.count, options.sheet)
        case "examiner":
            found = check(plan_of(work), work, Atlases(work / "hands"))
        case _:
            if options.what == "yardstick":
                train_yardstick(work, options.steps)
            found = question_yardstick(work)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
