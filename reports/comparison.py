"""Ours beside the paper's: one row a cell, with its gain over the cell it is measured against.

Where data, backbone or schedule are not the paper's, the title says so and the paper's columns stand apart.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from harness.results import paper, stats
from harness.results import power as powers
from harness.results.rows import ClaimResult, Context, claims, null, summary
from harness.results.table import Report, Table
from harness.results.table import signed as with_sign
from reports import _figures, _metrics, _per_class

NONE = "–"
INTERVAL = f"{stats.LEVEL:.0%} interval"
RAW = (
    *("cell", "label", "method", "backbone", "epochs", "status", "reason", "planned", "seeds", "units"),
    *("miou", "sd", "low", "high", "interval_of", "sd_seeds", "sd_units", "no_interval"),
    *("gain", "gain_sd", "gain_seeds", "gain_low", "gain_high", "gain_interval_of", "gain_sd_seeds", "gain_sd_units"),
    *("paper_miou", "paper_gain", "verdict", "stage", "moved", "exited"),
)


class Column(NamedTuple):
    """A column's header and its cell's text for a row of the summary."""

    header: str
    align: str
    text: Callable[[Any], str]


def render(
    frame: pd.DataFrame,
    context: Context,
    arrange: Callable[[list[Column]], list[Column]] = list,
    said: tuple[str, ...] = (),
) -> Report:
    """The table of one experiment, from its part of the results frame.

    Another report arranges the columns in its way, and says something under the table before all else.
    """
    own = frame[frame["experiment"] == context.experiment]
    rows = summary(own, context).to_dict("records")
    cells = [{str(key): null(value) for key, value in row.items()} for row in rows]
    found = claims(own, context)
    columns = arrange(choose(cells, found, context))
    table = Table(
        title=title(context),
        columns=tuple(column.header for column in columns),
        rows=tuple(tuple(column.text(cell) for column in columns) for cell in cells),
        notes=(*said, *notes(own, cells, found, context)),
        align="".join(column.align for column in columns),
        bold=frozenset((row, place) for row in best(cells) for place, c in enumerate(columns) if c.text is ours),
        raw=tuple({key: cell[key] for key in RAW} for cell in cells),
        links={(row, 0): link for row, cell in enumerate(cells) if (link := page(own, cell, context))},
    )
    appendix = {"metrics": _metrics.table(title(context), cells, context), "by_class": _per_class.table(own, context)}
    return Report(
        table.title,
        {context.experiment: table},
        command=context.command,
        figures=_figures.every(own, cells, context),
        appendix={f"{context.experiment}_{name}": made for name, made in appendix.items() if made is not None},
    )


def page(own: pd.DataFrame, cell: dict[str, Any], context: Context) -> str:
    """Where the run of a row's first seed is shown; empty where the store has no pages."""
    runs = [run for run in own.loc[own["cell"] == cell["cell"], "run_id"] if isinstance(run, str)]
    return f"{context.link}{runs[0]}" if context.link and runs else ""


def title(context: Context) -> str:
    """The experiment's title, and in brackets what is not the paper's."""
    if context.comparable:
        return context.title
    heads = ("data: ", "backbone: ", "schedule: ")
    found = [reason.partition(": ")[2] for reason in context.reasons if reason.startswith(heads)]
    named = [{"synthetic": "synthetic videos"}.get(part, part) for part in found] or list(context.reasons)
    return f"{context.title} ({', '.join(named) + ': ' if named else ''}not the paper's setting)"


def choose(cells: list[dict[str, Any]], found: list[ClaimResult], context: Context) -> list[Column]:
    """The columns: ours beside the paper's where they compare, else the paper's last and under their own setting."""
    gains = any(cell["baseline"] for cell in cells)
    beside = context.comparable
    setting = "" if beside else f" ({paper.LABEL})"
    theirs = []
    if any(cell["paper_miou"] is not None for cell in cells):
        theirs.append(Column(f"paper mIoU{setting}", "r", lambda cell: number(cell["paper_miou"])))
    if any(cell["paper_gain"] is not None for cell in cells):
        theirs.append(Column(f"paper gain{setting}", "r", lambda cell: signed(cell["paper_gain"])))
    mine = [Column("ours" if beside else "mIoU", "r", ours)]
    if any(cell["low"] is not None for cell in cells):
        mine.append(Column(INTERVAL, "r", lambda cell: bounds(number, cell["low"], cell["high"])))
    if gains:
        mine.append(Column("our gain" if beside else "gain", "r", our_gain))
    if any(cell["gain_low"] is not None for cell in cells):
        mine.append(Column(f"gain, {INTERVAL}", "r", lambda cell: bounds(signed, cell["gain_low"], cell["gain_high"])))
    if beside and any(one.verdict for one in found):  # elsewhere all are "not comparable": the notes say it once
        mine.append(Column("Verdict", "l", lambda cell: said_of(cell, found, cells)))
    if any(cell["planned"] > 1 for cell in cells):
        mine.append(Column("Seeds", "r", seeds))
    who = [
        Column("Method", "l", lambda cell: str(cell["label"])),
        Column("Backbone", "l", lambda cell: cell["backbone"] or NONE),
        Column("Epochs", "r", lambda cell: NONE if cell["epochs"] is None else str(cell["epochs"])),
    ]
    return who + (theirs + mine if beside else mine + theirs)


