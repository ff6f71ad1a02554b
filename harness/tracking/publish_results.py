"""Final numbers in MLflow: a run per cell that is done, and per set of somebody's masks that was scored."""

from pathlib import Path

from harness.common.atomic_files import JsonObject
from harness.config import input_digests
from harness.jobdir.paths import JobDir, OutputDir
from harness.jobdir.replay import Point, Samples
from harness.plan.cell import Cell
from harness.plan.job import GIVEN
from harness.plan.plan import Experiment
from harness.plan.spec import to_json
from harness.results import metrics, records, score
from harness.results.evidence import frame_cost
from harness.results.records import RunRecord
from harness.tracking.client import NOTE, ROLE, SCORE
from harness.tracking.plan_run import PlanRun
from harness.tracking.training_run import job_tags, log_dataset, params, provenance_tags
from harness.tracking.view import ORDER


def publish(plan_run: PlanRun) -> None:
    """Upload every finished cell and score that the store lacks."""
    plan, experiment = plan_run.plan, plan_run.experiment
    with plan_run.store.lock:
        names = list(dict.fromkeys(cell.name for _, cell in experiment.cells))
        for seed, cell in experiment.cells:
            if plan.state(cell.job) == "done":
                publish_cell(plan_run, seed, cell, f"{names.index(cell.name):03d}.{seed:03d}")
        for name, record in score.scores(plan.root, experiment.config):
            publish_score(plan_run, name, record)


def publish_cell(plan_run: PlanRun, seed: int, cell: Cell, order: str) -> None:
    """Upload a cell's final numbers, counts and GPU samples."""
    plan, tracking, job = plan_run.plan, plan_run.tracking, cell.job
    files = plan.jobdir(job)
    record = records.read_evaluation(files.folder, records.chosen(job.config))
    trained = [records.provenance(plan.directory(needed)) for needed in job.inputs]
    run = tracking.child(
        *plan_run.ids(),
        name=f"{cell.name}/seed{seed}",
        key={
            ROLE: "cell",
            "harness.cell": cell.name,
            "harness.fingerprint": job.fingerprint,
            "harness.made": str(record.provenance.get("made")),  # a job that was run again has a run of its own
        },
        tags={
            **job_tags(files, job),
            "harness.seed": str(seed),
            ORDER: order,
            NOTE: f"{plan_run.experiment.title}: {cell.label or cell.method}, seed {seed}.",
            "harness.units": units(plan_run.experiment, record),
            "harness.trained_by": " ".join(plan_run.known_run(member) or "" for member in job.members),
            **provenance_tags(records.joined([*trained, record.provenance])),
        },
        params={
            **params(*job.members),
            "method": cell.method,
            "stage": str(job.prior) if job.prior in GIVEN else str(job.stage),
        },
        began=ended(files.outcome_file) - (record.provenance.get("seconds") or 0),
    )
    stored, points = tracking.get(run), final_points(record, files.outcome_file)
    if stored.status == "FINISHED":  # of a metric that was chosen since, the class sums are there already
        tracking.log(run, [point for point in points if point[0] not in stored.metrics])
        return
    points += cost_points(record, files.outcome_file)
    tracking.log(run, [*points, *Samples(files).read()])
    log_dataset(tracking, run, job, job.split, "eval")
    tracking.json(run, "config/job.json", to_json(job.spec()))
    finish(plan_run, run, record, files, files.outcome_file)


def publish_score(plan_run: PlanRun, name: str, record: RunRecord) -> None:
    """Upload the score of third-party masks."""
    tracking, files = plan_run.tracking, JobDir(OutputDir(plan_run.plan.root).scores / record.fingerprint)
    run = tracking.child(
        *plan_run.ids(),
        name=f"score/{name}",
        key={**SCORE, "harness.fingerprint": record.fingerprint},
        tags={
            ORDER: f"999 {name}",
            NOTE: f"{plan_run.experiment.title}: masks scored under the name {name}.",
            "harness.cell": f"score_{name}",
            "harness.units": units(plan_run.experiment, record),
        },
        params={"method": name},
    )
    if tracking.get(run).status == "FINISHED":
        return
    tracking.log(run, final_points(record, files.score_file))
    finish(plan_run, run, record, files, files.score_file)


def finish(plan_run: PlanRun, run: str, record: RunRecord, files: JobDir, result: Path) -> None:
    """Upload all counts as an artefact, from which a report is built without the root, and end the run as `result`."""
    tracking = plan_run.tracking
    tracking.json(run, "tables/per_class.json", per_class(plan_run.experiment, record))
    files.matrices_file.write_bytes(records.packed(record))
    tracking.file(run, files.matrices_file)
    tracking.finish(run, "FINISHED", ended(result))


def ended(result: Path) -> float:
    """Return when a job wrote its result, in seconds since 1970."""
    return result.stat().st_mtime


def final_points(record: RunRecord, written: Path) -> list[Point]:
    """Return the final numbers as points, at the time when a file was written."""
    when = round(1000 * ended(written))
    return [(f"final/{key}", round(value, 4), 0, when) for key, value in record.final.items()]


def cost_points(record: RunRecord, written: Path) -> list[Point]:
    """Return what the frame of an evaluation cost, as points; none of results of before 0.2."""
    cost = frame_cost([record.provenance])
    values = {"parameters": cost.parameters, "flops": cost.flops, "frames_per_second": cost.frames_per_second}
    when = round(1000 * ended(written))
    return [(f"cost/{key}", float(value), 0, when) for key, value in values.items() if value is not None]


def units(experiment: Experiment, record: RunRecord) -> str:
    """Return how many independent recordings a number rests on."""
    return str(len(set(input_digests.units(experiment.config, record.videos).values())))


def per_class(experiment: Experiment, record: RunRecord) -> list[JsonObject]:
    """Return the class, IoU in percent (None without truth) and pixels of truth."""
    classes = input_digests.build_dataset(experiment.config).classes
    confusion = record.confusion
    scores, truth = 100 * metrics.iou(confusion), confusion.sum(axis=1)
    rows = zip(classes, scores.tolist(), truth.tolist(), strict=True)
    return [{"class": name, "iou": round(score, 2) if n else None, "pixels": n} for name, score, n in rows]
