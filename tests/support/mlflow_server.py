"""A real MLflow server on a real PostgreSQL, or on SQLite: passwords asked, artefacts taken by the server itself.

PostgreSQL runs in a folder of its own, under its own port, as a user that is not root (it refuses to be).
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import Request, urlopen

from system_parts import need, program

WITHOUT = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
USER = "reviewer"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """The URI of an empty database, its password in it; skips where PostgreSQL is absent."""
    need("postgresql")
    folder, port, password = (
        Path(tempfile.mkdtemp(prefix="harness-pg-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))),
        free_port(),
        secrets.token_hex(12),
    )
    become: list[str] = []
    if os.getuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        become = ["runuser", "-u", "postgres", "--"]
    word = folder / "password"
    word.write_text(password)
    word.chmod(0o644)
    data, log = folder / "data", folder / "log"
    initdb, server = program("initdb"), program("postgres")
    made = [*become, str(initdb), "-D", str(data), "-U", USER, "-A", "scram-sha-256", f"--pwfile={word}", "-N"]
    subprocess.run(made, check=True, capture_output=True, cwd=folder)
    command = [*become, str(server), "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-F"]
    with log.open("w") as file:
        running = subprocess.Popen(command, stdout=file, stderr=file, cwd=folder, start_new_session=True)
    try:
        until(lambda: "ready to accept connections" in log.read_text(), log)
        yield f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{port}/postgres"
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Server:
    """`mlflow server` with MLflow's own login; it may be killed and started again."""

    folder: Path
    backend: str
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def login(self) -> dict[str, str]:
        """What a client's environment must say."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }

    def start(self) -> None:
        """Start it and wait until it is healthy."""
        self.folder.mkdir(exist_ok=True)
        ini = self.folder / "auth.ini"
        ini.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{self.folder}/auth.db\n"
            "admin_username = admin\nauth_cache_ttl_seconds = 600\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        secret = {"MLFLOW_AUTH_ADMIN_PASSWORD": self.password, "MLFLOW_FLASK_SERVER_SECRET_KEY": self.password}
        quiet = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # five more processes, for MLflow's own jobs
            "MLFLOW_AUTH_CONFIG_PATH": str(ini),
        }
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        command += ["--port", str(self.port), "--artifacts-destination", str(self.folder / "artefacts")]
        log = self.folder / "server.log"
        with log.open("a") as file:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**WITHOUT, **secret, **quiet, "MLFLOW_BACKEND_STORE_URI": self.backend},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        until(self.healthy, log)
        until(self.answers, log)

    def answers(self) -> bool:
        """Whether a client's first question is answered soon; a login's hash and cold caches take their time."""
        asked = Request(f"{self.uri}/api/2.0/mlflow/experiments/search?max_results=1")
        asked.add_header("Authorization", "Basic " + b64encode(f"admin:{self.password}".encode()).decode())
        try:
            return bool(urlopen(asked, timeout=5).status == 200)
        except OSError:
            return False

    def healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
        try:
            return bool(urlopen(f"{self.uri}/health", timeout=5).status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """As a machine that loses its power."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def until(said: Callable[[], bool], log: Path, seconds: float = 900) -> None:
    """Wait for a server."""
    deadline = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


@contextmanager
def served(folder: Path, kind: str = "postgresql") -> Iterator[Server]:
    """A server on a PostgreSQL of its own, or on an SQLite file."""
    folder.mkdir(parents=True)
    with postgres() if kind == "postgresql" else nullcontext(f"sqlite:///{folder}/mlflow.db") as backend:
        made = Server(folder, backend)
        try:
            made.start()
            yield made
        finally:
            made.kill()
