"""Start of a child process: `python -m harness.common.start MODULE [WORD ...]` imports a module and calls its main."""

import importlib
import sys

from harness.common import collector, parent  # noqa: F401  whose child this is is noted before torch takes seconds


def main() -> int | None:
    """Return the exit code of the module's main, which finds its words in sys.argv."""
    name = sys.argv.pop(1)
    collector.pause()
    module = importlib.import_module(name)
    collector.resume()
    code: int | None = module.main()
    return code


if __name__ == "__main__":
    code = main()
    collector.freeze_for_exit()
    sys.exit(code)