def ours(cell: dict[str, Any]) -> str:
    """mIoU over the seeds that are done, else the status."""
    return spread(number(cell["miou"]), cell["sd"]) if cell["seeds"] else str(cell["status"])


def our_gain(cell: dict[str, Any]) -> str:
    """Mean difference to the baseline over the seeds that both have."""
    return spread(signed(cell["gain"]), cell["gain_sd"])


def bounds(text: Callable[[float | None], str], low: float | None, high: float | None) -> str:
    """'[low, high]', each as `text` prints it."""
    return NONE if low is None or high is None else f"[{text(low)}, {text(high)}]"


def said_of(cell: dict[str, Any], found: list[ClaimResult], cells: list[dict[str, Any]]) -> str:
    """The verdict on the paper's claim for a row; over which row, and of what, where that is not the common case."""
    for one in found:
        if one.claim.cell == cell["cell"] and one.verdict:
            elsewhere = f"over {label(cells, one.claim.over)}" if one.claim.over != cell["baseline"] else ""
            return one.verdict + "".join(f" ({more})" for more in (elsewhere, narrower(one)) if more)
    return NONE


def narrower(one: ClaimResult) -> str:
    """What a verdict speaks of where that is less than new seeds and new videos; empty where its word says so."""
    of = one.ours.interval.of or ""
    return "" if of == stats.SEEDS_AND_VIDEOS or one.verdict in (stats.ONE_PAIR, stats.NOT_COMPARABLE) else of


def label(cells: list[dict[str, Any]], name: str) -> str:
    """A row's name in the table."""
    return next(str(cell["label"]) for cell in cells if cell["cell"] == name)


def seeds(cell: dict[str, Any]) -> str:
    """How many seeds are in the mean, and of how many."""
    done, planned = cell["seeds"], cell["planned"]
    return str(done) if done == planned else f"{done} of {planned}"


def number(value: float | None) -> str:
    """Two decimals, as in the paper."""
    return NONE if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """Two decimals with a sign; what rounds to nothing has none."""
    return NONE if value is None else with_sign(value)


def spread(text: str, sd: float | None) -> str:
    """The mean with its sample standard deviation over seeds, where there are several."""
    return text if sd is None else f"{text} ± {sd:.2f}"


def best(cells: list[dict[str, Any]]) -> list[int]:
    """Rows with our highest mIoU as printed; a mean over a part of its seeds is no candidate, a single row no best."""
    values = {row: round(cell["miou"], 2) for row, cell in enumerate(cells) if cell["status"] == "done"}
    return [row for row, value in values.items() if value == max(values.values())] if len(values) > 1 else []


def notes(own: pd.DataFrame, cells: list[dict[str, Any]], found: list[ClaimResult], context: Context) -> list[str]:
    """What a reader must know: comparability, rows without numbers, seeds, intervals, verdicts, provenance."""
    lines = []
    if not context.comparable:
        because = f" ({context.reason})" if context.reason else ""
        known = any(cell["paper_miou"] is not None for cell in cells)
        cannot = ": the paper's columns cannot be compared with ours" if known else ""
        lines.append(f"Not the paper's setting{because}{cannot}.")
    undone: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        if cell["status"] != "done":
            undone[": ".join(filter(None, (cell["status"], cell["reason"])))].append(str(cell["label"]))
    lines += [f"{', '.join(labels)}: {why}." for why, labels in undone.items()]
    lines += hidden_notes(cells, context)
    lines += seed_notes(cells) + interval_notes(cells) + claim_notes(cells, found, context)
    lines += power_notes(own, cells, context)
    lines += [f"{cell['label']}: code changed since it ran ({cell['changed']})." for cell in cells if cell["changed"]]
    return lines + provenance(own)


def hidden_notes(cells: list[dict[str, Any]], context: Context) -> list[str]:
    """Numbers of the paper that nobody but the challenge's server can check."""
    known = [paper.published(context.experiment, cell["cell"]) for cell in cells]
    return [
        f"The paper's {one.miou:.2f} ({one.source}): not checkable here: the test labels are not public."
        for one in known
        if one is not None and one.hidden
    ]


def seed_notes(cells: list[dict[str, Any]]) -> list[str]:
    """What ± means, and that one seed has none."""
    lines = []
    if any(cell["seeds"] > 1 for cell in cells):
        lines.append("± is the sample standard deviation over training seeds; gains are paired by seed.")
    single = [str(cell["label"]) for cell in cells if cell["seeds"] == 1]
    if single:
        whom = "" if len(single) == len(cells) else f"{', '.join(single)}: "
        lines.append(f"{whom}one seed, which says nothing about the noise between seeds.")
    return [line[0].upper() + line[1:] for line in lines]


