"""A rehearsal: every job for three steps and two videos, with the real launcher, batch, backbone and tracking.

Each training is stopped after its first step, resumed from its checkpoint, and walks through its schedule in three
steps, so both ways to a prior are seen. It lives in root/rehearsal, which no plan and no report reads, and in MLflow
experiments called rehearsal/… On a Slurm cluster it is one Slurm job, inside whose allocation all launches run.
"""

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.common.atomic_files import JsonObject, read_json, write_json
from harness.common.console import logging_to_stderr, out
from harness.common.errors import HarnessError, UnfitError, UsageError
from harness.common.locks import Lock
from harness.common.progress import Progress
from harness.common.signals import PREEMPTED, Stopped, stop_signals
from harness.config.settings import RunOptions, resolve
from harness.jobdir.paths import OutputDir, SlurmJob
from harness.jobdir.replay import ITERATIONS_PER_SECOND, Replay
from harness.jobdir.stop_request import StopRequest, obeyed
from harness.launch import access, slurm_jobs
from harness.launch.launchers import _sbatch
from harness.launch.mlflow_sync import end_rehearsal, rehearsals
from harness.launch.runner import choose, connected, fetch, require_inputs, try_networks
from harness.launch.scheduler import Scheduler
from harness.launch.status import rehearsing
from harness.plan import gc, saved_plans
from harness.plan.cost import STATE, Cost, cost_lines
from harness.plan.job import Evaluate, Job, Train, digest
from harness.plan.plan import Plan, launches
from harness.plan.spec import JobSpec, LaunchSpec, TrainSpec
from harness.tracking.client import Tracking
from harness.tracking.publisher import publisher_of

log = logging.getLogger(__name__)

STEPS, PAUSE, VIDEOS = 3, 1, 2
GIB = 2**30


@dataclass(frozen=True)
class Rehearsal(Plan):
    """The plan, cut short."""

    def spec(self, job: Job) -> JobSpec:
        """Return the job's spec with fewer steps or videos; its fingerprint stands, its directory is another root's."""
        spec = super().spec(job)
        if isinstance(spec, TrainSpec):
            train = replace(spec.train, checkpoint_every=STEPS, log_every=1)
            return replace(spec, iterations=STEPS, train=train, launch=LaunchSpec(pause=PAUSE))
        return replace(spec, launch=LaunchSpec(videos=VIDEOS))

    def videos(self, job: Evaluate) -> list[str]:
        """Return the first two."""
        return super().videos(job)[:VIDEOS]


def rehearse(plan: Plan, options: RunOptions, progress: Progress) -> list[str]:
    """Run it and say what the plan will cost.

    Raise HarnessError for a job that fails, Stopped after a signal or a request.
    """
    return heeding(plan, options, progress, StopRequest.read(plan.output.rehearsal_stop))


def heeding(plan: Plan, options: RunOptions, progress: Progress, before: StopRequest | None) -> list[str]:
    """Return the lines of `rehearse`, which ends at another request than `before`."""
    with obeyed(plan.output.rehearsal_stop, before), alone(plan.root):
        return rehearsed(plan, options, progress)


def rehearsed(plan: Plan, options: RunOptions, progress: Progress) -> list[str]:
    """Return the lines of `rehearse`, while no other rehearsal runs."""
    short, tracking = prepared(plan, options)
    publisher = publisher_of(short, None if tracking is None else rehearsals(tracking))
    launcher, facts = choose(short, options)
    scheduler = Scheduler(short, short.jobs)
    status = "FAILED"
    try:
        publisher.open(short.jobs)
        scheduler.run(launcher, publisher, progress, facts)
        status = "FAILED" if scheduler.failures else "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        launcher.close()
        for experiment in short.experiments:
            publisher.close(experiment, status)
    if scheduler.failures:
        failures = "; ".join(f"{job.name}: {reason}" for job, reason in scheduler.failures.items())
        raise HarnessError(f"the dry run failed: {failures}")
    measurements = [measurement for launch in launches(plan.jobs) for measurement in measured(plan, short, launch)]
    return [line for line, _ in measurements] + cost_lines([cost for _, cost in measurements])


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold a root's rehearsal. Raise UsageError if another one is at work."""
    access.writable(root)
    output = OutputDir(root)
    lock = Lock(output.rehearsal_lock, patience=0)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except UnfitError as error:
            where = f"{output.rehearsal} ({lock.holder()})"
            raise UsageError(f"a dry run is in progress in {where}; wait for it or stop it") from error
        yield


