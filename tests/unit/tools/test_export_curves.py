"""Curves for other tools: the points that count, each once, in the tool's own files as that tool reads them."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import one_model
import pytest
from one_model import attempt, begun, end, made, say

from harness import cli
from harness.plan.job import Train
from harness.plan.plan import Plan
from harness.tools import export_curves
from harness.tools.export_curves import COLUMNS

T0 = 1_800_000_000.0
LOSS = {step: 1 / step for step in range(1, 11)}  # what one_model.attempt writes


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    """A training that was killed after step 7 and went on from step 4, and a second seed that has no checkpoint."""
    planned = made(tmp_path / "runs")
    training = next(job for job in planned.jobs if isinstance(job, Train))
    folder = begun(planned, training)
    say(folder, *attempt(0, range(1, 8), 4, T0), *attempt(4, range(5, 11), 10, T0 + 1000))
    end(folder, "finished")
    other = made(tmp_path / "runs", "seed=1")
    say(begun(other, other.jobs[0]), *attempt(0, range(1, 4), None, T0))
    return planned


def export(*words: str) -> int:
    return cli.main(["export", "curves", *words])


def test_csv_has_a_line_a_point_that_counts(planned: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "curves.csv"
    assert export("--root", str(planned.root), "--csv", str(path)) == 0
    assert f"20 points of 1 training(s): {path}" in capsys.readouterr().err
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert {line["fingerprint"] for line in lines} == {planned.jobs[0].fingerprint}
    assert {(line["decoder"], line["seed"]) for line in lines} == {("upernet", "0")}
    loss = {int(line["step"]): float(line["value"]) for line in lines if line["key"] == "train/loss"}
    assert loss == LOSS
    when = {int(line["step"]): float(line["seconds"]) for line in lines}
    assert (when[4], when[5]) == (T0 + 4, T0 + 1005), "of the attempt that counts"


def test_a_plan_chooses_its_trainings(planned: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (one_model.FILE, *one_model.TINY, "--root", str(planned.root), "--csv", str(tmp_path / "x.csv"))
    assert export(*words) == 0
    assert export(*words, "seed=1") == 3
    assert "no training has logged a point yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "because"),
    [
        (["models", "--csv", "x"], "export models: 'curves', 'report' or 'model' can be exported"),
        (["curves"], "give one of --csv, --tensorboard, --wandb-offline"),
    ],
)
def test_mistakes_are_a_line(words: Sequence[str], because: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", *words]) == 2
    assert because in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "package"), [("--tensorboard", "tensorboard"), ("--wandb-offline", "wandb")])
def test_what_is_not_installed_is_named(
    flag: str,
    package: str,
    planned: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in (package, "torch.utils.tensorboard"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert export("--root", str(planned.root), flag, str(tmp_path / "out")) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"harness: {package} is not installed")
    assert last.endswith(f"pip install {package}")
    assert not (tmp_path / "out").exists()


def test_tensorboard_reads_what_was_written(planned: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra `curves`)")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    words = ("--root", str(planned.root), "--tensorboard", str(tmp_path / "logs"))
    assert export(*words) == 0
    (training,) = export_curves.read([planned.jobdir(planned.jobs[0])])
    (file,) = (tmp_path / "logs" / training.name).iterdir()
    values = [
        (value.tag, event.step, event.wall_time, value.tensor.float_val[0])
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    loss = {step: value for tag, step, _, value in values if tag == "train/loss"}
    assert loss == pytest.approx(LOSS, rel=1e-6)
    assert len(values) == 20
    assert {when for _, step, when, _ in values if step == 5} == {T0 + 1005}
    assert export(*words) == 2
    assert "already exists and is not empty" in capsys.readouterr().err


def test_wandb_reads_what_was_written(planned: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (extra `curves`)")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.chdir(tmp_path)
    assert export("--root", str(planned.root), "--wandb-offline", "out") == 0
    (file,) = tmp_path.glob("out/wandb/offline-run-*/run-*.wandb")
    loss, when = {}, {}
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            loss[record.history.step.num] = float(items["train/loss"])
            when[record.history.step.num] = float(items["_timestamp"])
    assert loss == pytest.approx(LOSS)
    assert (when[4], when[5]) == (T0 + 4, T0 + 1005)


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Records of a file of one block: after seven bytes, each with a checksum (4), a length (2) and a kind (1)."""
    assert len(content) < 32768
    at = 7
    while at < len(content):
        length = int.from_bytes(content[at + 4 : at + 6], "little")
        yield content[at + 7 : at + 7 + length]
        at += 7 + length
