"""The other numbers of every row, beside the mIoU that the table is about: means, then intervals and gains."""

from collections.abc import Sequence

from harness.config import metrics
from harness.results import measures, stats
from harness.results.means import null
from harness.results.measures import Measure
from harness.results.rows import Context, Row
from harness.results.table import Table, signed

NONE = "–"
OFFICIAL = "predictions need only be constant; a video's last window is skipped, as in VSPW's script"
STRICT = "every window; void is ignored; predictions must be constant and correct"


def headers(rows: Sequence[Row], context: Context) -> dict[str, str]:
    """Return the numbers that a row has, with their headers: of video consistency the context's variant alone."""
    strict = context.vc == "strict"
    names = {
        "miou": "mIoU",
        "miou_nanmean": "mIoU, nanmean",
        "fwiou": "wIoU",
        "accuracy": "pixel accuracy",
        "mean_accuracy": "mean accuracy",
        "mvc8_strict" if strict else "mvc8": "mVC8",
        "mvc16_strict" if strict else "mvc16": "mVC16",
    }
    always = {number for name in metrics.ALWAYS for number in metrics.load(name).Metric.names}
    chosen = {number: header for number, header in measures.headers(rows).items() if number not in always}
    return {key: header for key, header in (names | chosen).items() if any(key in row.metrics for row in rows)}


def table(rows: Sequence[Row], context: Context) -> Table | None:
    """One row a cell, means over seeds; None where no row has more than its mIoU."""
    names = headers(rows, context)
    if not set(names) - {"miou"}:
        return None
    notes = ["In percent, means over seeds. mIoU, nanmean: a class that is only predicted counts as 0."]
    if any(key.startswith("mvc") for key in names):
        notes.append(f"mVC, {context.vc} variant: {STRICT if context.vc == 'strict' else OFFICIAL}.")
    return Table(
        f"{context.title}: other metrics",
        ("Method", *names.values()),
        tuple((row.label, *(f"{row.metrics[k]:.2f}" if k in row.metrics else NONE for k in names)) for row in rows),
        tuple(notes),
        "l" + "r" * len(names),
        raw=tuple({"cell": row.cell, **{key: row.metrics.get(key) for key in names}} for row in rows),
    )


def intervals(rows: Sequence[Row], context: Context) -> Table | None:
    """One row a cell and number, with interval, gain and verdict; None where no number has an interval or a gain."""
    every = [
        (row, key, header, each)
        for key, header in headers(rows, context).items()
        if key != "miou"
        for row in rows
        if (each := measures.measure(row, key)) is not None
    ]
    if all(each.interval.low is None and each.gain.mean is None for *_, each in every):
        return None
    level = f"{stats.LEVEL:.0%} interval"
    notes = [
        f"In percent. [ , ]: {level} over {' or '.join(sorted(of))}, as for mIoU (docs/STATISTICS.md)."
        for of in [{each.interval.of for *_, each in every if each.interval.of}]
        if of
    ]
    notes.append(
        f"Gain over the row's baseline: {stats.BETTER} or {stats.WORSE} if its interval excludes 0, "
        f"{stats.EQUAL.format(margin=context.margin)} if it is within this range, otherwise {stats.UNDECIDED}; "
        f"with one seed, {stats.ONE_PAIR}."
    )
    if lower := sorted({header for *_, header, each in every if each.better == "lower"}):
        notes.append(f"Lower is better: {', '.join(lower)}.")
    return Table(
        f"{context.title}: intervals of other metrics",
        ("Metric", "Method", f"mean [{level}]", f"gain [{level}]", "Verdict"),
        tuple(line(row, header, each, context.margin) for row, _, header, each in every),
        tuple(notes),
        "llrrl",
        raw=tuple(raw(row, key, each, context.margin) for row, key, _, each in every),
    )


def line(row: Row, header: str, each: Measure, margin: float) -> tuple[str, ...]:
    """Return a row of the table of intervals."""
    gain = NONE if each.gain.mean is None else signed(each.gain.mean) + bounds(each.gain.interval, sign=True)
    return header, row.label, f"{each.mean:.2f}{bounds(each.interval)}", gain, each.verdict(margin).word or NONE


def bounds(interval: stats.Interval, sign: bool = False) -> str:
    """' [low, high]'; empty without an interval."""
    if interval.low is None or interval.high is None:
        return ""
    low, high = (signed(end) if sign else f"{end:.2f}" for end in (interval.low, interval.high))
    return f" [{low}, {high}]"


def raw(row: Row, key: str, each: Measure, margin: float) -> dict[str, object]:
    """Return the same unrounded, for CSV."""
    gain = each.gain.interval
    return {
        "metric": key,
        "cell": row.cell,
        "mean": each.mean,
        "low": null(each.interval.low),
        "high": null(each.interval.high),
        "interval_of": each.interval.of,
        "gain": null(each.gain.mean),
        "gain_low": null(gain.low),
        "gain_high": null(gain.high),
        "gain_interval_of": gain.of,
        "verdict": each.verdict(margin).word,
    }
