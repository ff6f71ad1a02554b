"""Start of a child process: `python -m harness.common.start MODULE [WORD ...]` imports a module and calls its main().

Imports make a million objects and no garbage: Python's collector, which would look through them again and again, takes
a third of the seconds of `import torch, timm`. It looks at none of them later, either.
"""

import gc
import importlib
import sys

from harness.common import parent  # noqa: F401  it notes whose child this is, before torch takes seconds


def main() -> int | None:
    """Return the exit code of the module's main, which finds its words in sys.argv."""
    name = sys.argv.pop(1)
    gc.disable()
    module = importlib.import_module(name)
    gc.freeze()
    gc.enable()
    code: int | None = module.main()
    return code


if __name__ == "__main__":
    code = main()
    gc.freeze()  # nor does it look for cycles while Python ends
    sys.exit(code)
