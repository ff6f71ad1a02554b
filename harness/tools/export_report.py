"""A report as a folder to be published: README.md with figures and frames, tables, each row's configuration and log.

Paths and hosts of this machine are left out: configurations are jobs' identities, and logs are journals without them.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from harness.common.errors import UnfitError, UsageError
from harness.launch import report_from_root
from harness.plan import saved_plans
from harness.plan.job import Evaluate, Job, Train
from harness.plan.plan import Experiment, Plan
from harness.report.folder import write_report
from harness.report.review import Review
from harness.results.table import clean, markdown_text, report_markdown, stem

KEPT = ("*.csv", "*.tex", "*.png", "*.svg")
LEFT_OUT = ("progress",)  # events of a journal that its metrics repeat
PLACE = re.compile(r"(?<![\w.])(?:~|/)[^\s'\",;:=]*/[^\s'\",;:=]*")  # a path from the root or the home directory


def publish(plan: Plan, words: Sequence[str], folder: Path) -> Path:
    """Write the report of a plan, given by the words of `run`, into a folder; return its README.md.

    Raise UsageError where the folder is not empty, UnfitError where no job of the plan is finished.
    """
    if not any(plan.state(job) == "done" for job in plan.jobs):
        raise UnfitError(f"{plan.root}: no job of this plan is finished; run it first, or give --root DIR of its runs")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: already exists and is not empty; give another folder, or remove it")
    with TemporaryDirectory() as name:
        reviews = [
            report_from_root.review(plan, each, portable(command(plan, each, words)), Path(name))
            for each in plan.experiments
        ]
        for review in reviews:
            source = Path(name) / review.context.experiment
            write_report(review.report, review.rows, review.context, source)
            copy(source, folder / review.context.experiment, (*KEPT, "panels/*.png") if synthetic(review) else KEPT)
            text = without_places(report_markdown(review.report, appendix=True))
            (folder / review.context.experiment / "report.md").write_text(text, encoding="utf-8")
    for job in plan.jobs:
        if plan.state(job) == "done":
            write_job(plan, job, folder / "jobs")
    readme = folder / "README.md"
    readme.write_text("\n\n".join(section(review, folder) for review in reviews) + "\n", encoding="utf-8")
    return readme


def command(plan: Plan, experiment: Experiment, words: Sequence[str]) -> Sequence[str]:
    """Return the command that ran an experiment's plan; the present words where that was not saved."""
    try:
        saved: Sequence[str] = saved_plans.facts(plan.root, experiment.digest).get("command", ())
    except UnfitError:
        saved = ()
    return saved or ("harness", "run", *words)


def synthetic(review: Review) -> bool:
    """Return whether all videos are synthetic: others' frames are not ours to publish."""
    return not any(review.context.evidence.data.values())


def copy(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copy the files of a report that match a pattern."""
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            copied = target / path.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes())


def section(review: Review, folder: Path) -> str:
    """Return one experiment's part of README.md."""
    report, experiment = review.report, review.context.experiment
    parts = [f"# {markdown_text(report.title)}"]
    parts += [markdown_text(report.headline)] if report.headline else []
    parts += ["    " + clean(review.context.command), f"Tables and notes: [report.md]({experiment}/report.md)"]
    parts += [
        f"![{markdown_text(figure.alt)}]({experiment}/{stem(name)}.png)"
        for name, figure in report.figures.items()
        if not figure.folded and (folder / experiment / f"{stem(name)}.png").is_file()
    ]
    parts += ["## Configurations and logs", row_files(review)]
    panels = review.context.evidence.panels if synthetic(review) else ()
    parts += ["## Qualitative results"] if panels else []
    parts += [f"![{markdown_text(panel['alt'])}]({experiment}/panels/{panel['file']})" for panel in panels]
    return "\n\n".join(parts)


def row_files(review: Review) -> str:
    """Return a table of the rows with links to the configuration and the log of the jobs that made them."""
    jobs = {(cell.name, seed): cell.job for seed, cell in review.experiment.cells}
    lines = ["| Row | Seed | Configuration | Log |", "|---|---:|---|---|"]
    for row in review.rows:
        for run in row.done:
            if (job := jobs.get((run.cell, run.seed))) is None:  # masks that were scored have no job
                continue
            links = [
                ", ".join(f"[{label(each)}](jobs/{each.fingerprint}{suffix})" for each in jobs_of(job))
                for suffix in (".yaml", ".jsonl")
            ]
            lines.append(f"| {markdown_text(row.label)} | {run.seed} | {' | '.join(links)} |")
    return "\n".join(lines)


def jobs_of(job: Evaluate) -> list[Job]:
    """Return the jobs that made a row: trainings, then the evaluation."""
    return [*job.members, job]


def label(job: Job) -> str:
    """Return a job as a link's text."""
    return f"training {job.decoder}" if isinstance(job, Train) else "evaluation"


def write_job(plan: Plan, job: Job, folder: Path) -> None:
    """Write a job's resolved configuration and its journal."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = yaml.safe_dump(json.loads(json.dumps(job.identity)), sort_keys=False, allow_unicode=True)
    (folder / f"{job.fingerprint}.yaml").write_text(identity, encoding="utf-8")
    journal = plan.jobdir(job).events_file
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    events = [event for line in lines if (event := published_event(line)) is not None]
    (folder / f"{job.fingerprint}.jsonl").write_text("".join(f"{event}\n" for event in events), encoding="utf-8")


def published_event(line: str) -> str | None:
    """Return a journal's line without host and paths; None for one that is left out or torn."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if event.get("event") in LEFT_OUT:
        return None
    event.pop("host", None)
    return without_places(json.dumps(event, ensure_ascii=False))


def portable(command: Sequence[str]) -> list[str]:
    """Return a command without paths of this machine: a value that is one becomes PATH."""
    return [re.sub(r"^([^=]*=)?(?:~|\.{0,2}/).*$", r"\1PATH", word) for word in command]


def without_places(text: str) -> str:
    """Return a text in which PATH stands for paths of this machine."""
    return PLACE.sub("PATH", text)
