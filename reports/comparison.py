"""Our results beside the paper's: one row per configuration, with its gain over its baseline.

Where data, backbone or schedule are not the paper's, the title says so and the paper's columns stand apart.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from harness.results import paper, stats
from harness.results import power as powers
from harness.results.frame import from_frame
from harness.results.rows import CellResult, ClaimResult, Context, Row, claims, in_order
from harness.results.table import Report, Table
from harness.results.table import signed as with_sign
from reports import _cost, _figures, _metrics, _per_class

NONE = "–"
INTERVAL = f"{stats.LEVEL:.0%} interval"
RAW = (
    *("cell", "label", "method", "backbone", "epochs", "status", "reason", "planned", "seeds", "units"),
    *("miou", "sd", "low", "high", "interval_of", "sd_seeds", "sd_units", "no_interval"),
    *("gain", "gain_sd", "gain_seeds", "gain_low", "gain_high", "gain_interval_of", "gain_sd_seeds", "gain_sd_units"),
    *("paper_miou", "paper_gain", "verdict", "stage", "moved", "exited"),
)


class Column(NamedTuple):
    """A column's header and the text of its cell in a row."""

    header: str
    align: str
    text: Callable[[Row], str]


def render(
    frame: pd.DataFrame,
    context: Context,
    arrange: Callable[[list[Column]], list[Column]] = list,
    remarks: tuple[str, ...] = (),
) -> Report:
    """Return the table of one experiment, from its part of the results frame.

    Another report arranges the columns in its way, and has remarks under the table before all else.
    """
    rows = from_frame(frame, context)
    columns = arrange(choose(rows, context))
    table = Table(
        title=title(context),
        columns=tuple(column.header for column in columns),
        rows=tuple(tuple(column.text(row) for column in columns) for row in rows),
        notes=(*remarks, *notes(rows, context)),
        align="".join(column.align for column in columns),
        bold=frozenset((row, index) for row in best(rows) for index, c in enumerate(columns) if c.text is ours),
        raw=tuple(row.values(RAW) for row in rows),
        links={(index, 0): link for index, row in enumerate(rows) if (link := page(row, context))},
    )
    appendix = {
        "metrics": _metrics.table(rows, context),
        "metric_intervals": _metrics.intervals(rows, context),
        "cost": _cost.table(rows, context),
        **_per_class.tables(rows, context),
    }
    return Report(
        table.title,
        {context.experiment: table},
        command=context.command,
        headline=headline(rows, context),
        figures=_figures.every(rows, context),
        appendix={f"{context.experiment}_{name}": table for name, table in appendix.items() if table is not None},
    )


def page(row: Row, context: Context) -> str:
    """Return where the run of a row's first seed is shown; empty where the store has no pages."""
    runs = [run.run_id for run in row.runs if run.run_id]
    return f"{context.link}{runs[0]}" if context.link and runs else ""


def title(context: Context) -> str:
    """The experiment's title, and whether it is not the paper's setting; a note says what differs."""
    return context.title if context.comparable else f"{context.title} (not the paper's setting)"


def choose(rows: list[Row], context: Context) -> list[Column]:
    """Return the columns: ours beside the paper's where they compare, else the paper's last and with their setting."""
    beside = context.comparable
    setting = "" if beside else f" ({paper.LABEL})"
    theirs = []
    if any(row.paper_miou is not None for row in rows):
        theirs.append(Column(f"paper mIoU{setting}", "r", lambda row: number(row.paper_miou)))
    if any(row.paper_gain is not None for row in rows):
        theirs.append(Column(f"paper gain{setting}", "r", lambda row: signed(row.paper_gain)))
    miou, gain = ("ours", "our gain") if beside else ("mIoU", "gain")
    if any(row.interval.low is not None for row in rows):
        miou = f"{miou} [{INTERVAL}]"
    if any(row.gain.interval.low is not None for row in rows):
        gain = f"{gain} [{INTERVAL}]"
    mine = [Column(miou, "r", ours)]
    if any(row.baseline for row in rows):
        mine.append(Column(gain, "r", our_gain))
    if beside and any(row.verdict for row in rows):  # elsewhere all are "not comparable": the notes say it once
        mine.append(Column("Verdict", "l", lambda row: verdict(row, rows)))
    if any(row.planned > 1 for row in rows):
        mine.append(Column("Seeds", "r", seeds))
    who = [
        Column("Method", "l", lambda row: row.label),
        Column("Backbone", "l", lambda row: row.backbone or NONE),
        Column("Epochs", "r", lambda row: NONE if row.epochs is None else str(row.epochs)),
    ]
    return who + (theirs + mine if beside else mine + theirs) + [cost(key, context) for key in context.columns]


