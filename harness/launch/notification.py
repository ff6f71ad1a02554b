"""Telling a person how a plan ended: `notify` of harness.yaml, a command or a webhook."""

import json
import logging
import os
import subprocess
from collections.abc import Mapping
from urllib.error import URLError
from urllib.request import Request, urlopen

from harness.common.redaction import one_line
from harness.config.settings import RunOptions
from harness.launch import runner
from harness.plan.job import Job
from harness.plan.plan import Plan

log = logging.getLogger(__name__)

SECONDS = 60.0  # that a command or a server may take
EVENTS = {"FINISHED": "done", "FAILED": "failed"}  # by the status of the plan's run


def notify_of_results(plan: Plan, options: RunOptions, failures: Mapping[Job, str]) -> None:
    """Notify that a plan is done, failed or stuck; not while some of it is at work, queued, or was stopped."""
    statuses = {runner.ended(plan, experiment, failures, options) for experiment in plan.experiments}
    if not options.notify or not statuses <= set(EVENTS):
        return
    event = EVENTS["FAILED" if "FAILED" in statuses else "FINISHED"]
    outcomes = [plan.jobdir(job).outcome() for job in failures]
    if any(outcome is not None and outcome.status == "stalled" for outcome in outcomes):
        event = "stuck"
    send(options.notify, event, plan, "; ".join(f"{job.name}: {reason}" for job, reason in failures.items()))


def send(target: str | None, event: str, plan: Plan, why: str) -> None:
    """Run the command, with HARNESS_EVENT, _PLAN, _ROOT and _TEXT, or post these as JSON; a failure is only logged."""
    if not target:
        return
    names = ", ".join(experiment.name for experiment in plan.experiments)
    text = f"{names} in {plan.root.resolve()}: {event}{f' ({one_line(why)})' if why else ''}"
    facts = {"event": event, "plan": names, "root": str(plan.root.resolve()), "text": text}
    try:
        if target.startswith(("http://", "https://")):
            body = json.dumps(facts).encode()
            request = Request(target, body, {"Content-Type": "application/json"})
            with urlopen(request, timeout=SECONDS):
                pass
        else:
            variables = {f"HARNESS_{key.upper()}": value for key, value in facts.items()}
            subprocess.run(
                target,
                shell=True,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=2,
                timeout=SECONDS,
                check=True,
            )
    except (OSError, URLError, ValueError, subprocess.SubprocessError) as error:
        kind = "webhook" if target.startswith("http") else "command"
        code = f"exit code {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else one_line(error)
        log.warning(f"notify: the {kind} of harness.yaml failed for '{event}': {code.replace(target, '…')}")
