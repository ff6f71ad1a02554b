"""The code that runs in a rank. Importing it takes seconds (torch), so whose child this process is is noted first."""

from harness.common import parent

__all__ = ["parent"]
