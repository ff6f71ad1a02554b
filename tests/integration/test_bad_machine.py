"""Machines that fail a person: full and read-only disks, no HOME, no network, a store that errs or hangs, closed pipes.

Each ends with one line that names the thing and the remedy, the right exit code and no traceback. What needs a mount
of its own runs as root, and says so where it cannot.
"""

import errno
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import tiny_jobs
from command_line import TINY, environment

from harness import cli
from harness.common.errors import UnfitError, refused
from harness.common.signals import Stopped, stop_signals
from harness.engine import train
from harness.engine.runtime import Stop
from harness.engine.worker import launch
from harness.tracking import opening
from harness.tracking.client import Tracking

PLAN = ("plan", "ablation_ensemble", *TINY)
RUN = ("run", "ablation_ensemble", *TINY)


def harness(folder: Path, *words: str, **rest) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "harness.cli", *words]
    given = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **rest}
    return subprocess.run(command, cwd=folder, text=True, timeout=300, check=False, **given)


def one_line(said: str, *words: object) -> str:
    """The last line, which is the only one of a mistake, and names all the words."""
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("harness: ")]
    assert all(str(word) in line for word in words), line
    return line


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A tmpfs of its own, for root; else the test is skipped with the reason."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        reason = f"a file system of its own cannot be mounted here: {done.stderr.strip()}"
        pytest.fail(reason) if os.environ.get("CI") and os.getuid() == 0 else pytest.skip(reason)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


# disks


def test_a_full_disk_is_told_before_anything_is_run(tmp_path: Path):
    with mounted(tmp_path / "full", "-o", "size=64k") as root:
        fill(root)
        done = harness(tmp_path, *RUN, "--root", str(root))
        assert done.returncode == 3
        one_line(done.stderr, root, "No space left on device", "free some space", "rerun the same command")
        assert harness(tmp_path, *PLAN, "--root", str(root)).returncode == 0


def test_a_disk_that_fills_while_a_model_is_trained(tmp_path: Path):
    """The engine itself: the outcome is written in the room that the torn checkpoint leaves."""
    with mounted(tmp_path / "small", "-o", "size=2m") as root:
        folder = tiny_jobs.training(root)
        remount(root, "size=160k")
        assert launch([folder], tiny_jobs.ALONE, Stop()) == 1
        reason = (folder / "outcome.json").read_text()
        assert f"{folder}: No space left on device; free some space" in reason
        assert not list((folder / "checkpoints").glob("*"))
        remount(root, "size=64m")
        assert train.train(folder, tiny_jobs.ALONE, Stop()).status == "finished"


@pytest.mark.slow
def test_a_run_goes_on_where_the_disk_was_full(tmp_path: Path):
    with mounted(tmp_path / "small", "-o", "size=3m") as root:
        done = harness(tmp_path, *RUN, "--root", str(root), "--offline")
        assert done.returncode in (1, 3), done.stderr
        assert "No space left on device; free some space" in done.stderr
        assert "Traceback" not in done.stderr
        remount(root, "size=300m")
        again = harness(tmp_path, *RUN, "--root", str(root), "--offline")
        assert again.returncode == 0, again.stderr


def test_a_read_only_root(tmp_path: Path):
    with mounted(tmp_path / "fixed", "-o", "size=64k") as root:
        remount(root, "ro")
        done = harness(tmp_path, *RUN, "--root", str(root))
        assert done.returncode == 3
        one_line(done.stderr, root, "Read-only file system", "--root DIR")
        assert harness(tmp_path, *PLAN, "--root", str(root)).returncode == 0


def test_a_root_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = harness(tmp_path, *RUN, "--root", "file")
    assert done.returncode == 3
    one_line(done.stderr, "file: Not a directory", "--root DIR")


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOTDIR, None]
)
def test_whatever_a_file_system_refuses_is_one_line(number: int | None):
    error = OSError("odd") if number is None else OSError(number, os.strerror(number), "/place")
    message = str(refused(error))
    assert "; " in message
    assert message.isprintable()
    assert ("/place: " in message) == (number is not None)


# people who are not there


@pytest.mark.parametrize("home", [None, "", "/nowhere/at/all", "/dev/null"])
def test_no_home(tmp_path: Path, home: str | None):
    env = {key: value for key, value in environment().items() if key not in ("HOME", "XDG_CONFIG_HOME")}
    done = harness(tmp_path, *PLAN, env=env if home is None else env | {"HOME": home})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_user_without_a_name_and_a_home(tmp_path: Path):
    """As containers start us: a number, no entry in passwd, HOME not set or not ours."""
    if os.getuid():
        pytest.skip("only root can become somebody else")
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if folder.owner() == "root" and "pytest" in str(folder):
            folder.chmod(0o755)
    env = {key: value for key, value in environment().items() if key not in ("HOME", "USER", "LOGNAME")}
    try:
        subprocess.run([sys.executable, "-c", "import harness"], user=54321, cwd="/", env=env, check=True)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("others cannot read the interpreter or the harness here")
    done = harness(tmp_path, *PLAN, env=env, user=54321, group=54321)
    assert done.returncode == 0, done.stderr
    (tmp_path / "theirs").mkdir(mode=0o755)
    done = harness(tmp_path, *RUN, "--root", "theirs", env=env, user=54321, group=54321)
    assert done.returncode == 3
    one_line(done.stderr, "theirs", "Permission denied", "--root DIR")


