"""One page that holds a whole report: no network, no script, figures and panels inside of it, every name escaped.

It is made from the report, its rows and context, and the files beside it (figures as SVG, panels as PNG).
"""

import base64
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.results import stats
from harness.results.evidence import Evidence, compute, device_seconds
from harness.results.palette import palette
from harness.results.rows import CellResult, ClaimResult, Context, Row, claims, in_order
from harness.results.table import Report, Table, clean, signed, stem

NAME = "index.html"
TONES = {
    stats.REPRODUCED: "good",
    stats.SAME_SIGN: "mild",
    stats.UNDECIDED: "open",
    stats.CONTRADICTED: "bad",
}
NO_PANELS = "they need a finished pair of rows to compare, the data at hand, and masks kept by the evaluations"


def write(report: Report, rows: Sequence[Row], context: Context, folder: Path) -> Path:
    """Write index.html into a report's folder. Raise OSError."""
    path = folder / NAME
    path.write_text(render(report, rows, context, folder), encoding="utf-8")
    return path


def render(report: Report, rows: Sequence[Row], context: Context, folder: Path) -> str:
    """Return the page's text; figures and panels that are not in the folder are left out."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    environment.filters["whole"] = whole
    results = in_order(run for row in rows for run in row.runs)
    return environment.get_template("report.html.j2").render(
        report=report,
        context=context,
        facts=facts(rows, context),
        undone=[f"{row.label}: {why_undone(row)}" for row in rows if row.status != "done"],
        cards=[card(claim, rows, context.margin) for claim in claims(rows)],
        rule=stats.RULE.format(margin=context.margin),
        figures=figures(report, folder),
        panels=panels(context, folder),
        no_panels=NO_PANELS,
        first_seed=min((run.seed for run in results), default=""),
        data=context.evidence.data,
        versions=versions(results),
        runs=runs(results, context),
        jobs=jobs(context),
        dirty=any(run.dirty for run in results),
        again=again(results, context),
    )


def whole(cell: str) -> str:
    """Return a cell that breaks before its interval, and nowhere within a number."""
    return re.sub(r"(?<=[\d)\]]) (?=[±%])|(?<=±) |(?<=,) (?=[−+\d])", "\u00a0", cell)


def facts(rows: Sequence[Row], context: Context) -> list[tuple[str, str]]:
    """Return what a reader wants first."""
    done, planned = sum(row.seeds for row in rows), sum(row.planned for row in rows)
    seeds = len({run.seed for row in rows for run in row.runs})
    units = [row.units for row in rows if row.units]
    pairs = [("preset", context.preset), ("data", context.dataset), ("cells done", f"{done} of {planned}")]
    pairs += [("seeds", str(seeds))] if seeds else []
    pairs += [("units behind an interval", str(min(units)))] if units else []
    return pairs + costs(context.evidence)


def costs(evidence: Evidence) -> list[tuple[str, str]]:
    """Return compute time, device and peak memory of the report's jobs."""
    cost = compute(evidence.jobs)
    if cost is None:
        return []
    hours = f"{cost.device_hours:.3g} {cost.unit}"
    if evidence.total_hours is not None and evidence.total_hours > cost.device_hours:
        hours += f" of the output directory's {evidence.total_hours:.3g}"
    pairs = (
        [("compute time", hours), ("device", ", ".join(cost.devices))] if cost.devices else [("compute time", hours)]
    )
    return pairs + ([("peak memory of a rank", f"{cost.peak / 2**30:.2f} GiB")] if cost.peak else [])


def why_undone(row: Row) -> str:
    """Return the status and reason of a row that is not wholly done."""
    part = f"{row.seeds} of {row.planned} seeds, " if row.seeds else ""
    return part + ": ".join(filter(None, (row.status, row.reason)))


def card(answer: ClaimResult, rows: Sequence[Row], margin: float) -> dict[str, str]:
    """Return a claim of the paper, ours, and the verdict, in words."""
    labels = {row.cell: row.label for row in rows}
    mean, low, high, of = answer.ours.mean, *answer.ours.interval[:2], answer.ours.interval.of
    claim, verdict = answer.claim, answer.verdict
    return {
        "whom": f"{labels[claim.cell]} over {labels[claim.baseline]}",
        "word": verdict or "no verdict",
        "tone": {**TONES, stats.EQUAL.format(margin=margin): "even"}.get(verdict or "", ""),
        "ours": "not known yet" if mean is None else signed(mean),
        "bounds": "" if low is None or high is None else f"[{signed(low)}, {signed(high)}] of {of}",
        "theirs": signed(claim.gain),
        "source": claim.source,
        "why": (answer.reason or "") if mean is not None and verdict != stats.NOT_COMPARABLE else "",  # stands above
    }


