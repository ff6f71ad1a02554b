"""The page of an experiment: results, verdicts, figures, a comparison of rows, frames, provenance."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from harness.report import html_page, qualitative
from harness.results import stats, table
from harness.results.evidence import Evidence, compute, device_seconds
from harness.results.palette import VOID_COLOUR, palette
from harness.results.rows import CellResult, ClaimResult, Context, Row, claims, in_order
from harness.results.table import Report, Table, clean, signed

TONES = {
    stats.REPRODUCED: "good",
    stats.SAME_SIGN: "mild",
    stats.UNDECIDED: "open",
    stats.CONTRADICTED: "bad",
}
DISAGREEMENT = {
    "ours": qualitative.RIGHT,
    "base": qualitative.WRONG,
    "neither": qualitative.NEITHER,
    "void": VOID_COLOUR,
    "scene": qualitative.SCENE,
}
NO_PANELS = "they need two finished rows to compare, the data set, and the masks that evaluations save"


def write(report: Report, rows: Sequence[Row], context: Context, folder: Path) -> Path:
    """Write index.html into a report's folder. Raise OSError."""
    path = folder / html_page.NAME
    path.write_text(render(report, rows, context, folder), encoding="utf-8")
    return path


def render(report: Report, rows: Sequence[Row], context: Context, folder: Path) -> str:
    """Return the page's text; figures and panels that are not in the folder are left out."""
    results = in_order(run for row in rows for run in row.runs)
    comparison, differing = compared_rows(rows, context), settings(rows, context)
    after = [("compare", "Compare two rows")] if comparison else []
    after += [("settings", "Configurations")] if differing.rows else []
    return html_page.render(
        "report.html.j2",
        report,
        context,
        folder,
        title=context.title,
        facts=facts(rows, context),
        commands=again(results, context),
        before=[("verdicts", "Verdicts")],
        after=[*after, ("panels", "Qualitative results"), ("provenance", "Provenance")],
        undone=[f"{row.label}: {why_undone(row)}" for row in rows if row.status != "done"],
        cards=[card(claim, rows, context.margin) for claim in claims(rows)],
        rule=stats.rule(context.margin),
        panels=panels(context, folder),
        settings=differing,
        comparison=comparison,
        unit_name="recording" if any(sums.recordings for row in rows for sums in row.sums) else "video",
        no_panels=NO_PANELS,
        first_seed=min((run.seed for run in results), default=""),
        data=context.evidence.data,
        versions=versions(results),
        runs=runs(results, context),
        jobs=jobs(context),
        dirty=any(run.dirty for run in results),
    )


def compared_rows(rows: Sequence[Row], context: Context) -> Markup | None:
    """Return the IoU of every class and the mIoU of every unit by row, as JSON; None for fewer than two such rows.

    Percent, the mean over seeds; null without ground truth. Rows must have the first one's classes and units.
    """
    complete = [(row, iou) for row in rows if (iou := stats.class_iou(row.sums)) is not None]
    if not complete:
        return None
    first, classes = complete[0][0].sums[0], context.evidence.classes
    values = [
        {
            "label": row.label,
            "cell": row.cell,
            "classes": rounded(iou),
            "units": rounded(np.mean([100 * stats.miou(each.sums) for each in row.sums], axis=0)),
        }
        for row, iou in complete
        if all(each.names == first.names and each.sums.shape == first.sums.shape for each in row.sums)
    ]
    if len(values) < 2:
        return None
    number = first.sums.shape[2]
    names = classes if len(classes) == number else [f"class {index}" for index in range(number)]
    compared = {"classes": list(names), "units": list(first.names), "rows": values, "colours": DISAGREEMENT}
    text = json.dumps(compared, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def rounded(values: NDArray[np.float64]) -> list[float | None]:
    """Two digits, and None for nan."""
    return [None if np.isnan(value) else round(float(value), 2) for value in values]


def settings(rows: Sequence[Row], context: Context) -> Table:
    """Return the configuration keys whose values differ between rows, one column a row."""
    by_cell = context.evidence.settings
    shown = [row for row in rows if row.cell in by_cell]
    keys = dict.fromkeys(key for row in shown for key in by_cell[row.cell])
    lines = tuple((key, *(by_cell[row.cell].get(key, "–") for row in shown)) for key in keys)
    labels = table.unique([row.label for row in shown], taken=("Key",))
    return Table("Where configurations differ", ("Key", *labels), lines)


def facts(rows: Sequence[Row], context: Context) -> list[tuple[str, str]]:
    """Return what a reader wants first."""
    done, planned = sum(row.seeds for row in rows), sum(row.planned for row in rows)
    seeds = len({run.seed for row in rows for run in row.runs})
    units = [row.units for row in rows if row.units]
    pairs = [("preset", context.preset), ("data", context.dataset), ("results", f"{done} of {planned}")]
    pairs += [("seeds", str(seeds))] if seeds else []
    pairs += [("videos or recordings", str(min(units)))] if units else []
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
        "ours": "not available yet" if mean is None else signed(mean),
        "bounds": "" if low is None or high is None else f"[{signed(low)}, {signed(high)}] of {of}",
        "theirs": signed(claim.gain),
        "source": claim.source,
        "why": (answer.reason or "") if mean is not None and verdict != stats.NOT_COMPARABLE else "",  # stands above
    }


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
            source = html_page.inside("image/png", path.read_bytes())
            pictures.append({"title": panel["title"], "alt": panel["alt"], "source": source, "legend": legend})
            pictures[-1]["tiles"] = tiles(panel)
    return pictures


def tiles(panel: Mapping[str, Any]) -> str:
    """Return where a panel has the frame, its ground truth and each cell's mask, as JSON; empty for an older panel."""
    if "tile" not in panel:
        return ""
    width, height = panel["tile"]
    frame, truth, *masks = (qualitative.corner(index, height) for index in range(2 + len(panel["cells"])))
    cells = dict(zip(panel["cells"], masks, strict=True))
    return json.dumps({"size": [width, height], "frame": frame, "truth": truth, "cells": cells})


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
    note = "Device time: ranks × wall time; a pass that several evaluations share is divided among them."
    return Table(
        "Jobs",
        ("Job", "Fingerprint", "Device time", "Device", "Launcher", "Commit"),
        tuple(rows),
        (note,),
        align="llrlll",
    )


def duration(seconds: float) -> str:
    """Return '42 s', '5 min', '3.2 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
