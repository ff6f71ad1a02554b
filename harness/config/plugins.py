"""The folder is the registry: a plug-in is one file, its name is the file's name, and it exposes fixed names.

`VERSION` and `Config` are read from the source with ast, so that planning imports neither the file nor torch.
A person's own folder joins as FOLDER/<kind>/<name>.py and may not hide a name of ours. It loads as a package, so that a
plug-in may import files beside it: `from ._blocks import Gate`, `from ..layers import Gate`.
"""

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Literal

from harness.common.errors import HarnessError, UsageError

PROJECT = Path(__file__).resolve().parents[2]
KINDS = {
    "experiments": "experiments",
    "searches": "experiments/searches",
    "encoders": "models/encoders",
    "decoders": "models/decoders",
    "datasets": "harness/data/datasets",
    "metrics": "harness/results/metrics",
    "reports": "reports",
    "launchers": "harness/launch/launchers",
}
SINGULAR = {"datasets": "data set", "searches": "search"}  # the others drop their s
Folders = Sequence[Path | str]


@dataclass(frozen=True)
class Schema:
    """A plug-in's VERSION and Config, read without importing it."""

    version: int | None
    config: type | None  # a frozen dataclass with literal defaults


def paths(kind: str, folders: Folders = ()) -> dict[str, Path]:
    """Return name -> file of every plug-in of a kind. Raise UsageError if a folder is absent or two hold one name."""
    for own in folders:
        if not Path(own).is_dir():
            raise UsageError(f"{own}: no such plug-in folder")
    files: dict[str, Path] = {}
    for folder in [PROJECT / KINDS[kind], *(Path(own) / kind for own in folders)]:
        for path in sorted(folder.glob("*.py")):
            if path.name.startswith("_"):
                continue
            if path.stem in files:
                raise UsageError(f"{path}: the name '{path.stem}' is taken by {files[path.stem]}; rename the file")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", path.stem):
                raise UsageError(f"{path.name!r}: a plug-in's name may only contain a-z, 0-9 and _; rename the file")
            files[path.stem] = path
    return files


def names(kind: str, folders: Folders = ()) -> list[str]:
    """Return the names of a kind, sorted."""
    return sorted(paths(kind, folders))


def find(kind: str, name: str, folders: Folders = ()) -> Path:
    """Return the file of a plug-in. Raise UsageError with a suggestion where there is none."""
    files = paths(kind, folders)
    if name not in files:
        near = suggestion(name, files)
        own = (
            misplaced(folders) if folders else "" if near else f"; your own (DIR/{kind}/{name}.py) needs --plugins DIR"
        )
        raise UsageError(f"no {SINGULAR.get(kind, kind[:-1])} '{name}'{near}; `harness list {kind}` lists them{own}")
    return files[name]


