"""`harness check` in a test: plug-ins are written, tried, and what is broken is listed."""

from harness.tools import check

RANKS = "two ranks match one process"  # two processes that import torch: seconds each
COST = "its cost"
TRAINING = ("the loss falls in training", "a video can be parsed", "a resumed training is bit-identical")


def write(folder, kind, name, text):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    path = folder / kind / f"{name}.py"
    path.write_text(text)
    return path


def run(name, folders=(), kind="decoders", leave_out=(), given=None):
    return {one.what: one for one in check.checks(kind, name, folders, given, leave_out)}


def broken(found):
    return {what: one.text for what, one in found.items() if not one.passed}
