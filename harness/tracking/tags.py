"""Names of a run's tags: a few that people read have no prefix; all others, by which runs are identified, have PREFIX.

Stores written by earlier versions have PREFIX before every tag: `value` reads both, `migrate` renames them.
"""

from collections.abc import Iterable, Mapping

from harness.tracking.client import Tracking
from harness.tracking.failures import speaks
from harness.tracking.runs import Found

PREFIX = "harness."
VERDICT, POWER = "verdict", "power"
OUTCOME, REASON = "outcome", "reason"
STEP, LOSS, ETA, HEARTBEAT, LIVE = "step", "loss", "eta_seconds", "heartbeat", "live"
COMMIT, DEVICE = "commit", "device"
PROGRESS = (STEP, LOSS, ETA, HEARTBEAT)
READ = (VERDICT, POWER, OUTCOME, REASON, *PROGRESS, LIVE, COMMIT, DEVICE)


def value(tags: Mapping[str, str], name: str) -> str | None:
    """Return one of READ, by its name or by that of earlier versions; None where a run has neither."""
    return tags.get(name, tags.get(PREFIX + name))


@speaks
def remove(tracking: Tracking, run_id: str, names: Iterable[str]) -> None:
    """Remove tags that a run may have, by their present and earlier names."""
    client = tracking.connect()
    keys = {prefix + name for name in names for prefix in ("", PREFIX)}
    for key in sorted(client.get_run(run_id).data.tags.keys() & keys):
        client.delete_tag(run_id, key)


@speaks
def migrate(tracking: Tracking, run: Found) -> None:
    """Give the tags that an earlier version wrote to a run their present names."""
    earlier = {name: run.tags[PREFIX + name] for name in READ if PREFIX + name in run.tags}
    if not earlier:
        return
    tracking.tag(run.run_id, {name: text for name, text in earlier.items() if name not in run.tags})
    client = tracking.connect()
    for name in earlier:
        client.delete_tag(run.run_id, PREFIX + name)