def misplaced(folders: Folders) -> str:
    """Return '; ...' on folders of plug-ins that are a kind's own folder, or hold one with a kind's name misspelt."""
    for folder in map(Path, folders):
        if folder.resolve().name in KINDS and not any((folder / kind).is_dir() for kind in KINDS):
            return f"; --plugins takes the folder above {folder}: the one that holds {folder.resolve().name}/"
        for held in sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in KINDS):
            near = get_close_matches(held.name, KINDS, n=1, cutoff=0.8)
            if near:
                return f"; {held} is not read: its name must be {near[0]}"
    return ""


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return ' (did you mean ...?)', or nothing where nothing is near."""
    near = get_close_matches(name, list(names), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def load(kind: str, name: str, folders: Folders = ()) -> ModuleType:
    """Import a plug-in. Ours by their package, so that they pickle; a person's own by its path."""
    path = find(kind, name, folders)
    if path.parent == PROJECT / KINDS[kind]:
        return importlib.import_module(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    return load_file(path)


def load_named(kind: str, name: str, folders: Folders, needed: Sequence[str]) -> ModuleType:
    """Return a plug-in by its name or by a .py file's path. Raise UsageError if it lacks one of the `needed` names."""
    if not name.endswith(".py"):
        module = load(kind, name, folders)
    elif Path(name).is_file():
        module = load_file(Path(name))
    else:
        raise UsageError(f"{name}: no such file")
    missing = [attribute for attribute in needed if not hasattr(module, attribute)]
    if missing:
        what = SINGULAR.get(kind, kind[:-1])
        raise UsageError(f"{name}: every {what} needs {', '.join(needed)}; {missing[0]} is missing")
    return module


def load_file(path: Path) -> ModuleType:
    """Import a file that lies outside the project, once, as part of its folder's package.

    Raise UsageError where it does not import.
    """
    importlib.invalidate_caches()  # a file may have been written since its folder was listed
    try:
        key = f"{folder_package(path.parent.resolve())}.{path.stem.replace('.', '_')}"
        if key in sys.modules:
            return sys.modules[key]
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None  # a .py path always has one
        assert spec.loader is not None
        module = sys.modules[key] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    except Exception as error:
        name = error.name if isinstance(error, ModuleNotFoundError) else None
        beside = name is not None and (path.parent / f"{name}.py").is_file()
        remedy = f"; import a file beside it with a dot: from .{name} import …" if beside else ""
        raise UsageError(f"{path}: cannot be imported: {type(error).__name__}: {error}{remedy}") from error
    return module


def folder_package(folder: Path) -> str:
    """Return the name under which a folder of plug-ins is imported: a package within its parent folder's.

    A folder whose name is no identifier has no parent package.
    """
    root = folder.parent if folder.name.isidentifier() else folder
    name = f"harness_plugins_{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(root)]
        sys.modules[name] = importlib.util.module_from_spec(spec)
    return name if root == folder else importlib.import_module(f"{name}.{folder.name}").__name__


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Turn what a person's own plug-in raises into a UsageError with its file and line; leave ours as they are."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        own = path.resolve()
        if own.parent in [PROJECT / folder for folder in KINDS.values()]:
            raise
        lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if Path(at.filename).resolve() == own]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise UsageError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error


@cache
def read_schema(path: Path) -> Schema:
    """Return a file's VERSION and Config, from its source alone. Raise UsageError unless their values are literal."""
    tree = parse(path)
    version: int | None = None
    config: type | None = None
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and assigned(node) == ["VERSION"]:
            version = whole_number(node, path)
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            names = {"dataclass": dataclass, "field": dataclasses.field, "Literal": Literal, "__name__": path.stem}
            body = ast.Module(body=[node], type_ignores=[])
            try:
                exec(compile(body, str(path), "exec"), names)
            except Exception as error:
                raise UsageError(f"{path}:{node.lineno}: Config must have literal defaults only: {error}") from error
            config = names["Config"]  # type: ignore[assignment]
    return Schema(version, config)


def assigned(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """Return the names that an assignment gives a value."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [ast.unparse(target) for target in targets]


def whole_number(node: ast.Assign | ast.AnnAssign, path: Path) -> int:
    """Return the number that VERSION is. Raise UsageError where it is another thing."""
    value = node.value.value if isinstance(node.value, ast.Constant) else None
    if type(value) is not int:
        raise UsageError(f"{path}:{node.lineno}: VERSION must be a literal whole number")
    return value


def version_of(module_path: str) -> int:
    """Return the VERSION of one of our own modules, for example 'harness/engine/train.py'."""
    version = read_schema(PROJECT / module_path).version
    assert version is not None
    return version


def parse(path: Path) -> ast.Module:
    """Return a file's syntax tree. Raise UsageError where it is no Python."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UsageError(f"{path}:{error.lineno}: {error.msg}") from error
    except ValueError as error:  # no UTF-8; a NUL
        raise UsageError(f"{path}: is not Python source: {error}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def docstring(path: Path) -> str:
    """Return a plug-in's docstring, without importing it. Raise UsageError where it is no Python."""
    return ast.get_docstring(parse(path)) or ""


def headline(path: Path) -> str:
    """Return the first line of a plug-in's docstring; what is wrong where it is no Python."""
    try:
        return (docstring(path).splitlines() or [""])[0]
    except UsageError as error:
        return f"(unfit: {error})"