def cost(key: str, context: Context) -> Column:
    """Return the column of `report.columns` that a key names."""
    header, *_ = _cost.COLUMNS[key]
    return Column(header, "r", lambda row: _cost.text(key, context.cost(row)))


def headline(rows: list[Row], context: Context) -> str:
    """Return in one sentence which rows differ from their baseline; empty without a gain.

    A difference is one where the interval over seeds excludes 0 with all of them read together (Holm).
    """
    gains = [row for row in rows if row.gain.mean is not None]
    if not gains:
        return ""
    others = dict.fromkeys(label(rows, str(row.baseline)) for row in gains)
    baseline = next(iter(others)) if len(others) == 1 else "its baseline"
    over_seeds = [row for row in gains if row.gain.interval.p is not None and row.gain.interval.of in stats.OVER_SEEDS]
    decided = stats.holm([row.gain.interval.p or 0 for row in over_seeds])
    differ = [row for row, yes in zip(over_seeds, decided, strict=True) if yes]
    groups = {
        f"Above {baseline}": [row for row in differ if (row.gain.mean or 0) > 0],
        f"Below {baseline}": [row for row in differ if (row.gain.mean or 0) < 0],
        "No difference shown" if differ else f"No row differs from {baseline}": [
            r for r in over_seeds if r not in differ
        ],
        f"Over {baseline}, noise between seeds unknown": [row for row in gains if row not in over_seeds],
    }
    parts = [
        f"{name}: {', '.join(f'{r.label} ({our_gain(r)})' for r in some)}" for name, some in groups.items() if some
    ]
    data = {"synthetic": "synthetic videos"}.get(context.dataset, context.dataset)
    return f"{'; '.join(parts)}; {data}, {paper.count(min(row.gain.seeds for row in gains), 'seed')}."


def ours(row: Row) -> str:
    """mIoU over the seeds that are done with its interval, else the status."""
    return with_bounds(spread(number(row.miou), row.sd), number, row.interval) if row.seeds else row.status


def our_gain(row: Row) -> str:
    """Mean difference to the baseline over the seeds that both have, with its interval."""
    return with_bounds(spread(signed(row.gain.mean), row.gain.sd), signed, row.gain.interval)


def with_bounds(text: str, ends: Callable[[float | None], str], interval: stats.Interval) -> str:
    """'36.80 [32.00, 41.30]'; the number alone where it has no interval."""
    return text if interval.low is None else f"{text} {bounds(ends, interval)}"


def bounds(text: Callable[[float | None], str], interval: stats.Interval) -> str:
    """'[low, high]', each as `text` prints it."""
    low, high = interval.low, interval.high
    return NONE if low is None or high is None else f"[{text(low)}, {text(high)}]"


def verdict(row: Row, rows: list[Row]) -> str:
    """The verdict on the paper's claim for a row; over which row, and of what, where that is not the common case."""
    claim = row.claim
    if claim is None or not claim.verdict:
        return NONE
    elsewhere = f"over {label(rows, claim.claim.baseline)}" if claim.claim.baseline != row.baseline else ""
    return claim.verdict + "".join(f" ({more})" for more in (elsewhere, narrower(claim)) if more)


def narrower(claim: ClaimResult) -> str:
    """Return what a verdict speaks of where that is less than new seeds and new videos, else ''."""
    of = claim.ours.interval.of or ""
    return "" if of == stats.SEEDS_AND_VIDEOS or claim.verdict in (stats.ONE_PAIR, stats.NOT_COMPARABLE) else of


def label(rows: list[Row], cell: str) -> str:
    """A row's name in the table."""
    return next(row.label for row in rows if row.cell == cell)


