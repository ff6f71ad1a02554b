"""A report as a folder to be published: figures, frames, each row's configuration and log, no path of this machine."""

import json
import re
from pathlib import Path

import finished_root
import pytest
import yaml

from harness.cli import main
from harness.tools import export_report

PLAN = ["ablation_ensemble", *finished_root.OVERRIDES, "data.synthetic.val_videos=4"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    plan = finished_root.make(folder / "runs", videos=4)
    for job in plan.jobs:
        journal = plan.jobdir(job).events_file
        begin = {"event": "begin", "time": 1.0, "step": 0, "steps": 160, "host": "node07", "device": "cpu"}
        log = {"event": "log", "time": 2.0, "message": f"weights read from {folder}/weights/beit.pth"}
        progress = {"event": "progress", "time": 3.0, "step": 1, "values": {"train/loss": 3.0}}
        earlier = journal.read_text() if journal.is_file() else ""
        journal.write_text("".join(json.dumps(each) + "\n" for each in (begin, log, progress)) + earlier)
    assert main(["export", "report", *PLAN, "--root", str(folder / "runs"), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_readme_shows_figures_and_synthetic_frames_and_every_link_leads_somewhere(published: Path) -> None:
    text = (published / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert {link for link in links if not (published / link).is_file()} == set()
    assert "ablation_ensemble/gains.png" in links
    assert sum("/panels/" in link for link in links) >= 3
    assert "harness run ablation_ensemble" in text


def test_every_row_has_its_configuration_and_log(published: Path) -> None:
    text = (published / "README.md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if ".jsonl)" in line}
    assert list(rows) == ["UPerNet", "Decoder A", "Decoder B", "Decoder A+B"]
    configs = re.findall(r"\((jobs/\w+\.yaml)\)", rows["Decoder A+B"])
    trained = [yaml.safe_load((published / path).read_text()) for path in configs]
    assert {each["decoder"]["name"] for each in trained if each["kind"] == "train"} == {"decoder_a", "decoder_b"}
    assert all(each["train"]["epochs"] == 10 for each in trained if each["kind"] == "train")
    logs = re.findall(r"\((jobs/\w+\.jsonl)\)", rows["Decoder A"])
    events = [json.loads(line)["event"] for line in (published / logs[0]).read_text().splitlines()]
    assert events[:3] == ["begin", "log", "begin"]
    assert events.count("metrics") == 16


def test_no_path_and_no_host_of_this_machine_is_published(published: Path) -> None:
    texts = [
        path.read_text() for path in published.rglob("*") if path.suffix in (".md", ".yaml", ".jsonl", ".csv", ".tex")
    ]
    assert len(texts) > 20
    assert not any(str(published.parent) in text or "node07" in text for text in texts)
    assert any("weights read from PATH" in text for text in texts)


def test_frames_of_real_videos_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_report, "synthetic", lambda _: False)
    plan = finished_root.make(tmp_path / "runs", videos=4)
    readme = export_report.publish(plan, PLAN, tmp_path / "out")
    assert "panels/" not in readme.read_text()
    assert not (tmp_path / "out" / "ablation_ensemble" / "panels").exists()


@pytest.mark.parametrize(
    ("word", "published_word"),
    [
        ("data.vspw.root=/data/VSPW", "data.vspw.root=PATH"),
        ("~/mine.py", "PATH"),
        ("encoder.beit.weights=../beit.pth", "encoder.beit.weights=PATH"),
        ("--root=/scratch/me", "--root=PATH"),
        ("train.epochs=2", "train.epochs=2"),
        ("ablation_ensemble", "ablation_ensemble"),
    ],
)
def test_paths_of_a_command_are_replaced(word: str, published_word: str) -> None:
    assert export_report.portable([word]) == [published_word]


def test_wrong_words_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    finished_root.make(tmp_path / "runs", videos=4)
    words = ["export", "report", *PLAN, "--root"]
    assert main(["export", "report", "ablation_ensemble"]) == 2
    assert "--out DIR" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "runs"), "--out", str(taken)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 3
    assert "no job of this plan is finished" in capsys.readouterr().err
