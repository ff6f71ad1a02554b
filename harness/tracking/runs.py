"""A run as a store of MLflow has it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Found:
    """A run as the server knows it."""

    run_id: str
    experiment_id: str
    name: str
    status: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    artifact_uri: str


def found(run: Any) -> Found:
    """Return an MLflow run as a Found."""
    info, data = run.info, run.data
    name = info.run_name or ""
    return Found(
        info.run_id, info.experiment_id, name, info.status, data.metrics, data.params, data.tags, info.artifact_uri
    )


def paged(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield everything that a search with page tokens finds."""
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return
