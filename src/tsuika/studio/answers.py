"""What the routes answer: the schema that answers are checked against here, and the front end's types in `make check-web`.

What comes from a command's result or from a report is `Any`: the library and the command line say what is in it.
"""

from __future__ import annotations

from typing import Any

from typing_extensions import NotRequired, TypedDict

from tsuika.studio.jobs import WayOn

Texts = dict[str, str]


class Key(TypedDict):
    """Of something new."""

    id: str


class Begun(TypedDict):
    """A job that was put into its queue."""

    job: str


class TrainingBegun(Begun):
    """A training."""

    run: str


class Session(TypedDict):
    """What the page needs first."""

    token: str
    version: str
    languages: list[str]
    home: str
    language: str | None
    flags: dict[str, str]


class RunShort(TypedDict):
    """A run folder in a list."""

    id: str
    name: str
    state: str
    has_result: bool


class ProjectShort(TypedDict):
    """A project in a list; `cover` is an image, `runs` has the latest one."""

    id: str
    name: str
    touched: float
    images: int
    cover: str
    version: str
    runs: list[RunShort]


class HomeView(TypedDict):
    """Projects, other runs, and the machine as `tsuika doctor` says."""

    projects: list[ProjectShort]
    runs: list[RunShort]
    machine: Any


class ProjectView(TypedDict):
    """A project; `jobs` has the latest one of each kind."""

    id: str
    name: str
    plan: dict[str, Any]
    runs: list[RunShort]
    jobs: dict[str, str]


class ImageRow(TypedDict):
    """An image; `mask` is the id of its mask, `version` another one after each change of both."""

    id: str
    name: str
    version: str
    left_out: bool
    caption: str
    mask: str


class ImagesView(TypedDict):
    """A project's images, what `tsuika check` found, and what would be undone."""

    images: list[ImageRow]
    check: Any
    undo: Texts | None


class TakenFiles(TypedDict):
    """Names of the images that a file has brought."""

    images: list[str]


class Captions(TypedDict):
    """Captions by the ids of images."""

    captions: dict[str, str]


class Place(TypedDict):
    """A folder or file that was handed out."""

    id: str
    name: str


class Listing(TypedDict):
    """A folder of the machine."""

    path: str
    parent: str | None
    here: str | None
    folders: list[Place]
    files: list[Place]
    images: int


class PathOf(TypedDict):
    """The path of what was picked."""

    path: str


class Told(TypedDict):
    """What is wrong."""

    code: str
    where: str
    key: str
    what: Texts
    why: Texts
    do: Texts


class Cost(TypedDict):
    """At most; None where nothing was measured."""

    trainings: float
    seconds: float | None


class RecipeView(TypedDict):
    """The values of a plan's recipe by section, what differs from the defaults, what it takes, and what is wrong."""

    values: dict[str, Any]
    advised: dict[str, Any]
    differences: dict[str, Any]
    cost: Cost
    error: Told | None


class JobImage(TypedDict):
    """An image that a job has written, with its labels and place on a sheet."""

    seed: int
    labels: list[str] | None
    place: list[int] | None


class Trial(TypedDict):
    """Of a search; `value` is the log ratio of the held-out loss to the base's."""

    number: int
    params: dict[str, Any]
    state: str
    value: NotRequired[float | None]
    se: NotRequired[float | None]
    step: NotRequired[int]


class Note(TypedDict):
    """What a command has warned of."""

    code: str
    message: Texts


class JobView(TypedDict):
    """A job, as the stream of events tells of it, too; `waits_for` is the title of another."""

    id: str
    project: str
    kind: str
    title: Texts
    about: dict[str, Any]
    state: str
    lane: str
    place: float
    created: float
    started: float | None
    ended: float | None
    error: Any
    run: str
    command: str
    makes_file: bool
    way_on: WayOn
    waits_for: NotRequired[Texts | None]
    phase: NotRequired[Texts]
    done: NotRequired[int]
    total: NotRequired[int]
    step: NotRequired[int]
    seconds_left: NotRequired[int | None]
    previews: NotRequired[int]
    checks: NotRequired[int]
    images: NotRequired[list[JobImage]]
    trials: NotRequired[list[Trial]]
    findings: NotRequired[list[Any]]
    notes: NotRequired[list[Note]]


