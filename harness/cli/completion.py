"""Shell completion: names of what can be given, each with the first line of its docstring."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import typer

from harness.common.errors import HarnessError
from harness.config import plugins
from harness.config.presets import PRESETS

Offers = list[tuple[str, str]]  # name, what it is


def of_kinds(*kinds: str) -> Callable[[typer.Context, str], Offers]:
    """Offer the plug-ins of some kinds, a person's own by --plugins or harness.yaml among them."""

    def offer(context: typer.Context, incomplete: str) -> Offers:
        try:
            names = [heads(kind, folders(context)).items() for kind in kinds]
        except (HarnessError, OSError):  # a wrong folder is told when the command is given
            return []
        return [(name, head) for items in names for name, head in items if name.startswith(incomplete)]

    return offer


def experiments_and_keys(context: typer.Context, incomplete: str) -> Offers:
    """Offer experiments, and the keys of the configuration with the values that they have now."""
    keys = [(f"{key}=", f"now {value}") for key, value in settings_of(context).items() if key.startswith(incomplete)]
    return [*of_kinds("experiments")(context, incomplete), *keys]


def settings_of(context: typer.Context) -> dict[str, object]:
    """Return dotted key -> value of the configuration of the command that is being typed; none where it is wrong."""
    from harness.config import settings
    from harness.config.compose import compose

    try:
        preset = context.params.get("preset") or settings.resolve().preset
        tree = compose(preset, [], folders(context)).tree
    except (HarnessError, OSError):
        return {}
    return dict(leaves(tree))


def leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted key and value of everything in a tree that is no mapping."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def parts_and_experiments(context: typer.Context, incomplete: str) -> Offers:
    """Offer what `harness doctor` checks, and experiments."""
    from harness.tools.doctor import PARTS

    parts = [(name, "") for name in PARTS if name.startswith(incomplete)]
    return [*parts, *of_kinds("experiments")(context, incomplete)]


def kinds(incomplete: str) -> Offers:
    """Offer what `harness list` can list."""
    return [(kind, "") for kind in (*plugins.KINDS, "presets") if kind.startswith(incomplete)]


def presets(incomplete: str) -> Offers:
    """Offer our presets, and .yaml files by their path."""
    path = Path(incomplete)
    folder = path if incomplete.endswith("/") else path.parent
    files = sorted(str(path) for path in folder.glob("*.yaml"))
    heads = {**preset_heads(), **dict.fromkeys(files, "")}
    return [(name, head) for name, head in heads.items() if name.startswith(incomplete)]


def folders(context: typer.Context) -> tuple[str, ...]:
    """Return the plug-in folders of the command that is being typed."""
    from harness.config import settings

    given = context.params.get("plugins")
    return tuple(map(str, given)) if given else tuple(settings.resolve().plugins)


def heads(kind: str, own: plugins.Folders = ()) -> dict[str, str]:
    """Return name -> first line of the docstring of every plug-in of a kind, or of every preset."""
    if kind == "presets":
        return preset_heads()
    return {name: plugins.headline(path) for name, path in plugins.paths(kind, own).items()}


def preset_heads() -> dict[str, str]:
    """Return name -> first line of every preset."""
    return {path.stem: path.read_text().splitlines()[0].lstrip("# ") for path in sorted(PRESETS.glob("*.yaml"))}
