"""Three journeys of a newcomer on the embedded base: what the program says of a training, beside the truth.

    python bench/journeys.py --out DIR [--seconds 60] [--only pinwheel/lora]   # trains; goes on where it was
    python bench/journeys.py --out DIR --read                                  # the table

A row is (subject, way). The subjects are of bench/subjects: an object of 4 images, a character of 25, a style of 120. The ways
are README's plain line, the recipe that `advise` puts first, and each method at equal seconds: as many planned steps as fit
into SECONDS processor seconds at the base's own settings. The truth is the loss on fresh images of the subject, which no
training sees, against the base's on the same noise with the best of its captions: that one, without the trigger word, none.

What is said of a row, and when it agrees with the truth:
- guard: something was learned, or nothing (GD004, GD005, GD017, GD039). Wrong where it was learned and the truth is not
  surely better than the base, or where nothing was and the truth is surely better by more than SEEN.
- evaluate: the same by its grade; `copies`, `stiff` and `unmeasured` say nothing of it.
- advise: a method's place among those that it offers. Wrong where one that it puts lower, or leaves out, is surely better by
  more than SEEN at equal seconds. Of its own recipe: the seconds that it foretold, wrong by more than a factor of two.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

import tsuika
from subjects import SUBJECTS, Subject
from tsuika import formats
from tsuika.api.snapshots import snapshots
from tsuika.api.training import Trained
from tsuika.config import Recipe
from tsuika.core.events import Stepped
from tsuika.core.files import write_text
from tsuika.core.rundir import RunDir
from tsuika.core.seeds import generator
from tsuika.core.types import Artifact, Attachment, Model, model_tensors
from tsuika.data.augment import Transform, render
from tsuika.diffusion.objective import objective, squared_error
from tsuika.embedded.world import SIZE_PX
from tsuika.guard.probe import MID, strata
from tsuika.guard.reading import Estimate, Grid, estimate, minus
from tsuika.methods import METHODS

PLAIN: Final = "plain"
ADVISED: Final = "advised"
WAYS: Final = (PLAIN, ADVISED, *METHODS)
SEEN: Final = math.log(1.05)  # less of a difference in loss is not seen
PACE_STEPS: Final = 6  # the first two are not timed
DRAWS: Final = 3  # timesteps an image of the truth
NOTHING: Final = {"GD004", "GD005", "GD017", "GD039"}
LEARNED: Final = {"good": True, "trade": True, "dear": True, "slight": False, "doubtful": False, "nothing": False}

Row = dict[str, Any]


class Journeys:
    """The rows of a folder."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def go(self, subject: Subject, way: str) -> None:
        """Train, ask and measure, unless the row is there already."""
        place = self.folder / subject.name / way
        if place.with_suffix(".json").exists():
            return
        seconds = self._train(subject, way, place)
        report = Trained.read(place).report
        judged = tsuika.evaluate(place, seeds=2, strengths=(1.0,), steps=(report["steps_done"],)).result
        guard = report["guard"]
        codes = {one["code"] for one in [*guard["alarms"][-1:], *report["warnings"]]}
        row = {
            "subject": subject.name,
            "way": way,
            "method": report["method"],
            "steps": report["steps_done"],
            "seconds": seconds,
            "truth": truth(subject, place, report["method"]),
            "guard": {"learned": not codes & NOTHING, "sentence": guard["sentence"]["en"], "codes": sorted(codes)},
            "evaluate": judged.to_dict()["verdict"],
            "sheets": [str(sheet.relative_to(self.folder)) for sheet in judged.sheets],
        }
        write_text(place.with_suffix(".json"), json.dumps(row, indent=1))

    def _train(self, subject: Subject, way: str, place: Path) -> float:
        """The processor seconds of a row's training; one that is over is not begun again."""
        spent = place.with_suffix(".seconds")
        if not spent.exists():
            shutil.rmtree(place, ignore_errors=True)
            images, advised = self._images(subject), self._advised(subject)
            if way == PLAIN:
                recipe = Recipe.of("lora", **_told(subject, images))
            elif way == ADVISED:
                recipe = Recipe.of(file=advised["recommendation"]["recipe_file"])
            else:
                recipe = self._for_seconds(way, subject, images)
            began = time.process_time()
            for _ in tsuika.train(recipe, place):
                pass
            write_text(spent, f"{time.process_time() - began:.1f}")
        return float(spent.read_text(encoding="utf-8"))

    def _images(self, subject: Subject) -> Path:
        folder = self.folder / subject.name / "images"
        if not folder.exists():
            subject.write(folder)
        return folder

    def _advised(self, subject: Subject) -> Row:
        """What `advise` says of a subject, asked once."""
        place = self.folder / subject.name / "advice"
        if not place.with_suffix(".json").exists():
            shutil.rmtree(place, ignore_errors=True)
            told = _told(subject, self._images(subject))
            advice = tsuika.advise(goal=subject.goal, out=place, **told).result.to_dict()
            write_text(place.with_suffix(".json"), json.dumps(advice, indent=1))
        return json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))

    def _for_seconds(self, method: str, subject: Subject, images: Path) -> Recipe:
        """As many steps of a method as fit into the seconds, timed by a few of them."""

        def recipe(steps: int, **settings: object) -> Recipe:
            return Recipe.of(method, **_told(subject, images), steps=steps, settings=settings)

        place, spent = self.folder / subject.name / f"{method}-pace", list[float]()
        shutil.rmtree(place, ignore_errors=True)
        last = time.process_time()
        for event in tsuika.train(recipe(PACE_STEPS, **{"guard.mode": "off", "preview.num": 0}), place):
            if isinstance(event, Stepped):
                spent.append(time.process_time() - last)
            last = time.process_time()
        shutil.rmtree(place)
        return recipe(max(1, round(self.seconds / (sum(spent[2:]) / len(spent[2:])))))

    def read(self) -> list[Row]:
        """The rows that are there, each with whether its words agree with the truth."""
        rows = []
        for subject in SUBJECTS:
            paths = [self.folder / subject.name / f"{way}.json" for way in WAYS]
            found = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
            advice = self._advised(subject) if found else {}
            rows += [{**row, "agrees": _agrees(row, found, advice), "advice": _said(row, advice)} for row in found]
        return rows


