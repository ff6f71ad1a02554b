"""`harness ui` and what a reviewer finds in MLflow: the real server in a real browser, on a root written by hand."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import finished_root
import numpy as np
import pytest
from PIL import Image
from system_parts import need, program

from harness.common.errors import UnfitError
from harness.common.progress import SILENT
from harness.config import input_digests
from harness.config.settings import RunOptions
from harness.launch import runner
from harness.plan.job import Job
from harness.plan.plan import Plan
from harness.results import score, stats
from harness.tracking import publish_report, report_from_mlflow, ui
from harness.tracking.client import Tracking
from harness.tracking.publisher import publisher_of

THEIRS = "Their net"


def zeros(folder: Path, plan: Plan) -> Path:
    """Masks of val that say class 0 everywhere."""
    data = input_digests.build_dataset(plan.config)
    for video in data.videos("val"):
        (folder / video).mkdir(parents=True)
        for stem in data.frames("val", video):
            Image.fromarray(np.zeros_like(data.read("val", video, stem).label)).save(folder / video / f"{stem}.png")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that heard of a finished Table 1; its root is elsewhere."""
    folder = tmp_path_factory.mktemp("ui")
    uri = f"sqlite:///{folder}/mlflow.db"
    made = finished_root.make(folder / "root")
    score.score(zeros(folder / "masks", made), THEIRS, made.config, made.root)
    done = runner.run(made, RunOptions(tracking_uri=uri, command=("harness", "run", "x")), SILENT)
    assert done.away is None
    return uri


def test_the_paper_and_the_gain_stand_beside_ours(store: str) -> None:
    tracking = Tracking(store)
    cells = list(tracking._search(tracking._experiments("ablation_ensemble"), {}))
    by_name = {run.name: run for run in cells}
    ours = by_name["decoder_a/seed0"]
    assert ours.metrics["paper/miou"] == 61.24
    assert ours.metrics["delta/miou"] == round(ours.metrics["delta/miou"], 2)
    assert "delta/paper" not in ours.metrics  # synthetic videos are not the paper's
    assert ours.tags["verdict"] == stats.NOT_COMPARABLE
    assert ours.tags["power"].startswith("to decide +1.22 at an assumed noise (seeds ±0.71, videos ±")
    assert by_name["train/decoder_a/seed0"].tags["harness.memory"] == "step-000000200"


def test_a_reviewer_without_the_root_gets_the_same_page(store: str, tmp_path: Path) -> None:
    from harness.report.folder import write_report

    made = finished_root.make(tmp_path / "elsewhere", without=tuple(finished_root.CELLS))
    (one,) = report_from_mlflow.look_up(made, ["harness", "report", "x"], store, "", tmp_path / "out")
    assert len(one.context.evidence.panels) >= 3
    paths = write_report(one.report, one.rows, one.context, tmp_path / "out" / one.context.experiment)
    theirs = [
        row.status for row in one.rows if row.method == THEIRS
    ]  # told as a run of the plan, so it needs no root either
    assert theirs == ["done"]
    text = paths[-1].read_text()
    assert THEIRS in text
    assert "5 of 5" in text
    assert text.count("<img") >= 8


def test_a_reviewer_learns_why_a_cell_is_not_done(store: str, tmp_path: Path) -> None:
    made = finished_root.make(tmp_path / "root", videos=3, without=("decoder_a",), decoder_ab="out of memory")
    (experiment,) = made.experiments
    reasons = {cell.job: "out of memory" for _, cell in experiment.cells if cell.name == "decoder_ab"}
    told(made, store, reasons, worked=True)
    elsewhere = finished_root.make(tmp_path / "elsewhere", videos=3, without=tuple(finished_root.CELLS))
    (one,) = report_from_mlflow.look_up(elsewhere, ["harness", "report", "x"], store)
    found = {row.cell: (row.status, row.reason) for row in one.rows}
    assert found["decoder_ab"] == ("failed", "out of memory")
    assert found["decoder_a"] == ("missing", "not run yet")
    assert found["upernet"][0] == "done"


