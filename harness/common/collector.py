"""Python's garbage collector, kept away from imports: they make a million objects and no garbage.

It would search them for cycles again and again, for a third of the seconds of `import torch, timm`, and once more when
Python ends.
"""

import gc

IMPORTING = 1_000_000  # containers made less containers freed between two searches; MLflow's import makes 0.4 million
SELDOM = 50_000  # Python's default is 700


def importing() -> None:
    """Search for garbage hardly ever, until `imported`: this process imports as it goes."""
    gc.set_threshold(IMPORTING)


def imported() -> None:
    """Search for garbage seldom, and never among what is there by now; in a process that is no command, do nothing."""
    if gc.get_threshold()[0] == IMPORTING:
        gc.freeze()
        gc.set_threshold(SELDOM)


def pause() -> None:
    """Search for no garbage until `resume`."""
    gc.disable()


def resume() -> None:
    """Search for garbage again, but never among the objects that are there by now."""
    gc.freeze()
    gc.enable()


def freeze_for_exit() -> None:
    """Search none of the objects that are there while Python ends."""
    gc.freeze()
