"""From experiments and a configuration to cells, and to the jobs that fill them, each once and in order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.common.atomic_files import JsonObject
from harness.common.errors import UsageError
from harness.common.progress import SILENT, Progress
from harness.config import input_digests, plugins
from harness.config.compose import Config
from harness.data import contract, manifest
from harness.jobdir.paths import JobDir, OutputDir
from harness.plan import adoption
from harness.plan.cell import Cell
from harness.plan.job import Evaluate, Job, Train, digest
from harness.plan.spec import EvaluateSpec, JobSpec, read


@dataclass(frozen=True)
class Experiment:
    """One experiment's part of a plan: its cells for every seed."""

    name: str
    title: str
    report: str
    config: Config
    cells: tuple[tuple[int, Cell], ...]  # (seed, cell), seeds outermost
    source: str = ""  # its name, or the path of its file

    @property
    def digest(self) -> str:
        """Names the plan: the same cells with the same jobs continue the same MLflow parent run."""
        return digest([self.name, [[seed, cell.name, cell.job.fingerprint] for seed, cell in self.cells]])

    @property
    def jobs(self) -> list[Job]:
        """Its jobs, each once, trainings first."""
        return ordered(cell.job for _, cell in self.cells if cell.skip is None)


@dataclass(frozen=True)
class Plan:
    """Several experiments; jobs they share stand once."""

    experiments: tuple[Experiment, ...]
    root: Path

    @property
    def config(self) -> Config:
        """The configuration of the invocation."""
        return self.experiments[0].config

    @property
    def jobs(self) -> list[Job]:
        """All jobs, each once, in an order in which every job follows its inputs."""
        return ordered(job for experiment in self.experiments for job in experiment.jobs)

    def directory(self, job: Job) -> Path:
        """Return the directory of a job's files."""
        return self.jobdir(job).folder

    @property
    def output(self) -> OutputDir:
        """The output directory."""
        return OutputDir(self.root)

    @property
    def stop_files(self) -> list[Path]:
        """The files that ask runs of the plan to end."""
        return [self.output.stop_file(experiment.digest) for experiment in self.experiments]

    def jobdir(self, job: Job) -> JobDir:
        """Return a job's directory."""
        return self.output.job(job.fingerprint)

    def spec(self, job: Job) -> JobSpec:
        """Return what a worker is to run; a rehearsal cuts it short."""
        return job.spec()

    def videos(self, job: Evaluate) -> list[str]:
        """Return the videos that an evaluation needs."""
        return list(contract.evaluated_videos(input_digests.build_dataset(job.config), job.split))

    def state(self, job: Job) -> str:
        """Return 'done', 'resumable' (a checkpoint or some videos are there) or 'missing'."""
        return state(self.jobdir(job))


def state(folder: JobDir) -> str:
    """Return the state of a job's directory: 'done', 'resumable' or 'missing'."""
    outcome = folder.outcome()
    if outcome is not None and outcome.status == "finished":
        return "done"
    return "resumable" if folder.checkpoint_steps() or folder.video_files() else "missing"


