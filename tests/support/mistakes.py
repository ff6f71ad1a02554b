"""What tests of bad input share: a mistake ends in one line that names the file, and never in a traceback."""

import pytest
from hypothesis import HealthCheck, settings

from harness.common.errors import HarnessError, UnfitError
from harness.data.datasets import vspw

VIDEO, FRAME = "val_00000", "00000000"


def many(examples):
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def attempt(action, path=None):
    """What an action gives, or None where it ends in a mistake of one line (that names the file)."""
    try:
        return action()
    except HarnessError as error:
        check(str(error), path)
        return None


def check(message, path=None):
    assert message.isprintable(), message
    assert path is None or str(path) in message, message
    assert "Traceback" not in message


def fails(action, *words):
    with pytest.raises(UnfitError) as caught:
        action()
    check(str(caught.value))
    assert all(str(word) in str(caught.value) for word in words), str(caught.value)


def build_data(root):
    return vspw.Dataset(vspw.Config(root=str(root)))


def walk(data, split="val"):
    """Read every frame of a split."""
    return [data.read(split, video, frame) for video in data.videos(split) for frame in data.frames(split, video)]
