"""Which file system a path lies on, by the kernel's table of mounts."""

import re
from pathlib import Path

# of several machines: locks and write-ahead logs of SQLite are not to be trusted on them
NETWORK = re.compile(
    r"(nfs|cifs|smb|lustre|gpfs|beegfs|ceph|gluster|afs|orangefs|pvfs|panfs|wekafs|9p|ncpfs|davfs|fuse\.|fuse$)"
)


def existing(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that is there."""
    path = path.expanduser().absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def network(path: Path, mounts: Path) -> str | None:
    """Return the network mount that a path is on, `nfs4 at /home`; None for local or unknown ones."""
    try:
        rows = [line.split() for line in mounts.read_text(errors="replace").splitlines()]
    except OSError:
        return None
    target = existing(path).resolve()
    best: tuple[Path, str] | None = None
    for row in rows:
        if len(row) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), row[1]))
        # of mounts at one place the last one covers the others
        if target.is_relative_to(point) and (best is None or len(point.parts) >= len(best[0].parts)):
            best = point, row[2]
    return f"{best[1]} at {best[0]}" if best and NETWORK.match(best[1]) else None
