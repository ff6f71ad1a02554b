"""MLflow's model registry: a model as a version of a registered model, found again by its tags.

Files go into a LoggedModel of the run that has the model's numbers, safetensors and JSON as they are, with an MLmodel
that names the module which loads them: MLflow's own flavours would serialise the network anew.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.common.errors import UnfitError
from harness.common.redaction import redact
from harness.tracking.client import Tracking
from harness.tracking.failures import speaks
from harness.tracking.limits import clip, word
from harness.tracking.opening import absolute

ELSEWHERE = "MLFLOW_REGISTRY_URI"  # MLflow's variable
CARD_CHARS = 100_000  # MLflow's limit of a registry's text
MIOU = "harness.miou"  # tag of a version
BEST, PROTOCOL = "best", "paper-protocol"  # aliases: the highest mIoU; the newest that was made as the paper says


def check(tracking: Tracking) -> None:
    """Raise UnfitError where MLFLOW_REGISTRY_URI names another place than that of the runs."""
    uri = os.environ.get(ELSEWHERE)
    if uri and absolute(uri) != tracking.uri:
        raise UnfitError(
            f"{ELSEWHERE}={redact(uri)}: models are registered where their runs are, in {redact(tracking.uri)}; "
            f"unset it for this command (env -u {ELSEWHERE} harness …)"
        )


def registered(tracking: Tracking, name: str) -> str:
    """Return a registered model's name, with the prefix, in MLflow's alphabet."""
    return re.sub(r"[^\w+ -]", "-", tracking.prefix + name)


@speaks
def version(tracking: Tracking, name: str, key: Mapping[str, str]) -> str | None:
    """Return the version whose tags hold all of `key`; None where there is none."""
    clauses = [f"name = '{registered(tracking, name)}'", *(f"tags.`{k}` = '{word(v)}'" for k, v in key.items())]
    versions = tracking.connect().search_model_versions(" and ".join(clauses), max_results=1)
    return str(versions[0].version) if versions else None


@speaks
def name_best(tracking: Tracking, name: str, version: str, miou: float, protocol: bool) -> None:
    """Give a version its aliases: BEST where no other version has more mIoU (percent), PROTOCOL where it is asked."""
    client, full = tracking.connect(), registered(tracking, name)
    client.set_model_version_tag(full, version, MIOU, f"{miou:.4f}")
    best = client.get_registered_model(full).aliases.get(BEST)
    highest = client.get_model_version(full, best).tags.get(MIOU, "-inf") if best else "-inf"
    if best != version and miou > float(highest):
        client.set_registered_model_alias(full, BEST, version)
    if protocol:
        client.set_registered_model_alias(full, PROTOCOL, version)


@speaks
def register(
    tracking: Tracking,
    name: str,
    run_id: str,
    key: Mapping[str, str],
    files: Sequence[Path],
    card: str,
    loader: str | None = None,
) -> str:
    """Make a run's model a version of `name`, which is made at the first need; returns the version.

    `card` is Markdown; `loader` the module that makes an MLflow python_function of the files. A version with the tags
    of `key` keeps its files and gets the card.
    """
    from mlflow import pyfunc  # a second
    from mlflow.models import Model
    from mlflow.models.model import MLMODEL_FILE_NAME

    check(tracking)
    client, full = tracking.connect(), registered(tracking, name)
    card = clip(card, CARD_CHARS)
    existing = version(tracking, name, key)
    if existing is not None:
        if client.get_model_version(full, existing).description != card:
            client.update_model_version(full, existing, card)
        return existing
    if not client.search_registered_models(f"name = '{full}'", max_results=1):
        client.create_registered_model(full)
    tags, experiment_id = dict(key), client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(
        experiment_id, name=full, source_run_id=run_id, tags=tags, model_type="segmentation"
    )
    for path in files:
        client.log_model_artifact(model.model_id, str(path))
    if loader:
        with TemporaryDirectory() as folder:
            described = Model(run_id=run_id, model_id=model.model_id)
            pyfunc.add_to_model(described, loader_module=loader)
            described.save(Path(folder) / MLMODEL_FILE_NAME)
            client.log_model_artifact(model.model_id, str(Path(folder) / MLMODEL_FILE_NAME))
    client.finalize_logged_model(model.model_id, "READY")
    given = client.create_model_version(
        full, model.artifact_location, run_id, tags=tags, description=card, model_id=model.model_id
    )
    return str(given.version)
