"""The metrics of a configuration: those of every evaluation, and those that are chosen."""

from types import ModuleType

from harness.common.errors import UsageError
from harness.config import plugins
from harness.config.compose import Config, PluginSpec

ALWAYS = ("mean_iou", "weighted_iou", "pixel_accuracy", "mvc")  # every evaluation keeps what these are read off
NEEDED = ("VERSION", "Config", "Metric")


def load(name: str, folders: plugins.Folders = ()) -> ModuleType:
    """Import a metric. Raise UsageError where it lacks a part."""
    module = plugins.load_named("metrics", name, folders, NEEDED)
    with plugins.blamed(plugins.find("metrics", name, folders)):
        if not module.Metric.names:
            raise UsageError(f"metric '{name}': its class Metric must set `names`, the names of its numbers")
    return module


def chosen(config: Config) -> list[PluginSpec]:
    """Return all metrics of a configuration, in the order of tables. Raise UsageError where two give one number."""
    names = [*ALWAYS, *(name for name in config.evaluate.metrics if name not in ALWAYS)]
    owner: dict[str, str] = {}
    for name in names:
        for number in load(name, config.folders).Metric.names:
            if owner.setdefault(number, name) != name:
                raise UsageError(f"metrics '{owner[number]}' and '{name}' both give '{number}'; rename one")
    return [config.metric(name) for name in names]


def counted(config: Config) -> list[PluginSpec]:
    """Return the chosen metrics that have counts of their own beside those of every evaluation, by name."""
    names = sorted(name for name in config.evaluate.metrics if name not in ALWAYS)
    return [config.metric(name) for name in names if hasattr(load(name, config.folders).Metric, "add")]
