"""The numbers of a row beside its mIoU, each with an interval and a gain over the row's baseline."""

from collections.abc import Iterable
from dataclasses import dataclass

from harness.results import stats
from harness.results.means import null
from harness.results.rows import Gain, Row, gain_of, interval_of


@dataclass(frozen=True)
class Measure:
    """One number of a row, in percent."""

    mean: float
    interval: stats.Interval
    gain: Gain
    header: str  # in tables
    better: str  # "higher" or "lower"

    def verdict(self, margin: float) -> stats.Verdict:
        """Return what may be said of its gain."""
        return stats.difference(self.gain.interval, margin, self.better)


def measure(row: Row, number: str) -> Measure | None:
    """Return one of a row's `metrics`; None where its sums are not at hand."""
    owners = [totals.metric for run in row.done for totals in run.totals.values() if number in totals.metric.names]
    if number not in row.metrics or not owners:
        return None
    over, gain = interval_of(row.done, number=number), gain_of(row.done, row.against, number)
    return Measure(row.metrics[number], over, gain, owners[0].names[number], owners[0].better)


def headers(rows: Iterable[Row]) -> dict[str, str]:
    """Return the header of every number that a metric of the rows gives."""
    runs = [run for row in rows for run in row.done]
    return {
        number: header
        for run in runs
        for totals in run.totals.values()
        for number, header in totals.metric.names.items()
        if number in run.metrics
    }


def as_json(row: Row, margin: float) -> dict[str, dict[str, object]]:
    """Return what `report --json` prints of a row's numbers: null where one is not known."""
    every = {number: measure(row, number) for number in row.metrics}
    return {
        number: {
            "mean": null(each.mean),
            "low": null(each.interval.low),
            "high": null(each.interval.high),
            "interval_of": each.interval.of,
            "gain": null(each.gain.mean),
            "gain_low": null(each.gain.interval.low),
            "gain_high": null(each.gain.interval.high),
            "better": each.better,
            "verdict": each.verdict(margin).word,
            "reason": each.interval.reason or each.verdict(margin).reason,
        }
        for number, each in every.items()
        if each is not None
    }