def prepared(plan: Plan, options: RunOptions) -> tuple[Rehearsal, Tracking | None]:
    """Return the rehearsal of a plan in an empty folder, and the store.

    Raise UsageError beside another rehearsal, UnfitError for data, weights or a store that are not there.
    """
    root = plan.output.rehearsal
    if gc.at_work(OutputDir(root).jobs):
        raise UsageError(f"a dry run is in progress in {root}; wait for it or stop it")
    if not options.inside and (number := rehearsing(plan.root)):
        raise UsageError(
            f"Slurm job {number} is waiting to do a dry run in {root}; wait for it, or scancel {number} "
            f"(and where squeue does not answer here, delete {plan.output.rehearsal_file})"
        )
    require_inputs(plan.config)
    try_networks(plan, options, [job for job in plan.jobs if plan.state(job) != "done"])
    if any(isinstance(job, Train) for job in plan.jobs):
        fetch(plan.config)
    tracking = connected(options)
    if tracking is not None:
        end_rehearsal(root, tracking)
    shutil.rmtree(root, ignore_errors=True)
    access.writable(root)
    short = Rehearsal(plan.experiments, root)
    saved_plans.keep(short, options.command)
    return short, tracking


def measured(plan: Plan, short: Rehearsal, launch: Sequence[Job]) -> list[tuple[str, Cost]]:
    """Return what a launch's rehearsal measured: peak memory and pace as a line, and the cost of the whole."""
    job, files = launch[0], short.jobdir(launch[0])
    outcome, replay = files.outcome(), Replay.of(files.events_file)
    assert outcome is not None
    assert outcome.peak is not None
    world, peak = (outcome.provenance or {}).get("world", 1), f"peak {outcome.peak / GIB:.2f} GiB per rank"
    names = tuple(evaluation.fingerprint for evaluation in launch)
    if isinstance(job, Train):
        speed = replay.values[ITERATIONS_PER_SECOND]
        seconds = job.config.iterations() / speed
        weights = files.weights_file.stat().st_size
        line = f"{job.name}: {peak}, {1000 / speed:.0f} ms per step"
        kept, passing = gc.size(files.folder), STATE * 3 * weights
        return [(line, Cost(names, job.name, seconds * world, seconds, kept, passing, "rehearsed"))]
    tried, videos = len(short.videos(job)), len(plan.videos(job))
    assert replay.begin is not None
    assert replay.time is not None
    assert replay.loaded is not None
    each = (replay.time - replay.loaded) * min(world, tried) / tried  # a rank takes a video
    seconds = replay.loaded - replay.begin.time + each * videos / world
    name = job.name if len(launch) == 1 else f"{len(launch)} evaluations"
    kept = sum(gc.size(short.directory(evaluation)) for evaluation in launch) * videos // tried
    line = f"{name}: {peak}, {1000 * each:.0f} ms per video"
    return [(line, Cost(names, name, seconds * world, seconds, kept, 0, "rehearsed"))]


# --- by Slurm