class JobAnswer(TypedDict):
    """A job, and what it has printed once it is over."""

    job: JobView
    result: Any


class Job(TypedDict):
    """A job."""

    job: JobView


class Preview(TypedDict):
    """Of a run."""

    step: int
    prompt: str
    seed: int


class Fold(TypedDict):
    """A training of a cross-validation."""

    fold: int
    curve: list[dict[str, float]]
    best_step: int | None
    best: dict[str, float] | None
    stopped: bool


class RunView(TypedDict):
    """What a run is doing, as `tsuika status` says."""

    id: str
    name: str
    project: str
    job: str
    state: str
    method: str
    family: str
    base: str
    trigger: str
    phase: Texts
    done: int
    total: int
    step: int
    steps: int
    seconds_left: NotRequired[float | None]
    best_step: NotRequired[int | None]
    stopped_by: str
    sentence: Texts
    guard: NotRequired[Any]
    folds: list[Fold]
    losses: list[tuple[int, float]]
    previews: list[Preview]
    warnings: list[Note]
    artifacts: list[str]
    has_result: bool
    can_resume: bool


class ResultFile(TypedDict):
    """A result of a run; `number` is its place among the artifacts."""

    which: str
    title: Texts
    name: str
    step: int
    bytes: int | None
    number: int | None


class Results(TypedDict):
    """What a finished run has made."""

    files: list[ResultFile]
    lookalikes: Any
    evaluation: Any
    method: str | None
    vaes: list[str]


class Section(TypedDict):
    """Of a recipe."""

    key: str
    title: Texts


class MethodRow(TypedDict):
    """A method with its own defaults."""

    name: str
    title: Texts
    defaults: dict[str, Any]


class SettingRow(TypedDict):
    """A setting as a form; `columns` are the settings that each row of a table may have."""

    key: str
    method: str
    text: Texts
    unit: str
    level: str
    default: Any
    kind: str
    searched: bool
    ge: NotRequired[float]
    gt: NotRequired[float]
    le: NotRequired[float]
    lt: NotRequired[float]
    choices: NotRequired[list[str]]
    columns: NotRequired[list[SettingRow]]


class SettingsForm(TypedDict):
    """Every setting."""

    sections: list[Section]
    methods: list[MethodRow]
    settings: list[SettingRow]


class FlagRow(TypedDict):
    """A flag or argument of a command as a form."""

    name: str
    flag: str
    off: str
    text: Texts
    kind: str
    choices: list[str]
    is_place: bool
    many: bool
    required: bool
    default: str | float | bool | None


class CommandRow(TypedDict):
    """A command as a form."""

    command: list[str]
    text: Texts
    flags: list[FlagRow]
    writes: bool


class CommandsView(TypedDict):
    """Every command that has a form, and what the keys of their results are called."""

    commands: list[CommandRow]
    labels: dict[str, Texts]


class BaseRow(TypedDict):
    """A base model of this machine."""

    base: str
    name: str
    place: str


class BasesView(TypedDict):
    """Base models."""

    bases: list[BaseRow]


class ProgramRow(TypedDict):
    """A folder that results may be copied into."""

    id: str
    place: str
    path: str
    name: str
    program: bool
    allowed: bool


class ProgramsView(TypedDict):
    """Folders of programs."""

    programs: list[ProgramRow]


class ArtifactRow(TypedDict):
    """A file of a result; `which` of those of `run` it is, if it is one of a run."""

    file: str
    name: str
    kind: str
    place: str
    run: NotRequired[str]
    which: NotRequired[str]


class ArtifactsView(TypedDict):
    """Files of results, the titles of the kinds of files that are applied to a base model, the samplers' names, the VAEs that
    come with the embedded base model, and those in files."""

    artifacts: list[ArtifactRow]
    added: dict[str, Texts]
    samplers: list[str]
    own_vaes: list[str]
    vaes: list[ArtifactRow]


class Dropped(TypedDict):
    """What an image says of how it was made, or of another file the job that looks at it."""

    image: NotRequired[dict[str, Any]]
    job: NotRequired[str]
    artifact: NotRequired[ArtifactRow]
