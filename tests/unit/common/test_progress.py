import time

import pytest

from harness.common.progress import SILENT, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_line_at_first_at_the_end_and_at_most_one_a_minute_after_a_while(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    task = Progress(every=5).task("", "frames")
    for second in range(302):
        task.update(second, 301)
        clock[0] += 1
    assert caplog.messages == [f"{second}/301 frames" for second in (0, 5, 15, 35, 75, 135, 195, 255, 301)]


def test_a_task_that_is_quick_has_one_line(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    task = Progress(every=5).task("digesting data", "files", delay=5)
    task.update(1, 3)
    clock[0] += 4
    task.update(2, 3)
    task.update(3, 3)
    assert caplog.messages == ["digesting data: 3/3 files"]


def test_what_is_finished_has_no_further_line(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress().headed("trial 3")
    progress.task("train a", "iterations").update(9, 9, "loss 0.100")
    progress.task("train a", "iterations").finish()
    progress.task("train a", "iterations").update(9, 9, "loss 0.200")
    SILENT.task("", "videos").update(1, 1)
    assert caplog.messages == ["trial 3: train a: 9/9 iterations  loss 0.100"]


def test_a_terminal_has_bars_and_lines_above_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Progress() as progress:
        progress.task("train a", "iterations").update(3, 9, "loss 0.100")
    shown = capsys.readouterr().err
    assert "train a" in shown
    assert "3/9" in shown
    assert "loss 0.100" in shown
    assert "iterations" not in shown
