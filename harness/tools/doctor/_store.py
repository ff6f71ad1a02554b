"""The tracking store: whether MLflow answers, its schema is current, and it can be written."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.common.errors import UnfitError
from harness.common.redaction import redact
from harness.tools.doctor._finding import Finding, unfit
from harness.tools.doctor._mounts import existing, network
from harness.tracking.client import Tracking

PART = "store"


def examine(uri: str | None, prefix: str, mounts: Path) -> Iterator[Finding]:
    """Check the store at `uri` (None: MLFLOW_TRACKING_URI, else MLflow's own default)."""
    try:
        tracking = Tracking(uri, prefix)
    except UnfitError as error:
        yield unfit(PART, error, "set MLFLOW_TRACKING_URI=sqlite:////absolute/path/mlflow.db")
        return
    database = tracking.database
    if database is not None:
        yield from mounted(database, mounts)
        if not database.exists():
            yield creatable(database)
            return
        if not os.access(database, os.W_OK) or not os.access(database.parent, os.W_OK):
            text = f"{database} or its folder cannot be written"
            yield Finding(PART, False, text, "change its permissions, or set MLFLOW_TRACKING_URI to your own store")
            return
    yield from answers(tracking)


def mounted(database: Path, mounts: Path) -> Iterator[Finding]:
    """Yield a note where a SQLite file lies on a network file system."""
    where = network(database, mounts)
    if where:
        text = f"{database} is SQLite on a network file system ({where}): processes on several nodes may damage it"
        remedy = "MLFLOW_TRACKING_URI=sqlite:////local/path/mlflow.db, or an MLflow server for several nodes"
        yield Finding(PART, None, text, remedy)


def creatable(database: Path) -> Finding:
    """Return whether a database that is not there can be made; nothing is made here."""
    folder = existing(database.parent)
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return Finding(PART, True, f"{database} does not exist yet; the first run creates it")
    text = f"{database} does not exist and cannot be created: {folder} is not a writable folder"
    return Finding(PART, False, text, "set MLFLOW_TRACKING_URI=sqlite:////absolute/path/mlflow.db to a folder of yours")


def answers(tracking: Tracking) -> Iterator[Finding]:
    """Yield whether MLflow opens it: a wrong schema, a damaged file and a silent server all end here."""
    try:
        client = tracking.connect()
    except UnfitError as error:
        if "schema" in str(error):
            text = f"{redact(tracking.uri)}: its schema is not that of the installed MLflow"
            yield Finding(PART, False, text, f"back it up, then `mlflow db upgrade {redact(tracking.uri)}`")
        else:
            yield unfit(PART, error, tracking.remedy)
        return
    where = f"experiments named {tracking.prefix}…" if tracking.prefix else "no prefix"
    if tracking.database:
        text = f"{tracking.database} opens, has a current schema and can be written ({where})"
    else:
        text = f"{redact(tracking.uri)} answers ({where}); write access is tested at the first run"
    yield Finding(PART, True, text)
    if tracking.uri.startswith("http"):
        yield from artefacts(client)


def artefacts(client: Any) -> Iterator[Finding]:
    """Yield a note where a server hands out folders of its own machine as places for artefacts."""
    for experiment in client.search_experiments(max_results=5):
        location = str(experiment.artifact_location)
        if location.startswith(("/", "file:", "./")):
            text = f"the server keeps artefacts of '{experiment.name}' at {location}, a folder that clients write to"
            remedy = (
                "unless all clients share DIR, start the server with --artifacts-destination DIR so that it stores them"
            )
            yield Finding(PART, None, text, remedy)
            return