# no network


def test_planning_needs_no_network(tmp_path: Path):
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a namespace without network cannot be made here")
    command = ["unshare", "-n", sys.executable, "-m", "harness.cli", *PLAN]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# stores


@contextmanager
def server(answer: Callable[[http.server.BaseHTTPRequestHandler, int], None]) -> Iterator[str]:
    """A local HTTP server; `answer` gets every request and its number."""
    count = iter(range(10**6))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self, next(count))

        do_POST = do_PUT = do_PATCH = do_GET

        def log_message(self, *words: object) -> None:
            pass

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.daemon_threads = True
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{serving.server_port}"
    finally:
        serving.shutdown()
        serving.server_close()
        thread.join()


def says(code: int, text: str = "{}") -> Callable[[http.server.BaseHTTPRequestHandler, int], None]:
    def answer(request: http.server.BaseHTTPRequestHandler, number: int) -> None:
        request.send_response(code)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text.encode())

    return answer


def hangs(request: http.server.BaseHTTPRequestHandler, number: int) -> None:
    time.sleep(60)


def answers_once(request: http.server.BaseHTTPRequestHandler, number: int) -> None:
    (hangs if number else says(200))(request, number)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (says(500), "500"),
        (says(503, "<html>down for maintenance</html>"), "503"),
        (says(401, "who are you"), "401"),
        (says(404), "Response: {}"),
        (says(200, "<html>a login page</html>"), "MLflow"),
        (lambda request, number: request.connection.close(), "no answer"),
    ],
    ids=["500", "503", "401", "404", "no MLflow", "hung up"],
)
def test_a_store_that_errs(tmp_path: Path, monkeypatch, capsys, answer, word: str):
    monkeypatch.chdir(tmp_path)
    with server(answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert cli.main(["report", "ablation_ensemble", *TINY]) == 3
        one_line(capsys.readouterr().err, uri, word, "check MLFLOW_TRACKING_URI")


def test_a_store_that_hangs_is_given_up_in_seconds(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(opening, "PATIENCE", 2)
    with server(hangs) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        begun = time.monotonic()
        assert cli.main(["report", "ablation_ensemble", *TINY]) == 3
        assert time.monotonic() - begun < 30
        one_line(capsys.readouterr().err, uri, "no answer", "timed out")


def test_a_store_that_hangs_later_is_given_up_too(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with server(answers_once) as uri:
        store = Tracking(uri)
        store.connect()
        begun = time.monotonic()
        with pytest.raises(UnfitError, match="no answer"):
            store.get("0" * 32)
        assert time.monotonic() - begun < 15


def test_what_a_hang_can_cost_is_bounded(monkeypatch):
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    opening.quiet()
    attempts = 1 + int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert opening.PATIENCE <= 10
    assert attempts * int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 120


def test_a_signal_is_not_lost_in_mlflow():
    """MLflow's client turns every Exception into its own: Stopped is none."""
    with server(answers_once) as uri, stop_signals():
        store = Tracking(uri)
        store.connect()
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(Stopped, match="SIGUSR1"):
            store.get("0" * 32)


# pipes


@pytest.mark.parametrize(
    "words", [("list",), ("list", "--json"), PLAN, (*PLAN, "--json"), ("--help",), ("run", "--help")]
)
def test_a_reader_who_leaves(tmp_path: Path, words: tuple[str, ...]):
    """`harness list | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = harness(tmp_path, *words, stdout=writer)
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode in ((0, 1) if "--help" in words else (0,))  # the parser's own answer to its help


def test_nobody_reads_what_is_said(tmp_path: Path):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = harness(tmp_path, "run", "ablation_ensembel", stderr=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stdout) == (2, "")


def test_results_that_cannot_be_written_are_no_success(tmp_path: Path):
    with open("/dev/full", "w") as full:
        done = harness(tmp_path, "list", stdout=full)
    assert done.returncode == 3
    one_line(done.stderr, "No space left on device")


def test_streams_that_are_closed(tmp_path: Path):
    command = [sys.executable, "-m", "harness.cli", "plan", "nothing"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")  # not a word on the stream that programs read
