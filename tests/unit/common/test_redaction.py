import logging
import signal

import pytest

from harness import cli
from harness.common import console
from harness.common.redaction import one_line, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://bob:s3cret@db:5432/x", "postgresql://bob:***@db:5432/x"),
        ("postgresql+psycopg://bob:p@ss/w0rd@db/x", "postgresql+psycopg://bob:***@db/x"),
        ("https://abcdef0123@host/x", "https://***@host/x"),
        ("at http://u:s3cret@h and http://v:s3cret@i", "at http://u:***@h and http://v:***@i"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ***"),
        ("GET /x?sig=s3cret&n=1", "GET /x?sig=***&n=1"),
        ("MLFLOW_TRACKING_TOKEN=s3cret", "MLFLOW_TRACKING_TOKEN=***"),
        ('{"password": "s3cret", "n": 1}', '{"password": "***", "n": 1}'),
        ("token hf_abcdefghijklmnop", "token hf_***"),
        ("postgresql://bob:it's3cret@db/x", "postgresql://bob:***@db/x"),
        ("export MLFLOW_TRACKING_PASSWORD=s3,c;r&t here", "export MLFLOW_TRACKING_PASSWORD=*** here"),
        ('password="two words" and more', 'password="***" and more'),
        ("{'password': 'two words', 'n': 1}", "{'password': '***', 'n': 1}"),
        ("mlflow --password s3cret --port 1", "mlflow --password *** --port 1"),
        ("Authorization: Basic dXNlcjpzM2NyZXQ=", "Authorization: Basic ***"),
    ],
)
def test_secrets_are_masked(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("sqlite:////data/mlflow.db", "http://host:5000/#/x", "write to a@b.org", "tokens: 12", "sigma=2"),
        *("Basic configuration of it", "PWD=/home/me", "sk-learn-contrib-0.3.1", "--token --port 1"),
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_mlflows_own_are_masked_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "two words")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "runs")
    assert redact("they said two words of runs/x") == "they said *** of runs/x", "a short one may be any word"


def test_one_line_of_a_long_message() -> None:
    error = ValueError("first\n  second http://u:s3cret@h " + "x" * 500)
    line = one_line(error, 100)
    assert line.startswith("first second http://u:***@h x")
    assert len(line) == 100
    assert one_line(ValueError()) == "ValueError"


def test_what_is_said_holds_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    with console.logging_to_stderr():
        logging.getLogger("harness.launch").info("failed: http://u:s3cret@h did not answer")
    assert capsys.readouterr().err == "failed: http://u:***@h did not answer\n"


def test_a_traceback_holds_no_password(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def breaks() -> int:
        raise RuntimeError("a defect at http://u:s3cret@h")

    monkeypatch.setattr(cli, "main", breaks)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as left:
            cli.entry()
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr().err
    assert left.value.code == 1
    assert said.startswith("Traceback")
    assert said.endswith("RuntimeError: a defect at http://u:***@h\n")