def test_a_store_that_goes_away_before_the_review_is_told_the_next_time(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finished_root.make(tmp_path, videos=4)

    def away(*_: object) -> None:
        raise UnfitError("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(publish_report, "review", away)
        assert told(made, store, {}, worked=True).away == "the store does not answer"
    assert told(made, store, {}, worked=False).away is None
    tracking = Tracking(store)
    fingerprints = [cell.job.fingerprint for _, cell in made.experiments[0].cells]
    assert all("paper/miou" in run.metrics for run in tracking.find("ablation_ensemble", fingerprints).values())


def test_a_report_needs_no_torch_and_little_time(store: str, tmp_path: Path) -> None:
    words = ["report", "ablation_ensemble", *finished_root.OVERRIDES, "data.synthetic.val_videos=24"]
    words += ["--root", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    code = (
        "import sys, time\nfrom harness.cli import main\nbegun = time.process_time()\n"
        f"assert not main({words!r})\n"
        "assert 'torch' not in sys.modules\nprint(time.process_time() - begun)\n"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": store}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (page,) = (tmp_path / "out").rglob("index.html")
    assert page.read_text().count("<img") >= 8
    assert float(done.stdout.split()[-1]) < 15  # its own seconds: others may be at work here


def told(plan: Plan, store: str, failures: dict[Job, str], worked: bool) -> runner.Finished:
    """What the store hears of a plan's end."""
    options, tracking = RunOptions(tracking_uri=store, command=("harness", "run", "x")), Tracking(store)
    publisher = publisher_of(plan, tracking)
    return runner.conclude(plan, plan.experiments[0], publisher, failures, options, "FINISHED", worked)


def test_a_password_is_on_no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(words: list[str], env: dict[str, str], **_: object) -> None:
        started.append((words, env))
        raise UnfitError("stop here")

    monkeypatch.setattr(ui, "address", lambda tracking, experiment: "#/x")
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(UnfitError, match="stop here"):
        ui.serve(Tracking("postgresql://me:hush@db.lab/mlflow"), None, 5000, False)
    ((words, environment),) = started
    assert "hush" not in " ".join(words)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:hush@db.lab/mlflow"


def test_the_browser_is_opened_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    monkeypatch.setattr(ui, "display", lambda: False)
    ui.open_page(tmp_path / "index.html")
    assert opened == []
    assert caplog.messages == [f"no display here; open this page: {tmp_path / 'index.html'}"]
    monkeypatch.setattr(ui, "display", lambda: True)
    ui.open_page(tmp_path / "index.html")
    assert opened == [(tmp_path / "index.html").as_uri()]


def test_a_server_s_link_is_all_there_is_to_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(ui, "address", lambda tracking, experiment: "#/x")
    monkeypatch.setattr(subprocess, "Popen", None)
    assert ui.serve(Tracking("http://user:secret@mlflow.lab:5000/"), None, 5000, True) == 0
    said = capsys.readouterr().out
    assert said.endswith("mlflow.lab:5000/#/x\n")
    assert "secret" not in said


def test_a_taken_port_gets_the_next() -> None:
    with socket.socket() as taken:
        taken.bind((ui.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < ui.free_port(port) < port + ui.TRIES


def test_a_store_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="no such store"):
        ui.serve(Tracking(f"sqlite:///{tmp_path}/none.db"), None, 5000, False)
    assert not (tmp_path / "none.db").exists()


def test_runs_are_called_ordered_and_timed_as_their_jobs(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    told(finished_root.make(tmp_path / "root", videos=4), uri, {}, worked=True)
    tracking = Tracking(uri)
    client, experiment_id = tracking.connect(), tracking._experiments("ablation_ensemble")[0]
    runs = client.search_runs([experiment_id], order_by=["tags.`harness.order` ASC"])
    (plan,) = (run for run in runs if run.data.tags["harness.role"] == "plan")
    assert plan.info.run_name == "Table 1 · demo · 10 epochs · 1 seed"
    cells = [run for run in runs if run.data.tags["harness.role"] == "cell"]
    assert [run.data.tags["harness.order"] for run in cells] == ["000.000", "001.000", "002.000", "003.000"]
    assert [run.data.tags["harness.cell"] for run in cells] == list(finished_root.CELLS)
    assert {run.info.end_time - run.info.start_time for run in cells} == {31_000}  # milliseconds, as finished_root says
    assert cells[1].data.tags["mlflow.note.content"] == (
        "Table 1 – Ablation study of model ensemble: Decoder A, seed 0."
    )
    experiment = client.get_experiment(experiment_id)
    link = re.match(r"## \[Table 1 – .*\]\((#/[^)]+)\)\n\n", experiment.tags["mlflow.note.content"])
    assert link is not None
    assert link[1].endswith(f"viewStateShareKey={experiment.tags['harness.view']}")


def test_the_newest_run_says_which_experiment_opens(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    told(finished_root.make(tmp_path / "one", videos=4), uri, {}, worked=True)
    told(finished_root.make(tmp_path / "two", videos=4, experiment="ablation_stages"), uri, {}, worked=True)
    assert ui.newest(Tracking(uri)) == "ablation_stages"
    tracking = Tracking(uri)  # a description that is edited later opens nothing
    tracking.note(tracking.experiment("ablation_ensemble"), "edited")
    assert ui.newest(tracking) == "ablation_stages"


def test_the_view_the_note_and_the_report_show(store: str, tmp_path: Path) -> None:
    need("chromium")
    from playwright.sync_api import expect, sync_playwright

    kept = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    server = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "ui", "ablation_ensemble", "--port", "5987"],
        cwd=tmp_path,
        env=kept | {"MLFLOW_TRACKING_URI": store},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        link = server.stdout.readline().strip()
        assert "viewStateShareKey=" in link
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=program("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1900, "height": 1000})
            page.set_default_timeout(120_000)
            page.goto(link)
            expect(page.get_by_text("decoder_ab/seed0").first).to_be_visible(timeout=120_000)
            expect(page.get_by_text("paper/miou").first).to_be_visible()
            expect(page.locator("a", has_text="Table 1 –").first).to_be_visible()  # the note's title leads here
            names = page.locator("a", has_text="/seed").all_inner_texts()
            assert names == [f"{name}/seed0" for name in finished_root.CELLS]  # the paper's order, and no training
            page.screenshot(path=str(tmp_path / "view.png"))
            page.goto(f"{link}&compareRunsMode=CHART")
            charts = page.get_by_test_id("experiment-view-compare-runs-chart-area")
            expect(charts.locator("h4").first).to_be_visible(timeout=120_000)
            titles = charts.locator("h4").all_inner_texts()
            assert titles[:3] == ["final/miou", "paper/miou", "delta/miou"]
            assert all(title.startswith("final/") for title in titles[3:]), "the other charts by prefix, each once"
            page.screenshot(path=str(tmp_path / "charts.png"))
            tracking = Tracking(store)
            parent = next(
                run
                for run in tracking._search(tracking._experiments("ablation_ensemble"), {})
                if "harness.plan" in run.tags
            )
            address = link.partition("#")[0]
            run = f"#/experiments/{parent.experiment_id}/runs/{parent.run_id}/artifacts/report/index.html"
            page.goto(f"{address}{run}?workflowType=machine_learning")
            report = page.frame_locator("iframe")
            expect(report.get_by_role("heading", name="Verdicts")).to_be_visible(timeout=120_000)
            expect(report.locator("th button").first).to_be_visible()  # its script runs inside MLflow too
            browser.close()
    finally:
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "ssh -L" in said
    with socket.socket() as probe:
        assert probe.connect_ex((ui.HOST, int(link.split(":")[2].split("/")[0]))) != 0  # nothing is left
