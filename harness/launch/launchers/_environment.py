"""The environment that a rank inherits."""

import os

from harness.common import child, machine

# A CPU rank frees and asks again for hundreds of MB a step. glibc hands such blocks back to the kernel, which must then
# clear their pages anew: a fifth to a third of a step. Kept, and in huge pages, they cost nothing.
MALLOC = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1073741824:glibc.malloc.hugetlb=1"


DATABASES = ("MLFLOW_", "HARNESS_STORAGE")  # ranks write files, others talk to databases
# what torchrun takes for its own options or tells its ranks, and git for another repository: where a container, another
# torchrun or a git hook has set it, it is not of ours
TORCHRUN = ("PET_", "TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_", "GIT_")
RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


def child_environment() -> dict[str, str]:
    """Return ours without logins, without a rank among ranks, and safe from files of the working directory."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith((*DATABASES, *TORCHRUN)) and key not in RANK
    }
    # torchrun sets OMP_NUM_THREADS itself, so that a rank cannot tell whose it is
    asked = {} if (threads := machine.threads()) is None else {"HARNESS_THREADS": threads}
    return {"GLIBC_TUNABLES": MALLOC, **inherited, **asked, **child.SAFE}