def _told(subject: Subject, images: Path) -> dict[str, Any]:
    return {"images": images, "trigger": subject.trigger, "class_word": subject.class_word}


def truth(subject: Subject, run: Path, method: str) -> Grid:
    """Log ratios of the loss to the base's with its best caption: a row a fresh image, a column a draw.

    A nonsense word can mislead the base: what draws better than that, and worse than the base without it, has learned nothing.
    """
    model = tsuika.load("embedded", device="cpu", precision="fp32")
    attachment = _result(model, run, method)
    images = subject.truth()
    pixels = torch.stack([render(Image.fromarray(one.pixels), Transform(), (SIZE_PX, SIZE_PX)) for one in images])
    without = [one.caption.replace(f"{subject.trigger} ", "").replace(f", {subject.trigger}", "") for one in images]
    with torch.no_grad():
        latents = model.encode_images(pixels)
        trained = _logs(model, latents, [one.caption for one in images])
        attachment.set_strength(0)
        captions = ([one.caption for one in images], without, [""] * len(images))
        base = min((_logs(model, latents, one) for one in captions), key=lambda grid: sum(map(sum, grid)))
    return minus(trained, base)


def _logs(model: Model, latents_NCHW: torch.Tensor, captions: Sequence[str]) -> Grid:
    """Log losses of DRAWS draws an image, the same for every caption."""
    told, rows = objective(model.prediction, model.scheduler_config, "cpu"), []
    for place, (latents_CHW, caption) in enumerate(zip(latents_NCHW, captions, strict=True)):
        t_B = torch.tensor([MID[stratum] for stratum in strata(place, DRAWS)])
        clean_BCHW = latents_CHW.expand(DRAWS, -1, -1, -1)
        noise_BCHW = torch.randn(clean_BCHW.shape, generator=generator(0, "truth", place))
        cond = model.encode_text([caption] * DRAWS, size_px=(SIZE_PX, SIZE_PX))
        output_BCHW = model.denoise(told.add_noise(clean_BCHW, noise_BCHW, t_B), t_B, cond)
        target_BCHW = told.target(clean_BCHW, noise_BCHW, t_B)
        rows.append(tuple(squared_error(output_BCHW, target_BCHW, None).log().tolist()))
    return tuple(rows)


