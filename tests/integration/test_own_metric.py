"""A metric of one's own, as docs/METRICS.md says it: a column with an interval, from the root and from MLflow alone."""

import csv
import json
from pathlib import Path
from textwrap import dedent

import pytest
from command_line import all_runs
from in_process import harness

pytestmark = pytest.mark.long

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMMAND = (
    "harness run ablation_ensemble 'evaluate.metrics=[confident_errors]' metric.confident_errors.sure=0.8 "
    "--plugins docs/examples"
)
SMALL = (  # 21 videos: an interval needs 20
    *("data.synthetic.train_videos=4", "data.synthetic.val_videos=21", "data.synthetic.frames=2"),
    *("train.epochs=1", "train.batch=4", "train.frames_per_video=2"),
)


def test_the_guides_metric_has_an_interval_and_a_verdict(tmp_path: Path) -> None:
    assert COMMAND in (DOCS / "METRICS.md").read_text()
    before = harness(tmp_path, "run", "ablation_ensemble", *SMALL, "--json")
    assert before.returncode == 0, before.stderr
    words = ("ablation_ensemble", "evaluate.metrics=[confident_errors]", "metric.confident_errors.sure=0.5")
    mine = (*words, "--plugins", str(DOCS / "examples"), *SMALL)
    done = harness(tmp_path, "run", *mine, "--json")
    assert done.returncode == 0, done.stderr
    assert "4 jobs executed, 3 already done" in done.stderr, "evaluations, no training"
    assert "confident_errors: runs/reports/ablation_ensemble/ablation_ensemble_metric_intervals.csv" in done.stderr
    upernet, a, *_ = json.loads(done.stdout)["experiments"][0]["rows"]
    old = json.loads(before.stdout)["experiments"][0]["rows"]
    assert [row["miou"] for row in old[:2]] == [upernet["miou"], a["miou"]]
    number = upernet["metrics"]["confident_errors"]
    assert number["low"] < number["mean"] < number["high"]
    assert (number["better"], number["interval_of"]) == ("lower", "videos, these checkpoints")
    gain = a["metrics"]["confident_errors"]
    assert gain["gain"] == pytest.approx(gain["mean"] - number["mean"])
    assert gain["gain_low"] < gain["gain"] < gain["gain_high"]
    assert gain["verdict"] == "this pair of checkpoints only"
    assert upernet["metrics"]["fwiou"]["low"] < upernet["metrics"]["fwiou"]["high"]

    folder = tmp_path / "runs" / "reports" / "ablation_ensemble"
    with (folder / "ablation_ensemble_metric_intervals.csv").open(newline="") as file:
        lines = {(line["metric"], line["cell"]): line for line in csv.DictReader(file)}
    assert float(lines["confident_errors", "decoder_a"]["gain_high"]) == pytest.approx(gain["gain_high"])
    with (folder / "ablation_ensemble_metrics.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["confident_errors"]) == pytest.approx(number["mean"])
    assert "confident errors" in (folder / "index.html").read_text()

    cells = [run for run in all_runs(tmp_path) if "final/confident_errors" in run.data.metrics]
    assert len(cells) == 4

    put_report(tmp_path / "mine", guide := (DOCS / "OWN_DECODER.md").read_text())
    assert "from harness.results.measures import measure" in guide
    own = harness(tmp_path, "run", "both", *mine[1:], "--plugins", "mine")
    assert own.returncode == 0, own.stderr
    assert "0 jobs executed, 4 already done" in own.stderr
    *_, first, second = own.stdout.strip().splitlines()
    assert first.split() == ["upernet", f"{number['low']:.4f}", "None"]
    assert second.split() == ["decoder_a", f"{a['metrics']['confident_errors']['low']:.4f}", f"{gain['gain_low']:.4f}"]

    (tmp_path / "runs").rename(tmp_path / "away")
    again = harness(tmp_path, "report", *mine, "--json", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    assert again.returncode == 0, again.stderr
    ours, told = (json.loads(each.stdout)["experiments"][0]["rows"] for each in (done, again))
    assert [row["metrics"] for row in told] == [row["metrics"] for row in ours]

    (tmp_path / "away").rename(tmp_path / "runs")
    words = (*mine, "evaluate.metrics=[confident_errors,precision_recall]")
    assert "0 jobs executed" in harness(tmp_path, "run", *words).stderr, "read off what is there"
    assert len([run for run in all_runs(tmp_path) if "final/precision" in run.data.metrics]) == 4


EXPERIMENT = '''"""Two rows of Table 1."""
from harness.plan.cell import Cell, Evaluate, Train
TITLE, REPORT = "Both", "numbers"
def cells(config):
    upernet, a = (Evaluate((Train(config, name),)) for name in ("upernet", "decoder_a"))
    return [Cell("upernet", "UPerNet", upernet), Cell("decoder_a", "A", a, over="upernet")]
'''
REPORT = '''"""The guide's numbers of a metric."""
from harness.results.table import Report, Table
{imports}
def text(value):
    return "None" if value is None else f"{{value:.4f}}"
def render(frame, context):
    rows = []
{loop}
            rows.append((row.cell, text(each.interval.low), text(each.gain.interval.low)))
    return Report(context.title, {{"numbers": Table("Numbers", ("cell", "low", "gain_low"), tuple(rows))}})
'''


def put_report(folder: Path, guide: str) -> None:
    """Write an experiment and a report that is made of the guide's own lines."""
    begin, end = (
        guide.index("    from harness.results.frame import from_frame"),
        guide.index("            each.mean, each.interval"),
    )
    imports, loop = guide[begin:end].split("\n\n")
    for kind, name, text in (
        ("experiments", "both.py", EXPERIMENT),
        (
            "reports",
            "numbers.py",
            REPORT.format(imports=dedent(imports), loop=loop.rstrip().replace("NUMBER", "confident_errors")),
        ),
    ):
        (folder / kind).mkdir(parents=True)
        (folder / kind / name).write_text(text)
