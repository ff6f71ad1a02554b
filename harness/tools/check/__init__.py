"""`harness check`: does a decoder, encoder, data set or metric keep its contract, and where does it not?

Every check runs by itself: one that fails says in a line what was expected and what came, and the others
go on. What is measured is real: a training, a resumed training and two gloo ranks of a tiny BEiT, in a temporary
directory. The contracts are models/contract.py, models/segmentor.py (Encoder), harness/data/contract.py and
harness/results/metric.py.
"""

import dataclasses
import logging
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness.common import ranges
from harness.common.atomic_files import JsonObject
from harness.common.errors import UsageError
from harness.config import plugins
from harness.tools.check import _source
from harness.tools.check._result import Broken, CheckResult, expect, explain, run_check

log = logging.getLogger(__name__)

__all__ = ["KINDS", "Broken", "Held", "checks", "expect", "explain", "find", "line", "options"]

KINDS = {
    "decoders": "Decoder",
    "encoders": "Encoder",
    "datasets": "Dataset",
    "metrics": "Metric",
}  # what a file of a kind exposes


def find(word: str, folders: plugins.Folders = ()) -> tuple[str, str, tuple[Path, ...]]:
    """Kind, name and folders of a plug-in given by its name or by the path FOLDER/<kind>/<name>.py.

    Raise UsageError where there is none, where two kinds have one of that name, or where the path is not of that form.
    """
    resolved = tuple(Path(folder).resolve() for folder in folders)
    if word.endswith(".py"):
        path = Path(word).resolve()
        if not path.is_file():
            raise UsageError(f"{word}: no such file")
        ours = {plugins.PROJECT / plugins.KINDS[kind]: kind for kind in KINDS}
        if path.parent in ours:
            return ours[path.parent], path.stem, resolved
        if path.parent.name not in KINDS:
            raise UsageError(f"{word}: a plug-in must be in a folder named {', '.join(KINDS)}; move it there")
        own = path.parent.parent
        return path.parent.name, path.stem, resolved if own in resolved else (*resolved, own)
    names = {kind: plugins.names(kind, resolved) for kind in KINDS}
    kinds = [kind for kind, plugin_names in names.items() if word in plugin_names]
    if not kinds:
        near = plugins.suggestion(word, [name for plugin_names in names.values() for name in plugin_names])
        remedy = plugins.misplaced(resolved) or "; did you give its folder with --plugins?"
        raise UsageError(f"no decoder, encoder, data set or metric '{word}'{near}{remedy}")
    if len(kinds) > 1:
        raise UsageError(f"'{word}' is the name of {' and of '.join(kinds)}; give its file's path")
    return kinds[0], word, resolved


def options(words: Collection[str]) -> JsonObject:
    """`field=value` words, for example root=DIR or data.vspw.root=DIR, as fields of the plug-in's Config.

    Raises UsageError for a word of another form.
    """
    from omegaconf import OmegaConf

    values: JsonObject = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"'{word}' is not FIELD=VALUE of the plug-in's Config")
        try:
            read = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
        except Exception as error:  # YAML's own
            raise UsageError(f"{word}: {' '.join(str(error).split())}") from error
        assert isinstance(read, dict)
        values[key.rpartition(".")[2]] = read["value"]
    return values


def checks(
    kind: str,
    name: str,
    folders: plugins.Folders = (),
    config_fields: JsonObject | None = None,
    leave_out: Collection[str] = (),
) -> Iterator[CheckResult]:
    """Return the checks of a plug-in, each with its result as soon as that is there.

    `config_fields` are fields of its Config, `leave_out` titles of checks to leave out. Raise UsageError
    where there is no such plug-in.
    """
    path = plugins.find(kind, name, folders).resolve()
    yield run_check("VERSION and Config are literals", partial(_source.source, path), path)
    imported = run_check(
        "it imports", lambda: _source.exposes(plugins.load(kind, name, folders), path, KINDS[kind]), path
    )
    yield imported
    if not imported.passed:
        return
    module = plugins.load(kind, name, folders)
    fields = dataclasses.fields(module.Config) if dataclasses.is_dataclass(module.Config) else ()
    declared = [field.name for field in fields]
    for key in config_fields or {}:
        if declared and key not in declared:
            near = plugins.suggestion(key, declared)
            raise UsageError(f"{name}: its Config has no field '{key}'{near}; it has {', '.join(declared)}")
    config = run_check("Config can be created", lambda: shown(module.Config(**(config_fields or {}))), path)
    yield config
    if not config.passed:
        return
    if kind == "datasets":
        from harness.tools.check import _dataset as suite
    elif kind == "encoders":
        from harness.tools.check import _encoder as suite  # type: ignore[no-redef]
    elif kind == "metrics":
        from harness.tools.check import _metric as suite  # type: ignore[no-redef]
    else:
        from harness.tools.check import _decoder as suite  # type: ignore[no-redef]
    for what, action in suite.checks(name, path, module, tuple(map(str, folders)), config_fields or {}):
        if what not in leave_out:
            yield run_check(what, action, path)


def shown(config: Any) -> str:
    """Return a Config's fields in a line. Raise Broken where it is no dataclass or a value is outside of its range."""
    expect(dataclasses.is_dataclass(config), "expected a dataclass: put @dataclass(frozen=True) above it")
    for violation in ranges.violations(type(config), vars(config)):
        raise Broken(f"Config.{violation}")
    return (
        ", ".join(f"{field.name}={getattr(config, field.name)}" for field in dataclasses.fields(config)) or "no fields"
    )


def line(result: CheckResult) -> str:
    """Return a check's result as people read it."""
    return f"{'ok    ' if result.passed else 'BROKEN'} {result.what:<38} {result.text}"
