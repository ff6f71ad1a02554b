"""An experiment's numbers, and its tables and figures by its file of reports/."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from harness.config import plugins
from harness.plan.plan import Experiment
from harness.results.rows import CellResult, Context, Row, aggregate
from harness.results.table import Report


@dataclass(frozen=True)
class Review:
    """One experiment as MLflow, or an output directory, knows it. Its tables are made when they are asked for."""

    experiment: Experiment
    results: Sequence[CellResult]
    context: Context

    @cached_property
    def rows(self) -> Sequence[Row]:
        """Its rows, with the paper's claims."""
        return aggregate(self.results, self.context)

    @cached_property
    def report(self) -> Report:
        """Its tables and figures. Raise UsageError as `render` does."""
        return render(self.experiment, self.results, self.context)


def render(experiment: Experiment, results: Sequence[CellResult], context: Context) -> Report:
    """Return the report. Raise UsageError, with the file's name, where a person's own report fails."""
    from harness.results.frame import to_frame  # pandas, which --json does without

    folders = experiment.config.folders
    with plugins.blamed(plugins.find("reports", experiment.report, folders)):
        module = plugins.load("reports", experiment.report, folders)
        report: Report = module.render(to_frame(results), context)
        return replace(report, source=module.__name__)
