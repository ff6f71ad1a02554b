"""Changes of the data since jobs that are otherwise the same were finished."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.atomic_files import read_json
from harness.common.errors import UnfitError
from harness.config import input_digests
from harness.data import hold_out, manifest
from harness.plan import adoption
from harness.plan.job import Evaluate, Job, digest, without_content
from harness.plan.plan import Plan

LIST = "another list of videos or classes"


@dataclass(frozen=True)
class Finished:
    """A finished job of the root, as far as data goes."""

    fingerprint: str
    content: Mapping[str, str]  # split or "SPLIT.files" -> digest


def splits_of(job: Job) -> set[str]:
    """Return the data set's own splits that a job depends on."""
    own = hold_out.source(job.split) if isinstance(job, Evaluate) else "train"
    return {own}.union(*map(splits_of, job.inputs))


def splits(plan: Plan) -> set[str]:
    """Return the data set's own splits that a plan's jobs read."""
    return set().union(*map(splits_of, plan.jobs))


def undigested(plan: Plan) -> dict[str, str]:
    """Return the splits that a plan's jobs read and whose files are not digested, with the reason."""
    read = splits(plan)
    return {split: why for split, why in plan.config.content.undigested.items() if split in read}


def lines(plan: Plan) -> list[str]:
    """Return what is to be said of the data's files: not digested yet, and what becomes of results without digests."""
    content, read = plan.config.content, splits(plan)
    notes = [f"data without digests: {split}: {why}" for split, why in undigested(plan).items()]
    if notes:
        notes.append(
            "  (fingerprints and states are provisional; a run computes digests first, as does `plan --check-data`)"
        )
    for split in sorted(read):
        if why := content.adopted.get(split):
            notes.append(f"{split}: results without file digests {why}")
        if (why := content.doubtful.get(split)) and any(plan.state(job) != "done" for job in plan.jobs):
            notes.append(f"{split}: {why}; `harness run … --accept data` adopts them anyway")
    return notes


def finished(plan: Plan) -> dict[str, list[Finished]]:
    """Return the finished jobs of a plan's root by recipe: all that their fingerprints depend on but data and weights.

    Empty where no data has files, or nothing is missing.
    """
    jobs: dict[str, list[Finished]] = {}
    if not any(plan.config.content.manifests.values()) or all(plan.state(job) == "done" for job in plan.jobs):
        return jobs
    for files in plan.output.job_dirs():
        identity = adoption.facts(files.job_file).get("identity", {})
        content = identity.get("data", {}).get("content")
        if content and adoption.facts(files.outcome_file).get("status") == "finished":
            jobs.setdefault(digest(without_content(identity)), []).append(Finished(files.name, content))
    return jobs


def changed(plan: Plan, job: Job, before: Mapping[str, list[Finished]]) -> str:
    """Return in words how the data of a job differs from that of the youngest finished job that is else the same.

    Empty where there is none, where the data is the same, or where it is not digested.
    """
    own: Mapping[str, Any] = job.identity["data"].get("content", {})
    same = before.get(job.config_hash, ())
    others = [past for past in same if dict(past.content) != dict(own)]
    if not others or job.fingerprint in {past.fingerprint for past in same} or undigested(plan):
        return ""
    other = max(others, key=lambda past: plan.output.job(past.fingerprint).outcome_file.stat().st_mtime)
    adopted = read_json(adoption.record(plan.root))
    name = job.config["data"]["name"]
    return "; ".join(_differences(plan.root, _whole(own, name, adopted), _whole(other.content, name, adopted)))


def _whole(content: Mapping[str, str], name: str, adopted: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of an identity, and of what was adopted for it."""
    files = {f"{key}.files": adopted.get(f"{name}:{digest}", {}).get("digest") for key, digest in content.items()}
    return {**{key: digest for key, digest in files.items() if digest}, **content}


def _differences(root: Path, own: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    for split in [key for key in own if not key.endswith(".files")]:
        key = f"{split}.files"
        if own.get(key) == other.get(key):
            if own[split] != other.get(split):
                yield f"{split}: {LIST}"
            continue
        now, before = (_manifest(root, digests.get(key)) for digests in (own, other))
        if now is not None and before is not None:
            yield manifest.compare(before, now).text(split)
        elif key not in other:
            yield f"{split}: files may differ; the earlier results have no file digests"
        else:
            yield f"{split}: other files"


def _manifest(root: Path, digest: str | None) -> manifest.Digests | None:
    return manifest.read(input_digests.manifest_path(root, digest)) if digest else None


def check(plan: Plan, submitted: bool = False) -> None:
    """Raise UnfitError for data that is not digested, or has changed since the plan was `submitted` to run later."""
    for split, why in undigested(plan).items():
        raise UnfitError(f"data without digests: {split}: {why}; run `harness plan --check-data` first")
    if submitted and (changes := since_planned(plan)):
        raise UnfitError(f"data changed since this was submitted: {changes}; submit it again")


def since_planned(plan: Plan) -> str:
    """Return in words which files that a plan's jobs read are no longer those it was made of; empty for none."""
    changes = []
    for split in sorted(splits(plan)):
        wanted = adoption.planned(plan.config, split, plan.root)
        if wanted is None:
            continue
        try:
            now, _ = input_digests.manifest_of(plan.config, split, plan.root, compute=True)
        except UnfitError as error:
            changes.append(str(error))
            continue
        if now != wanted:
            before, after = _manifest(plan.root, wanted), _manifest(plan.root, now)
            unknown = before is None or after is None
            changes.append(f"files of {split}" if unknown else manifest.compare(before or {}, after or {}).text(split))
    return "; ".join(changes)
