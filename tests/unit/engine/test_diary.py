from harness.jobdir import events as journal
from harness.jobdir.events import Journal


def test_events_come_back_in_order_with_time(tmp_path):
    diary = Journal(tmp_path / "events.jsonl")
    diary.write("begin", step=0)
    diary.write("metrics", step=1, values={"train/loss": float("nan")})
    events, offset = journal.read(diary.path)
    assert [event["event"] for event in events] == ["begin", "metrics"]
    assert events[0]["time"] <= events[1]["time"]
    assert offset == diary.path.stat().st_size


def test_reading_goes_on_from_the_offset(tmp_path):
    diary = Journal(tmp_path / "events.jsonl")
    diary.write("begin")
    _, offset = journal.read(diary.path)
    diary.write("end")
    events, _ = journal.read(diary.path, offset)
    assert [event["event"] for event in events] == ["end"]


def test_half_written_line_is_read_once_it_is_whole(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "a"}\n{"event": "b"')
    events, offset = journal.read(path)
    assert [event["event"] for event in events] == ["a"]
    with path.open("a") as file:
        file.write("}\n")
    assert journal.read(path, offset)[0] == [{"event": "b"}]


def test_line_torn_by_a_death_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "a"}\n{"event": "b", "valu')
    Journal(path).write("c")
    assert [event["event"] for event in journal.read(path)[0]] == ["a", "c"]


def test_absent_file_has_no_events(tmp_path):
    assert journal.read(tmp_path / "none.jsonl") == ([], 0)
