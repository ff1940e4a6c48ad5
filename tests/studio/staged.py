"""A home in which jobs have ended whose results the pages show, without the hours that they would take."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tsuika import DEMO_PICTURES, config
from tsuika.core.events import Judged, Phase, Previewed
from tsuika.evaluation.report import ReportData, WrittenFile

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
PROMPTS = ("a tsuipi character", "a tsuipi character, on the beach")


@dataclass(frozen=True)
class Stage:
    """A home with a project of six images.

    Attributes:
        home: the folder.
        project: its id.
        folder: of the project.
    """

    home: Path
    project: str
    folder: Path

    @property
    def run(self) -> str:
        """The id of a run folder outside of projects."""
        return hashlib.sha256(str(self.home / "runs/folds").encode()).hexdigest()[:16]

    def job(self, kind: str, result: Any, about: Mapping[str, Any] | None = None, *, project: str = "") -> str:
        """A job that has ended with a result; its id."""
        number = len([*(self.home / "jobs").iterdir()])
        key, now = f"{number:012}", time.time() + number
        folder = self.home / "jobs" / key
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        (folder / "events.jsonl").touch()
        row = {"id": key, "project": project, "kind": kind, "about": json.dumps(about or {}), "argv": '["x"]'}
        row |= {"lane": "cpu", "place": now, "state": "done", "run": "", "created": now, "started": now, "ended": now}  # type: ignore[dict-item]
        with sqlite3.connect(self.home / "studio.db") as db:
            db.execute(f"insert into jobs ({', '.join(row)}) values ({', '.join('?' * len(row))})", [*row.values()])
        return key


def texts(words: str) -> dict[str, str]:
    """A text in both languages."""
    return {"en": words, "ja": words}


def stage(home: Path, project: str) -> Stage:
    """Images with masks and captions, advice, rates, a search, a run with folds, a sheet, VAEs, a merged file."""
    with sqlite3.connect(home / "studio.db") as db:
        folder = home / db.execute("select folder from projects where id = ?", (project,)).fetchone()[0]
    found = Stage(home, project, folder)
    images = sorted(DEMO_PICTURES.glob("*_0[1-6].png"))
    _masks(found, images)
    _advice(found)
    _searches(found)
    _run(found)
    captions = [{"name": one.name, "before": "", "after": "a tag"} for one in images]
    found.job("caption", {"images": captions, "notes": []}, project=project)
    (home / "results/both.safetensors").write_bytes(b"x")
    merged = {"merged": ["a", "b"], "error_of_rank": 0.1}
    found.job("merge", merged, {"tool": "merge", "out": "results/both.safetensors"})
    return found


def _masks(stage: Stage, images: list[Path]) -> None:
    for path in images:
        (stage.folder / "images" / path.name).write_bytes(path.read_bytes())
    made = stage.home / "made/mask-staged"
    made.mkdir(parents=True)
    mask = Image.new("L", (128, 128))
    mask.paste(255, (24, 16, 104, 120))
    for path in images:
        mask.save(made / f"{path.stem}-mask.png")
    mask.save(stage.folder / "images" / f"{images[0].stem}-mask.png")
    rows = [{"name": one.name, "before": None, "after": 0.5, "mask": f"{one.stem}-mask.png"} for one in images]
    stage.job("mask", {"images": rows, "notes": []}, {"out": "made/mask-staged"}, project=stage.project)


def _advice(stage: Stage) -> None:
    recipe = stage.folder / "advice/lora.toml"
    recipe.parent.mkdir()
    tables = {"data": {"images": str(stage.folder / "images"), "trigger": "tsuipi"}, "train": {"steps": 80}}
    recipe.write_text(config.dump(config.build(tables)), encoding="utf-8")
    option = {
        "method": "lora",
        "title": texts("LoRA"),
        "steps": 80,
        "step_seconds": 0.5,
        "seconds": 160,
        "trainings": 4,
    }
    option |= {
        "time_basis": "measured",
        "batch_size": 8,
        "trained_numbers": 10**6,
        "memory_gb": 1.1,
        "file_bytes": 10**6,
    }
    option |= {"works_in": ["A1111", "ComfyUI"], "recipe_file": str(recipe), "against": []}
    option |= {"reasons": [texts("Of two methods the better one.") | {"strength": "measured"}]}
    advice = {"recommendation": option, "alternatives": [option], "notes": [texts("6 images.")], "pictures": 20}
    about = {"goal": "character", "base": "embedded", "trigger": "staged", "class_word": "character"}
    stage.job("advise", {**advice, "not_recommended": []}, about, project=stage.project)


def _searches(stage: Stage) -> None:
    def curve(rate: float) -> list[dict[str, float]]:
        end = -30 * rate if rate < 0.01 else 1.5
        return [{"step": step, "mean": end * step / 12, "low": end - 0.1, "high": end + 0.1} for step in (4, 8, 12)]

    rates = [{"rate": rate, "diverged": rate == 1e-2, "left": False, "curve": curve(rate)} for rate in RATES]
    told = {"rate": "0.003", "gain": "-9%", "after": 12, "steps": 12, "higher": "0.01"}
    stage.job("find-rate", {"rate": 3e-3, "rates": rates, "code": "GD030", "params": told}, project=stage.project)
    trials = [
        {"number": number, "params": {"method.rank": rank, "train.learning_rate": 1e-3}, "state": state, "value": value}
        | {"se": 0.01, "step": 40}
        for number, (rank, state, value) in enumerate([(8, "done", -0.3), (4, "done", -0.29), (32, "pruned", 0.1)])
    ]
    stage.job("search", {"best": 0, "near": [1], "recipe": "x", "trials": trials}, project=stage.project)


def _run(stage: Stage) -> None:
    run = stage.home / "runs/folds"
    for inside in ("artifacts", "samples"):
        (run / inside).mkdir(parents=True)
    (run / "recipe.toml").write_text(config.dump(config.build({"data": {"images": str(DEMO_PICTURES)}})))
    (run / "artifacts/tsuipi.safetensors").write_bytes(b"x")
    report = ReportData(
        title="tsuipi",
        method="lora",
        family="sd1",
        base="embedded",
        trigger="tsuipi",
        example_prompt=PROMPTS[0],
        stopped_by="guard",
        steps_planned=80,
        steps_done=40,
        artifacts=(WrittenFile("artifacts/tsuipi.safetensors", "kohya", 1, ""),),
    )
    (run / "report.json").write_text(json.dumps(report.to_dict()))
    events: list[Any] = [Phase("look", 80)]
    for fold in (1, 2, 3):
        for step in (10, 20, 30, 40, 60):
            mean = -0.3 + ((step - 10 - 10 * fold) / 50) ** 2
            held_out = {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "kind": "pictures", "se": 0.02}
            evidence = {"step": step, "held_out": held_out, "best_step": min(10 + 10 * fold, step)}
            events.append(Judged(step, "go", "GD008", {}, {}, evidence, fold=fold, folds=3))
    sheet = stage.job("grid", {}, {"run": stage.run, "prompts": [*PROMPTS]})
    cells: list[str] = []
    for step in (0, 40):
        for number, prompt in enumerate(PROMPTS):
            path = f"samples/{step}-{number}.png"
            Image.new("RGB", (64, 64), (step * 5, 90, 60 + number * 90)).save(run / path)
            events.append(Previewed(step, prompt, number, path))
            place, labels = (step // 40, 0, number), (f"strength {step // 40}", "tsuipi", prompt)
            cell = {"event": "CellDrawn", "path": str(run / path), "seed": number, "labels": labels, "place": place}
            cells.append(json.dumps(cell | {"done": len(cells) + 1, "total": 4}))
    write = {run / "events.jsonl": [one.to_json() for one in events]}
    write[stage.home / "jobs" / sheet / "events.jsonl"] = cells
    for file, lines in write.items():
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    measures = {name: {"mean": 30.0} for name in ("psnr", "ssim", "colour", "texture_error")}
    rows = [{"vae": name, "measures": measures, "findings": []} for name in ("builtin", "builtin:texture")]
    advice = {"texture": {"vae": "builtin:texture", "better_by": 0.4}, "lines": {"vae": "builtin", "better_by": None}}
    (stage.home / "made/vaes.html").write_text("<p>")
    stage.job("vae compare", {"advice": advice, "vaes": rows}, {"run": stage.run, "out": "made/vaes.html"})
