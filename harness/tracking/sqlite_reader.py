"""Runs read from MLflow's SQLite file without MLflow, whose import and client take seconds.

Only schemas that were compared with what MlflowClient says (SCHEMAS; tests/unit/tracking/test_sqlite_reader.py) are
read; for any other `reader` is None and MLflow is asked.
"""

import math
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

from harness.tracking.runs import Found

SCHEMAS = frozenset({"dc11669786a5"})  # alembic's revision: MLflow 3.17
RUNS = "SELECT run_uuid, CAST(experiment_id AS TEXT), name, status, artifact_uri FROM runs WHERE "
TAGGED = "EXISTS (SELECT 1 FROM tags WHERE tags.run_uuid = runs.run_uuid AND tags.key = ? AND tags.value "


class SqliteReader:
    """A store that is only read; closed at the end of a `with`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._ask = connection.execute
        self._close = connection.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def experiments(self, name: str | None, prefix: str) -> list[str]:
        """Return the ids: of the experiment of that name, or of all that are not deleted and begin with the prefix."""
        if name is not None:
            rows = self._ask("SELECT experiment_id FROM experiments WHERE name = ?", (prefix + name,))
        else:
            rows = self._ask(
                "SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'active' AND substr(name, 1, ?) = ?",
                (len(prefix), prefix),
            )
        return [str(number) for (number,) in rows]

    def runs(
        self, experiments: Sequence[str], status: str | None, tags: Mapping[str, str | None], newest_first: bool
    ) -> Iterator[Found]:
        """Yield runs that are not deleted, of a status, with tags (None: whatever value)."""
        clauses = ["lifecycle_stage = 'active'", f"experiment_id IN ({', '.join('?' * len(experiments))})"]
        values: list[object] = [int(each) for each in experiments]
        if status is not None:
            clauses.append("status = ?")
            values.append(status)
        for key, value in tags.items():
            clauses.append(TAGGED + ("IS NOT NULL)" if value is None else "= ?)"))
            values += [key] if value is None else [key, value]
        order = f"ORDER BY start_time {'DESC' if newest_first else 'ASC'}, run_uuid"
        for row in self._ask(f"{RUNS} {' AND '.join(clauses)} {order}", values).fetchall():
            yield self._whole(*row)

    def run(self, run_id: str) -> Found | None:
        """Return one run; None where there is none."""
        row = self._ask(f"{RUNS} run_uuid = ?", (run_id,)).fetchone()
        return None if row is None else self._whole(*row)

    def _whole(self, run_id: str, experiment_id: str, name: str | None, status: str, uri: str) -> Found:
        tags = dict(self._ask("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)))
        params = dict(self._ask("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,)))
        points = self._ask("SELECT key, value, is_nan FROM latest_metrics WHERE run_uuid = ?", (run_id,))
        metrics = {key: math.nan if is_nan else value for key, value, is_nan in points}
        return Found(run_id, experiment_id, name or tags.get("mlflow.runName", ""), status, metrics, params, tags, uri)

    def copy(self, run_id: str, path: str, folder: Path) -> Path | None:
        """Copy an artefact, or a folder of them, as MLflow does; None where it does not lie on this machine."""
        row = self._ask("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
        source = Path(row[0]) / path if row is not None and row[0].startswith("/") else None
        if source is None or not source.exists():
            return None
        target = folder / source.name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, target)
        return target


def reader(database: Path | None) -> SqliteReader | None:
    """Return what reads a SQLite file; None for another store, an absent or empty one, or one of another schema."""
    if database is None or not database.is_file():
        return None
    try:
        connection = sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=20)
        revision = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        others = connection.execute("SELECT 1 FROM experiments WHERE workspace <> 'default'").fetchone()
    except sqlite3.Error:  # MLflow says what is wrong with it
        return None
    if others or [version for (version,) in revision if version not in SCHEMAS]:
        connection.close()
        return None
    return SqliteReader(connection)
