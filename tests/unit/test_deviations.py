"""docs/DEVIATIONS.md names every open question, and points at code and keys that exist."""

import ast
import re
from pathlib import Path

import pytest

from harness.config.compose import compose, leaves

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "docs" / "DEVIATIONS.md").read_text()
ROWS = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| ") and "---" not in line]
SOURCES = [path for folder in ("harness", "models", "experiments") for path in (PROJECT / folder).rglob("*.py")]


def places(cell):
    """The (file, dotted name) pairs of a cell; a name without a file belongs to the file before it."""
    file = None
    for mark in re.findall(r"`([^`]+)`", cell):
        name = mark.partition(":")[2]
        file = mark.partition(":")[0] or file
        yield file, name


def defined(path, dotted):
    """Whether a file defines a name, at the top level or as `Class.name` (of a class or of an instance)."""
    node = ast.parse(path.read_text())
    for part in filter(None, dotted.split(".")):
        scope = [inner for inner in ast.walk(node) if part in names(inner)]
        if not scope:
            return False
        node = scope[0]
    return True


def names(node):
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "") for target in targets]


@pytest.mark.parametrize("number", range(1, 35))
def test_every_ambiguity_has_a_row(number):
    assert any(re.match(rf" A{number} ·", row[0]) for row in ROWS)


def test_every_place_exists():
    found = [(row[0].strip(), *place) for row in ROWS if len(row) == 6 for place in places(row[4])]
    assert len(found) > 60
    for what, file, name in found:
        paths = [path for path in SOURCES if str(path).endswith("/" + file)]
        assert len(paths) == 1, (what, file)
        assert defined(paths[0], name), (what, file, name)


def test_every_key_exists():
    tree = compose("paper").tree
    sections = [tree, *(part for part in tree.values() if isinstance(part, dict))]
    sections += [part for section in sections for part in section.values() if isinstance(part, dict)]
    known = {key for section in sections for key in section}
    keys = [key for row in ROWS if len(row) == 6 for key in re.findall(r"`([^`]+)`", row[5])]
    assert len(keys) > 15
    assert [key for key in keys if key.rpartition(".")[2] not in known and not key.startswith("--")] == []


def test_the_presets_differ_in_the_four_keys_that_it_says():
    def flat(tree, place=""):
        for key, value in tree.items():
            yield from flat(value, f"{place}{key}.") if isinstance(value, dict) else [(f"{place}{key}", value)]

    paper, authors = dict(flat(compose("paper").tree)), dict(flat(compose("authors").tree))
    different = {key for key in paper if paper[key] != authors[key]}
    assert different == {f"decoder.decoder_{x}.{key}" for x in "ab" for key in ("init", "proj")}
    assert leaves(compose("paper").tree) != leaves(compose("authors").tree)
