"""Every name in an output directory, once, and the small JSON files of a job's directory as values.

runs/                      OutputDir
  jobs/<fingerprint>/      JobDir
  plans/<digest>.json      what was planned, so that a table needs no command
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from harness.common.atomic_files import JsonObject, read_json, write_json


class Entry:
    """A file or folder by its name inside the owner's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, owner: "Folder", kind: type["Folder"]) -> Path:
        return owner.folder / self.name


@dataclass(frozen=True)
class Folder:
    """A folder whose entries are attributes."""

    folder: Path


@dataclass(frozen=True)
class Outcome:
    """outcome.json: how a job ended, in a word of plan/outcome.py."""

    status: str
    reason: str | None = None
    exit_code: int = 0
    seconds: float | None = None
    step: int | None = None  # iterations or videos done
    peak: int | None = None  # bytes
    provenance: JsonObject | None = None  # device, threads, world, versions


@dataclass(frozen=True)
class SlurmJob:
    """A job as Slurm has it: its number alone may be another's by now. None is what an older file does not say."""

    id: str
    cluster: str | None = None
    user: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        return self.id

    @property
    def whose(self) -> str:
        """The number, user and cluster."""
        owner = f" of {self.user}" if self.user else ""
        return f"{self.id}{owner}{f' on {self.cluster}' if self.cluster else ''}"

    @classmethod
    def of(cls, content: JsonObject) -> "SlurmJob | None":
        """Return the one of slurm.json or rehearsal.json; None without one."""
        if content.get("id") is None:
            return None
        return cls(str(content["id"]), content.get("cluster"), content.get("user"), content.get("job_name"))

    @property
    def json(self) -> JsonObject:
        """Return the object that `of` reads."""
        return {"id": self.id, "cluster": self.cluster, "user": self.user, "job_name": self.name}


@dataclass(frozen=True)
class Submission:
    """slurm.json: the Slurm job that was submitted last for a job."""

    slurm_job: SlurmJob
    name: str | None = None  # of the job
    after: tuple[str, ...] = ()  # the Slurm jobs that it waits for
    log: str | None = None

    @property
    def id(self) -> str:
        """The Slurm job's number."""
        return self.slurm_job.id


class JobDir(Folder):
    """A job's directory."""

    job_file = Entry("job.yaml")  # what the worker needs, and the identity; written as JSON, which is YAML
    how_file = Entry("how.json")  # commit, launcher, command, digests of the sources
    accepted_file = Entry("accepted.json")  # digests of sources that a person has signed off since
    outcome_file = Entry("outcome.json")
    events_file = Entry("events.jsonl")  # the journal
    cost_file = Entry("cost.json")  # what an evaluation's frame took: parameters, FLOPs, seconds
    error_file = Entry("error.txt")  # tracebacks
    slurm_file = Entry("slurm.json")
    upload_file = Entry("mlflow.json")  # what each MLflow store was told
    prune_file = Entry("prune")  # there while the training shall stop, because others are better
    stop_file = Entry("stop.json")  # asks the run that holds the job to end
    score_file = Entry("score.json")  # of a folder in scores/, in place of job.yaml and outcome.json
    weights_file = Entry("weights.safetensors")
    matrices_file = Entry("matrices.npz")  # all of videos/ in one file, as MLflow is given it
    memory_file = Entry("memory.npz")  # some of memory/ in one file, as MLflow is given it
    checkpoints = Entry("checkpoints")
    attempts = Entry("attempts")  # leases
    stacks = Entry("stacks")  # touched by ranks at work; their threads' stacks on a stall
    system = Entry("system")  # <node>.jsonl: samples of a node's GPUs
    videos = Entry("videos")  # <video>.npz: an evaluation's counts
    masks = Entry("masks")
    samples = Entry("samples")  # the mask of each video's middle frame
    memory = Entry("memory")  # step-<step>.npy: M at every checkpoint

    @property
    def name(self) -> str:
        """The job's fingerprint."""
        return self.folder.name

    def outcome(self) -> Outcome | None:
        """Return how the job ended, None where that is not written. Raise UnfitError for a damaged file."""
        content = read_json(self.outcome_file)
        if "status" not in content:
            return None
        return Outcome(**{field.name: content[field.name] for field in fields(Outcome) if field.name in content})

    def write_outcome(self, outcome: Outcome) -> None:
        """Write outcome.json; apart from the reason, what is None is left out."""
        content = {key: value for key, value in vars(outcome).items() if value is not None or key == "reason"}
        write_json(self.outcome_file, content)

    def description(self) -> JsonObject:
        """Return job.yaml's content, {} where it is not there. Raise UnfitError for a damaged file."""
        return read_json(self.job_file)

    def how(self) -> JsonObject:
        """Return how the job was run last, {} where it was not. Raise UnfitError for a damaged file."""
        return read_json(self.how_file)

    def submission(self) -> Submission | None:
        """Return the Slurm job that was submitted last, None without one. Raise UnfitError for a damaged file."""
        content = read_json(self.slurm_file)
        slurm_job = SlurmJob.of(content)
        if slurm_job is None:
            return None
        return Submission(slurm_job, content.get("name"), tuple(content.get("after", ())), content.get("log"))

    def write_submission(self, submission: Submission) -> None:
        """Write slurm.json."""
        facts = {"name": submission.name, "after": submission.after, "log": submission.log}
        write_json(self.slurm_file, {**submission.slurm_job.json, **facts})

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of the checkpoints that are there."""
        return [int(path.stem.removeprefix("step-")) for path in self.checkpoints.glob("step-*.pt")]

    def memory_files(self) -> list[Path]:
        """Return M's snapshots, earliest first."""
        return sorted(self.memory.glob("step-*.npy"))

    def video_files(self) -> list[Path]:
        """Return an evaluation's counts, a file a video, by name."""
        return sorted(self.videos.glob("*.npz"))


