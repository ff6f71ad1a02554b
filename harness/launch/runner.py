"""From a plan to results: skip what is finished, run what is missing launch by launch, and write the report."""

import logging
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.common import child, collector, machine
from harness.common.atomic_files import JsonObject, write_json
from harness.common.errors import UnfitError, UsageError
from harness.common.progress import Progress
from harness.common.signals import Stopped
from harness.config import plugins
from harness.config.compose import Config
from harness.config.settings import RunOptions
from harness.jobdir import lease
from harness.launch import access, provenance
from harness.launch import preflight as networks
from harness.launch.launchers import inline
from harness.launch.launchers._environment import child_environment
from harness.launch.scheduler import Scheduler
from harness.launch.supervisor import Launcher, describe
from harness.plan import data_changes, saved_plans, source_changes
from harness.plan.job import Job, Train
from harness.plan.outcome import FAILED, of_plan
from harness.plan.plan import Experiment, Plan
from harness.report.folder import collect_evidence, point, write_report
from harness.report.review import render
from harness.results import cells, figure, rows, score
from harness.results.rows import Context, Row
from harness.results.table import Report
from harness.tracking import registry
from harness.tracking.client import Tracking
from harness.tracking.publisher import Published, Silent, publisher_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """One experiment's outcome: its rows and its report, written to `folder`."""

    experiment: Experiment
    rows: Sequence[Row]
    context: Context
    report: Report
    folder: Path
    away: str | None = None  # why the store was not told, where it did not answer


@dataclass(frozen=True)
class Results:
    """The results of an invocation."""

    finished: tuple[Finished, ...]
    executed: int  # jobs run now to their end
    already: int  # jobs that were done before
    elsewhere: int  # jobs that another run finished meanwhile
    failures: Mapping[Job, str]  # job -> reason
    where: str  # how to open the store; empty where nothing was told
    away: str | None  # why the store was not told, where it did not answer


def run(plan: Plan, options: RunOptions, progress: Progress) -> Results:
    """Run what is missing of a plan and report. Raise Stopped after a signal, UnfitError before anything is run."""
    todo = unfinished(plan, options)
    if not todo and (closed := access.closed(plan)) is not None:
        return reprint(plan, options, closed)
    already = sum(plan.state(job) == "done" for job in plan.jobs)
    stuck = blocked(plan, todo)
    todo = [job for job in todo if job not in stuck]
    scheduler = Scheduler(plan, list(todo), failures=stuck)
    failures = scheduler.failures
    stopped: Stopped | None = None
    with ready(plan, options, todo) as (tracking, worker):
        publisher = publisher_of(plan, tracking)
        saved_plans.keep(plan, options.command)
        with closing(plan, publisher, failures, options):
            if worker is not None:
                launcher, facts = worker
                ranks = f"{facts['launcher']}, {facts['nproc']} process(es)"
                log.info(f"{len(todo)} jobs to run ({ranks}), logs under {plan.root}")
                if not options.inside:
                    publisher.probe(todo, options.command)
                publisher.open(todo)
                try:
                    scheduler.run(launcher, publisher, progress, facts)
                    if changes := data_changes.since_planned(plan):
                        log.warning(
                            f"data changed while jobs ran: {changes}; new results may use old or new data: --rerun ROW"
                        )
                except Stopped as stop:
                    stopped = stop
                finally:
                    launcher.close()
            finished = tuple(
                conclude(
                    plan,
                    experiment,
                    publisher,
                    failures,
                    options,
                    ended(plan, experiment, failures, options),
                    bool(todo),
                )
                for experiment in plan.experiments
            )
    if stopped is not None:
        raise stopped
    away = next((result.away for result in finished if result.away), None)
    where = "" if away else publisher.link(plan.experiments[0])
    executed = scheduler.executed - scheduler.broken
    return Results(finished, executed, already, scheduler.elsewhere, failures, where, away)


