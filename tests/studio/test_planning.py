"""From a page's wishes to a command line: recipes, queues, exports, and every command with its flags."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from running import Running, running

from tsuika import config
from tsuika.cli.main import app
from tsuika.cli.studio import CHOICES, described
from tsuika.studio.jobs import Job
from tsuika.studio.live import LiveProgress

# Says nothing and goes on until it is told to end.
STAND_IN = """
import json, os, sys, time
with open(sys.argv[2], "a") as log:
    log.write(json.dumps({"event": "Began", "pid": os.getpid(), "began": time.time()}) + "\\n")
time.sleep(60)
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Running]:
    with running(
        tmp_path / "home", list(described(typer.main.get_group(app))), (sys.executable, "-S", "-c", STAND_IN)
    ) as found:
        yield found
        for job in found.studio.jobs.all("where state = 'running'"):
            found.studio.jobs.kill(job)
            found.until(job.id, "died", "stopped")


@pytest.fixture
def project(here: Running, tmp_path: Path) -> str:
    key: str = here.ask("POST", "/api/projects", {"name": "My Cat"})[1]["id"]
    home = here.studio.home
    folder = home.project(key).folder  # type: ignore[union-attr]
    Image.new("RGB", (32, 32), "red").save(folder / "images/a.png")
    recipe = folder / "advice/1-lora.toml"
    recipe.parent.mkdir()
    recipe.write_text(
        '[method]\nname = "lora"\nrank = 16\n[train]\nsteps = 80\n[data]\ntrigger = "mycat"\nimages = "x"\n'
    )
    home.db.insert(
        "jobs",
        id="advice",
        project=key,
        kind="advise",
        argv="[]",
        lane="light",
        place=0,
        state="done",
        created=0,
        ended=1,
    )
    here.studio.jobs.folder("advice").mkdir(parents=True)
    option = {"recipe_file": str(recipe)}
    (here.studio.jobs.folder("advice") / "result.json").write_text(
        json.dumps({"recommendation": option, "alternatives": []})
    )
    return key


def argv(here: Running, job: str) -> tuple[str, ...]:
    found = here.studio.jobs.get(job)
    assert found is not None
    return found.argv


def test_a_plan_begins_with_what_the_name_says(here: Running, project: str) -> None:
    plan = here.ask("GET", f"/api/projects/{project}")[1]["plan"]
    assert plan == {"goal": "character", "base": "embedded", "trigger": "mycat", "class_word": "character"}
    here.ask("PATCH", f"/api/projects/{project}", {"plan": {**plan, "goal": "style", "class_word": "style"}})
    job = here.ask("POST", f"/api/projects/{project}/advise")[1]["job"]
    given = argv(here, job)
    assert given[given.index("--goal") + 1] == "style"
    assert "--no-measure" not in given


def test_a_model_captions_the_images_of_a_project(here: Running, project: str, tmp_path: Path) -> None:
    path = f"/api/projects/{project}/captions/model"
    given = argv(
        here, here.ask("POST", path, {"model": "SmilingWolf/wd-vit-tagger-v3", "exclude": "--out=x"})[1]["job"]
    )
    folder = here.studio.home.project(project).folder / "images"  # type: ignore[union-attr]
    assert (given[0], given[-2:]) == ("caption", ("--", str(folder)))
    assert {"--model=SmilingWolf/wd-vit-tagger-v3", "--mode=missing", "--exclude=--out=x", "--json"} <= set(given)
    assert given[given.index("--trigger") + 1] == "mycat"
    plain = argv(here, here.ask("POST", path, {"model": str(folder), "threshold": 0.5})[1]["job"])
    # What only taggers have is refused with other models, and so is given only where it is asked for.
    assert "--threshold=0.5" in plain
    assert not any(one.startswith(("--character-threshold", "--exclude")) for one in plain)
    for model in ("/etc", "../../x", "-x", "a b", ""):
        status, found = here.ask("POST", path, {"model": model})
        assert (status, found["error"]["code"]) == (422, "RC015")
    assert here.ask("POST", path, {"model": "a/b", "mode": "all"})[0] == 422


