"""MLflow's model registry: a model as a version of a registered model, found again by its tags.

Files go into a LoggedModel of the run that has the model's numbers, safetensors and JSON as they are, with an MLmodel
that names the module which loads them: MLflow's own flavours would serialise the network anew.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.common.errors import UnfitError
from harness.common.redaction import redact
from harness.config.compose import Config
from harness.jobdir.paths import JobDir
from harness.plan import start_weights
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


def with_local_start(config: Config, root: Path, uri: str | None, prefix: str) -> Config:
    """Return the configuration with the file of a registered model for `train.start`; unchanged where it names none."""
    start = config.train.start
    if start is None or start_weights.is_local(start):
        return config
    return config.with_values({"train.start": str(fetch(Tracking(uri, prefix), start, root).absolute())})


@speaks
def fetch(tracking: Tracking, start: str, root: Path) -> Path:
    """Return the weights of a model, kept below `root`: NAME (of one version), models:/NAME/VERSION or NAME@ALIAS.

    Raise UnfitError where no version is meant or several may be (the run to come registers a further one), or where it
    has no weights of its own, as an ensemble.
    """
    if tracking.database is not None and not tracking.database.is_file():
        raise UnfitError(
            f"train.start={start}: no such file or job, and no MLflow at {tracking.database} to ask for it"
        )
    client = tracking.connect()
    version = chosen(tracking, start.removeprefix("models:/"))
    if version is None:
        known = sorted(model.name for model in client.search_registered_models())
        remedy = f"registered are {', '.join(known)}" if known else "no model is registered there"
        raise UnfitError(
            f"train.start={start}: no such file, job or registered model at {redact(tracking.uri)}; {remedy}"
        )
    store = hashlib.sha256(tracking.uri.encode()).hexdigest()[:8]
    target = root / "cache" / "models" / store / re.sub(r"[^\w+.-]", "-", version.name) / str(version.version)
    path = target / JobDir(target).weights_file.name
    if not path.is_file():
        from mlflow.artifacts import download_artifacts

        target.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target) as folder:
            source = client.get_model_version_download_uri(version.name, version.version)
            files = JobDir(Path(download_artifacts(source, dst_path=folder, tracking_uri=tracking.uri)))
            if not files.weights_file.is_file():
                what = f"version {version.version} of {version.name} has no weights of its own"
                raise UnfitError(f"train.start={start}: {what}; name one of its members")
            files.weights_file.replace(path)
    return path


def chosen(tracking: Tracking, word: str) -> Any:
    """Return the version that NAME, NAME/VERSION or NAME@ALIAS means, by the full name or by ours; None for none.

    Raise UnfitError for a bare NAME of several versions.
    """
    client = tracking.connect()
    name, at, alias = word.partition("@")
    name, _, number = (name, "", "") if at else name.partition("/")
    full = next((each for each in (name, registered(tracking, name)) if registry_has(client, each)), None)
    if full is None:
        return None
    versions = {str(each.version): each for each in client.search_model_versions(f"name = '{full}'")}
    if at:
        number = str(client.get_registered_model(full).aliases.get(alias))
    elif not number and len(versions) > 1:
        numbers = ", ".join(sorted(versions, key=int))
        raise UnfitError(f"train.start={word}: has versions {numbers}; choose one, such as models:/{full}/1")
    return versions.get(number or next(iter(versions), ""))


def registry_has(client: Any, name: str) -> bool:
    """Return whether a model of exactly this name is registered."""
    return "'" not in name and bool(client.search_registered_models(f"name = '{name}'", max_results=1))
