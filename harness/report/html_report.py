"""One page that holds a whole report: no network, no script, figures and panels inside of it, every name escaped.

It is made from the report, its frame and context, and the files beside it (figures as SVG, panels as PNG).
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.results import stats
from harness.results.palette import palette
from harness.results.rows import ClaimResult, Context, claims, null, summary
from harness.results.table import Report, Table, clean, signed, stem

NAME = "index.html"
TONES = {
    stats.REPRODUCED: "good",
    stats.SAME_SIGN: "mild",
    stats.UNDECIDED: "open",
    stats.CONTRADICTED: "bad",
}
NO_PANELS = "they need a finished pair of rows to compare, the data at hand, and masks kept by the evaluations"


def write(report: Report, frame: pd.DataFrame, context: Context, folder: Path) -> Path:
    """Write index.html into a report's folder. Raises OSError."""
    path = folder / NAME
    path.write_text(render(report, frame, context, folder), encoding="utf-8")
    return path


def render(report: Report, frame: pd.DataFrame, context: Context, folder: Path) -> str:
    """The page's text; figures and panels that are not in the folder are left out."""
    own = frame[frame["experiment"] == context.experiment]
    cells = [{str(key): null(value) for key, value in row.items()} for row in summary(own, context).to_dict("records")]
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    return found.get_template("report.html.j2").render(
        report=report,
        context=context,
        facts=facts(own, cells, context),
        undone=[f"{cell['label']}: {said_undone(cell)}" for cell in cells if cell["status"] != "done"],
        cards=[card(one, cells, context.margin) for one in claims(own, context)],
        rule=stats.RULE.format(margin=context.margin),
        figures=figures(report, folder),
        panels=panels(context, folder),
        no_panels=NO_PANELS,
        first_seed=null(own["seed"].min()) if len(own) else "",
        data=context.evidence.data,
        versions=versions(own),
        runs=runs(own, context),
        jobs=jobs(context),
        dirty=bool((own["dirty"] == True).any()),  # noqa: E712 - the column holds None as well
        again=again(own, context),
    )


def facts(own: pd.DataFrame, cells: list[dict[str, Any]], context: Context) -> list[tuple[str, str]]:
    """What a reader wants first."""
    done = int((own["status"] == "done").sum())
    seeds = len(set(own["seed"]))
    units = [cell["units"] for cell in cells if cell["units"]]
    seconds = [job["seconds"] for job in context.evidence.jobs if job.get("seconds")]
    found = [("preset", context.preset), ("data", context.dataset), ("cells done", f"{done} of {len(own)}")]
    found += [("seeds", str(seeds))] if seeds else []
    found += [("units behind an interval", str(min(units)))] if units else []
    return found + ([("computing", duration(sum(seconds)))] if seconds else [])


def said_undone(cell: Mapping[str, Any]) -> str:
    """Status and reason of a row that is not wholly done."""
    part = f"{cell['seeds']} of {cell['planned']} seeds, " if cell["seeds"] else ""
    return part + ": ".join(filter(None, (str(cell["status"]), cell["reason"])))


def card(one: ClaimResult, cells: list[dict[str, Any]], margin: float) -> dict[str, str]:
    """A claim of the paper, ours, and the verdict, in words."""
    labels = {cell["cell"]: str(cell["label"]) for cell in cells}
    mean, low, high, of = one.ours.mean, *one.ours.interval[:2], one.ours.interval.of
    return {
        "whom": f"{labels[one.claim.cell]} over {labels[one.claim.over]}",
        "word": one.verdict or "no verdict",
        "tone": {**TONES, stats.EQUAL.format(margin=margin): "even"}.get(one.verdict or "", ""),
        "ours": "not known yet" if mean is None else signed(mean),
        "bounds": "" if low is None or high is None else f"[{signed(low)}, {signed(high)}] of {of}",
        "theirs": signed(one.claim.gain),
        "source": one.claim.source,
        "why": (one.reason or "") if mean is not None and one.verdict != stats.NOT_COMPARABLE else "",  # said above
    }


