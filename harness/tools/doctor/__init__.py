"""`harness doctor`: whether data, weights, devices, software, store and disk can serve a configuration, and why not.

Nothing is made or changed, but for the digests remembered under a root that is there; no network is asked but the
tracking server; no pickle is executed. torch and timm are imported in child processes only, so that a broken
installation is a finding and not a traceback.
"""

import logging
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from harness.config.compose import Config
from harness.plan.job import Job, Train
from harness.plan.plan import Plan
from harness.tools.doctor import _children, _data, _devices, _disk, _limits, _sharing, _software, _store, _weights
from harness.tools.doctor._finding import Finding, findings_json, line

log = logging.getLogger(__name__)

__all__ = ["PARTS", "Finding", "examine", "findings_json", "line"]

MOUNTS = Path("/proc/mounts")
PARTS = ("software", "devices", "weights", "disk", "store", "data")


def examine(
    config: Config,
    root: Path,
    tracking_uri: str | None,
    prefix: str = "",
    *,
    plan: Plan | None = None,
    thorough: bool = False,
    mounts: Path = MOUNTS,
    parts: Collection[str] = PARTS,
) -> Iterator[Finding]:
    """Yield findings as they come: software and devices, weights, disk, store, and the data, which may take longest.

    `plan` adds what its missing jobs need on the disk; `thorough` reads every frame and mask and not a sample; only
    `parts` are examined. Nothing is raised for what is unfit: it is found.
    """
    missing = [] if plan is None else [job for job in plan.jobs if plan.state(job) != "done"]
    await_machine = _children.machine() if {"software", "devices"}.intersection(parts) else None
    await_networks = _children.networks(config, decoders(missing)) if {"weights", "disk"}.intersection(parts) else None
    if await_machine is not None:
        log.info("importing torch, torchvision and timm")
        machine = await_machine()
        if "software" in parts:
            yield from _software.examine(machine)
        if "devices" in parts:
            yield from _devices.examine(machine, config)
            yield from _limits.examine(config)
    if await_networks is not None:
        log.info("building the encoder and reading its weights")
        networks = await_networks()
        if "weights" in parts:
            yield from _weights.examine(config, root, networks)
        if "disk" in parts:
            yield from _disk.examine(root, missing, networks, mounts)
            yield from _sharing.examine(root)
    if "store" in parts:
        yield from _store.examine(tracking_uri, prefix, mounts)
    if "data" in parts:
        yield from _data.examine(config, thorough)


def decoders(jobs: Iterable[Job]) -> list[str]:
    """Return the decoders that are trained, by name."""
    return sorted({job.decoder for job in jobs if isinstance(job, Train)})