def reprint(plan: Plan, options: RunOptions, closed: Path) -> Results:
    """Return the results of a finished plan whose output directory is another person's: only looking."""
    log.warning(f"{closed}: you may not write there: the table is printed, but neither saved nor uploaded to MLflow")
    reports = Path(tempfile.mkdtemp(prefix="harness-reports-"))
    finished = tuple(
        conclude(plan, experiment, Silent(), {}, options, "FINISHED", False, reports) for experiment in plan.experiments
    )
    return Results(finished, 0, len(plan.jobs), 0, {}, "", None)


@contextmanager
def ready(
    plan: Plan, options: RunOptions, todo: Sequence[Job]
) -> Iterator[tuple[Tracking | None, tuple[Launcher, JsonObject] | None]]:
    """Yield the store, and the launcher with its provenance if there is something to do.

    Raise UnfitError where the store does not answer, a network cannot work or its weights cannot be had.
    """
    if not todo:
        yield connected(options), None
        return
    launcher, facts = choose(plan, options)
    if (hidden := machine.hidden_gpus()) is not None:
        log.warning(hidden)
    try:
        launcher.warm()  # imports torch, which takes seconds, while the store is asked
        await_networks = ask_networks(plan, options, todo, (launcher, facts))
        tracking = connected(options)
        figure.import_libraries()  # while networks are tried; a thread's imports would meet ours
        await_networks()
        collector.imported()
        fetch_for(plan, todo)
        yield tracking, (launcher, facts)
    finally:
        launcher.close()


@contextmanager
def closing(plan: Plan, publisher: Silent, failures: Mapping[Job, str], options: RunOptions) -> Iterator[None]:
    """End the plan's runs in MLflow also after an error or a signal."""
    try:
        yield
    except (Exception, Stopped) as error:
        for experiment in plan.experiments:
            if ended(plan, experiment, failures, options) != "RUNNING":
                publisher.close(experiment, "KILLED" if isinstance(error, Stopped) else "FAILED")
        raise


def missing(plan: Plan, options: RunOptions) -> list[Job]:
    """Return the jobs to run elsewhere, tried by a child. Raise UnfitError as `unfinished` and `ready` do."""
    jobs = unfinished(plan, options)
    if jobs:
        try_networks(plan, options, jobs)
        fetch_for(plan, jobs)
    return jobs


def unfinished(plan: Plan, options: RunOptions) -> list[Job]:
    """Return the jobs to run. Raise UnfitError if the data or the output directory cannot be used."""
    if options.rerun is not None:
        preflight(plan, options)  # before anything is moved
        set_aside(plan, options.rerun)
    wanted = [job for job in plan.jobs if options.only is None or job.fingerprint in options.only]
    jobs = [job for job in wanted if plan.state(job) != "done"]
    if jobs:
        access.check(plan)
        require_inputs(plan.config)
        data_changes.check(plan, options.inside)
    return jobs


def fetch_for(plan: Plan, jobs: Sequence[Job]) -> None:
    """Download the encoder's weights if one of the jobs is a training that begins. Raise UnfitError."""
    if any(isinstance(job, Train) and plan.state(job) == "missing" for job in jobs):
        fetch(plan.config)


def preflight(plan: Plan, options: RunOptions) -> None:
    """Raise what would end a run before its first job: UnfitError or UsageError."""
    access.check(plan)
    require_inputs(plan.config)
    try_networks(plan, options, [job for job in plan.jobs if plan.state(job) != "done"])
    connected(options)


def try_networks(plan: Plan, options: RunOptions, jobs: Sequence[Job]) -> None:
    """Raise UnfitError where a job's network cannot work, UsageError for a number of ranks that does not fit."""
    ask_networks(plan, options, jobs)()


def ask_networks(
    plan: Plan,
    options: RunOptions,
    jobs: Sequence[Job],
    worker: tuple[Launcher, JsonObject] | None = None,
) -> Callable[[], None]:
    """Ask a worker that is warm, else a child, to try the jobs' networks; return what waits, and raises UnfitError.

    Raise UsageError for a number of ranks that does not fit.
    """
    launcher, facts = worker or choose(plan, options)
    ask = launcher.preflight if worker is not None and isinstance(launcher, inline.Launcher) else networks.ask_child
    ranks, here = facts["nproc"] * options.node_count, options.launcher != "slurm" or options.inside
    return networks.begin(plan, jobs, ranks, here, ask)