def figures(report: Report, folder: Path) -> list[dict[str, str]]:
    """Those whose SVG is there, as pictures inside the page."""
    found = []
    for name, figure in report.figures.items():
        path = folder / f"{stem(name)}.svg"
        if path.is_file():
            source = inside("image/svg+xml", path.read_bytes())
            found.append({"name": stem(name), "title": figure.title, "alt": figure.alt, "source": source})
    return found


def panels(context: Context, folder: Path) -> list[dict[str, Any]]:
    """Those whose PNG is there, with the colours of the classes in them."""
    classes = context.evidence.classes
    colours = palette(len(classes))
    found = []
    for panel in context.evidence.panels:
        path = folder / "panels" / Path(str(panel["file"])).name
        if path.is_file():
            legend = [
                (name, "#" + bytes(colours[classes.index(name)]).hex()) for name in panel["classes"] if name in classes
            ]
            source = inside("image/png", path.read_bytes())
            found.append({"title": panel["title"], "alt": panel["alt"], "source": source, "legend": legend})
    return found


def inside(kind: str, data: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def versions(own: pd.DataFrame) -> str:
    """Library versions of the rows; where rows differ, each that stands anywhere."""
    found: dict[str, set[str]] = {}
    for value in own["versions"]:
        for name, version in (value or {}).items():
            found.setdefault(name, set()).add(str(version))
    return ", ".join(f"{name} {' or '.join(sorted(known))}" for name, known in sorted(found.items()))


def runs(own: pd.DataFrame, context: Context) -> Table:
    """Every cell and seed with its run."""
    columns = ("Row", "Seed", "Status", "mIoU", "Commit", "Device", "Precision", "Run")
    rows, links = [], {}
    for place, (_, row) in enumerate(own.iterrows()):
        value = {key: null(row[key]) for key in ("miou", "commit", "device", "precision", "run_id", "dirty")}
        commit = f"{short(value['commit'])}{' + changes' if value['dirty'] else ''}" if value["commit"] else "–"
        miou = "–" if value["miou"] is None else f"{value['miou']:.2f}"
        rest = [value["device"] or "–", value["precision"] or "–", str(value["run_id"] or "–")]
        rows.append((str(row["label"]), str(row["seed"]), str(row["status"]), miou, commit, *map(str, rest)))
        if context.link and value["run_id"]:
            links[place, len(columns) - 1] = f"{context.link}{value['run_id']}"
    return Table("Runs", columns, tuple(rows), align="lrlrllll", links=links)


def jobs(context: Context) -> Table:
    """Every finished job with its cost."""
    rows = []
    for job in context.evidence.jobs:
        ranks = f"{job['world']} ×" if job.get("world", 1) != 1 else ""
        device = f"{ranks} {job.get('device', '–')}".strip()
        commit = f"{short(job.get('commit') or '–')}{' + changes' if job.get('dirty') else ''}"
        took = duration(job["seconds"]) if job.get("seconds") else "–"
        rows.append((job["name"], job["fingerprint"], took, device, str(job.get("launcher", "–")), commit))
    return Table("Jobs", ("Job", "Fingerprint", "Time", "Device", "Launcher", "Commit"), tuple(rows), align="llrlll")


def again(own: pd.DataFrame, context: Context) -> list[str]:
    """The commands that make it anew."""
    commits = sorted({one for found in own["commit"] if isinstance(found, str) for one in short(found).split(", ")})
    others = f"   # rows also ran at {', '.join(commits[1:])}" if commits[1:] else ""
    checkout = [f"git checkout {commits[0]}{others}"] if commits else []
    set_up = ["make .venv/.ready && . .venv/bin/activate"]
    return [*checkout, *set_up, clean(context.evidence.command or context.command)]


def short(commits: str) -> str:
    """Commits, one or several side by side (core.record.beside), cut to twelve digits each."""
    return ", ".join(commit[:12] for commit in commits.split(", "))


def duration(seconds: float) -> str:
    """'42 s', '5 min', '3.2 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
