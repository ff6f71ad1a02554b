"""Python, torch, torchvision and timm as one matching set, and the versions that were tested together."""

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from harness.config.plugins import PROJECT
from harness.tools.doctor._facts import Machine
from harness.tools.doctor._finding import Finding, count, some

PART = "software"
REINSTALL = "reinstall the three in one command: pip install -c constraints.txt torch torchvision timm"


def examine(machine: Machine, constraints: Path = PROJECT / "constraints.txt") -> Iterator[Finding]:
    """Yield whether the packages import together, and how they differ from `constraints`."""
    if machine.broken:
        yield Finding(PART, False, f"torch cannot be inspected: {machine.broken}", REINSTALL)
    else:
        yield from matching(machine)
    yield from tested(constraints)


def matching(machine: Machine) -> Iterator[Finding]:
    """Check torch, torchvision and timm: each imports, they meet each other's requirements, operators find torch."""
    packages = machine.packages
    broken = [f"{name} cannot be imported ({package.error})" for name, package in packages.items() if package.error]
    if machine.nms:
        broken.append(f"torchvision's operators do not run on this torch ({machine.nms})")
    cuda = {name: packages[name].cuda for name in ("torch", "torchvision")}
    major = {name: built.split(".")[0] for name, built in cuda.items()}
    if not broken and major["torch"] != major["torchvision"]:
        built = " and ".join(f"{name} for {f'CUDA {to}' if to else 'the CPU'}" for name, to in cuda.items())
        broken.append(f"{built} come from different builds")
    broken += [wish for name in ("torchvision", "timm") for wish in unmet(name)]
    for text in broken:
        yield Finding(PART, False, text, REINSTALL)
    if not broken:
        versions = ", ".join(f"{name} {package.version}" for name, package in packages.items())
        built = f"CUDA {cuda['torch']}" if cuda["torch"] else "ROCm" if machine.hip else "the CPU"
        yield Finding(
            PART, True, f"Python {platform.python_version()}, {versions}, built for {built}: one matching set"
        )


def unmet(name: str) -> list[str]:
    """Return the requirements of a package on torch and torchvision that the installed ones do not meet."""
    wishes = []
    for requirement in map(Requirement, (installed(name) and requires(name)) or []):
        have = installed(requirement.name) if requirement.name in ("torch", "torchvision") else None
        if have and requirement.marker is None and not requirement.specifier.contains(have, prereleases=True):
            wishes.append(f"{name} {installed(name)} requires {requirement}, but {have} is installed")
    return wishes


def installed(name: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def tested(constraints: Path) -> Iterator[Finding]:
    """Compare installed versions with the tested ones; a local part (+cu126) does not count."""
    try:
        text = constraints.read_text()
    except OSError:
        yield Finding(PART, None, "no constraints.txt here, so the tested versions are unknown")
        return
    pins = re.findall(r"^([\w.-]+)==([^\s;#]+)", text, re.M)
    have = {name: own.partition("+")[0] for name, _ in pins if (own := installed(name))}
    other = [f"{name} {have[name]} (tested: {pin})" for name, pin in pins if have.get(name, pin) != pin]
    if other:
        remedy = "for the tested set: pip install -c constraints.txt -e ."
        yield Finding(
            PART, None, f"{count(len(other), 'package')} differ from the tested versions: {some(other)}", remedy
        )
    else:
        yield Finding(PART, True, f"all {len(have)} installed packages that constraints.txt lists match it")