def test_settings_are_checked_at_once_and_told_in_both_languages(here: Running, project: str) -> None:
    asked = {"advice": "advice", "settings": {"train.steps": 12}}
    status, found = here.ask("POST", f"/api/projects/{project}/recipe", asked)
    assert (status, found["error"]) == (200, None)
    assert found["values"]["train"]["steps"] == 12
    assert found["differences"]["train.steps"] == 12
    assert found["advised"]["train.steps"] == 80
    wrong = {"advice": "advice", "settings": {"train.learning_rate": "fast"}}
    found = here.ask("POST", f"/api/projects/{project}/recipe", wrong)[1]
    assert found["error"]["key"] == "train.learning_rate"
    assert found["error"]["why"]["ja"] != found["error"]["why"]["en"]
    assert here.ask("POST", f"/api/projects/{project}/train", wrong)[0] == 422


def test_a_training_gets_a_whole_recipe_and_waits_for_the_device(here: Running, project: str) -> None:
    asked = {"advice": "advice", "settings": {"train.steps": 12}}
    first = here.ask("POST", f"/api/projects/{project}/train", asked)[1]["job"]
    second = here.ask("POST", f"/api/projects/{project}/train", asked)[1]["job"]
    given = argv(here, first)
    recipe = config.load(Path(given[given.index("--recipe") + 1]))
    assert (recipe.train.steps, recipe.preview.every, recipe.output.name) == (12, 10, "My Cat")
    assert (recipe.method.name, recipe.data.trigger) == ("lora", "mycat")
    assert argv(here, second)[argv(here, second).index("--out") + 1] != given[given.index("--out") + 1]
    view = here.ask("GET", f"/api/jobs/{second}")[1]["job"]
    assert (view["state"], view["waits_for"]["en"]) == ("waiting", "Training")
    # Nothing is timed on a device that is busy.
    advice = here.ask("POST", f"/api/projects/{project}/advise")[1]["job"]
    assert "--no-measure" in argv(here, advice)
    assert here.ask("POST", f"/api/jobs/{second}", {"action": "stop"})[1]["job"]["state"] == "cancelled"


def test_a_command_is_a_list_of_arguments_in_which_no_value_is_a_flag(here: Running, tmp_path: Path) -> None:
    values: dict[str, Any] = {"prompt": "--out=/etc/x; rm -rf /", "num": 2, "seed": "", "lora": [], "overwrite": True}
    given = argv(here, here.ask("POST", "/api/commands", {"command": ["generate"], "values": values})[1]["job"])
    assert given[:3] == ("generate", "--prompt=--out=/etc/x; rm -rf /", "--num=2")
    (out,) = [one for one in given if one.startswith("--out=")]
    assert out.startswith(f"--out={here.studio.home.root / 'made/generate-'}")
    assert "--overwrite" not in given
    made = here.studio.home.root / "results"
    for name in ("a.safetensors", "b.safetensors"):
        (made / name).write_bytes(b"x")
    values = {"files": [f"{made / 'a.safetensors'}:0.5", str(made / "b.safetensors")], "out": "both.safetensors"}
    given = argv(here, here.ask("POST", "/api/commands", {"command": ["merge"], "values": values})[1]["job"])
    assert given[-3:] == ("--", *values["files"])
    assert f"--out={made / 'both.safetensors'}" in given
    taken = {"command": ["merge"], "values": {**values, "out": "a.safetensors"}}
    assert here.ask("POST", "/api/commands", taken)[0] == 422


def test_every_command_has_a_form_and_none_lets_code_in(here: Running) -> None:
    forms = {" ".join(one["command"]): one for one in here.ask("GET", "/api/commands")[1]["commands"]}
    assert {"generate", "merge", "vae compare", "search", "inspect"} <= forms.keys()
    every = {" ".join(path) for path in paths(typer.main.get_group(app))}
    # Those have screens of their own; the studio itself is open.
    assert every - forms.keys() == {"studio", "resume", "status", "stop", "sample", "export", "publish", "settings"}
    for form in forms.values():
        assert form["text"]["ja"] != form["text"]["en"]
        for flag in form["flags"]:
            assert flag["text"]["en"], flag
            assert flag["flag"] != "--method"
            # What can be chosen is what the help says.
            for choice in flag["choices"]:
                assert choice in ("", "auto") or choice in flag["text"]["en"], flag