def _result(model: Model, run: Path, method: str) -> Attachment:
    """A run's main result on its base."""
    path = snapshots(RunDir(run))[0].paths[0]
    if METHODS[method].whole_model:
        tuned = tsuika.load(str(path), device="cpu", precision="fp32")
        return METHODS[method].restore(model, Artifact(method, model.facts.family, model_tensors(tuned)))
    return METHODS[method].restore(model, formats.find(path, formats.for_method(method)).read(path))


def _agrees(row: Row, rows: Sequence[Row], advice: Row) -> dict[str, bool | None]:
    """Guard, evaluate and advise against the truth; None: it says nothing that could be wrong."""
    found = estimate(row["truth"])
    learned = LEARNED.get(row["evaluate"]["grade"])
    return {
        "guard": _right(row["guard"]["learned"], found),
        "evaluate": None if learned is None else _right(learned, found),
        "advise": _advice_is_right(row, rows, advice),
    }


def _right(learned: bool, found: Estimate) -> bool:
    return found.high < 0 if learned else found.high >= 0 or found.mean > -SEEN


def _advice_is_right(row: Row, rows: Sequence[Row], advice: Row) -> bool | None:
    if row["way"] == PLAIN:
        return None
    if row["way"] == ADVISED:
        foretold = advice["recommendation"]["seconds"]
        return None if foretold is None else 0.5 <= row["seconds"] / foretold <= 2
    places = _places(advice)
    lower = [one for one in rows if one["way"] in METHODS and _place(one, places) > _place(row, places)]
    gains = [estimate(minus(one["truth"], row["truth"])) for one in lower]
    return None if not lower else not any(one.high < 0 and one.mean < -SEEN for one in gains)


def _places(advice: Row) -> list[str]:
    """The methods that are offered, the recommended one first."""
    return list(dict.fromkeys(one["method"] for one in [advice["recommendation"], *advice["alternatives"]]))


def _place(row: Row, places: Sequence[str]) -> int:
    return places.index(row["method"]) if row["method"] in places else len(places)


def _said(row: Row, advice: Row) -> str:
    if row["way"] == PLAIN:
        return "-"
    if row["way"] == ADVISED:
        foretold = advice["recommendation"]["seconds"]
        return f"{row['method']}, " + (f"{foretold:.0f} s" if foretold else "no time")
    places = _places(advice)
    return f"place {_place(row, places) + 1}" if row["method"] in places else "not offered"


def table(rows: Sequence[Row]) -> None:
    """The rows in Markdown; then the sentences of each."""
    marks = {True: "right", False: "WRONG", None: "-"}
    print(
        "| row | steps | s | loss on the truth | guard | | evaluate | | advise | |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        found, agrees = estimate(row["truth"]), {name: marks[value] for name, value in row["agrees"].items()}
        loss = ", ".join(f"{100 * (math.exp(value) - 1):+.1f}" for value in (found.mean, found.low, found.high))
        learned = "learned" if row["guard"]["learned"] else "nothing"
        said = [learned, agrees["guard"], row["evaluate"]["grade"], agrees["evaluate"], row["advice"], agrees["advise"]]
        told = [f"{row['subject']}/{row['way']}", f"{row['steps']}", f"{row['seconds']:.0f}", f"{loss} %", *said]
        print(f"| {' | '.join(told)} |")
    for row in rows:
        print(f"\n{row['subject']}/{row['way']} ({', '.join(row['sheets'])})")
        print(f"  guard: {row['guard']['sentence']}\n  evaluate: {row['evaluate']['sentence']['en']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60, help="of planned steps, for each method")
    parser.add_argument("--only", default="", help="subject/way, or the beginning of it")
    parser.add_argument("--read", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    journeys = Journeys(options.out, options.seconds)
    rows = [(subject, way) for subject in SUBJECTS for way in WAYS if f"{subject.name}/{way}".startswith(options.only)]
    for subject, way in () if options.read else rows:
        journeys.go(subject, way)
        print(f"{time.strftime('%H:%M:%S')} {subject.name}/{way}", file=sys.stderr, flush=True)
    table(journeys.read())


if __name__ == "__main__":
    main()