def connected(options: RunOptions) -> Tracking | None:
    """Return the store; None inside an allocation that cannot reach it.

    Raise UnfitError where it does not answer, or where models would be registered elsewhere.
    """
    if options.offline:
        return None
    tracking = Tracking(options.tracking_uri, options.prefix)
    registry.check(tracking)
    try:
        tracking.check()
    except UnfitError as error:
        if not options.inside:
            raise
        log.warning(f"{error}; this node only writes journals; use `harness sync --follow` where MLflow can be reached")
        return None
    return tracking


def blocked(plan: Plan, todo: Sequence[Job]) -> dict[Job, str]:
    """Return why jobs cannot run: they ended badly, or need a job that is neither done nor run here."""
    reasons: dict[Job, str] = {}
    for job in plan.jobs:
        outcome = plan.jobdir(job).outcome()
        absent = [needed for needed in job.inputs if plan.state(needed) != "done" and needed not in todo]
        if plan.state(job) == "done":
            continue
        if job not in todo and outcome is not None and outcome.status in (*FAILED, "cancelled"):
            reasons[job] = outcome.reason or outcome.status
        elif job in todo and absent:
            reasons[job] = f"needs '{absent[0].name}', which {'failed' if absent[0] in reasons else 'was not run'}"
    return reasons


def selected(plan: Plan, which: str) -> list[Job]:
    """Finished jobs that `which` names ('changed', or a cell), and the evaluations that rest on them.

    Raise UsageError for a word that is neither.
    """
    jobs = [job for job in plan.jobs if plan.state(job) == "done"]
    if which == "changed":
        chosen = {job for job in jobs if source_changes.changed(plan, job)}
    else:
        cells = [cell for experiment in plan.experiments for _, cell in experiment.cells if cell.name == which]
        if not cells:
            names = dict.fromkeys(cell.name for experiment in plan.experiments for _, cell in experiment.cells)
            raise UsageError(f"'{which}' is neither 'changed' nor a row of this plan: {', '.join(names)}")
        chosen = {job for cell in cells for job in [*cell.job.inputs, cell.job]}
    return [job for job in jobs if job in chosen or any(needed in chosen for needed in job.inputs)]


def set_aside(plan: Plan, which: str) -> None:
    """Move finished jobs out of the way, so that they are run again; nothing is deleted.

    Raise UsageError for a job that another run is at.
    """
    chosen = selected(plan, which)
    for job in chosen:
        if (holder := lease.current_holder(plan.directory(job))) is not None:
            raise UsageError(f"--rerun {which}: {job.name} is being run by {holder.who}; wait for it or stop it")
    for job in chosen:
        target = plan.output.replaced / f"{job.fingerprint}-{uuid.uuid4().hex[:8]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        plan.directory(job).rename(target)
        log.info(f"rerunning {job.name}; the old results are kept in {target}")


def accept(plan: Plan) -> None:
    """Sign off, for every finished job, the sources that have changed since it ran."""
    for job in plan.jobs:
        files = source_changes.changed(plan, job) if plan.state(job) == "done" else []
        if files:
            write_json(plan.jobdir(job).accepted_file, source_changes.digests(job))
            log.info(f"accepted: {job.name}: {', '.join(files)}")


def ended(plan: Plan, experiment: Experiment, failures: Mapping[Job, str], options: RunOptions) -> str:
    """Return the status of a plan's run in MLflow: RUNNING while another process, or a Slurm job, has some of it."""
    lacking = [job for job in experiment.jobs if plan.state(job) != "done"]
    running = [job for job in lacking if lease.current_holder(plan.directory(job)) is not None]
    others = [job for job in lacking if options.inside and job.fingerprint not in (options.only or ())]
    return of_plan(lacking, failures, running, others)


