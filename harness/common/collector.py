"""Python's garbage collector, kept away from imports: they make a million objects and no garbage.

It would search them for cycles again and again, for a third of the seconds of `import torch, timm`, and once more when
Python ends.
"""

import gc

SELDOM = 1_000_000  # more new objects than old ones die between two searches; importing MLflow makes half as many


def search_seldom() -> None:
    """Search for garbage less often."""
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