@dataclass(frozen=True)
class SlurmTask:
    """The dry run of plans saved in root/rehearsal as a Slurm job. submitit pickles it, so it holds no secret."""

    root: Path
    plans: tuple[str, ...]
    options: RunOptions
    stop: StopRequest | None = None  # the last request to end before it was submitted

    @logging_to_stderr()
    def __call__(self) -> None:
        """Run inside the allocation and write the result beside the job's log. Exits with an error's exit code.

        A signal leaves nothing: Slurm may run it again.
        """
        output = OutputDir(self.root)
        result: JsonObject
        try:
            plan = Plan(tuple(saved_plans.restore(output.rehearsal, digest) for digest in self.plans), self.root)
            options = replace(self.options, tracking_uri=resolve().tracking_uri)
            with stop_signals(), Progress() as progress:
                result = {"lines": heeding(plan, options, progress, self.stop)}
        except Stopped as stop:
            log.info(f"stopped by {stop}")
            sys.exit(PREEMPTED)
        except HarnessError as error:
            result = {"reason": str(error), "exit_code": error.exit_code}
        write_json(output.rehearsal_result(os.environ["SLURM_JOB_ID"]), result)
        out("\n".join(result.get("lines", [result.get("reason", "")])))
        sys.exit(result.get("exit_code", 0))


def by_slurm(plan: Plan, options: RunOptions, progress: Progress, detach: bool = False) -> list[str] | None:
    """Rehearse as a Slurm job, or follow the one that the same command has begun; None if it is left alone (`detach`).

    Raises what `rehearse` raises there, HarnessError for a job that left no word, Stopped after a signal, which
    touches no Slurm job.
    """
    slurm_job = begun(plan, options)
    number = slurm_job.id
    log.info(f"Slurm job {number}: dry run of {len(plan.jobs)} jobs, see {slurm_jobs.log_path(plan, number)}")
    output = plan.output
    short, left = Rehearsal(plan.experiments, output.rehearsal), output.rehearsal_result(number)
    if detach and not left.exists():
        return None
    with obeyed(output.rehearsal_stop, StopRequest.read(output.rehearsal_stop)):
        slurm_jobs.accompany(short, {slurm_job: plan.jobs}, progress, left.exists)
    result = read_json(left)
    output.rehearsal_file.unlink(missing_ok=True)
    if "lines" not in result:
        log_path = slurm_jobs.log_path(plan, number)
        why = result.get("reason") or f"Slurm job {number} ended without a result, see {log_path}"
        raise next(
            (kind for kind in (UsageError, UnfitError) if kind.exit_code == result.get("exit_code")), HarnessError
        )(why)
    return list(result["lines"])


def begun(plan: Plan, options: RunOptions) -> SlurmJob:
    """Return the Slurm job of the same command whose result nobody has seen; else a new one."""
    asked = digest([[experiment.digest for experiment in plan.experiments], dict(options.slurm)])
    output = plan.output
    record = read_json(output.rehearsal_file)
    slurm_job = SlurmJob.of(record)
    if slurm_job is not None and record.get("asked") == asked:
        over = output.rehearsal_result(slurm_job.id).exists()
        if over or rehearsing(plan.root):
            return slurm_job
    with alone(plan.root):
        prepared(plan, options)
        submitter = executor(plan, options)
        slurm_job = _sbatch.identity(submitter, _sbatch.submit(submitter, task(plan, options)))
        output.slurm.mkdir(exist_ok=True)
        write_json(output.rehearsal_file, {**slurm_job.json, "asked": asked})
    return slurm_job


def executor(plan: Plan, options: RunOptions) -> Any:
    """Return submitit's executor for it."""
    names = ", ".join(experiment.name for experiment in plan.experiments)
    return _sbatch.executor(plan.output.slurm_log("%j").parent, options.slurm, f"harness dry run of {names}")


def task(plan: Plan, options: RunOptions) -> SlurmTask:
    """Return the plans' dry run as a Slurm task."""
    digests = tuple(experiment.digest for experiment in plan.experiments)
    stop = StopRequest.read(plan.output.rehearsal_stop)
    return SlurmTask(plan.root.resolve(), digests, slurm_jobs.handed_on(options), stop)


def dry(plan: Plan, options: RunOptions) -> str:
    """Return the batch script that its sbatch would be given."""
    return _sbatch.script(executor(plan, options))
