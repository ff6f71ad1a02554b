"""Results of 0.1, whose identities know data by its list alone: which files they stand for.

<root>/data/adopted.json    "<data set>:<digest of a split's list>" -> the manifest's digest, and why

While a split's files have that digest, identities go without it, as those of 0.1: its results, plans and runs in MLflow
stay as they are. Once the files are others, so are the identities.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import localtime, strftime

from harness.common.atomic_files import JsonObject, read_json, write_json
from harness.common.errors import UnfitError
from harness.common.progress import SILENT, Progress
from harness.config import input_digests
from harness.config.compose import Config
from harness.data import manifest
from harness.jobdir.events import read_events
from harness.jobdir.paths import JobDir, OutputDir

UNDIGESTED = "not digested"  # stands in identities for a digest that is not known


@dataclass(frozen=True)
class Result:
    """A job or a score whose identity holds the list of a split alone."""

    name: str
    ended: float  # unix seconds: its last sign of life


def resolve(
    config: Config,
    root: Path | None,
    compute: bool = False,
    progress: Progress = SILENT,
    accept: bool = False,
    only: Collection[str] = (*input_digests.SPLITS, *input_digests.OPTIONAL),
) -> Config:
    """Return the configuration with its content (input_digests.resolve), results of 0.1 adopted where that is right.

    `accept`: also where the files have changed since, or may have.
    """
    config = input_digests.resolve(config, root, compute, progress, only)
    content = config.content
    if root is None or not root.is_dir() or not (content.undigested or any(content.manifests.values())):
        return config
    path = record(root)
    adopted = read_json(path)
    manifests, reasons, doubtful = dict(content.manifests), {}, {}
    for split in [*content.manifests, *content.undigested]:
        key, digest = key_of(config, split), manifests.get(split)
        if digest is None:
            if split in content.undigested and key in adopted:  # not known to be those that were adopted
                manifests[split] = UNDIGESTED
            continue
        if key not in adopted:
            results = list(without_digest(root, config, split))
            doubt = doubts(config, split, root, results) if results else ""
            if doubt and not accept:
                count = manifest.plural(len(results), "result")
                doubtful[split] = f"{count} without file digests not adopted: {doubt}"
            if not results or (doubt and not accept):
                continue
            day = strftime("%Y-%m-%d", localtime())
            unchanged = f"adopted on {day}: no file had changed since they were produced"
            why = f"accepted on {day} ({doubt})" if doubt else unchanged
            adopted[key] = {
                "split": split,
                "digest": digest,
                "why": why,
                "results": [result.name for result in results],
            }
            keep(path, adopted)
        if adopted[key].get("digest") == digest:
            manifests[split], reasons[split] = None, adopted[key]["why"]
    return replace(config, content=replace(content, manifests=manifests, adopted=reasons, doubtful=doubtful))


def record(root: Path) -> Path:
    """Return the path of the record of a root."""
    return root / "data" / "adopted.json"


def key_of(config: Config, split: str) -> str:
    """Return the key of a split: what identities of 0.1 hold of it."""
    return f"{config['data']['name']}:{config.content.splits.get(split)}"


def keep(path: Path, adopted: JsonObject) -> None:
    """Write the record; somebody who can only read the root adopts for himself."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, adopted)


def planned(config: Config, split: str, root: Path) -> str | None:
    """Return the digest of a split's files that a plan was made of; None where it has none."""
    own = config.content.manifests.get(split)
    if own is None and split in config.content.adopted:
        own = read_json(record(root)).get(key_of(config, split), {}).get("digest")
    return own


def without_digest(root: Path, config: Config, split: str) -> Iterator[Result]:
    """Yield the jobs, begun or done, and scores of the root that read a split's list and know nothing of its files."""
    name, content = config["data"]["name"], {split: config.content.splits[split]}
    output = OutputDir(root)
    for files in output.job_dirs():
        data = facts(files.job_file).get("identity", {}).get("data", {})
        if (data.get("name"), data.get("content")) == (name, content):
            ended = last_sign(files)
            if ended is not None:
                yield Result(files.name, ended)
    for path in sorted(JobDir(folder).score_file for folder in output.scores.glob("*/")):
        try:
            data = json.loads(path.read_text())["data"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if (data.get("name"), data.get("content")) == (name, content):
            yield Result(path.parent.name, path.stat().st_mtime)


def facts(path: Path) -> JsonObject:
    """Return what a job's file holds; nothing for one that is damaged, which is no result."""
    try:
        return read_json(path)
    except UnfitError:
        return {}


def last_sign(files: JobDir) -> float | None:
    """Return when a job ended, or was last at work, in unix seconds; None where it has computed nothing."""
    if facts(files.outcome_file).get("status") == "finished":
        times = [event.time for event in read_events(files.events_file)[0]]
        return min([files.outcome_file.stat().st_mtime, *times[-1:]])  # a copied root has new file times
    results = [*files.checkpoints.glob("step-*.pt"), *files.video_files()]
    return min((path.stat().st_mtime for path in results), default=None)


def doubts(config: Config, split: str, root: Path, results: list[Result]) -> str:
    """Return in words why a split may not be what results were made of; empty for no reason.

    Files have changed since, or frames come in another order: results of 0.1 took names in the order of characters.
    """
    dataset = input_digests.build_dataset(config)
    for video in dataset.videos(split):
        frames = list(dataset.frames(split, video))
        if frames != sorted(frames):
            return f"frames of {split} are now ordered by number ({video}: {frames[0]}, {frames[1]}, …)"
    inventory = input_digests.inventory(config, split, root, compute=False)
    assert inventory is not None  # it has a digest
    first = min(results, key=lambda result: result.ended)
    newer = manifest.changed_since(inventory, first.ended, input_digests.data_folder(config))
    if not newer:
        return ""
    when = strftime("%Y-%m-%d %H:%M", localtime(first.ended))
    files = sum(name in inventory.paths for name in newer)
    what = manifest.counted(newer) if files == len(newer) else f"{len(newer)} files, folders or links"
    return f"{what} of {split} changed after {first.name} ended ({when}), e.g. {newer[0]}"