def conclude(
    plan: Plan,
    experiment: Experiment,
    publisher: Silent,
    failures: Mapping[Job, str],
    options: RunOptions,
    status: str,
    worked: bool,
    reports: Path | None = None,
) -> Finished:
    """Upload finished work, build the report and write it under the root, or where `reports` says.

    The plan's run in MLflow ends with `status`; where nothing was run (`worked`) and nothing is new it is left alone.
    """
    away, published = None, Published()
    try:
        published = publisher.catch_up(experiment)
    except UnfitError as error:
        away = str(error)
    measured = [
        rows.result(
            experiment,
            order,
            seed,
            cell,
            run_id=published.runs.get(cell.job.fingerprint),
            **cells.read(plan, cell, failures),
        )
        for order, (seed, cell) in enumerate(experiment.cells)
    ]
    results = [*measured, *score.rows(experiment, score.scores(plan.root, experiment.config))]
    latest = (reports or plan.output.reports) / experiment.name
    folder = latest if reports else plan.output.report_folder(experiment.name, experiment.digest)
    evidence = collect_evidence(plan, experiment, measured, options.command, folder)
    facts = rows.context(experiment, options.command, evidence, published.pages)
    report = render(experiment, results, facts)
    table = rows.aggregate(results, facts)
    write_report(report, table, facts, folder)
    if not reports:
        latest = point(latest, folder)
    if away is None and (worked or published.new):
        try:
            publisher.report(experiment, report, folder, status, table, facts)
        except UnfitError as error:
            away = str(error)
    return Finished(experiment, table, facts, report, latest, away)


def require_inputs(config: Config) -> None:
    """Raise UnfitError where data or weights that the plan needs are not there."""
    if config.content.missing:
        raise UnfitError(config.content.missing[0])


def fetch(config: Config) -> None:
    """Download the encoder's weights from the hub, if it names any. Raise UnfitError if they cannot be had."""
    name = config["encoder"]["name"]
    section = config["encoder"].get(name, {})
    if not section.get("pretrained") or section.get("weights") or not section.get("model"):
        return
    log.info(f"weights of {section['model']}: from the hub, or from its cache on this machine")
    command = child.program("harness.engine.fetch", section["model"])
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=child_environment(), check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UnfitError(f"{why}: set encoder.{name}.weights=FILE (docs/DATA.md), or run `harness doctor`")


def choose(plan: Plan, options: RunOptions) -> tuple[Launcher, JsonObject]:
    """Return the launcher and its provenance. Raise UsageError for a number of ranks that does not fit."""
    name, nproc = options.launcher, options.nproc
    if options.inside:  # what was asked of sbatch is here now
        name = "slurm" if options.node_count > 1 else "torchrun" if nproc != 1 else "inline"
    micro, here = plan.config.micro_batch, machine.gpus()
    fitting = machine.ranks(micro, here, options.node_count)  # as `plan` says in its line `here`
    if name == "auto":
        name = "torchrun" if (nproc or fitting) > 1 else "inline"
    nproc = nproc or (fitting if name == "torchrun" else 1)
    if name == "inline" and nproc > 1:
        raise UsageError(f"--launcher inline runs one process, not {nproc}; omit --launcher or use torchrun")
    if nproc < 1 or micro % (nproc * options.node_count):
        sizes = ", ".join(str(n) for n in range(1, micro + 1) if micro % n == 0)
        raise UsageError(f"--nproc {nproc} does not divide the micro-batch of {micro}; choose from {sizes}")
    if 0 < here < nproc and (options.inside or name != "slurm"):  # outside it is the nodes' GPUs that count
        raise UsageError(f"--nproc {nproc}: each rank needs its own GPU, and this machine has {here}")
    module = plugins.load("launchers", name, plan.config.folders)
    facts = {**provenance.source(), **options.for_ranks}
    return module.Launcher(nproc, plan.output.logs), describe(name, nproc, options.command, facts)