def figures(report: Report, folder: Path) -> list[dict[str, object]]:
    """Return those whose SVG is there, as pictures inside the page."""
    pictures: list[dict[str, object]] = []
    for name, figure in report.figures.items():
        path = folder / f"{stem(name)}.svg"
        if path.is_file():
            source = inside("image/svg+xml", path.read_bytes())
            texts = {"name": stem(name), "title": figure.title, "alt": figure.alt}
            pictures.append({**texts, "source": source, "folded": figure.folded})
    return pictures


def panels(context: Context, folder: Path) -> list[dict[str, object]]:
    """Return those whose PNG is there, with the colours of the classes in them."""
    classes = context.evidence.classes
    colours = palette(len(classes))
    pictures: list[dict[str, object]] = []
    for panel in context.evidence.panels:
        path = folder / "panels" / Path(str(panel["file"])).name
        if path.is_file():
            legend = [
                (name, "#" + bytes(colours[classes.index(name)]).hex()) for name in panel["classes"] if name in classes
            ]
            source = inside("image/png", path.read_bytes())
            pictures.append({"title": panel["title"], "alt": panel["alt"], "source": source, "legend": legend})
    return pictures


def inside(kind: str, data: bytes) -> str:
    """Return a file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def versions(results: Iterable[CellResult]) -> str:
    """Return the library versions of the rows; where rows differ, each that stands anywhere."""
    by_name: dict[str, set[str]] = {}
    for run in results:
        for name, version in run.versions.items():
            by_name.setdefault(name, set()).add(str(version))
    return ", ".join(f"{name} {' or '.join(sorted(several))}" for name, several in sorted(by_name.items()))


def runs(results: Iterable[CellResult], context: Context) -> Table:
    """Return every cell and seed with its run."""
    columns = ("Row", "Seed", "Status", "mIoU", "Commit", "Device", "Precision", "Run")
    lines, links = [], {}
    for index, run in enumerate(results):
        commit = f"{short(run.commit)}{' + changes' if run.dirty else ''}" if run.commit else "–"
        miou = "–" if run.miou is None else f"{run.miou:.2f}"
        rest = [run.device or "–", run.precision or "–", run.run_id or "–"]
        lines.append((run.label, str(run.seed), run.status, miou, commit, *rest))
        if context.link and run.run_id:
            links[index, len(columns) - 1] = f"{context.link}{run.run_id}"
    return Table("Runs", columns, tuple(lines), align="lrlrllll", links=links)


def jobs(context: Context) -> Table:
    """Return every finished job with its cost."""
    rows = []
    for job in context.evidence.jobs:
        ranks = f"{job['world']} ×" if job.get("world", 1) != 1 else ""
        device = f"{ranks} {job.get('device', '–')}".strip()
        commit = f"{short(job.get('commit') or '–')}{' + changes' if job.get('dirty') else ''}"
        took = "–" if (seconds := device_seconds(job)) is None else duration(seconds)
        rows.append((job["name"], job["fingerprint"], took, device, str(job.get("launcher", "–")), commit))
    note = "Device time: ranks × wall time; a pass over the frames that several evaluations share is shared out."
    return Table(
        "Jobs",
        ("Job", "Fingerprint", "Device time", "Device", "Launcher", "Commit"),
        tuple(rows),
        (note,),
        align="llrlll",
    )


def again(results: Iterable[CellResult], context: Context) -> list[str]:
    """Return the commands that make the report anew."""
    commits = sorted({commit for run in results if run.commit for commit in short(run.commit).split(", ")})
    others = f"   # rows also ran at {', '.join(commits[1:])}" if commits[1:] else ""
    checkout = [f"git checkout {commits[0]}{others}"] if commits else []
    set_up = ["make .venv/.ready && . .venv/bin/activate"]
    return [*checkout, *set_up, clean(context.evidence.command or context.command)]


def short(commits: str) -> str:
    """Return the commits, one or several side by side (records.beside), cut to twelve digits each."""
    return ", ".join(commit[:12] for commit in commits.split(", "))


def duration(seconds: float) -> str:
    """Return '42 s', '5 min', '3.2 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