def paths(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield from paths(command, (*above, name)) if hasattr(command, "commands") else [(*above, name)]


def test_what_can_be_chosen_is_what_the_library_takes() -> None:
    from tsuika.advice.evidence import GOALS
    from tsuika.advice.rules import PROGRAMS
    from tsuika.annotation import MODES
    from tsuika.methods import METHODS
    from tsuika.training.device import DTYPES
    from tsuika.vae.tune import PURPOSES

    known = {"--goal": GOALS, "--mode": MODES, "--dtype": DTYPES, "--purpose": PURPOSES}
    for name, wanted in {**known, "--for": PROGRAMS}.items():
        assert set(CHOICES[name]) == set(wanted), name
    flags = [flag for one in described(typer.main.get_group(app)) for flag in one["flags"]]
    assert CHOICES.keys() <= {flag["flag"] for flag in flags}
    assert {tuple(flag["choices"]) for flag in flags if flag["name"] == "method" and not flag["flag"]} == {
        ("", *METHODS)
    }


def test_a_form_says_no_to_what_is_on_by_itself(here: Running) -> None:
    def given(**values: Any) -> tuple[str, ...]:
        asked = {"command": ["extract"], "values": {"tuned": "x", "base": "embedded", **values}}
        return argv(here, here.ask("POST", "/api/commands", asked)[1]["job"])

    assert "--no-text-encoder" in given(text_encoder=False)
    assert not [one for one in given(text_encoder=True) + given() if "text-encoder" in one]


@pytest.mark.parametrize(
    "values",
    [
        {"set_": ["method.name=os:system"]},
        {"set_": ["method = {name = 'os:system'}"]},
        {"set_": ["preview.file=/etc/passwd"]},
        {"set_": ["no assignment"]},
        {"images": "~root/../etc"},
        {"recipe": "/etc/passwd"},
        {"method": "os:system"},
    ],
)
def test_no_form_names_code_or_a_place_outside(here: Running, values: dict[str, Any]) -> None:
    for command in ("find-rate", "train"):
        assert here.ask("POST", "/api/commands", {"command": [command], "values": values})[0] == 422
    axes = {"prompt": "x", "x": "base=embedded,/etc/passwd"}
    assert here.ask("POST", "/api/commands", {"command": ["grid"], "values": axes})[0] == 422


def test_a_training_of_a_form_has_a_run_folder_that_the_home_knows(here: Running) -> None:
    for command, values in (("demo", {"steps": 8}), ("train", {"method": "lora", "images": ".", "out": "mine"})):
        job = here.studio.jobs.get(
            here.ask("POST", "/api/commands", {"command": [command], "values": values})[1]["job"]
        )
        assert job is not None
        assert (job.kind, job.run.startswith("runs/")) == ("train", True)
        assert f"--out={here.studio.home.root / job.run}" in job.argv
    assert job.run == "runs/mine"
    dry = {"command": ["train"], "values": {"method": "lora", "images": ".", "dry_run": True}}
    job = here.studio.jobs.get(here.ask("POST", "/api/commands", dry)[1]["job"])
    assert job is not None and (job.run, job.about["out"].startswith("made/")) == ("", True)


def test_rates_and_settings_are_searched_for_a_plan(here: Running, project: str) -> None:
    plan = {"advice": "advice", "settings": {"train.steps": 12}}
    given = argv(here, here.ask("POST", f"/api/projects/{project}/rates", {**plan, "steps": 16})[1]["job"])
    assert {"--steps=16", "--json"} <= set(given)
    assert not any(one.startswith("--rates") for one in given)
    asked = {**plan, "rates": "1e-4, 3e-4"}
    assert "--rates=1e-4, 3e-4" in argv(here, here.ask("POST", f"/api/projects/{project}/rates", asked)[1]["job"])
    assert here.ask("POST", f"/api/projects/{project}/rates", {**plan, "rates": "--out=x"})[0] == 422
    file = next(Path(one.removeprefix("--recipe=")) for one in given if one.startswith("--recipe="))
    assert config.load(file).train.steps == 12
    asked = {**plan, "over": {"train.learning_rate": "1e-4..3e-3", "method.rank": "4, 8"}, "trials": 5}
    job = here.ask("POST", f"/api/projects/{project}/searches", asked)[1]["job"]
    given = argv(here, job)
    assert {"--over=train.learning_rate=0.0001..0.003(log)", "--over=method.rank=4,8", "--trials=5"} <= set(given)
    for over in (
        {},
        {"method.rank": ""},
        {"data.images": "/etc,/"},
        {"method.rank": "0,1"},
        {"method.name": "lora,os:system"},
    ):
        status, found = here.ask("POST", f"/api/projects/{project}/searches", {**plan, "over": over})
        assert (status, found["error"]["code"] in ("RC021", "RC002")) == (422, True), over
    # Once more, with the same line, when it is over.
    here.studio.jobs.stop(here.studio.jobs.get(job))  # type: ignore[arg-type]
    here.until(job, "cancelled")
    again = here.ask("POST", f"/api/jobs/{job}", {"action": "again"})[1]["job"]["id"]
    assert again != job and argv(here, again) == given


def test_what_died_is_done_once_more_past_what_it_has_left(here: Running) -> None:
    def died(command: list[str], values: dict[str, Any]) -> Job:
        key = here.ask("POST", "/api/commands", {"command": command, "values": values})[1]["job"]
        # It waits for those before it, which may just have been killed.
        here.until(key, "running")
        here.studio.jobs.kill(here.studio.jobs.get(key))  # type: ignore[arg-type]
        here.until(key, "died")
        found = here.studio.jobs.get(key)
        assert found is not None
        return found

    def again(job: Job) -> Job:
        key = here.ask("POST", f"/api/jobs/{job.id}", {"action": "again"})[1]["job"]["id"]
        found = here.studio.jobs.get(key)
        assert found is not None
        return found

    drawn = died(["generate"], {"prompt": "a cat"})
    out = here.studio.home.root / drawn.about["out"]
    assert again(drawn).argv == drawn.argv
    out.mkdir(parents=True)
    new = again(drawn)
    assert new.argv == tuple(part.replace(str(out), f"{out}-2") for part in drawn.argv) != drawn.argv
    assert new.about == {**drawn.about, "out": f"{drawn.about['out']}-2"}
    for one in here.studio.jobs.all("where ended is null"):
        here.studio.jobs.kill(one) if one.state == "running" else here.studio.jobs.stop(one)
    # A training goes on where it was.
    training = died(["train"], {"method": "lora", "images": ".", "out": "mine"})
    run = here.studio.jobs.run_of(training)
    assert run is not None
    run.root.mkdir(parents=True)
    for file in (run.recipe, run.events):
        file.touch()
    resumed = again(training)
    assert (resumed.argv[:2], resumed.run) == (("resume", str(run.root)), training.run)
    # What is not over stays as it is.
    assert again(resumed).id == resumed.id


def test_a_check_tells_what_it_has_found_while_it_runs(here: Running, project: str) -> None:
    key = here.ask("POST", f"/api/projects/{project}/check")[1]["job"]
    finding = {"code": "bars", "level": "look", "pictures": ["a.png"]}
    with (here.studio.jobs.folder(key) / "events.jsonl").open("a") as log:
        for found in ([], [finding]):
            log.write(json.dumps({"event": "FoundSoFar", "findings": found}) + "\n")
    assert here.until(key, "running")["findings"] == [finding]
    here.studio.jobs.kill(here.studio.jobs.get(key))  # type: ignore[arg-type]
    assert here.until(key, "died")["findings"] == []


def test_a_search_tells_of_its_trials_as_they_end(tmp_path: Path) -> None:
    rows = [
        {"event": "Phase", "name": "encode", "total": 3},
        {"event": "TrialStarted", "number": 0, "total": 2, "params": {"method.rank": 4}},
        {"event": "Phase", "name": "look", "total": 99},
        {"event": "Progress", "phase": "look", "done": 5, "total": 99},
        {"event": "TrialEnded", "number": 0, "state": "done", "value": -0.2, "se": 0.01, "step": 9},
        {"event": "TrialStarted", "number": 1, "total": 2, "params": {"method.rank": 8}},
    ]
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = LiveProgress()
    found.read(file)
    assert (found.phase, found.done, found.total) == ("look", 1, 2)
    assert [(one["params"]["method.rank"], one["state"]) for one in found.trials.values()] == [
        (4, "done"),
        (8, "running"),
    ]


def test_what_folds_cost_is_told_before_they_are_trained(here: Running, project: str) -> None:
    result = here.studio.jobs.folder("advice") / "result.json"
    advice = json.loads(result.read_text())
    advice["recommendation"] |= {"step_seconds": 0.5, "batch_size": 1, "trained_numbers": 1000}
    result.write_text(json.dumps({**advice, "pictures": 20}))

    def cost(**settings: Any) -> dict[str, Any]:
        asked = {"advice": "advice", "settings": {"train.batch_size": 1, **settings}}
        return here.ask("POST", f"/api/projects/{project}/recipe", asked)[1]["cost"]  # type: ignore[no-any-return]

    plain, folds = cost(), cost(**{"guard.folds": 5})
    assert plain == {"trainings": 1.3, "seconds": pytest.approx(0.5 * 80 * 1.3)}
    assert folds["trainings"] == 5 + 1.5
    assert folds["seconds"] == pytest.approx(0.5 * 80 * 6.5)
    assert cost(**{"guard.mode": "off"})["trainings"] == 1


def test_further_folders_stand_beside_the_project_s_own(here: Running, project: str, tmp_path: Path) -> None:
    more = here.studio.home.root / "more"
    more.mkdir()

    def asked(*sets: Any) -> dict[str, Any]:
        return {"advice": "advice", "settings": {"data.sets": [*sets]}}

    found = here.ask("POST", f"/api/projects/{project}/recipe", asked({"images": str(more), "trigger": "dog"}))[1]
    assert found["error"] is None
    assert found["values"]["data"]["images"] == ""
    assert found["values"]["data"]["sets"] == [{"images": "x"}, {"images": str(more), "trigger": "dog"}]
    status, found = here.ask("POST", f"/api/projects/{project}/recipe", asked({"images": "/etc"}))
    assert (status, found["error"]["code"]) == (200, "RC015")
    assert here.ask("POST", f"/api/projects/{project}/train", asked({"images": "/etc"}))[0] == 422


def test_masks_of_a_model_are_looked_at_and_then_taken_and_used(here: Running, project: str) -> None:
    path, ask = f"/api/projects/{project}", here.ask
    job = ask("POST", f"{path}/masks/model", {"text": "--out=x", "threshold": 0.4})[1]["job"]
    given = argv(here, job)
    folder = here.studio.home.project(project).folder / "images"  # type: ignore[union-attr]
    assert given[0] == "mask" and given[-2:] == ("--", str(folder))
    assert {"--text=--out=x", "--threshold=0.4", "--grow-px=10", "--mode=missing"} <= set(given)
    assert ask("POST", f"{path}/masks/model", {"text": "cat", "model": "/etc"})[0] == 422
    image = ask("GET", f"{path}/images")[1]["images"][0]["id"]
    assert ask("GET", f"{path}/masks/{job}/{image}")[0] == 404
    # As the command would leave it.
    found = here.studio.jobs.get(job)
    assert found is not None
    made = here.studio.home.root / found.about["out"]
    made.mkdir(parents=True)
    Image.new("L", (32, 32), 128).save(made / "a-mask.png")
    here.studio.jobs.kill(found)
    here.until(job, "died", "stopped", "cancelled")
    result = {"images": [{"name": "a.png", "before": None, "after": 0.5, "mask": "a-mask.png"}]}
    (here.studio.jobs.folder(job) / "result.json").write_text(json.dumps(result))
    assert ask("GET", f"{path}/masks/{job}/{image}")[0] == 200
    taken = ask("PUT", f"{path}/masks", {"images": [image], "job": job})[1]
    assert [bool(one["mask"]) for one in taken["images"]] == [True]
    assert taken["undo"]["en"] == "1 mask changed"
    assert ask("GET", f"{path}/images/{taken['images'][0]['mask']}")[0] == 200
    recipe = ask("POST", f"{path}/recipe", {"advice": "advice"})[1]
    assert recipe["values"]["data"]["masks"] == "auto"
    gone = ask("PUT", f"{path}/masks", {"images": [image]})[1]
    assert not gone["images"][0]["mask"]
    assert ask("POST", f"{path}/undo")[1]["images"][0]["mask"]


def test_the_stream_tells_of_jobs_as_they_change(here: Running, project: str) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", here.port, timeout=10)
    connection.request("GET", "/api/events", headers={"Cookie": here.cookie})
    stream = connection.getresponse()
    assert stream.getheader("content-type", "").startswith("text/event-stream")

    def told() -> dict[str, Any]:
        while True:
            line = stream.readline()
            if line.startswith(b"data: "):
                found: dict[str, Any] = json.loads(line[6:])
                return found

    assert [one["id"] for one in told()["jobs"]] == ["advice"]
    job = here.ask("POST", f"/api/projects/{project}/check")[1]["job"]
    end = time.monotonic() + 10
    while (found := told().get("job", {})).get("id") != job or found["state"] != "running":
        assert time.monotonic() < end
    assert found["kind"] == "check"
    connection.close()


def test_a_result_is_looked_at_and_then_published_with_a_token_that_nothing_tells(here: Running, project: str) -> None:
    run = here.studio.home.root / "runs/terminal"
    run.mkdir()
    run.joinpath("recipe.toml").write_text(config.dump(config.build({})))
    address = f"/api/runs/{here.studio.home.key_of(run)}/publish"
    given = argv(here, here.ask("POST", address, {"to": "me/cat"})[1]["job"])
    assert given == ("publish", "--to=me/cat", "--which=balanced", "--dry-run", "--lang=en", "--json", "--", str(run))
    asked = {
        "to": "me/cat",
        "licence": "mit",
        "dry_run": False,
        "private": True,
        "language": "ja",
        "token": "hf_Secret",
    }
    job = here.ask("POST", address, asked)[1]["job"]
    assert argv(here, job)[1:-1] == (
        *("--to=me/cat", "--licence=mit", "--which=balanced", "--private"),
        *("--lang=ja", "--json", "--"),
    )
    assert "hf_Secret" not in json.dumps(here.ask("GET", f"/api/jobs/{job}"))
    for wrong in ({"to": "cat dog"}, {"to": ""}, {"licence": ""}, {"token": "hf_Secret x"}):
        status, found = here.ask("POST", address, {**asked, **wrong})
        assert (status, found["error"]["code"]) == (422, "RC002"), wrong
        assert "hf_Secret" not in json.dumps(found)
    home = here.studio.home.root
    assert not [path for path in home.rglob("*") if path.is_file() and b"hf_Secret" in path.read_bytes()]


def test_a_home_is_found_again_with_its_projects_and_runs(here: Running, project: str) -> None:
    run = here.studio.home.root / "runs/terminal"
    run.mkdir()
    run.joinpath("recipe.toml").write_text(config.dump(config.build({})))
    home = here.ask("GET", "/api/home")[1]
    assert [(one["name"], one["images"]) for one in home["projects"]] == [("My Cat", 1)]
    assert [(one["name"], one["state"]) for one in home["runs"]] == [("terminal", "stopped")]
    assert here.ask("DELETE", f"/api/projects/{project}")[0] == 200
    assert here.ask("GET", f"/api/projects/{project}")[0] == 404
    assert (here.studio.home.root / "trash/My Cat/images/a.png").is_file()


def test_vaes_are_compared_on_the_run_s_images_with_what_was_picked(here: Running, project: str) -> None:
    run = here.studio.home.root / "runs/terminal"
    run.mkdir()
    run.joinpath("recipe.toml").write_text(config.dump(config.build({"data": {"images": "/some/images"}})))
    address = f"/api/runs/{here.studio.home.key_of(run)}/vaes"
    picked = here.studio.home.root / "--evil.safetensors"
    picked.write_bytes(b"x")
    vaes = ["builtin:colour", here.studio.picker.handle(picked)]
    given = argv(here, here.ask("POST", address, {"vaes": vaes})[1]["job"])
    assert given[:4] == ("vae", "compare", "--images", "/some/images")
    assert given[-3:] == ("--", "builtin:colour", str(picked))
    assert here.ask("POST", address, {"vaes": ["/etc/passwd"]})[0] == 422
    assert here.ask("POST", address, {"vaes": []})[0] == 422
