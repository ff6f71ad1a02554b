"""MLflow, and nothing else of the harness knows it: runs, points, artefacts, and finding what came out.

The client's methods only: no active run, no MLFLOW_RUN_ID (a child would become its parent, mlflow #15713). MLflow is
imported when it is first written to; SQLite is read without it (sqlite_reader). Every failure of it is an UnfitError
of one line without passwords.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import UnfitError
from harness.common.machine import user
from harness.common.redaction import redact
from harness.tracking import opening
from harness.tracking.failures import speaks
from harness.tracking.limits import (
    DIGEST_CHARS,
    ENTITIES,
    NOTE_CHARS,
    PAGE,
    PARAM_CHARS,
    POINTS,
    TAG_CHARS,
    batches,
    clip,
    key_of,
    strings,
    word,
)
from harness.tracking.opening import absolute, impatient, probe, quiet, turn
from harness.tracking.runs import Found, found, paged
from harness.tracking.sqlite_reader import SqliteReader, reader

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "harness.experiment"  # of a plan's or study's run: its experiment's name, without the prefix
PLAN, ROLE, FINGERPRINT = "harness.plan", "harness.role", "harness.fingerprint"
SOURCE = "harness.source"  # the run that did the work, where a cell shares it
SCORE = {ROLE: "score", "harness.counts": "matrices.npz"}  # a run of somebody's masks that holds what they count
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
STATUSES = ("FINISHED", "FAILED", "KILLED")

FEW = 16  # up to so many fingerprints are asked for one by one; tags know no IN

Point = tuple[str, float, int, int]  # key, value, step, milliseconds since 1970


class Tracking:
    """One MLflow server or database.

    Arguments: `uri`, by default MLFLOW_TRACKING_URI, else SQLite in the working directory as MLflow itself has it;
    `prefix` goes before the names of experiments ("site/ablation_ensemble"). Nothing is opened before the first call.
    Raises UnfitError for a URI that MLflow cannot serve; so does every method where MLflow fails.
    """

    def __init__(self, uri: str | None = None, prefix: str = ""):
        self.uri = absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
        self.prefix = prefix.rstrip("/") + "/" if prefix else ""
        self._client: Any = None

    @property
    def database(self) -> Path | None:
        """The file of a local SQLite store; None for servers and other databases."""
        return Path(self.uri.partition(":///")[2].partition("?")[0]) if self.uri.startswith("sqlite") else None

    @property
    def remedy(self) -> str:
        """Return what a person can do when the store fails."""
        if self.database:
            return f"check that {self.database} can be read and written"
        return "check MLFLOW_TRACKING_URI and that the server answers"

    @speaks
    def connect(self) -> Any:
        """Return the client after a first call that proves that it works; one process sets up a fresh database."""
        if self._client is None:
            quiet()
            with self._lock():
                probe(self.uri, self.database)
                from mlflow import MlflowClient

                client = MlflowClient(tracking_uri=self.uri)
                with impatient():
                    client.search_experiments(max_results=1)
            self._client = client
        return self._client

    @speaks
    def check(self) -> None:
        """Check that the store answers, without MLflow where it can be read without. Raise UnfitError."""
        if self._reader() is None:
            self.connect()
        else:
            with self._lock():
                probe(self.uri, self.database)

    def _reader(self) -> SqliteReader | None:
        """Return what reads the store without MLflow; None once MLflow is imported, and where it alone can."""
        return None if self._client is not None else reader(self.database)

    def _lock(self) -> AbstractContextManager[object]:
        """Return the lock for what only one process may do at a time."""
        return turn(self.uri, self.database)

    # --- experiments and runs

    @speaks
    def experiment(self, name: str) -> str:
        """Return the id of the experiment, made where it is not there; artefacts lie in mlruns beside a SQLite file."""
        client, full = self.connect(), self.prefix + name
        with self._lock():
            experiment = client.get_experiment_by_name(full)
            if experiment is None:
                artifacts = str(self.database.parent / "mlruns" / full) if self.database else None
                return str(client.create_experiment(full, artifact_location=artifacts))
        if experiment.lifecycle_stage != "active":
            raise UnfitError(f"MLflow experiment '{full}' was deleted: restore it by `mlflow experiments restore`")
        if self.database:
            opening.check_artefacts(f"experiment '{full}'", experiment.artifact_location, self.database)
        return str(experiment.experiment_id)

    @speaks
    def parent(
        self,
        experiment_id: str,
        name: str,
        plan: str,
        tags: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        description: str = "",
    ) -> str:
        """Return the run of a plan, by its digest: made once, continued by the same plan."""
        self.connect()
        with self._lock():
            runs = self._search([experiment_id], {PLAN: word(plan)})
            own = [run for run in runs if PARENT not in run.tags]
            if own:
                return own[0].run_id
            note = {NOTE: clip(description, TAG_CHARS)} if description else {}
            return self._create(experiment_id, name, {**(tags or {}), **note, PLAN: plan}, params)

    @speaks
    def child(
        self,
        experiment_id: str,
        parent_id: str,
        name: str,
        key: Mapping[str, str],
        tags: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        began: float | None = None,
    ) -> str:
        """Return the parent's run whose tags hold all of `key`, as it stands; else a new one that is RUNNING.

        `began`, in seconds since 1970, is when a new run's job began, now if it is not given.
        """
        self.connect()
        with self._lock():
            for run in self.children(experiment_id, parent_id, key):
                return run.run_id
            return self._create(experiment_id, name, {**(tags or {}), **key, PARENT: parent_id}, params, began)

    def _create(
        self,
        experiment_id: str,
        name: str,
        tags: Mapping[str, object],
        params: Mapping[str, object] | None,
        began: float | None = None,
    ) -> str:
        origin = {"mlflow.user": user(), "mlflow.source.name": "harness", "mlflow.source.type": "LOCAL"}
        start = None if began is None else round(1000 * began)
        tags = origin | strings(tags, TAG_CHARS)
        run = self.connect().create_run(experiment_id, start_time=start, run_name=name, tags=tags)
        self.params(run.info.run_id, params or {})
        return str(run.info.run_id)

    @speaks
    def resume(self, run_id: str) -> None:
        """Set a run RUNNING again."""
        self.connect().update_run(run_id, status="RUNNING")

    @speaks
    def finish(self, run_id: str, status: str, ended: float | None = None) -> None:
        """End a run: FINISHED, FAILED or KILLED; again with another status corrects it. MLflow has no 'pruned'.

        `ended`, in seconds since 1970, is when its job ended, now if it is not given.
        """
        if status not in STATUSES:
            raise ValueError(f"status '{status}', not one of {', '.join(STATUSES)}")
        self.connect().set_terminated(run_id, status, None if ended is None else round(1000 * ended))

    # --- what a run holds

    @speaks
    def log(self, run_id: str, points: Iterable[Point]) -> None:
        """Log metric points in batches; points that the run has are not doubled, so journals may be replayed."""
        client = self.connect()
        from mlflow.entities import Metric

        unique = dict.fromkeys((key_of(key), repr(float(value)), int(step), int(at)) for key, value, step, at in points)
        metrics = [Metric(key, float(value), at, step) for key, value, step, at in unique]
        for batch in batches(metrics, POINTS):
            client.log_batch(run_id, metrics=batch)

    @speaks
    def tag(self, run_id: str, tags: Mapping[str, object]) -> None:
        """Set tags; None values are left out, long ones cut at MLflow's 8000 characters."""
        client = self.connect()
        from mlflow.entities import RunTag

        for batch in batches([RunTag(k, v) for k, v in strings(tags, TAG_CHARS).items()], ENTITIES):
            client.log_batch(run_id, tags=batch)

    @speaks
    def params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Set parameters. MLflow's never change: a key that the run already has keeps its first value."""
        wanted = strings(params, PARAM_CHARS)
        if not wanted:
            return
        client = self.connect()
        from mlflow.entities import Param

        current = client.get_run(run_id).data.params
        for batch in batches([Param(k, v) for k, v in wanted.items() if k not in current], ENTITIES):
            client.log_batch(run_id, params=batch)

    @speaks
    def dataset(self, run_id: str, name: str, digest: str | None, context: str, source: str) -> None:
        """Link a data set ("training" or "eval") by the first 32 hex digits of its digest; None: made, not read."""
        client = self.connect()
        from mlflow.entities import Dataset, DatasetInput, InputTag

        short = (digest or "generated")[:DIGEST_CHARS]
        entity = Dataset(name=name, digest=short, source_type="local", source=json.dumps({"uri": redact(source)}))
        client.log_inputs(run_id, datasets=[DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    @speaks
    def describe(self, run_id: str, markdown: str) -> None:
        """Set the run's description, cut at MLflow's 8000 characters."""
        self.connect().set_tag(run_id, NOTE, clip(markdown, TAG_CHARS))

    @speaks
    def note(self, experiment_id: str, markdown: str) -> None:
        """Set the experiment's description, cut at MLflow's 20 000 characters; its first line is the banner's title."""
        self.connect().set_experiment_tag(experiment_id, NOTE, clip(markdown, NOTE_CHARS))

    @speaks
    def text(self, run_id: str, path: str, text: str) -> None:
        """Log a string as an artefact; logging it again replaces it."""
        self.connect().log_text(run_id, text, path)

    @speaks
    def json(self, run_id: str, path: str, value: Any) -> None:
        """Log a JSON value as an artefact; logging it again replaces it."""
        self.connect().log_text(run_id, json.dumps(value, indent=1, allow_nan=False), path)

    @speaks
    def file(self, run_id: str, local: Path, folder: str | None = None) -> None:
        """Log a file as an artefact in a folder of the run; logging it again replaces it."""
        self.connect().log_artifact(run_id, str(local), folder)

    @speaks
    def table(self, run_id: str, path: str, frame: "pd.DataFrame") -> None:
        """Log a frame as a table; logging it again replaces it (MLflow's log_table would append)."""
        client = self.connect()
        client.log_text(run_id, frame.to_json(orient="split", index=False), path)
        tables = json.loads(client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
        entry = {"path": path, "type": "table"}
        if entry not in tables:
            client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*tables, entry]))

    @speaks
    def get(self, run_id: str) -> Found:
        """Return a run."""
        if (store := self._reader()) is not None:
            with store:
                if (run := store.run(run_id)) is not None:
                    return run
        return found(self.connect().get_run(run_id))

    @speaks
    def has(self, run_id: str) -> bool:
        """Return whether the store holds a run: it may have been emptied since."""
        client = self.connect()
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

        try:
            return bool(client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return False
            raise

    @speaks
    def find(
        self, experiment: str | None, values: Iterable[str], tag: str = FINGERPRINT, ended: bool = True
    ) -> dict[str, Found]:
        """Return the newest FINISHED run (or any) for each value of a tag, in one experiment or in all with the prefix.

        A run that did the work goes before one that points at it (tag harness.source). Values without a run are not in
        the answer; a store that is not there yet answers {} and is not made.
        """
        wanted = {word(value) for value in values}
        if not wanted or (self.database and not self.database.exists()):
            return {}
        where = self._experiments(experiment)
        asked: list[str | None] = [*sorted(wanted)] if len(wanted) <= FEW else [None]
        answer: dict[str, Found] = {}
        for each in asked:
            for run in self._search(where, {tag: each}, "FINISHED" if ended else None, newest_first=True):
                value = run.tags[tag]
                first = value not in answer or (SOURCE in answer[value].tags and SOURCE not in run.tags)
                if value in wanted and first:
                    answer[value] = run
        return answer

    @speaks
    def children(self, experiment_id: str, parent_id: str, key: Mapping[str, str]) -> list[Found]:
        """Return the runs under a run whose tags hold all of `key`, oldest first."""
        simple = {k: v for k, v in key.items() if re.fullmatch(r"[\w./:+-]+", v)}  # the rest is compared here
        runs = self._search([experiment_id], {PARENT: word(parent_id), **simple})
        return [run for run in runs if all(run.tags.get(k) == clip(v, TAG_CHARS) for k, v in key.items())]

    @speaks
    def running(self, experiment: str | None = None) -> list[Found]:
        """Return runs of ours that are RUNNING, or that nobody ended; oldest first."""
        if self.database and not self.database.exists():
            return []
        return list(self._search(self._experiments(experiment), {ROLE: None}, "RUNNING"))

    @speaks
    def download(self, run_id: str, path: str, folder: Path) -> Path:
        """Return an artefact, or a folder of them, copied into `folder`; returns where it lies."""
        folder.mkdir(parents=True, exist_ok=True)
        if (store := self._reader()) is not None:
            with store:
                if (copied := store.copy(run_id, path, folder)) is not None:
                    return copied
        if self.database:
            run = self.get(run_id)
            opening.check_artefacts(f"run '{run.name}'", str(Path(run.artifact_uri).parents[1]), self.database)
        return Path(self.connect().download_artifacts(run_id, path, str(folder)))

    @speaks
    def link(self, run_id: str) -> str:
        """Return a run's address: the server's page, or the command that opens a database."""
        page = f"#/experiments/{self.get(run_id).experiment_id}/runs/{run_id}?workflowType=machine_learning"
        if self.uri.startswith("http"):
            return f"{redact(self.uri).rstrip('/')}/{page}"
        return f"mlflow ui --backend-store-uri {redact(self.uri)}   then http://127.0.0.1:5000/{page}"

    def _experiments(self, name: str | None) -> list[str]:
        """Return the ids: of one experiment, or of all that carry the prefix."""
        if (store := self._reader()) is not None:
            with store:
                return store.experiments(name, self.prefix)
        client = self.connect()
        if name is not None:
            experiment = client.get_experiment_by_name(self.prefix + name)
            return [] if experiment is None else [experiment.experiment_id]
        pages = paged(lambda token: client.search_experiments(max_results=PAGE, page_token=token))
        return [experiment.experiment_id for experiment in pages if experiment.name.startswith(self.prefix)]

    def _search(
        self,
        experiments: list[str],
        tags: Mapping[str, str | None],
        status: str | None = None,
        newest_first: bool = False,
    ) -> Iterator[Found]:
        """Yield runs of some experiments by their tags (None: whatever value) and status, page by page."""
        if not experiments:
            return
        if (store := self._reader()) is not None:
            with store:
                yield from store.runs(experiments, status, tags, newest_first)
            return
        search = self.connect().search_runs
        clauses = [f"tags.`{key}` " + ("LIKE '%'" if value is None else f"= '{value}'") for key, value in tags.items()]
        clause = " and ".join([*([f"attributes.status = '{status}'"] if status else []), *clauses])
        order = [f"attributes.start_time {'DESC' if newest_first else 'ASC'}"]
        yield from map(found, paged(lambda token: search(experiments, clause, 1, PAGE, order, token)))
