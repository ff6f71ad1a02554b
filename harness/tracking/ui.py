"""`mlflow ui` on the store that the harness writes to, opened at the view that a reviewer wants."""

import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from contextlib import closing
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

from harness.common import child
from harness.common.errors import UnfitError
from harness.common.redaction import redact
from harness.common.signals import Stopped
from harness.tracking import view
from harness.tracking.client import Tracking

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
PATIENCE = 300.0  # seconds until the server must answer
TRIES = 20  # ports after the one wished for


def serve(tracking: Tracking, experiment: str | None, port: int, browse: bool) -> int:
    """Serve until Ctrl-C and return 0; for a store that is a server, only print where to look."""
    where = address(tracking, experiment)
    if tracking.uri.startswith("http"):
        print(f"{redact(tracking.uri).rstrip('/')}/{where}")
        return 0
    if tracking.database is not None and not tracking.database.exists():
        raise UnfitError(f"{tracking.database}: no such store; run an experiment first, or set MLFLOW_TRACKING_URI")
    chosen = free_port(port)
    if chosen != port:
        log.info(f"port {port} is taken: {chosen}")
    words = ["-m", "mlflow", "ui", "--host", HOST, "--port", str(chosen), "--workers", "1"]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment["MLFLOW_BACKEND_STORE_URI"] = tracking.uri  # no list of processes shows its password
    with tempfile.TemporaryFile() as output:  # not a pipe: one that nobody empties stops the server
        return watch(words, environment, output, f"http://{HOST}:{chosen}/{where}", browse)


def watch(
    words: list[str],
    environment: dict[str, str],
    output: IO[bytes],
    link: str,
    browse: bool,
) -> int:
    """Run the server until Ctrl-C and return 0; `output`: its stderr. Raise UnfitError where it ends by itself."""
    server = subprocess.Popen(
        child.python(*words),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=output,
        start_new_session=True,  # a Ctrl-C is ours; we end it and all that it started
    )
    try:
        await_answer(server, link, output)
        print(link, flush=True)
        if not display():
            login = f"{os.environ.get('USER', 'USER')}@{socket.gethostname()}"
            port = urlsplit(link).port
            log.info(f"no display here; on your own machine run: ssh -L {port}:{HOST}:{port} {shlex.quote(login)}")
        elif browse:
            webbrowser.open(link)
        log.info("press Ctrl-C to stop it")
        server.wait()
        raise UnfitError(f"mlflow ui stopped unexpectedly: {last_words(output)}")
    except (KeyboardInterrupt, Stopped):
        log.info("ended")
        return 0
    finally:
        end(server)


def address(tracking: Tracking, experiment: str | None) -> str:
    """Return the view of an experiment's runs, of the store's newest if none is named; the front page without one."""
    name = experiment or newest(tracking)
    page = view.shared(tracking, name) if name else None
    if experiment and page is None:
        raise UnfitError(f"no runs of '{experiment}' in {redact(tracking.uri)}; run it first")
    return view.address(*page) if page else "#/experiments?workflowType=machine_learning"


def newest(tracking: Tracking) -> str | None:
    """Return the experiment with a view that changed last."""
    if tracking.database is not None and not tracking.database.exists():
        return None
    return view.newest(tracking)


def free_port(wished: int) -> int:
    """Return the port wished for, or the next that is free. Raise UnfitError where none is."""
    for port in range(wished, wished + TRIES):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):
                continue
            return port
    raise UnfitError(f"no free port from {wished} to {wished + TRIES - 1}; choose one with --port")


def await_answer(server: "subprocess.Popen[bytes]", link: str, output: IO[bytes]) -> None:
    """Wait until the server answers. Raise UnfitError where it ends or stays silent."""
    ending = time.monotonic() + PATIENCE
    while time.monotonic() < ending:
        if server.poll() is not None:
            raise UnfitError(f"mlflow ui did not start: {last_words(output)}")
        try:
            with urllib.request.urlopen(urljoin(link, "/health"), timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise UnfitError(f"mlflow ui did not answer within {PATIENCE:.0f} s")


def last_words(output: IO[bytes]) -> str:
    """Return the last line that it wrote, without a password."""
    output.seek(0)
    text = output.read().decode(errors="replace")
    return redact((text.strip().splitlines() or ["no message"])[-1][:300])


def end(server: "subprocess.Popen[bytes]") -> None:
    """End the server and its workers; nothing is left behind."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def display() -> bool:
    """Return whether a browser can be opened here."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_page(path: Path) -> None:
    """Open a report's page in the browser, or say where it lies."""
    if display():
        webbrowser.open(path.resolve().as_uri())
    else:
        log.info(f"no display here; open this page: {path}")
