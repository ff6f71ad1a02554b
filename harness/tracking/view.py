"""MLflow's pages: where a run is shown, and the view of an experiment's runs that a reviewer wants first.

The view is MLflow's internal format, written at best effort: where it is not understood, MLflow shows its own.
"""

import hashlib
import json
from collections.abc import Sequence

from harness.common.atomic_files import JsonObject
from harness.common.redaction import redact
from harness.tracking.client import Tracking, speaks

TAG = "mlflow.sharedViewState."
COLUMNS = (
    *("params.`method`", "params.`seed`"),
    *("metrics.`paper/miou`", "metrics.`final/miou`", "metrics.`delta/miou`", "metrics.`delta/paper`"),
    *("tags.`harness.role`", "tags.`harness.verdict`"),
)


def pages(tracking: Tracking, experiment: str) -> str:
    """Return the address of an experiment's runs, up to a run's id; empty for a database, which has no address."""
    ids = tracking._experiments(experiment) if tracking.uri.startswith("http") else []
    return f"{redact(tracking.uri).rstrip('/')}/#/experiments/{ids[0]}/runs/" if ids else ""


def address(experiment_id: str, key: str | None) -> str:
    """Return the part of an address behind the server's: an experiment's runs, in the shared view if there is one."""
    shared = f"&viewStateShareKey={key}" if key else ""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning{shared}"


def state(expanded: Sequence[str] = ()) -> JsonObject:
    """Return the view: the paper's number beside ours, the best first (sorted by a metric, no run is folded)."""
    return {
        "orderByKey": "metrics.`final/miou`",
        "orderByAsc": False,
        "selectedColumns": list(COLUMNS),
        "runsExpanded": dict.fromkeys(expanded, True),
        "runsPinned": [],
        "runsHidden": [],
    }


@speaks
def share(tracking: Tracking, experiment_id: str, expanded: Sequence[str]) -> str:
    """Write the view as a tag of the experiment; returns the key that a link names it by."""
    text = json.dumps(state(expanded), sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    tracking.connect().set_experiment_tag(experiment_id, TAG + key, text)
    tracking.connect().set_experiment_tag(experiment_id, "harness.view", key)
    return key


@speaks
def shared(tracking: Tracking, experiment: str) -> tuple[str, str | None] | None:
    """Return an experiment's id and the key of its view (None without one); None if there is no such experiment."""
    stored = tracking.connect().get_experiment_by_name(tracking.prefix + experiment)
    return None if stored is None else (str(stored.experiment_id), stored.tags.get("harness.view"))


@speaks
def newest(tracking: Tracking) -> str | None:
    """Return the experiment of ours, without the prefix, that has a view and was changed last."""
    client = tracking.connect()
    viewed = [each for each in client.search_experiments(max_results=1000) if "harness.view" in each.tags]
    own = [each for each in viewed if each.name.startswith(tracking.prefix)]
    last = max(own, key=lambda each: each.last_update_time or 0, default=None)
    return None if last is None else str(last.name.removeprefix(tracking.prefix))