class StudyDir(Folder):
    """What a study keeps beside its storage."""

    stop_file = Entry("stop.json")  # asks all that are at the study to end
    slurm_file = Entry("slurm.json")  # its workers
    trials = Entry("trials")  # <number>/attempts: leases


class OutputDir(Folder):
    """An output directory; every plan that is run in it shares its jobs."""

    jobs = Entry("jobs")
    plans = Entry("plans")
    logs = Entry("logs")
    reports = Entry("reports")
    rehearsal = Entry("rehearsal")  # another output directory
    replaced = Entry("replaced")  # jobs that were set aside to be run again
    scores = Entry("scores")
    searches = Entry("searches")
    submissions = Entry("submissions")
    slurm = Entry("slurm")
    rehearsal_file = Entry("slurm/rehearsal.json")  # which Slurm job rehearses, until its result was seen
    upload_lock = Entry(".mlflow.lock")  # no run is made twice by all who see the output directory
    rehearsal_lock = Entry(".rehearsal.lock")
    rehearsal_stop = Entry(".rehearsal.stop")  # asks the rehearsal to end
    slurm_lock = Entry(".slurm.lock")

    def job(self, fingerprint: str) -> JobDir:
        """Return a job's directory."""
        return JobDir(self.jobs / fingerprint)

    def study(self, name: str) -> StudyDir:
        """Return a study's folder."""
        return StudyDir(self.searches / name)

    def job_dirs(self) -> Iterator[JobDir]:
        """Yield what lies in jobs/, by name."""
        return (JobDir(path) for path in sorted(self.jobs.glob("*/")))

    def report_folder(self, experiment: str, digest: str) -> Path:
        """Return the folder of a plan's report: each setting of an experiment has its own."""
        return self.reports / "plans" / f"{experiment}-{digest[:7]}"

    def plan_file(self, digest: str) -> Path:
        """Return the file of a plan that was run."""
        return self.plans / f"{digest}.json"

    def stop_file(self, digest: str) -> Path:
        """Return the file that asks its user's runs of a plan to end."""
        return self.plans / f"{digest}.stop"

    def slurm_log(self, number: str) -> Path:
        """Return what a Slurm job writes its output to; %j stands for its number where it is not known yet."""
        return self.folder.resolve() / "slurm" / number / f"{number}_0_log.out"

    def rehearsal_result(self, number: str) -> Path:
        """Return the file in which a Slurm job leaves its rehearsal's result."""
        return self.slurm / number / self.rehearsal_file.name
