"""The run of a plan in MLflow, under which every training and every cell has one of its own."""

from pathlib import Path

from harness.plan.job import Job, digest
from harness.plan.plan import Experiment, Plan, setting
from harness.results import records, score
from harness.results.paper import count
from harness.results.table import Report, report_markdown
from harness.tracking import tags, view
from harness.tracking.client import EXPERIMENT, PLAN, ROLE
from harness.tracking.runs import Found
from harness.tracking.store import Store
from harness.tracking.training_run import known_run, text


class PlanRun:
    """One experiment of a plan; its run is made at the first need and continued by the same plan."""

    def __init__(self, store: Store, plan: Plan, experiment: Experiment) -> None:
        self.store, self.plan, self.experiment = store, plan, experiment
        self.tracking = store.tracking
        self.opened: tuple[str, str] | None = None

    def ids(self) -> tuple[str, str]:
        """Return the ids of the MLflow experiment and of the run."""
        experiment = self.experiment
        if self.opened is None:
            with self.store.lock:
                experiment_id = self.tracking.experiment(experiment.name)
                run = self.tracking.parent(
                    experiment_id,
                    name=title(experiment),
                    plan=experiment.digest,
                    tags={
                        ROLE: "plan",
                        EXPERIMENT: experiment.name,
                        "harness.preset": experiment.config.preset,
                    },
                    params=text(setting(experiment.config)),
                    description=f"{experiment.title}. Children: one run per training, one per row.",
                )
            self.opened = (experiment_id, run)
        return self.opened

    @property
    def run(self) -> str:
        """The run's id."""
        return self.ids()[1]

    def resume(self) -> None:
        """Mark the plan's run as at work: jobs of it are about to be run."""
        self.tracking.resume(self.run)

    def tag_live(self, job: Job, progress: dict[str, str]) -> None:
        """Tag an evaluation's progress on the plan's run: its cell has no run before its number is there."""
        if self.opened is not None and job in self.experiment.jobs:
            self.tracking.tag(self.run, {tags.LIVE: job.name, **progress})

    def close(self, status: str) -> None:
        """End the run without a report, where it was opened here."""
        if self.opened is not None:
            with self.store.asking():
                self.mark(self.run, status)

    def abandon(self) -> None:
        """Let go of the run before anything was run: FAILED if it is RUNNING, else as it was. Raise UnfitError."""
        if self.opened is not None:
            run, self.opened = self.opened[1], None
            if self.tracking.get(run).status == "RUNNING":
                self.mark(run, "FAILED")

    def report(self, report: Report, folder: Path, status: str) -> None:
        """Log the report as artefacts and as the run's and experiment's note; give the run its true status."""
        experiment_id, run = self.ids()
        for path in sorted(folder.iterdir()):
            self.tracking.file(run, path, "report")
        markdown = report_markdown(report)
        key = view.share(self.tracking, experiment_id, run)
        marks, _, heading = markdown.partition("\n")[0].partition(" ")
        link = f"{marks} [{heading}]({view.address(experiment_id, key)})"  # the banner of the experiment's page
        self.tracking.note(experiment_id, link + markdown.removeprefix(f"{marks} {heading}"))
        self.tracking.describe(run, markdown)
        self.mark(run, status)

    def mark(self, run: str, status: str) -> None:
        """Set a run RUNNING, or end it."""
        if status == "RUNNING":
            self.tracking.resume(run)
        else:
            tags.remove(self.tracking, run, (tags.LIVE, *tags.PROGRESS))
            self.tracking.finish(run, status)

    def complete(self) -> None:
        """Note that all finished work of the plan is uploaded: `up_to_date` from now on."""
        self.tracking.tag(self.run, {"harness.told": self.done()})

    def up_to_date(self) -> bool:
        """Return whether the store already has all that is done of this plan: then an invocation creates nothing."""
        parent = self.find(ended=True)
        return parent is not None and parent.tags.get("harness.told") == self.done()

    def find(self, ended: bool) -> Found | None:
        """Return the plan's run as the store has it; with `ended`, only a FINISHED one."""
        runs = self.tracking.find(self.experiment.name, [self.experiment.digest], tag=PLAN, ended=ended)
        return runs.get(self.experiment.digest)

    def correct(self, status: str) -> None:
        """Give a run that says another status than `status` the true one; one that is not there stays so."""
        run = self.find(ended=False)
        if run is not None and run.status != status:
            self.mark(run.run_id, status)

    def link(self) -> str:
        """Return the run's address; empty if it has not ended well."""
        run = self.find(ended=True)
        return "" if run is None else self.tracking.link(run.run_id)

    def pages(self) -> str:
        """Return the address of the plan's runs, up to a run's id; empty if the store has no pages."""
        return view.pages(self.tracking, self.experiment.name)

    def cell_runs(self) -> dict[str, str]:
        """Run ids of the cells that the store has, by fingerprint."""
        fingerprints = [cell.job.fingerprint for _, cell in self.experiment.cells]
        return {key: run.run_id for key, run in self.tracking.find(self.experiment.name, fingerprints).items()}

    def known_run(self, job: Job) -> str | None:
        """Return the run that holds a training, None where the store has none."""
        return known_run(self.plan.jobdir(job), self.store)

    def done(self) -> str:
        """Return a digest of what is done of the plan: equal while nothing is added or made anew."""
        done = [(seed, cell) for seed, cell in self.experiment.cells if self.plan.state(cell.job) == "done"]
        attempts = [records.provenance(self.plan.directory(cell.job)).get("made") for _, cell in done]
        scored = [record.fingerprint for _, record in score.scores(self.plan.root, self.experiment.config)]
        metrics = list(self.experiment.config.evaluate.metrics)  # their numbers are told with the cells
        return digest([[seed, cell.name] for seed, cell in done] + attempts + scored + metrics)


def title(experiment: Experiment) -> str:
    """Return a plan's run by name: 'Table 1 · demo · 10 epochs · 1 seed'."""
    config = experiment.config
    words = (experiment.title.partition(" – ")[0], config.preset, count(config.train.epochs, "epoch"))
    return " · ".join((*words, count(len(config.seeds), "seed")))
