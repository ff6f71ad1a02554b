"""The mistakes a person can make, each with the exit code the command line ends with (design §5).

A message is one line: what is wrong, where, and what to do. The command line prints it without a traceback.
"""


class HarnessError(Exception):
    """A mistake that one line can explain; never a defect of the program."""

    exit_code = 1


class UsageError(HarnessError):
    """A wrong name, key, value or flag."""

    exit_code = 2


class UnfitError(HarnessError):
    """Data, weights, store or machine that cannot serve this plan."""

    exit_code = 3
