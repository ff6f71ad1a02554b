"""The commit of the harness: of the repository that tracks its files, and of no other."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.launch import provenance

UNKNOWN = {"commit": None, "dirty": None}
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *words: str) -> str:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | who
    return subprocess.run(
        ["git", *words], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def repository(folder: Path, *files: str) -> Path:
    """A repository with one commit of these files."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return repository(tmp_path / "checkout", "harness/__init__.py")


def test_the_commit_and_changes_of_a_checkout(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert provenance.source(checkout) == {"commit": commit, "dirty": False}
    (checkout / "harness" / "__init__.py").write_text("x = 1\n")
    assert provenance.source(checkout) == {"commit": commit, "dirty": True}


def test_variables_of_another_repository_are_not_heeded(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = repository(tmp_path / "other", "harness/__init__.py", "more")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    found = provenance.source(checkout)
    monkeypatch.undo()
    assert found == {"commit": git(checkout, "rev-parse", "--short=12", "HEAD"), "dirty": False}


def test_a_repository_around_the_files_is_not_theirs(tmp_path: Path) -> None:
    """As a person's own around a virtual environment."""
    outer = repository(tmp_path / "outer", "notes")
    inner = outer / "env" / "site-packages"
    (inner / "harness").mkdir(parents=True)
    (inner / "harness" / "__init__.py").write_text("")
    assert provenance.source(inner) == UNKNOWN


def test_a_checkout_of_another_owner_is_not_known(checkout: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a checkout to another user")
    for path in [checkout, *checkout.rglob("*")]:
        os.chown(path, 54321, 54321)
    assert provenance.source(checkout) == UNKNOWN


def test_no_git_and_no_repository(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.source(tmp_path) == UNKNOWN
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.source(checkout) == UNKNOWN


def test_a_status_that_fails_is_not_clean(checkout: Path) -> None:
    (checkout / ".git" / "index").write_bytes(b"damaged")
    assert provenance.source(checkout)["dirty"] is not False
