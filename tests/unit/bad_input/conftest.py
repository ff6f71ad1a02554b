"""A root in VSPW's layout for each test, and one whose files are overwritten again and again."""

import pytest
from mistakes import VIDEO
from vspw_files import make_vspw

from harness.data.datasets import vspw


@pytest.fixture
def root(tmp_path):
    return make_vspw(tmp_path / "made")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root whose files are overwritten again and again."""
    return make_vspw(tmp_path_factory.mktemp("generated") / "made", frames=1)


@pytest.fixture(autouse=True)
def _lists_of_their_own(request):
    """The generated lists do not stay: each test finds a root whose other files are whole."""
    if "place" in request.fixturenames:
        place = request.getfixturevalue("place")
        (place / "val.txt").write_text(VIDEO)
        (place / vspw.CLASS_LIST).write_text('{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}')
