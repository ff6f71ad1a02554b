"""What a journal comes to; the first one was written by the code before events were typed, and is kept as it was."""

from pathlib import Path

import pytest

from harness.jobdir.events import read_events
from harness.jobdir.paths import JobDir
from harness.jobdir.replay import ITERATIONS_PER_SECOND, Replay, Samples, measurements, tail

OLD = """\
{"event": "begin", "time": 1000.0, "attempt": 1, "step": 0, "steps": 6, "unit": "iterations", "host": "a", \
"device": "cpu", "threads": 1, "world": 1, "versions": {"python": "3.11.9", "torch": "2.15.0"}}
{"event": "log", "time": 1000.5, "message": "no weights"}
{"event": "metrics", "time": 1002.0, "step": 1, "values": {"train/loss": 3.0, "time/iterations_per_second": 0.5}}
{"event": "progress", "time": 1002.0, "step": 1, "values": {"train/loss": 3.0}}
{"event": "metrics", "time": 1004.0, "step": 2, "values": {"train/loss": 2.5, "time/iterations_per_second": 0.5}}
{"event": "metrics", "time": 1004.5, "step": 2, "values": {"dev/miou": 20.0}}
{"event": "checkpoint", "time": 1005.0, "step": 2}
{"event": "metrics", "time": 1006.0, "step": 3, "values": {"train/loss": 9.9, "time/iterations_per_second": 0.5}}
{"event": "metrics", "time": 1008.0, "step": 4, "values": {"train/lo
{"event": "begin", "time": 2000.0, "attempt": 2, "step": 2, "steps": 6, "unit": "iterations", "host": "b", \
"device": "cuda", "threads": 1, "world": 2, "versions": {"python": "3.11.9", "torch": "2.15.0"}}
{"event": "progress", "time": 2001.0, "step": 3, "values": {"train/loss": 2.2}}
{"event": "metrics", "time": 2001.0, "step": 3, "values": {"train/loss": 2.2, "time/iterations_per_second": 1.0}}
{"event": "metrics", "time": 2002.0, "step": 4, "values": {"train/loss": 2.0, "time/iterations_per_second": 1.0}}
{"event": "checkpoint", "time": 2003.0, "step": 4}
{"event": "peak", "time": 2003.5, "bytes": 300}
{"event": "metrics", "time": 2004.0, "step": 5, "values": {"train/loss": 1.9, "time/iterations_per_second": 0.5}}
"""
END = '{"event": "end", "time": 2010.0, "status": "finished"}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text(OLD)
    return path


def curve(points: list[tuple[str, float, int, int]], key: str) -> list[tuple[int, float, int]]:
    return [(step, value, when) for name, value, step, when in points if name == key]


def test_an_old_journal_has_the_same_curve_progress_and_seconds(path: Path) -> None:
    replay = Replay()
    points = replay.hear(read_events(path)[0])
    assert curve(points, "train/loss") == [
        (1, 3.0, 1002000),
        (2, 2.5, 1004000),
        (3, 2.2, 2001000),
        (4, 2.0, 2002000),
    ]
    assert curve(points, "dev/miou") == [(2, 20.0, 1004500)]
    assert [point[:3] for point in replay.pending] == [("train/loss", 1.9, 5), (ITERATIONS_PER_SECOND, 0.5, 5)]
    assert replay.committed == 4
    assert replay.curves["dev/miou"] == {2: 20.0}
    assert replay.losses == {1: 3.0, 2: 2.5, 3: 2.2, 4: 2.0, 5: 1.9}
    assert (replay.step, replay.steps, replay.unit, replay.measured) == (5, 6, "iterations", 5)
    assert replay.seconds == (1006 - 1000) + (2004 - 2000)
    assert (replay.attempts, replay.peak, replay.messages, replay.time) == (2, 300, ["no weights"], 2004.0)
    assert replay.provenance == {
        "device": "cuda",
        "threads": 1,
        "world": 2,
        "versions": {"python": "3.11.9", "torch": "2.15.0"},
    }
    assert replay.pace == 1.0, "of a step since the last checkpoint"
    assert replay.rate == 3 / 4
    assert replay.remaining == 1 / replay.rate
    assert replay.eta == 1 * 4 / 3


def test_an_end_that_is_well_makes_the_rest_final(path: Path) -> None:
    replay = Replay.of(path)
    with path.open("a") as file:
        file.write(END)
    points = replay.hear([read_events(path)[0][-1]])
    assert curve(points, "train/loss") == [(5, 1.9, 2004000)]
    assert replay.pending == []
    assert replay.seconds == 6 + 10


def test_a_note_of_what_was_told_keeps_that_from_being_told_again(path: Path) -> None:
    points = Replay(committed=2).hear(read_events(path)[0])
    assert [step for step, _, _ in curve(points, "train/loss")] == [3, 4]


@pytest.mark.parametrize("size", range(1, 20))
def test_pieces_come_to_the_same_as_the_whole(path: Path, size: int) -> None:
    events = read_events(path)[0]
    replay, points = Replay(), []
    for at in range(0, len(events), size):
        points += replay.hear(events[at : at + size])
    whole = Replay()
    assert points == whole.hear(events)
    assert replay == whole


def test_only_what_fits_at_both_ends_of_a_long_journal_is_read(path: Path) -> None:
    whole = Replay.of(path)
    replay = tail(path, path.stat().st_size)
    assert replay == whole
    last = OLD.splitlines(keepends=True)[-2:]  # peak, metrics
    short = tail(path, 300)
    assert len("".join(last)) < 300
    assert (short.step, short.steps, short.unit, short.time) == (5, 6, "iterations", 2004.0)
    assert short.rate == 1 / 1, "since the checkpoint, with which the tail begins"
    assert tail(path.with_name("none"), 300) == Replay()


def test_measurements_of_a_key_are_in_order(path: Path) -> None:
    events = read_events(path)[0]
    assert measurements(events, "dev/miou") == [(2, 20.0)]
    assert [step for step, _ in measurements(events, "train/loss")] == [1, 2, 3, 3, 4, 5], "progress is no point"


def test_samples_are_read_once(tmp_path: Path) -> None:
    files = JobDir(tmp_path)
    files.system.mkdir()
    line = '{"event": "sample", "time": 10.0, "step": 0, "values": {"gpu_0_power_usage_watts": 5}}\n'
    (files.system / "node.jsonl").write_text(line)
    samples = Samples(files)
    assert samples.read() == [("system/node/gpu_0_power_usage_watts", 5, 0, 10000)]
    assert samples.read() == []
    assert samples.offsets == {"node": len(line)}


def test_a_checkpoint_written_beside_later_steps_takes_nothing_back(path: Path) -> None:
    """Its own step's points become final, later ones wait, and progress stays."""
    with path.open("a") as file:
        file.write('{"event": "metrics", "time": 2005.0, "step": 6, "values": {"train/loss": 1.8}}\n')
        file.write('{"event": "checkpoint", "time": 2005.5, "step": 5, "seconds": 1.2}\n')
        file.write('{"event": "metrics", "time": 2006.0, "step": 7, "values": {"train/loss": 1.7}}\n')
    replay = Replay()
    final = replay.hear(read_events(path)[0])
    assert {point[2] for point in final} == {1, 2, 3, 4, 5}
    assert {point[2] for point in replay.pending} == {6, 7}
    assert (replay.step, replay.stepped, replay.pace) == (7, 2006.0, 1.0)
