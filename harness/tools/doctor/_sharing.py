"""An output directory of several people: whether another member of its group can read and write what is there."""

import grp
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from harness.tools.doctor._finding import Finding, count, some
from harness.tools.doctor._mounts import existing

PART = "disk"
LOOKED = 50_000  # files that are looked at
GUIDE = "docs/CLUSTER.md, several people"


def examine(root: Path) -> Iterator[Finding]:
    """Return findings on an output directory that is set up for a group, or that files of other owners are in."""
    folder = existing(root)
    if folder != root.expanduser().absolute() or not folder.is_dir():
        return
    top = folder.stat()
    files = {path: path.lstat() for path in islice(walk(folder), LOOKED)}
    others = any(status.st_uid != os.getuid() for status in files.values())
    if not (top.st_mode & stat.S_ISGID or others or top.st_uid != os.getuid()):
        return
    group = name(top.st_gid)
    problems = list(problems_of(folder, top, files, group))
    yield from problems
    if not problems:
        yield Finding(PART, True, f"{root}: every member of the group {group} can read and write everything in it")


def problems_of(folder: Path, top: os.stat_result, files: dict[Path, os.stat_result], group: str) -> Iterator[Finding]:
    """Return what keeps another member of the group from working in a folder."""
    if top.st_mode & (stat.S_ISGID | stat.S_IRWXG) != stat.S_ISGID | stat.S_IRWXG:
        text = f"{folder}: new files do not belong to the group {group}, or the group may not write there"
        yield Finding(PART, False, text, f"chmod g+rwxs {folder} ({GUIDE})")
    mask = os.umask(0)
    os.umask(mask)
    if mask & stat.S_IRWXG:
        text = f"{folder}: your umask {mask:03o} denies the group {group} access to files that you create there"
        yield Finding(PART, False, text, f"umask 002 in your shell's profile ({GUIDE})")
    closed = [path for path, status in files.items() if not open_to_group(status, top.st_gid)]
    if closed:
        text = f"{folder}: {count(len(closed), 'file')} that the group {group} cannot read and write: {some(closed)}"
        remedy = f"chgrp -R {group} {folder} && chmod -R g+rwX {folder}, by whoever owns them ({GUIDE})"
        yield Finding(PART, False, text, remedy)


def walk(folder: Path) -> Iterator[Path]:
    """Yield what lies under a folder, links apart; what cannot be listed is left out."""
    for parent, folders, files in os.walk(folder):
        yield from (path for path in (Path(parent, name) for name in [*folders, *files]) if not path.is_symlink())


def open_to_group(status: os.stat_result, group: int) -> bool:
    """Return whether members of a group can read and write a file, or list a folder and make files there."""
    need = stat.S_IRGRP | stat.S_IWGRP | (stat.S_IXGRP if stat.S_ISDIR(status.st_mode) else 0)
    return status.st_gid == group and status.st_mode & need == need


def name(group: int) -> str:
    """Return a group's name, or its number where it has none."""
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)