def seeds(row: Row) -> str:
    """Return the number of seeds in the mean, and of how many."""
    return str(row.seeds) if row.seeds == row.planned else f"{row.seeds} of {row.planned}"


def number(value: float | None) -> str:
    """Two decimals, as in the paper."""
    return NONE if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """Two decimals with a sign; what rounds to nothing has none."""
    return NONE if value is None else with_sign(value)


def spread(text: str, sd: float | None) -> str:
    """The mean with its sample standard deviation over seeds, where there are several."""
    return text if sd is None else f"{text} ± {sd:.2f}"


def best(rows: list[Row]) -> list[int]:
    """Rows with our highest mIoU as printed; a mean over a part of its seeds is no candidate, a single row no best.

    None where one of them has a single seed: the next seed may order the rows in another way.
    """
    values = {
        index: round(row.miou, 2) for index, row in enumerate(rows) if row.status == "done" and row.miou is not None
    }
    first = [index for index, value in values.items() if value == max(values.values())] if len(values) > 1 else []
    return first if all(rows[index].seeds > 1 for index in first) else []


def notes(rows: list[Row], context: Context) -> list[str]:
    """Return what a reader must know: comparability, undone rows, seeds, intervals, verdicts, provenance."""
    lines = []
    if not context.comparable:
        because = f" ({context.reason})" if context.reason else ""
        published = any(row.paper_miou is not None for row in rows)
        cannot = ": the paper's columns cannot be compared with ours" if published else ""
        lines.append(f"Not the paper's setting{because}{cannot}.")
    undone: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.status != "done":
            undone[": ".join(filter(None, (row.status, row.reason)))].append(row.label)
    lines += [f"{', '.join(labels)}: {why}." for why, labels in undone.items()]
    lines += hidden_notes(rows, context)
    lines += seed_notes(rows) + interval_notes(rows) + claim_notes(rows, context)
    lines += power_notes(rows, context)
    lines += [f"{row.label}: code changed since it ran ({row.changed})." for row in rows if row.changed]
    return lines + provenance(rows)


def hidden_notes(rows: list[Row], context: Context) -> list[str]:
    """Numbers of the paper that nobody but the challenge's server can check."""
    published = [paper.published(context.experiment, row.cell) for row in rows]
    return [
        f"The paper's {number.miou:.2f} ({number.source}) cannot be checked here because the test labels are not "
        "public."
        for number in published
        if number is not None and number.hidden
    ]


def seed_notes(rows: list[Row]) -> list[str]:
    """Explain ±, and that one seed has none."""
    lines = []
    if any(row.seeds > 1 for row in rows):
        lines.append("± is the sample standard deviation over training seeds; gains are paired by seed.")
    single = [row.label for row in rows if row.seeds == 1]
    if single:
        whom = "" if len(single) == len(rows) else f"{', '.join(single)}: "
        lines.append(f"{whom}only one seed, so the noise between seeds is unknown.")
    return [line[0].upper() + line[1:] for line in lines]


def interval_notes(rows: list[Row]) -> list[str]:
    """Explain what the intervals speak of, and why a row has none."""
    numbers: dict[tuple[str, str | None], set[str]] = defaultdict(set)
    for row in rows:
        for name, interval in (("mIoU", row.interval), ("gain", row.gain.interval)):
            if interval.of is not None:
                numbers[interval.of, row.described].add(name)
    lines = [
        f"[ , ] of {' and '.join(sorted(names, reverse=True))}: {INTERVAL} of {of}; {described}."
        for (of, described), names in numbers.items()
    ]
    without: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.no_interval:
            without[row.no_interval].append(row.label)
    for why, labels in without.items():
        whom = "" if len(labels) == len(rows) else f"{', '.join(labels)}: "
        lines.append(f"{whom}{'no' if whom else 'No'} interval, so no verdict ({why}).")
    return lines