def ordered(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs and their inputs, each once: trainings, evaluations by stage, else in the order of the cells."""
    each: dict[Job, None] = {}

    def visit(job: Job) -> None:
        for needed in job.inputs:
            visit(needed)
        each.setdefault(job)

    for job in jobs:
        visit(job)
    return sorted(each, key=lambda job: job.stage if isinstance(job, Evaluate) else -1)


def make(
    names: Sequence[str],
    config: Config,
    root: Path,
    seeds: int = 1,
    compute: bool = False,
    accept: bool = False,
    progress: Progress = SILENT,
) -> Plan:
    """Plan experiments by name or by the path of a .py file. Raise UsageError for unknown names.

    With `compute` files of the data are digested where their digests are not cached: what is to be run needs that.
    `accept` takes results of 0.1 for those of today's files (adoption.resolve).
    """
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: must be at least 1")
    config = adoption.resolve(config, root, compute, progress, accept)
    first = config["seed"]
    config = replace(config, seeds=tuple(range(first, first + seeds)))
    stems = [Path(name).stem for name in dict.fromkeys(names)]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise UsageError(f"two experiments are called '{twice[0]}', so their reports would clash; rename a file")
    plan = Plan(tuple(experiment(name, config) for name in dict.fromkeys(names)), root)
    check_prior_masks(plan)
    check_batches(plan)
    return plan


def check_batches(plan: Plan) -> None:
    """Raise UsageError for a training to come whose batch norm would see one image at a time."""
    for job in plan.jobs:
        if not isinstance(job, Train) or job.config.train.group_norm is not None:
            continue
        if job.config.micro_batch == 1 and plan.state(job) == "missing":
            key = "batch" if job.config.train.batch == 1 else "micro_batch"
            raise UsageError(
                f"train.{key}=1: batch norm needs the statistics of at least 2 images; set train.{key}=2, or "
                "train.group_norm=32 for decoders without batch norm"
            )


def check_prior_masks(plan: Plan) -> None:
    """Raise UsageError where `evaluate.prior_masks` names masks that no stage of the plan has as its prior."""
    masks = plan.config.evaluate.prior_masks
    if masks is None:
        return
    where, folder = f"evaluate.prior_masks={masks}", Path(masks).expanduser()
    files = JobDir(folder)
    source = read(folder) if files.masks.is_dir() and files.job_file.is_file() else None
    if not isinstance(source, EvaluateSpec):
        raise UsageError(
            f"{where}: not a job directory with masks; run it with evaluate.keep_masks=true (--rerun ROW if it is done)"
        )
    priors = [job.before for job in plan.jobs if isinstance(job, Evaluate) and job.before is not None]
    if len(source.members) > 1:
        raise UsageError(
            f"{where}: these are masks of an ensemble; its members continue with their own masks, which are not kept"
        )
    if source.fingerprint in {prior.fingerprint for prior in priors}:
        if changes := manifest.broken_seal(folder, plan.root / "cache" / "masks" / f"{source.fingerprint}.npz"):
            raise UsageError(f"{where}: changed since they were made: {changes.text('them')}; produce them again")
        return
    if not priors:
        raise UsageError(f"{where}: no row of this plan has a previous stage; use ablation_stages")
    wanted = [prior.spec() for prior in priors]
    data = source.identity["data"]
    if all(spec.identity["data"] != data for spec in wanted):
        raise UsageError(f"{where}: masks of other data than this plan's: {unlike(data, wanted[0].identity['data'])}")
    for key, words in (("split", "another split"), ("members", "other checkpoints")):
        theirs, ours = getattr(source, key), [getattr(spec, key) for spec in wanted]
        if theirs not in ours:
            raise UsageError(f"{where}: masks of {words} than this plan's: {shown(theirs)}, not {shown(ours[0])}")
    if source.stage not in [spec.stage for spec in wanted]:
        stages = ", ".join(str(spec.stage) for spec in wanted)
        raise UsageError(f"{where}: masks of stage {source.stage}; this plan's stages read those of stage {stages}")
    raise UsageError(f"{where}: masks produced with other windows, scales or code than this plan's; produce them again")


def shown(value: str | tuple[str, ...]) -> str:
    """Return a split, or fingerprints, in a message."""
    return value if isinstance(value, str) else ", ".join(value)


def unlike(data: JsonObject, wanted: JsonObject) -> str:
    """Return the difference of a data set's identity from the one that should be there."""
    if data["name"] != wanted["name"]:
        return f"{data['name']}, not {wanted['name']}"
    options = [f"{key}={value}" for key, value in data["options"].items() if value != wanted["options"].get(key)]
    return f"{data['name']} with {', '.join(options) or 'another list of videos or classes, or other files'}"


def experiment(name: str, config: Config) -> Experiment:
    """Return an experiment with its cells for every seed of the configuration. Raise UsageError."""
    module = plugins.load_named("experiments", name, config.folders, ("TITLE", "REPORT", "cells"))
    plugins.find("reports", module.REPORT, config.folders)
    path = Path(module.__file__ or name)
    owner = plugins.paths("experiments", config.folders).get(path.stem, path)
    if owner.resolve() != path.resolve():
        raise UsageError(f"{name}: the name '{path.stem}' is taken by {owner}; rename the file")
    with plugins.blamed(path):
        cells = [(seed, cell) for seed in config.seeds for cell in module.cells(config.with_seed(seed))]
    if not cells:
        raise UsageError(f"{name}: has no rows: its cells(config) returned none")
    named = [cell.name for seed, cell in cells if seed == config.seeds[0]]
    if len(set(named)) < len(named):
        twice = next(cell for cell in named if named.count(cell) > 1)
        raise UsageError(f"{name}: the row '{twice}' occurs twice; remove it from extra")
    for _, cell in cells:
        if cell.over is not None and cell.over not in named:
            near = plugins.suggestion(cell.over, named)
            raise UsageError(f"{name}: the row '{cell.name}' is over '{cell.over}', which is no row{near}")
    source = str(Path(name).resolve()) if name.endswith(".py") else name
    return Experiment(Path(name).stem, module.TITLE, module.REPORT, config, tuple(cells), source)


def launches(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return missing jobs as launches: a training alone; evaluations that read the same frames together."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.frames if isinstance(job, Evaluate) else job.fingerprint, []).append(job)
    return list(groups.values())


def setting(config: Config) -> JsonObject:
    """Return all that a number must share with the paper's (results/paper.py) to be compared; readers filter on it."""
    encoder, train = config.encoder, config.train
    changed = {"options": ", ".join(train.changed)} if train.changed else {}
    return changed | {
        "dataset": config.data.name,
        "classes": config.content.classes,
        "train_videos": config.content.videos.get("train"),
        "val_videos": config.content.videos.get("val"),
        "encoder": encoder.config.get("model", encoder.name),
        "pretrained": bool(encoder.config.get("pretrained") or encoder.config.get("weights")),
        "epochs": train.epochs,
        "iterations": config.iterations(),
        "batch": train.batch,
        "micro_batch": config.micro_batch,
        "frames_per_video": train.frames_per_video,
        "crop": train.crop,
        "lr": train.lr,
        "weight_decay": train.weight_decay,
        "precision": config["precision"],
    }


__all__ = ["Evaluate", "Experiment", "Plan", "Train", "launches", "make", "ordered", "setting", "state"]
