"""The words that a job's outcome.json ends with, and what they come to for whoever looks.

finished   the result is there             failed      its reason says why
pruned     a search had a better one       lost        its ranks died without a word
preempted  by a scheduler's signal         stalled     no step for too long
paused     a rehearsal's first half        cancelled   by a person; or never begun, since what it needs is not there
"""

from collections.abc import Container, Sequence

from harness.plan.job import Job

ENDED = {  # the status of its run in MLflow
    **{"finished": "FINISHED", "pruned": "FINISHED"},
    **{"preempted": "KILLED", "cancelled": "KILLED", "paused": "KILLED"},
    **{"failed": "FAILED", "lost": "FAILED", "stalled": "FAILED"},
}
FAILED = tuple(word for word, status in ENDED.items() if status == "FAILED")
OVER = ("finished", "pruned", "cancelled", "failed", "lost")  # nobody takes it up by himself; what stalls goes on once


def failed_input(job: Job, failed: Container[Job]) -> str | None:
    """Return why a job can do nothing: which of its inputs has failed; None if none has."""
    broken = [needed for needed in job.inputs if needed in failed]
    return f"needs '{broken[0].name}', which failed" if broken else None


def of_plan(lacking: Sequence[Job], failed: Container[Job], live: Container[Job], to_come: Container[Job] = ()) -> str:
    """Return the status of a plan's run in MLflow, by its jobs that are not done (inputs first).

    `live` are at work or in a queue, `to_come` will be begun unless what they need has failed. What is nobody's and
    has not failed was left by somebody who was stopped.
    """
    if any(job in live for job in lacking):
        return "RUNNING"
    blocked: set[Job] = set()
    for job in lacking:
        if job in failed or any(needed in blocked for needed in job.inputs):
            blocked.add(job)
    left = [job for job in lacking if job not in blocked]
    if any(job in to_come for job in left):
        return "RUNNING"
    return "KILLED" if left else "FAILED" if blocked else "FINISHED"
