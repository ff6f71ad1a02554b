"""Events as lines of a journal: the same keys as ever, whatever is torn, unknown or of another version."""

import json
from pathlib import Path

import pytest

from harness.jobdir.events import (
    KINDS,
    Begin,
    Checkpoint,
    End,
    Event,
    Journal,
    Loaded,
    Log,
    Metrics,
    Peak,
    Progress,
    Sample,
    parse_event,
    read_events,
)

LINES: list[tuple[Event, str]] = [  # as 0.2 has written them from its first day
    (
        Begin(time=1.5, attempt=1, step=0, steps=6, unit="iterations", host="h", device="cpu", threads=2, world=1),
        '{"event": "begin", "time": 1.5, "attempt": 1, "step": 0, "steps": 6, "unit": "iterations", "host": "h", '
        '"device": "cpu", "threads": 2, "world": 1}',
    ),
    (
        Begin(time=1.5, attempt=2, step=3, steps=6, unit="videos", device="", world=2, versions={"torch": "2.15.0"}),
        '{"event": "begin", "time": 1.5, "attempt": 2, "step": 3, "steps": 6, "unit": "videos", "device": "", '
        '"world": 2, "versions": {"torch": "2.15.0"}}',
    ),
    (Loaded(time=2.0), '{"event": "loaded", "time": 2.0}'),
    (Progress(time=2.5, step=1), '{"event": "progress", "time": 2.5, "step": 1, "values": {}}'),
    (
        Metrics(time=3.0, step=2, values={"train/loss": 0.5}),
        '{"event": "metrics", "time": 3.0, "step": 2, "values": {"train/loss": 0.5}}',
    ),
    (Checkpoint(time=3.5, step=2), '{"event": "checkpoint", "time": 3.5, "step": 2}'),
    (Log(time=4.0, message="said"), '{"event": "log", "time": 4.0, "message": "said"}'),
    (Peak(time=4.5, bytes=7), '{"event": "peak", "time": 4.5, "bytes": 7}'),
    (End(time=5.0, status="finished"), '{"event": "end", "time": 5.0, "status": "finished"}'),
    (
        Sample(time=5.5, step=0, values={"gpu_0": 90}),
        '{"event": "sample", "time": 5.5, "step": 0, "values": {"gpu_0": 90}}',
    ),
]


@pytest.mark.parametrize(
    ("event", "text"), LINES, ids=[f"{type(event).__name__}-{at}" for at, (event, _) in enumerate(LINES)]
)
def test_an_event_is_its_line_and_comes_back(event: Event, text: str, tmp_path: Path) -> None:
    diary = Journal(tmp_path / "events.jsonl")
    diary.write(event)
    assert diary.path.read_text() == text + "\n"
    assert read_events(diary.path)[0] == [event]


def test_every_kind_of_event_is_tried() -> None:
    assert {type(event) for event, _ in LINES} == set(KINDS.values())


def test_an_event_has_the_time_at_which_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.jobdir.events.time.time", lambda: 7.0)
    assert Checkpoint(step=1).time == 7.0


def test_numbers_that_are_none_come_back(tmp_path: Path) -> None:
    diary = Journal(tmp_path / "events.jsonl")
    diary.write(Metrics(step=1, values={"train/loss": float("nan")}))
    (event,) = read_events(diary.path)[0]
    assert isinstance(event, Metrics)
    assert event.values["train/loss"] != event.values["train/loss"]


def test_reading_goes_on_from_the_offset(tmp_path: Path) -> None:
    diary = Journal(tmp_path / "events.jsonl")
    diary.write(Begin(step=0, steps=1))
    _, offset = read_events(diary.path)
    assert offset == diary.path.stat().st_size
    diary.write(End(time=1.0))
    assert read_events(diary.path, offset)[0] == [End(time=1.0)]


def test_half_written_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "loaded", "time": 1}\n{"event": "end", "time": 2')
    events, offset = read_events(path)
    assert events == [Loaded(time=1)]
    with path.open("a") as file:
        file.write("}\n")
    assert read_events(path, offset)[0] == [End(time=2)]


def test_line_torn_by_a_death_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "loaded", "time": 1}\n{"event": "metrics", "valu')
    Journal(path).write(End(time=3))
    assert read_events(path)[0] == [Loaded(time=1), End(time=3)]


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "null",
        '{"time": 1}',
        '{"event": "unheard of", "time": 1}',
        '{"event": ["log"], "time": 1}',
        '{"event": "checkpoint", "time": 1}',
        '{"event": "checkpoint", "step": 1}',
        '{"event": "checkpoint", "time": null, "step": 1}',
    ],
)
def test_what_is_no_event_is_passed_over(line: str) -> None:
    assert parse_event(line) is None


def test_unknown_fields_are_ignored_and_optional_ones_may_be_absent_or_null() -> None:
    line = {"event": "progress", "time": 1, "step": 2, "values": None, "colour": "red"}
    assert parse_event(json.dumps(line)) == Progress(time=1, step=2)
    assert parse_event('{"event": "begin", "time": 1, "step": 0, "steps": 3}') == Begin(time=1, step=0, steps=3)


def test_absent_file_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none.jsonl") == ([], 0)
