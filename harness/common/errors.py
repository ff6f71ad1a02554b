"""The mistakes a person can make, each with the exit code the command line ends with.

A message is one line: what is wrong, where, and what to do. The command line prints it without a traceback.
"""

import errno
from pathlib import Path


class HarnessError(Exception):
    """A mistake that one line can explain; never a defect of the program."""

    exit_code = 1


class UsageError(HarnessError):
    """A wrong name, key, value or flag."""

    exit_code = 2


class UnfitError(HarnessError):
    """Data, weights, store or machine that cannot serve this plan."""

    exit_code = 3


KEPT = "finished work is kept; rerun the same command to continue"
REMEDIES = {
    errno.ENOSPC: f"free some space; {KEPT}",
    errno.EDQUOT: f"free some space; {KEPT}",
    errno.EMFILE: f"raise the limit of open files (ulimit -n 4096) or set train.workers=0; {KEPT}",
    errno.EROFS: "choose another directory{root}, or make it writable",
    errno.ENOTDIR: "choose another directory{root}: there is a file where a folder is needed",
    errno.EEXIST: "choose another directory{root}: there is a file where a folder is needed",
    errno.EACCES: "choose another directory{root}, or change its permissions",
    errno.EPERM: "choose another directory{root}, or change its permissions",
}


FORBIDDEN = (errno.EACCES, errno.EPERM)
SHARE = "ask its owner to make it readable and writable for the group: chmod -R g+rwX (docs/CLUSTER.md, several people)"


def refused(error: OSError, path: object = None) -> UnfitError:
    """Return the error for people of what a file system refused, at `path` in a root or else where `error` says.

    What may not be read or written elsewhere than at `path`, as another person's weights, is named itself.
    """
    where = error.filename if path is None else path
    what = error.strerror or str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0, "check the disk or its connection")
    elsewhere = error.filename is not None and path is not None and not Path(error.filename).is_relative_to(str(path))
    if error.errno in FORBIDDEN and elsewhere:
        return UnfitError(f"{error.filename}: {what}; {SHARE}")
    remedy = remedy.replace("{root}", "" if path is None else " (--root DIR)")
    return UnfitError(f"{'' if where is None else f'{where}: '}{what}; {remedy}")
