import logging
import os
import sys
from pathlib import Path

import pytest

from harness.common.console import logging_to_stderr

log = logging.getLogger("harness.somewhere")


def test_lines_are_plain_and_end_with_the_process_s_entry(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr():
        log.info("one: 100% of %s " + "x" * 200)
        log.error("harness: two\nand a second line")
    assert capsys.readouterr().err == "one: 100% of %s " + "x" * 200 + "\nharness: two\nand a second line\n"
    log.error("nobody prints this")
    assert not [handler for handler in logging.getLogger("harness").handlers if "Stderr" in type(handler).__name__]


def test_a_root_handler_of_a_library_prints_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(theirs)
    try:
        with logging_to_stderr():
            log.info("once")
    finally:
        logging.getLogger().removeHandler(theirs)
    assert capsys.readouterr().err == "once\n"


def test_a_reader_who_has_left_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with logging_to_stderr():
            log.info("lost")
            log.info("lost too")
        assert os.fstat(writer).st_rdev == os.stat(os.devnull).st_rdev, "what is still to come goes nowhere"


def test_a_stderr_that_knows_no_letters_of_ours_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with logging_to_stderr():
            log.info("2 × 3")
    assert (tmp_path / "log").read_text() == "2 \\xd7 3\n"
