"""The documentation: the site builds without a warning, and links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.results.frame import SUMMARY

PROJECT = Path(__file__).parents[2]
PAGES = sorted(path.name for path in (PROJECT / "docs").glob("*.md"))


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in (tmp_path / "site").glob("*.html")} == {Path(page).stem for page in PAGES} | {"404"}
    api = (tmp_path / "site" / "API.html").read_text()
    assert "models.contract.Decoder" in api
    assert re.search(r'id="harness\.results\.stats\.interval"', api)


def test_every_page_is_in_the_contents() -> None:
    nav = yaml.safe_load((PROJECT / "mkdocs.yml").read_text())["nav"]
    listed = [page for entry in nav for page in ([entry] if isinstance(entry, str) else next(iter(entry.values())))]
    assert sorted(listed) == PAGES
    index = (PROJECT / "docs" / "index.md").read_text()
    assert [page for page in PAGES if f"]({page})" not in index] == ["index.md"]


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", (PROJECT / "README.md").read_text())
    assert len(targets) > 10
    assert [target for target in targets if not (PROJECT / target).exists()] == []


def test_the_columns_of_a_reports_summary_are_those_that_there_are() -> None:
    guide = (PROJECT / "docs" / "OWN_DECODER.md").read_text()
    table = guide.split("| of `summary` | |\n")[1].split("\n\n")[0]
    columns = [name for line in table.splitlines()[1:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert set(columns) <= set(SUMMARY)
    assert len(columns) == len(set(columns)) > 20
