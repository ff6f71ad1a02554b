"""Every file in harness/data/datasets keeps its contract as `harness check` reads it; those in VSPW's layout on a root
that is made here.
"""

from dataclasses import fields
from pathlib import Path

import pytest
from vspw_files import AS_FOLDER, make_vspw

from harness.config import plugins
from harness.tools import check

NAMES = plugins.names("datasets")
OWN = {"folder": AS_FOLDER}


def test_the_folder_is_found() -> None:
    assert {"vspw", "synthetic", "folder"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_contract(name: str, tmp_path: Path) -> None:
    keys = {field.name for field in fields(plugins.load("datasets", name).Config)}
    options = {"root": str(make_vspw(tmp_path / "vspw")), **OWN.get(name, {})} if "root" in keys else {}
    checks = {one.what: one for one in check.checks("datasets", name, config_fields=options)}
    assert {what: one.text for what, one in checks.items() if not one.passed} == {}
    assert len(checks) == 13
    if options:
        assert "moved root" in checks["digests depend on content, not on location"].text
