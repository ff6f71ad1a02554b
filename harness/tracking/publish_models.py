"""Models in MLflow's registry: which of a plan's are registered, under what name, and what their cards say."""

import logging
from collections.abc import Sequence

from harness.plan.job import Evaluate
from harness.plan.plan import Plan, setting
from harness.results import records
from harness.results.rows import Context, Row
from harness.tracking import registry
from harness.tracking.client import FINGERPRINT
from harness.tracking.plan_run import PlanRun

log = logging.getLogger(__name__)

LOADER = "harness.tools.pyfunc"
LARGE = 50_000_000  # bytes that take a while to send


def register(plan_run: PlanRun, rows: Sequence[Row], context: Context) -> None:
    """Register every plainly evaluated model of the plan as a version, members before their ensembles."""
    plan, tracking = plan_run.plan, plan_run.tracking
    runs = {run.fingerprint: run.run_id for row in rows for run in row.done if run.run_id is not None}
    cells = plan_run.experiment.cells
    jobs = [cell.job for _, cell in cells if cell.job.fingerprint in runs and plain(cell.job)]
    for job in sorted(dict.fromkeys(jobs), key=lambda job: len(job.members)):
        files = [plan.jobdir(job).job_file]
        if len(job.members) == 1:
            trained = plan.jobdir(job.members[0])
            files = [trained.job_file, trained.weights_file]
        if not all(path.is_file() for path in files):  # somebody has made room
            continue
        name, key = model_name(job), model_key(plan, job)
        size = sum(path.stat().st_size for path in files)
        with plan_run.store.lock:
            if size > LARGE and registry.version(tracking, name, key) is None:
                log.info(f"uploading the model {name} to MLflow, {size / 1e6:.0f} MB")
            card = card_of(plan_run, job, context)
            loader = LOADER if len(job.members) == 1 else None  # an ensemble's weights are its members' versions
            version = registry.register(tracking, name, runs[job.fingerprint], key, files, card, loader)
            miou = records.read_evaluation(plan.directory(job)).final["miou"]
            registry.name_best(tracking, name, version, miou, context.comparable)


def plain(job: Evaluate) -> bool:
    """Return whether an evaluation is a model's own, without stages, scales or flips: those change no weight."""
    return job.split == "val" and job.prior is None and job.control is None and job.scales == (1.0,) and not job.flip


def model_name(job: Evaluate) -> str:
    """Return a model's name in the registry: 'vspw-decoder-a', 'vspw-decoder-a+decoder-b'."""
    who = "+".join(sorted(member.decoder for member in job.members)).replace("_", "-")
    return f"{job.config['data']['name']}-{who}"


def model_key(plan: Plan, job: Evaluate) -> dict[str, str]:
    """Return the tags that identify a model: of its training's attempt, or of an ensemble's evaluation."""
    maker = job.members[0] if len(job.members) == 1 else job
    attempt = records.provenance(plan.directory(maker)).get("made")
    return {FINGERPRINT: maker.fingerprint, "harness.made": str(attempt)}


def card_of(plan_run: PlanRun, job: Evaluate, context: Context) -> str:
    """Return a model's card: what it is, its numbers, what they may be compared with, and how to use it."""
    plan = plan_run.plan
    record = records.read_evaluation(plan.directory(job), records.chosen(job.config))
    facts = setting(job.config)
    seeds = ", ".join(str(seed) for seed in sorted({member.config["seed"] for member in job.members}))
    lines = [
        f"# {model_name(job)}, seed {seeds}",
        f"{facts['encoder']}, trained on {facts['dataset']} videos for {facts['iterations']} iterations of batch "
        f"{facts['batch']} at {facts['crop']} pixels, preset {job.config.preset}.",
        f"| on val, {len(record.videos)} videos | percent |\n|---|---:|\n"
        + "\n".join(f"| {key} | {value:.2f} |" for key, value in record.final.items()),
    ]
    if context.reason:
        lines.append(f"Not the paper's setting ({context.reason}): do not compare these numbers with the paper's.")
    if len(job.members) > 1:
        parts = []
        for single in (Evaluate((member,)) for member in job.members):
            number = registry.version(plan_run.tracking, model_name(single), model_key(plan, single))
            parts.append(model_name(single) + (f" (version {number})" if number else ""))
        lines.append(f"An ensemble, the argmax of summed probabilities, of {', '.join(parts)}.")
    folders = " ".join(str(plan.directory(member)) for member in job.members)
    lines += [
        f"Use it: `harness predict {folders} VIDEO`"
        + ("" if len(job.members) > 1 else ", or `mlflow models predict` (docs/API.md)"),
        "Weights carry the terms of the data and of the pretrained encoder that they were made from (docs/DATA.md).",
    ]
    return "\n\n".join(lines) + "\n"
