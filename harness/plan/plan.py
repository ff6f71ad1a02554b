"""From experiments and a configuration to cells, and to the jobs that fill them, each once and in order."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.config import input_digests, plugins
from harness.config.compose import Config
from harness.jobdir.paths import JobDir, OutputDir
from harness.plan.cell import Cell
from harness.plan.job import Evaluate, Job, Train, digest


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
        """Where a job leaves what it makes."""
        return self.jobdir(job).folder

    @property
    def output(self) -> OutputDir:
        """The output directory."""
        return OutputDir(self.root)

    def jobdir(self, job: Job) -> JobDir:
        """Return a job's directory."""
        return self.output.job(job.fingerprint)

    def spec(self, job: Job) -> dict[str, Any]:
        """What a worker is told to run: the content of job.yaml."""
        return job.spec()

    def videos(self, job: Evaluate) -> list[str]:
        """The videos that an evaluation needs."""
        return list(input_digests.build_dataset(job.config).videos(job.split))

    def state(self, job: Job) -> str:
        """'done', 'resumable' (a checkpoint or some videos are there) or 'missing'."""
        return state(self.jobdir(job))


def state(folder: JobDir) -> str:
    """The state of a job's directory: 'done', 'resumable' or 'missing'."""
    outcome = folder.outcome()
    if outcome is not None and outcome.status == "finished":
        return "done"
    return "resumable" if folder.checkpoint_steps() or folder.video_files() else "missing"


def ordered(jobs: Iterable[Job]) -> list[Job]:
    """Jobs and their inputs, each once; trainings, then evaluations stage by stage, else in the order of the cells."""
    found: dict[Job, None] = {}

    def visit(job: Job) -> None:
        for needed in job.inputs:
            visit(needed)
        found.setdefault(job)

    for job in jobs:
        visit(job)
    return sorted(found, key=lambda job: job.stage if isinstance(job, Evaluate) else -1)


def make(names: Sequence[str], config: Config, root: Path, seeds: int = 1) -> Plan:
    """Plan experiments by name or by the path of a .py file. Raises UsageError for unknown names."""
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: must be at least 1")
    config = input_digests.resolve(config, root)
    first = config["seed"]
    config = replace(config, seeds=tuple(range(first, first + seeds)))
    stems = [Path(name).stem for name in dict.fromkeys(names)]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise UsageError(f"two experiments are called '{twice[0]}', as their reports would be; rename a file")
    made = Plan(tuple(experiment(name, config) for name in dict.fromkeys(names)), root)
    check_prior_masks(made)
    return made


def check_prior_masks(plan: Plan) -> None:
    """Raises UsageError where `evaluate.prior_masks` names masks that no stage of the plan has as its prior."""
    given = plan.config["evaluate"]["prior_masks"]
    if given is None:
        return
    where, folder = f"evaluate.prior_masks={given}", Path(given).expanduser()
    known = JobDir(folder).description() if JobDir(folder).masks.is_dir() else {}
    if known.get("kind") != "evaluate":
        raise UsageError(
            f"{where}: no job's directory with masks; evaluate.keep_masks=true keeps them (--rerun CELL if done)"
        )
    priors = [job.before for job in plan.jobs if isinstance(job, Evaluate) and job.before is not None]
    if len(known["members"]) > 1:
        raise UsageError(f"{where}: masks of an ensemble; each of its members goes on with its own, which is not kept")
    if known["fingerprint"] in {prior.fingerprint for prior in priors}:
        return
    if not priors:
        raise UsageError(f"{where}: no row of this plan has a stage before it; ablation_stages has")
    wanted: list[dict[str, Any]] = [json.loads(json.dumps(prior.spec())) for prior in priors]
    for spec in (known, *wanted):
        spec["data"] = spec["identity"]["data"]  # what it is, not where it lies
    for key, what in (("data", "other data"), ("split", "another split"), ("members", "other checkpoints")):
        if all(spec[key] != known[key] for spec in wanted):
            raise UsageError(f"{where}: masks of {what} than this plan's: {short(known[key], wanted[0][key])}")
    read = ", ".join(str(spec["stage"]) for spec in wanted)
    if all(spec["stage"] != known["stage"] for spec in wanted):
        raise UsageError(f"{where}: masks of stage {known['stage']}; this plan's stages read those of stage {read}")
    raise UsageError(f"{where}: masks made with other windows, scales or code than this plan's; make them again")


def short(found: Any, wanted: Any) -> str:
    """A value of a job's description, in a message, beside the one that should be there."""
    if not isinstance(found, dict):
        return f"{found}, not {wanted}"
    if found["name"] != wanted["name"]:
        return f"{found['name']}, not {wanted['name']}"
    options = [f"{key}={value}" for key, value in found["options"].items() if value != wanted["options"].get(key)]
    return f"{found['name']} with {', '.join(options) or 'another list of videos or classes'}"


def experiment(name: str, config: Config) -> Experiment:
    """One experiment with its cells for every seed of the configuration. Raises UsageError."""
    module = plugins.load_named("experiments", name, config.folders, ("TITLE", "REPORT", "cells"))
    plugins.find("reports", module.REPORT, config.folders)
    path = Path(module.__file__ or name)
    known = plugins.paths("experiments", config.folders).get(path.stem, path)
    if known.resolve() != path.resolve():
        raise UsageError(f"{name}: the name '{path.stem}' is taken by {known}; rename the file")
    with plugins.blamed(path):
        cells = [(seed, cell) for seed in config.seeds for cell in module.cells(config.with_seed(seed))]
    if not cells:
        raise UsageError(f"{name}: has no cell: its cells(config) gave none")
    named = [cell.name for seed, cell in cells if seed == config.seeds[0]]
    if len(set(named)) < len(named):
        twice = next(cell for cell in named if named.count(cell) > 1)
        raise UsageError(f"{name}: the cell '{twice}' stands twice; leave it out of extra")
    source = str(Path(name).resolve()) if name.endswith(".py") else name
    return Experiment(Path(name).stem, module.TITLE, module.REPORT, config, tuple(cells), source)


def launches(jobs: Sequence[Job]) -> list[list[Job]]:
    """Missing jobs as launches: a training alone; evaluations that read the same frames together."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.frames if isinstance(job, Evaluate) else job.fingerprint, []).append(job)
    return list(groups.values())


def setting(config: Config) -> dict[str, Any]:
    """What decides whether a number may stand beside the paper's (results/paper.py), and what a reader filters on."""
    encoder = config["encoder"]["name"]
    train = config.train
    return {
        "dataset": config["data"]["name"],
        "classes": config.content.classes,
        "train_videos": config.content.videos.get("train"),
        "val_videos": config.content.videos.get("val"),
        "encoder": config["encoder"].get(encoder, {}).get("model", encoder),
        "pretrained": bool(
            config["encoder"].get(encoder, {}).get("pretrained") or config["encoder"].get(encoder, {}).get("weights")
        ),
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
