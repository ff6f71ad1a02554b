"""Who is told how a plan ended: by a command or a webhook, and never with an error of its own."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import finished_root
import pytest

from harness.config.settings import RunOptions
from harness.launch import notification
from harness.plan.plan import Plan

COMMAND = 'echo "$HARNESS_EVENT|$HARNESS_PLAN|$HARNESS_ROOT|$HARNESS_TEXT" >> '


@pytest.fixture
def half(tmp_path: Path) -> Plan:
    return finished_root.make(tmp_path / "runs", videos=2, without=("decoder_b", "decoder_ab"))


def told(tmp_path: Path, plan: Plan, failures: dict[Any, str]) -> str:
    options = RunOptions(command=("harness",), notify=f"{COMMAND}{tmp_path}/told")
    notification.notify_of_results(plan, options, failures)
    path = tmp_path / "told"
    return path.read_text() if path.exists() else ""


def test_nothing_is_told_of_a_plan_that_is_not_over(half: Plan, tmp_path: Path) -> None:
    assert told(tmp_path, half, {}) == ""


def test_what_failed_is_told_with_the_reason(half: Plan, tmp_path: Path) -> None:
    training = next(job for job in half.jobs if half.state(job) != "done")
    expected = f"ablation_ensemble|{half.root}|ablation_ensemble in {half.root}"
    why = f"({training.name}: a bad disk)"
    assert told(tmp_path, half, {training: "a bad disk"}) == f"failed|{expected}: failed {why}\n"
    folder = half.directory(training)
    folder.mkdir(parents=True)
    (folder / "outcome.json").write_text(json.dumps({"status": "stalled", "reason": "a bad disk"}))
    assert told(tmp_path, half, {training: "a bad disk"}).endswith(f"stuck|{expected}: stuck {why}\n")


def test_a_finished_plan_is_done(tmp_path: Path) -> None:
    plan = finished_root.make(tmp_path / "runs", videos=2)
    assert told(tmp_path, plan, {}).startswith("done|ablation_ensemble|")


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An address, and what was posted there."""
    posted: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if self.path == "/good" else 500)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()


def test_a_webhook_gets_json(
    half: Plan, webhook: tuple[str, list[dict[str, str]]], caplog: pytest.LogCaptureFixture
) -> None:
    address, posted = webhook
    notification.send(f"{address}/good", "done", half, "")
    assert caplog.messages == []
    text = f"ablation_ensemble in {half.root}: done"
    assert posted == [{"event": "done", "plan": "ablation_ensemble", "root": str(half.root), "text": text}]


@pytest.mark.parametrize("target", ["exit 3 # token", "WEBHOOK/token", "http://token.invalid", "http://[token"])
def test_what_cannot_be_told_is_said_without_its_address(
    target: str, half: Plan, webhook: tuple[str, list[dict[str, str]]], caplog: pytest.LogCaptureFixture
) -> None:
    notification.send(target.replace("WEBHOOK", webhook[0]), "done", half, "")
    (line,) = caplog.messages
    assert line.startswith("notify: the ")
    assert "token/" not in line
    assert "\n" not in line
