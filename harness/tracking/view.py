"""MLflow's pages: where a run is shown, and the view of an experiment's runs that a reviewer wants first.

The view is MLflow's internal format, written at best effort: where it is not understood, MLflow shows its own.
"""

import hashlib
import json

from harness.common.atomic_files import JsonObject
from harness.common.redaction import redact
from harness.tracking.client import PARENT, Tracking
from harness.tracking.failures import speaks

TAG = "mlflow.sharedViewState."
COLUMNS = (
    *("params.`method`", "params.`epochs`", "params.`seed`"),
    *("metrics.`paper/miou`", "metrics.`final/miou`", "metrics.`delta/miou`", "metrics.`delta/paper`"),
    "tags.`verdict`",
)
CHARTS = ("final/miou", "paper/miou", "delta/miou")
FIRST = "mIoU"  # the section that the charts open on
ORDER = "harness.order"  # tag of a row's runs: where the paper's table has it, then the seed


def pages(tracking: Tracking, experiment: str) -> str:
    """Return the address of an experiment's runs, up to a run's id; empty for a database, which has no address."""
    ids = tracking._experiments(experiment) if tracking.uri.startswith("http") else []
    return f"{redact(tracking.uri).rstrip('/')}/#/experiments/{ids[0]}/runs/" if ids else ""


def address(experiment_id: str, key: str | None) -> str:
    """Return the part of an address behind the server's: an experiment's runs, in the shared view if there is one."""
    shared = f"&viewStateShareKey={key}" if key else ""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning{shared}"


def state(plan_run: str) -> JsonObject:
    """Return the view of one plan: its rows in the order of the paper's table, and charts that begin with mIoU."""
    return {
        "searchFilter": f"tags.`{PARENT}` = '{plan_run}' AND tags.`{ORDER}` LIKE '%'",
        "orderByKey": f"tags.`{ORDER}`",
        "orderByAsc": True,
        "selectedColumns": list(COLUMNS),
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [{"uuid": FIRST, "name": FIRST, "display": True, "isReordered": True}],
        "compareRunCharts": [chart(key) for key in CHARTS],
        "isAccordionReordered": True,  # MLflow would sort sections by name, and begin with `delta`
    }


def chart(key: str) -> JsonObject:
    """Return a bar chart of the first section; MLflow adds charts of all other metrics, a section for each prefix."""
    return {
        "type": "BAR",
        "uuid": f"harness-{key}",
        "metricSectionId": FIRST,
        "metricKey": key,
        "runsCountToCompare": 100,
        "isGenerated": False,
        "deleted": False,
    }


@speaks
def share(tracking: Tracking, experiment_id: str, plan_run: str) -> str:
    """Write a plan's view as a tag of the experiment; returns the key that a link names it by."""
    text = json.dumps(state(plan_run), sort_keys=True)
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
    """Return the experiment of ours, without the prefix, that has a view and the run that began last."""
    client = tracking.connect()
    viewed = [each for each in client.search_experiments(max_results=1000) if "harness.view" in each.tags]
    own = {each.experiment_id: each.name for each in viewed if each.name.startswith(tracking.prefix)}
    runs = client.search_runs(list(own), order_by=["attributes.start_time DESC"], max_results=1) if own else []
    return str(own[runs[0].info.experiment_id].removeprefix(tracking.prefix)) if runs else None
