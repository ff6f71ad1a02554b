"""Plans that were run, kept in the root: what makes a table again from the root alone, without the command.

<root>/plans/<digest>.json    one experiment: where its file is, the resolved configuration, the cells' jobs
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from harness.common.atomic_files import JsonObject, write_json
from harness.common.errors import HarnessError, UnfitError
from harness.config.compose import Config, Content, hashable
from harness.jobdir.paths import OutputDir
from harness.plan import plan
from harness.plan.plan import Experiment, Plan


def keep(plan: Plan, command: Sequence[str]) -> None:
    """Write down every experiment of a plan; the youngest file is the plan that was run last."""
    for experiment in plan.experiments:
        path = plan.output.plan_file(experiment.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        config = experiment.config
        facts = {
            "schema": 1,
            "command": list(command),
            "experiment": experiment.source,
            "preset": config.preset,
            "plugins": list(config.folders),
            "seeds": list(config.seeds),
            "tree": config.tree,
            "content": asdict(config.content),
            "jobs": [job.fingerprint for job in experiment.jobs],
        }
        write_json(path, facts)


def digests(root: Path) -> list[str]:
    """Return the plans that the root keeps, in the order in which they were last run."""
    return [path.stem for path in sorted(OutputDir(root).plans.glob("*.json"), key=lambda path: path.stat().st_mtime)]


def facts(root: Path, digest: str) -> JsonObject:
    """Return the content of one plan's file. Raise UnfitError where it cannot be read."""
    path = OutputDir(root).plan_file(digest)
    try:
        loaded: JsonObject = json.loads(path.read_text())
        return loaded
    except (OSError, ValueError) as error:
        raise UnfitError(f"{path}: cannot be read ({error}); run the plan again") from error


def restore(root: Path, digest: str) -> Experiment:
    """Return an experiment as it was planned. Raise UnfitError if today's code or plug-ins make other jobs of it."""
    saved = facts(root, digest)
    try:
        content = {**saved["content"], "missing": tuple(saved["content"]["missing"])}
        config = replace(
            Config(hashable(saved["tree"]), saved["preset"], tuple(saved["plugins"])),
            seeds=tuple(saved["seeds"]),
            content=Content(**content),
        )
        experiment = plan.experiment(saved["experiment"], config)
    except (HarnessError, KeyError, TypeError) as error:
        raise UnfitError(f"plan {digest} ({name_of(saved)}): cannot be rebuilt: {error}") from error
    if experiment.digest != digest:
        raise UnfitError(
            f"plan {digest} ({name_of(saved)}): the code has changed since, so its jobs differ now; "
            "check out the commit that ran it (how.json of its jobs), or run it again"
        )
    return experiment


def plans(root: Path) -> Iterator[tuple[Plan | None, str]]:
    """Yield every plan of the root, one experiment each, oldest first; (None, why) where it cannot be made again."""
    for digest in digests(root):
        try:
            yield Plan((restore(root, digest),), root), ""
        except UnfitError as error:
            yield None, str(error)


def name_of(saved: JsonObject) -> str:
    """Return a saved plan's name for people."""
    source = str(saved.get("experiment"))
    return f"{Path(source).stem if source.endswith('.py') else source}, preset {saved.get('preset')}"
