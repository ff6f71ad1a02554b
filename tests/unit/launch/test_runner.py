"""How a plan is run: what `--rerun` names, how many ranks fit, which store is told, and what is left after an error."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import finished_root
import one_model
import pytest

from harness.common import machine
from harness.common.errors import UnfitError, UsageError
from harness.common.progress import SILENT
from harness.common.signals import Stopped
from harness.config.settings import RunOptions
from harness.launch import runner
from harness.results import figure
from harness.tracking.client import ROLE, Tracking


def test_a_cell_its_training_and_what_rests_on_it_are_run_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = finished_root.make(tmp_path, videos=2)
    names = [job.name for job in runner.selected(made, "decoder_a")]
    assert len(names) == 3  # its training, A and A+B
    assert all("decoder_a" in name for name in names)
    runner.set_aside(made, "decoder_a")
    assert len(caplog.messages) == len(list((tmp_path / "replaced").iterdir())) == 3
    assert [made.state(job) for job in made.jobs].count("done") == 4


def test_a_word_that_is_no_cell_is_answered_with_those_there_are(tmp_path: Path) -> None:
    made = finished_root.make(tmp_path, videos=2)
    with pytest.raises(UsageError, match=r"neither 'changed' nor a row of this plan: upernet, decoder_a"):
        runner.selected(made, "decoder_c")


def test_ranks_that_do_not_divide_are_refused_with_the_sizes_that_do(tmp_path: Path) -> None:
    made = one_model.made(tmp_path, "train.batch=6")
    with pytest.raises(UsageError, match=r"--nproc 5 does not divide the micro-batch of 6; choose from 1, 2, 3, 6$"):
        runner.choose(made, RunOptions(nproc=5))
    assert runner.choose(made, RunOptions(nproc=3))[1]["launcher"] == "torchrun"


def test_more_ranks_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = one_model.made(tmp_path, "train.batch=8")
    monkeypatch.setattr(machine, "gpus", lambda: 2)
    with pytest.raises(UsageError, match=r"--nproc 4: each rank needs its own GPU, and this machine has 2"):
        runner.choose(made, RunOptions(nproc=4))
    with pytest.raises(UsageError, match="needs its own GPU"):
        runner.choose(made, RunOptions(launcher="slurm", nproc=4, inside=True))
    assert runner.choose(made, RunOptions(launcher="slurm", nproc=4))[1]["nproc"] == 4
    assert runner.choose(made, RunOptions())[1]["nproc"] == 2
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    assert runner.choose(made, RunOptions(nproc=4))[1]["nproc"] == 4


def test_only_inside_an_allocation_may_the_store_be_out_of_reach(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = "http://127.0.0.1:9"
    assert runner.connected(RunOptions(tracking_uri=nowhere, inside=True)) is None
    assert "this node only writes journals" in caplog.messages[0]
    with pytest.raises(UnfitError, match="no answer"):
        runner.connected(RunOptions(tracking_uri=nowhere))


class Breaks:
    """A launcher that cannot start its worker."""

    log = Path("none.log")

    def warm(self) -> None:
        pass

    def start(self, directories: list[Path]) -> None:
        raise RuntimeError("no worker: postgresql://u:s3cret@host/db")

    def running(self) -> bool:
        return False

    def signal(self, number: int) -> None:
        pass

    def close(self) -> None:
        pass


def test_the_worker_gets_ready_while_the_store_is_asked_and_goes_where_it_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Waits(Breaks):
        def warm(self) -> None:
            order.append("warm")

        def close(self) -> None:
            order.append("closed")

    def asked(options: RunOptions) -> None:
        order.append("asked")
        raise UnfitError("no answer")

    monkeypatch.setattr(runner, "choose", lambda plan, options: (Waits(), {"launcher": "inline", "nproc": 1}))
    monkeypatch.setattr(runner, "connected", asked)
    with pytest.raises(UnfitError, match="no answer"):
        runner.run(one_model.made(tmp_path), RunOptions(), SILENT)
    assert order == ["warm", "asked", "closed"]


def test_what_draws_is_imported_while_networks_are_tried_and_in_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a thread, matplotlib's ast.literal_eval met our ast.parse: a SystemError in Python 3.11 (gh-106905)."""
    order: list[str] = []

    def refuse() -> None:
        order.append("answer")
        raise UnfitError("does not fit")

    def ask(*arguments: object) -> Callable[[], None]:
        order.append("asked")
        return refuse

    def imported() -> None:
        order.append(f"imported by {threading.current_thread().name}")

    monkeypatch.setattr(runner, "choose", lambda plan, options: (Breaks(), {"launcher": "inline", "nproc": 1}))
    monkeypatch.setattr(runner, "ask_networks", ask)
    monkeypatch.setattr(runner, "connected", lambda options: order.append("store"))
    monkeypatch.setattr(figure, "import_libraries", imported)
    with pytest.raises(UnfitError, match="does not fit"):
        runner.run(one_model.made(tmp_path), RunOptions(), SILENT)
    assert order == ["asked", "store", "imported by MainThread", "answer"]


def raises(error: BaseException) -> Callable[..., Any]:
    def stand_in(*arguments: Any, **options: Any) -> Any:
        raise error

    return stand_in


@pytest.mark.parametrize(
    ("where", "error", "statuses"),
    [
        ("launcher", RuntimeError("no worker"), {"plan": "FAILED", "train": "FAILED"}),
        ("report", RuntimeError("a defect"), {"plan": "FAILED", "train": "FINISHED", "cell": "FINISHED"}),
        ("report", Stopped(15), {"plan": "KILLED", "train": "FINISHED", "cell": "FINISHED"}),
    ],
    ids=["at the launch", "at the report", "a signal at the report"],
)
def test_after_an_error_no_run_says_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException, statuses: dict[str, str]
) -> None:
    made = one_model.made(tmp_path)
    store = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(runner, "choose", lambda plan, options: (Breaks(), {"launcher": "inline", "nproc": 1}))
    if where == "report":
        one_model.finished(made)
        monkeypatch.setattr(runner, "write_report", raises(error))
    with pytest.raises(type(error)):
        runner.run(made, RunOptions(tracking_uri=store.uri), SILENT)
    client = store.connect()
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    found = {run.data.tags[ROLE]: run for run in runs if ROLE in run.data.tags}
    assert {role: run.info.status for role, run in found.items()} == statuses
    if where == "launcher":
        assert found["train"].data.tags["reason"] == "no worker: postgresql://u:***@host/db"
