"""Question the two judges of the embedded base, which make_base.py trains, and have samples judged.

python scripts/judge_base.py check --work DIR               are the examiner and the yardstick fit to judge?
python scripts/judge_base.py exam --work DIR --base FOLDER  judge samples over the whole vocabulary
python scripts/judge_base.py timesteps --work DIR           loss of the last state and of each average by timestep
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from base.common import load
from base.examiner import check_examiner, exam
from base.hands import Atlases
from base.plan import Plan, plan_of
from base.unet import Painter, loss_by_timestep
from base.vae import trained_vae
from base.yardstick import question_yardstick


def timesteps(plan: Plan, work: Path, atlases: Atlases) -> dict[str, dict[int, float]]:
    """Of the training that `work/unet.pt` holds."""
    state = load(work / "unet.pt")
    assert state is not None
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    painter = Painter(plan, work, trained_vae(work), tokenizer, atlases)
    rows = {"last": state["model"], **state["averages"]}
    asked = (50, 300, 500, 700, 850, 930, 999)
    return {name: loss_by_timestep(painter, weights, asked) for name, weights in rows.items()}


def main() -> None:
    """One question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "exam", "timesteps"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", type=Path, help="exam: the diffusers folder to judge")
    parser.add_argument("--count", type=int, default=1000, help="exam: how many samples")
    parser.add_argument("--sheet", type=Path, help="exam: write the samples as one picture")
    options = parser.parse_args()
    work: Path = options.work
    plan, atlases = plan_of(work), Atlases(work / "hands")
    found: dict[str, Any]
    if options.what == "exam":
        found = exam(work, options.base, atlases, options.count, options.sheet)
    elif options.what == "timesteps":
        found = timesteps(plan, work, atlases)
    else:
        found = {"examiner": check_examiner(plan, work, atlases), "yardstick": question_yardstick(plan, work, atlases)}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
