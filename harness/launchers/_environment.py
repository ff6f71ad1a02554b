"""What a rank inherits of our environment."""

import os

# A CPU rank frees and asks again for hundreds of MB a step. glibc hands such blocks back to the kernel, which must then
# clear their pages anew: a fifth to a third of a step. Kept, and in huge pages, they cost nothing.
MALLOC = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1073741824:glibc.malloc.hugetlb=1"


def child_environment() -> dict[str, str]:
    """Ours without MLFLOW_* and the study's storage: ranks write files, others talk to databases (design §2.4)."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "HARNESS_STORAGE"))}
    return {"GLIBC_TUNABLES": MALLOC, **kept}
