"""Two people on one output directory: everything in it is the group's, looking needs no right to write."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import one_model
import people
import pytest
from people import ANN, BEN, GROUP

from harness.config.plugins import PROJECT

RUN = ("run", one_model.FILE, *one_model.TINY, "--json")
OTHER = ("run", one_model.FILE, *one_model.TINY, "evaluate.stride=20")  # another evaluation of the same training


@pytest.fixture(scope="module")
def finished() -> Iterator[Path]:
    """A root that Ann has run a plan in, MLflow included, at the umask that docs/CLUSTER.md asks for."""
    people.need_users()
    with people.lab() as lab:
        root = people.shared(lab)
        done = people.harness(people.home(lab, ANN), ANN, *RUN, "--root", str(root))
        assert done.returncode == 0, done.stderr
        people.home(lab, BEN)
        yield root


def test_everything_under_the_root_is_the_groups(finished: Path) -> None:
    files = [path for path in finished.rglob("*") if not path.is_symlink()]
    assert any(path.name == "weights.safetensors" for path in files)
    closed = [
        (str(path.relative_to(finished)), oct(path.stat().st_mode))
        for path in files
        if path.stat().st_gid != GROUP or path.stat().st_mode & 0o060 != 0o060
    ]
    assert not closed
    assert all(path.stat().st_mode & 0o2070 == 0o2070 for path in files if path.is_dir())
    store = finished.parent / f"home-{ANN}" / "mlflow.db"
    assert store.stat().st_mode & 0o060 == 0o060


def test_the_second_user_builds_on_the_firsts_training(finished: Path) -> None:
    home = finished.parent / f"home-{BEN}"
    done = people.harness(home, BEN, *OTHER, "--root", str(finished))
    assert done.returncode == 0, done.stderr
    assert "1 jobs executed, 1 already done" in done.stderr
    again = people.harness(home, BEN, *RUN, "--root", str(finished))
    assert again.returncode == 0, again.stderr
    assert "0 jobs executed, 2 already done" in again.stderr


def test_what_cannot_be_read_is_named_itself(finished: Path) -> None:
    (weights,) = finished.glob("jobs/*/weights.safetensors")
    before = weights.stat()
    os.chown(weights, ANN, ANN)
    weights.chmod(0o600)
    try:
        home = finished.parent / f"home-{BEN}"
        done = people.harness(home, BEN, *OTHER, "evaluate.stride=18", "--offline", "--root", str(finished))
    finally:
        os.chown(weights, before.st_uid, before.st_gid)
        weights.chmod(before.st_mode)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert f"{weights}: Permission denied; " in line
    assert "chmod" in line
    assert "0 jobs executed, 1 already done, 1 failed" in done.stderr


@pytest.mark.parametrize("words", [RUN, ("plan", *RUN[1:]), ("status", "--all", "--json")])
def test_looking_needs_no_right_to_write(finished: Path, words: tuple[str, ...]) -> None:
    """As at a root that its owner made at umask 022."""
    paths = [finished, *finished.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~0o022)
    before = {path: path.stat().st_mtime_ns for path in paths}
    try:
        home = finished.parent / f"home-{BEN}"
        done = people.harness(home, BEN, *words, "--root", str(finished), umask=0o022)
        assert done.returncode == 0, done.stderr
        assert before == {path: path.stat().st_mtime_ns for path in [finished, *finished.rglob("*")]}
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    shown = json.loads(done.stdout)
    if words[0] == "run":
        assert [row["status"] for row in shown["experiments"][0]["rows"]] == ["done"]
        assert "you may not write there" in done.stderr


def test_a_report_needs_no_right_to_write_the_store(finished: Path) -> None:
    store = finished.parent / f"home-{ANN}"
    database = store / "mlflow.db"
    assert not os.access(database, os.X_OK)
    mode = database.stat().st_mode
    database.chmod(0o644)
    (store / "mlflow.db.lock").unlink(missing_ok=True)
    before = sorted(path.name for path in store.iterdir())
    home = finished.parent / f"home-{BEN}"
    command = ("report", *RUN[1:], "--root", str(finished))
    done = people.harness(home, BEN, *command, umask=0o022, MLFLOW_TRACKING_URI=f"sqlite:///{database}")
    database.chmod(mode)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in json.loads(done.stdout)["experiments"][0]["rows"]] == ["done"]
    assert sorted(path.name for path in store.iterdir()) == before


def test_a_run_that_could_not_write_its_report_is_refused_before_the_first_job(finished: Path) -> None:
    (page,) = finished.glob("reports/*/index.html")
    mode = page.stat().st_mode
    page.chmod(0o644)
    try:
        home = finished.parent / f"home-{BEN}"
        done = people.harness(home, BEN, *OTHER, "evaluate.stride=16", "--offline", "--root", str(finished))
    finally:
        page.chmod(mode)
    owner = page.stat().st_uid
    assert done.returncode == (3 if owner == ANN else 0), done.stderr
    if owner == ANN:
        assert f"harness: {page}: Permission denied; have its owner" in done.stderr


HOLD = """
import sys
from pathlib import Path
from harness.jobdir import lease
folder, role = Path(sys.argv[1]), sys.argv[2]
if role == "hold":
    with lease.heartbeat([lease.Claim(folder).take()], every=0.2):
        print("holds", flush=True)
        sys.stdin.readline()
