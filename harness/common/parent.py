"""A child that does not outlive its parent. Import it before what takes seconds: whose child this is is noted here."""

import ctypes
import os
import signal
import sys

PARENT = os.getppid()
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux only; elsewhere `orphaned` is asked a step).

    Ends the process at once where the parent died before.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if orphaned():
        os._exit(1)


def die_with_forking_process() -> None:
    """As `die_with_parent`, in a fork: what was noted here is the parent of the process that forked."""
    global PARENT
    PARENT = os.getppid()
    die_with_parent()


def orphaned() -> bool:
    """Return whether the parent has died."""
    return os.getppid() != PARENT
