"""Reports of several settings in one output directory: each has its own folder, and the newest is linked."""

import errno
import json
import os
from pathlib import Path

import finished_root
import pytest

from harness.cli import main
from harness.config.settings import RunOptions
from harness.launch import runner
from harness.plan.plan import Plan
from harness.report.listing import list_all
from harness.tracking.publisher import Silent

TITLE = "Table 1 – Ablation study of model ensemble (not the paper's setting)"


def conclude(plan: Plan, *command: str) -> Path:
    options = RunOptions(command=("harness", "run", *command))
    return runner.conclude(plan, plan.experiments[0], Silent(), {}, options, "FINISHED", True).folder


def test_another_setting_replaces_no_report(tmp_path: Path) -> None:
    done = finished_root.make(tmp_path, videos=24)
    latest = conclude(done, "first")
    table = (latest / "report.md").read_text()
    first = latest.resolve()
    other = finished_root.make(tmp_path, videos=20, without=finished_root.CELLS)
    assert conclude(other, "second") == latest == tmp_path / "reports" / "ablation_ensemble"
    assert latest.resolve() != first
    assert (first / "report.md").read_text() == table
    assert "missing" in (latest / "report.md").read_text()
    assert conclude(done, "first").resolve() == first == latest.resolve()  # the newest again


def test_reports_are_listed_newest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (videos, without) in enumerate([(24, ()), (20, ("decoder_b",))]):
        folder = conclude(finished_root.make(tmp_path, videos=videos, without=without), f"videos={videos}").resolve()
        os.utime(folder / "report.md", (1.7e9 + number, 1.7e9 + number))
    newest, oldest = list_all(tmp_path)
    assert (newest.command, newest.undone, newest.latest) == ("harness run videos=20", 1, True)
    assert (oldest.command, oldest.undone, oldest.latest) == ("harness run videos=24", 0, False)
    assert newest.title == TITLE
    assert "; 1 not done\n    harness run videos=20" in newest.line
    assert main(["report", "--list", "--json", "--root", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)[0] == newest.json


def test_a_folder_of_0_1_is_kept(tmp_path: Path) -> None:
    old = tmp_path / "reports" / "ablation_ensemble"
    old.mkdir(parents=True)
    (old / "report.md").write_text("# An old table\n")
    assert [report.title for report in list_all(tmp_path)] == ["An old table"]
    conclude(finished_root.make(tmp_path))
    kept = tmp_path / "reports" / "plans" / "ablation_ensemble-0.1" / "report.md"
    assert kept.read_text() == "# An old table\n"
    assert len(list_all(tmp_path)) == 2


def test_a_file_system_without_links_has_the_report_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = conclude(finished_root.make(tmp_path))
    assert folder.parent == tmp_path / "reports" / "plans"
    assert (folder / "index.html").is_file()
    assert "Operation not permitted" in caplog.text
    assert not (tmp_path / "reports" / "ablation_ensemble").exists()


def test_without_an_experiment_there_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["report", "--root", str(tmp_path)]) == 2
    assert "which experiment?" in capsys.readouterr().err
    assert main(["report", "--list", "--root", str(tmp_path)]) == 0
    assert list(tmp_path.iterdir()) == []