else:
    print(lease.current_holder(folder) is not None, lease.Claim(folder).take() is not None, flush=True)
"""
BOTH = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
import people
script, folder = sys.argv[2:4]
start = lambda user, role: subprocess.Popen(
    [*people.become(user), sys.executable, "-P", script, folder, role], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    text=True, cwd="/")
holder = start(people.ANN, "hold")
assert holder.stdout.readline() == "holds\\n"
print(subprocess.run([*people.become(people.BEN), "cat", f"/proc/{holder.pid}/stat"], capture_output=True).returncode)
print(start(people.BEN, "ask").communicate()[0].strip())
print(start(people.ANN, "ask").communicate()[0].strip())
holder.kill()
holder.wait()
print(start(people.BEN, "ask").communicate()[0].strip())
"""


def test_where_proc_hides_others_a_live_run_is_not_dead() -> None:
    people.need_users()
    if subprocess.run([*people.hidden(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("a /proc of its own cannot be mounted here")
    with people.lab() as lab:
        root, script = people.shared(lab), lab / "hold.py"
        script.write_text(HOLD)
        ask = [sys.executable, "-P", "-c", BOTH, str(Path(people.__file__).parent), str(script), str(root)]
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        command = [*people.hidden(), *ask]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    hidden, other, same, after = done.stdout.splitlines()
    assert hidden != "0", "/proc shows it all the same"
    assert other == "True False", "taken from a live run"
    assert same == "True False"
    assert after == "False True", "the dead are known at once"


def cancelled(root: Path, lab: Path, umask: int) -> tuple["subprocess.CompletedProcess[str]", int, str]:
    """Ann trains for long, Ben cancels that plan; what he is told, and how her run ended (what is left is killed)."""
    ann, ben = people.home(lab, ANN), people.home(lab, BEN)
    words = (one_model.FILE, *one_model.TINY, "train.epochs=400", "--offline", "--root", str(root))
    command = [*people.alone(), *people.become(ANN, umask), sys.executable, "-P", "-m", "harness.cli", "run", *words]
    env = people.environment(ann)
    run = subprocess.Popen(command, cwd=ann, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not list(root.glob("jobs/*/checkpoints/step-*.pt")):
            assert time.monotonic() < deadline
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.2)
        done = people.harness(ben, BEN, "cancel", *words, "--json")
        code = run.poll() if done.returncode else run.wait(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGINT)
        said = run.communicate(timeout=120)[1]
    return done, code, said


def test_a_colleagues_run_is_asked_to_end_and_leaves_its_checkpoint() -> None:
    people.need_users()
    with people.lab() as lab:
        root = people.shared(lab)
        done, code, said = cancelled(root, lab, 0o002)
        assert (done.returncode, code) == (0, 75), done.stderr + said
        (result,) = json.loads(done.stdout)["jobs"]
        assert result["state"] == "stopped"
        assert result["reason"].startswith("saved at step ")
        assert f"{BEN} on " in said
        assert "asked this run to end (`harness cancel`)" in said
        (outcome,) = root.glob("jobs/*/outcome.json")
        assert json.loads(outcome.read_text())["status"] == "cancelled"


@pytest.mark.slow
def test_who_may_not_write_in_a_colleagues_job_cannot_ask() -> None:
    people.need_users()
    with people.lab() as lab:
        root = people.shared(lab)
        done, code, said = cancelled(root, lab, 0o022)
    assert (done.returncode, code) == (1, None), done.stderr + said
    (result,) = json.loads(done.stdout)["jobs"]
    assert result["state"] == "left"
    assert f"{ANN}'s run on" in result["reason"]
    assert "you may not ask it to end" in result["reason"]
    assert result["reason"].endswith(f"Permission denied); ask {ANN}")