def interval_notes(cells: list[dict[str, Any]]) -> list[str]:
    """What the intervals speak of, and why a row has none."""
    spoken: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell in cells:
        for what, key in (("mIoU", "interval_of"), ("gain", "gain_interval_of")):
            if cell[key] is not None:
                spoken[cell[key], cell["described"]].add(what)
    lines = [
        f"[ , ] of {' and '.join(sorted(of_what, reverse=True))}: {INTERVAL} of {of}; {described}."
        for (of, described), of_what in spoken.items()
    ]
    without: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        if cell["no_interval"]:
            without[cell["no_interval"]].append(str(cell["label"]))
    for why, labels in without.items():
        whom = "" if len(labels) == len(cells) else f"{', '.join(labels)}: "
        lines.append(f"{whom}{'no' if whom else 'No'} interval, so no verdict ({why}).")
    return lines


def claim_notes(cells: list[dict[str, Any]], found: list[ClaimResult], context: Context) -> list[str]:
    """Every claim of the paper that has a verdict, with both gains; all of them read together; then the rule."""
    lines = []
    for one in found:
        if one.verdict:
            interval = one.ours.interval
            mine = f"ours {signed(one.ours.mean)} {bounds(signed, interval.low, interval.high)}{parts(interval)}"
            more = (one.reason if context.comparable else "", narrower(one))  # the reasons stand above elsewhere
            why = "".join(f" ({text})" for text in more if text)
            theirs = f"the paper's {signed(one.claim.gain)} ({one.claim.source})"
            lines.append(f"{over(cells, one.claim.cell, one.claim.over)}: {mine}, {theirs}: {one.verdict}{why}.")
    return lines + together(cells, found) + ([stats.RULE.format(margin=context.margin)] if found else [])


def over(cells: list[dict[str, Any]], cell: str, base: str) -> str:
    """'Decoder A over UPerNet'."""
    return f"{label(cells, cell)} over {label(cells, base)}"


def parts(interval: stats.Interval) -> str:
    """' (seeds ±0.55, videos ±0.20)': the noise of a gain by its sources; empty where none is known."""
    known = (("seeds", interval.sd_seeds), ("videos", interval.sd_units))
    texts = [f"{name} ±{sd:.2f}" for name, sd in known if sd is not None]
    return f" ({', '.join(texts)})" if texts else ""


def together(cells: list[dict[str, Any]], found: list[ClaimResult]) -> list[str]:
    """Which of several claims' intervals exclude 0 with all of them read together; nothing for a single claim."""
    family = [
        (over(cells, one.claim.cell, one.claim.over), p)
        for one in found
        if (p := one.ours.interval.p) is not None and one.ours.interval.of != stats.CHECKPOINT_PAIR
    ]
    if len(family) < 2:
        return []
    decided = [whom for (whom, _), yes in zip(family, stats.holm([p for _, p in family]), strict=True) if yes]
    share = f"Holm, {1 - stats.LEVEL:.0%} for a false one among them"
    return [f"All {len(family)} claims read together ({share}): 0 is excluded for {', '.join(decided) or 'none'}."]


def power_notes(own: pd.DataFrame, cells: list[dict[str, Any]], context: Context) -> list[str]:
    """What the paper's gains still need to be decided, and the smallest gains that would be seen."""
    found = powers.needs(own, context)
    short = [one for one in found if one.seeds and (one.needed is None or one.needed > one.seeds)]
    lines = [f"{over(cells, one.cell, one.over)}: {one.sentence}." for one in short if one.sentence]
    seen = [f"{over(cells, one.cell, one.over)} {one.smallest:.2f}" for one in found if one.smallest is not None]
    if seen:
        lines.append(f"Smallest gain that {powers.POWER:.0%} of such tables would show: {', '.join(seen)}.")
    return lines


def provenance(own: pd.DataFrame) -> list[str]:
    """Commit, device, precision, BN group and library versions: in one line where all rows agree, else row by row."""
    done = own[(own["status"] == "done") & ~own["cell"].str.startswith("score_")]  # of others' masks none is known
    same, notes = [], []
    names = {"bn_group": "BN group"}
    for key in ("commit", "device", "precision", "bn_group", "versions"):
        rows: dict[str, list[str]] = defaultdict(list)
        for _, row in done.iterrows():
            rows[said(row[key])].append(f"{row['label']} (seed {row['seed']})")
        known = [value for value in rows if value]
        if len(rows) > 1:
            named = "; ".join(f"{value or 'not known'}: {', '.join(labels)}" for value, labels in rows.items())
            notes.append(f"Rows differ in {names.get(key, key)}, which may move their numbers: {named}.")
        elif known and key != "versions":
            same.append(f"{names.get(key, key)} {known[0]}")
    if same and (done["dirty"] == True).any():  # noqa: E712 - the column holds None as well
        same.append("with uncommitted changes")
    return ([f"Ours: {'; '.join(same)}."] if same else []) + notes


def said(value: Any) -> str:
    """A provenance value in a note; empty where it is not known."""
    plain = null(value)
    if isinstance(plain, dict):
        return ", ".join(f"{name} {version}" for name, version in sorted(plain.items()))
    return "" if plain is None else str(plain)