def claim_notes(rows: list[Row], context: Context) -> list[str]:
    """Every claim of the paper that has a verdict, with both gains; all of them read together; then the rule."""
    answers, lines = claims(rows), []
    for answer in answers:
        if answer.verdict:
            interval = answer.ours.interval
            mine = f"ours {signed(answer.ours.mean)} {bounds(signed, interval)}{noise(interval)}"
            more = (answer.reason if context.comparable else "", narrower(answer))  # the reasons stand above elsewhere
            why = "".join(f" ({text})" for text in more if text)
            theirs = f"the paper's {signed(answer.claim.gain)} ({answer.claim.source})"
            pair = versus(rows, answer.claim.cell, answer.claim.baseline)
            lines.append(f"{pair}: {mine}, {theirs}: {answer.verdict}{why}.")
    verdicts = {answer.verdict for answer in answers}
    scopes = {interval.of for row in rows for interval in (row.interval, row.gain.interval)}
    rule = stats.rule(context.margin, verdicts, scopes) if answers else ""
    return lines + together(rows, answers) + ([rule] if rule else [])


def versus(rows: list[Row], cell: str, baseline: str) -> str:
    """'Decoder A over UPerNet'."""
    return f"{label(rows, cell)} over {label(rows, baseline)}"


def noise(interval: stats.Interval) -> str:
    """' (seeds ±0.55, videos ±0.20)': the noise of a gain by its sources; empty where none is known."""
    sources = (("seeds", interval.sd_seeds), ("videos", interval.sd_units))
    texts = [f"{name} ±{sd:.2f}" for name, sd in sources if sd is not None]
    return f" ({', '.join(texts)})" if texts else ""


def together(rows: list[Row], answers: list[ClaimResult]) -> list[str]:
    """Which of several claims' intervals exclude 0 with all of them read together; nothing for a single claim."""
    family = [
        (versus(rows, answer.claim.cell, answer.claim.baseline), p)
        for answer in answers
        if (p := answer.ours.interval.p) is not None and answer.ours.interval.of != stats.CHECKPOINT_PAIR
    ]
    if len(family) < 2:
        return []
    decided = [pair for (pair, _), yes in zip(family, stats.holm([p for _, p in family]), strict=True) if yes]
    share = f"Holm, at most {1 - stats.LEVEL:.0%} risk of any false one"
    return [f"All {len(family)} claims taken together ({share}): 0 is excluded for {', '.join(decided) or 'none'}."]


def power_notes(rows: list[Row], context: Context) -> list[str]:
    """Return what the paper's gains still need to be decided, and the smallest gains that would be seen."""
    needs = powers.needs(rows, context)
    short = [need for need in needs if need.seeds and (need.needed is None or need.needed > need.seeds)]
    lines = [f"{versus(rows, need.cell, need.baseline)}: {need.sentence}." for need in short if need.sentence]
    smallest = [
        f"{versus(rows, need.cell, need.baseline)} {need.smallest:.2f}" for need in needs if need.smallest is not None
    ]
    if smallest:
        lines.append(f"Smallest gain that {powers.POWER:.0%} of such tables would detect: {', '.join(smallest)}.")
    return lines


PROVENANCE: dict[str, Callable[[CellResult], str]] = {  # what may move a number -> of one run, in words
    "commit": lambda run: run.commit or "",
    "device": lambda run: run.device or "",
    "precision": lambda run: run.precision or "",
    "BN group": lambda run: "" if run.bn_group is None else str(run.bn_group),
    "versions": lambda run: ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items())),
}


def provenance(rows: list[Row]) -> list[str]:
    """Commit, device, precision, BN group and library versions: in one line where all rows agree, else row by row."""
    done = (run for row in rows for run in row.done if not row.cell.startswith("score_"))  # of masks none is known
    runs, same, notes = in_order(done), [], []
    for name, text in PROVENANCE.items():
        groups: dict[str, list[str]] = defaultdict(list)
        for run in runs:
            groups[text(run)].append(f"{run.label} (seed {run.seed})")
        values = [value for value in groups if value]
        if len(groups) > 1:
            listed = "; ".join(f"{value or 'unknown'}: {', '.join(labels)}" for value, labels in groups.items())
            notes.append(f"Rows differ in {name}, which may affect their results: {listed}.")
        elif values and name != "versions":
            same.append(f"{name} {values[0]}")
    if same and any(run.dirty for run in runs):
        same.append("with uncommitted changes")
    return ([f"Ours: {'; '.join(same)}."] if same else []) + notes
