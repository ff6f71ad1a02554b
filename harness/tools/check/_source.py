"""The part of a plug-in that is read before anyone imports it: VERSION and Config, written out."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from harness.config import plugins
from harness.tools.check._result import Broken, expect


def source(path: Path) -> str:
    """VERSION is a whole number and every default of Config is literal, as planning without torch needs."""
    schema = plugins.read_schema(path)
    expect(schema.version is not None, "expected a line `VERSION = 1` at the top level, found none")
    expect(schema.config is not None, "expected a class Config at the top level, found none")
    frozen = getattr(getattr(schema.config, "__dataclass_params__", None), "frozen", False)
    expect(frozen, "expected Config to be decorated with @dataclass(frozen=True)")
    names = []
    for name, value, line in defaults(path):
        expect(value is not None, f"Config.{name} has no default; give it a literal default ({path.name}:{line})")
        assert value is not None
        if not literal(value):
            shown = ast.unparse(value)
            raise Broken(f"Config.{name} = {shown}: expected a literal ({path.name}:{line})")
        names.append(name)
    return f"VERSION {schema.version}, Config({', '.join(names)})"


def defaults(path: Path) -> Iterator[tuple[str, ast.expr | None, int]]:
    """Name, default and line of every field of the file's Config."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            for line in node.body:
                if isinstance(line, ast.AnnAssign):
                    yield ast.unparse(line.target), line.value, line.lineno


def literal(value: ast.expr) -> bool:
    """Whether an expression is a literal, or a `field` of literals."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        return all(word.arg in ("default", "metadata") and literal(word.value) for word in value.keywords)
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def exposes(module: ModuleType, path: Path, name: str) -> str:
    """The module's fixed names are there, and its Config is the one that the core reads."""
    for needed in ("VERSION", "Config", name):
        expect(hasattr(module, needed), f"expected the module to expose {needed}")
    try:
        read = plugins.read_schema(path).config
    except Exception:  # the check of the source says so
        return f"exposes {name}; Config not compared"
    if read is not None and dataclasses.is_dataclass(module.Config):
        mine, theirs = (
            [(field.name, field.default, dict(field.metadata)) for field in dataclasses.fields(config)]
            for config in (module.Config, read)
        )
        expect(mine == theirs, f"Config is {mine} when imported, but {theirs} in the source")
    return f"exposes VERSION, Config and {name}"
