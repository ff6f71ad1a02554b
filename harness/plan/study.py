"""A search on one configuration, as a value: what its trials are, and what they came to. Neither optuna nor files.

A trial is an evaluation and its trainings, with the fingerprints that any other experiment would give them. The
configuration as it stands is the default: the first trials, one a seed, that every lead is measured against.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.common import ranges
from harness.common.atomic_files import JsonObject
from harness.common.errors import UsageError
from harness.common.progress import SILENT, Progress
from harness.config import plugins
from harness.config.compose import Config, schema
from harness.data import hold_out
from harness.plan import adoption
from harness.plan.cell import Cell
from harness.plan.explain import Difference, flat
from harness.plan.job import Evaluate, digest
from harness.plan.plan import Experiment, Plan
from harness.plan.search_space import Axis, Named, Params, Uniform

REPEATS = 2  # settings that are repeated under the default's seeds, unless the search's file says otherwise
NEEDED = ("TITLE", "SPACE", "HOLD_OUT", "SEEDS", "LOOKS", "LOOK_VIDEOS", "SAMPLER", "PRUNER", "objective")
SPLITS = (hold_out.SPLIT, "val")
ENDED = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Trial:
    """A trial as the storage has it."""

    number: int
    state: str  # waiting | running | complete | pruned | failed
    params: Params
    value: float | None = None  # mIoU in percent; of a pruned one the last that was seen
    looks: Mapping[int, float] = field(default_factory=dict)  # part of the training -> mIoU in percent
    facts: JsonObject = field(default_factory=dict)  # seed, default, step, steps, seconds, reason, …
    seconds: float | None = None  # from its start to its end, pauses included

    @property
    def default(self) -> bool:
        """Whether it is the configuration as it stands, under one of its seeds."""
        return bool(self.facts.get("default"))

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ENDED


@dataclass(frozen=True)
class Setting:
    """All trials of equal values, one a seed."""

    params: Params
    trials: tuple[Trial, ...]  # in their order
    by_seed: Mapping[int, float]  # seed -> mIoU in percent of a complete trial
    default: bool

    def differences(self, other: "Setting | None") -> dict[int, float]:
        """Return seed -> this setting's mIoU less the other's, of the seeds that both have complete."""
        theirs = {} if other is None else other.by_seed
        return {seed: value - theirs[seed] for seed, value in self.by_seed.items() if seed in theirs}


@dataclass(frozen=True)
class Study:
    """A search's file on a configuration."""

    name: str  # in the storage
    search: str  # the file's name
    title: str
    config: Config  # with what is held out, and when it is looked at
    space: Mapping[str, Axis]
    split: str
    seeds: int
    looks: int
    sampler: Named
    pruner: Named
    objective: Callable[[Config, str], Evaluate]
    repeats: int = REPEATS  # settings, the best, that further trials repeat under the default's other seeds

    def seed(self, trial: Trial) -> int:
        """Return the seed that a trial runs with."""
        return int(trial.facts.get("seed", self.config["seed"]))

    def settings(self, trials: Sequence[Trial]) -> list[Setting]:
        """Return the settings of trials in their order, the default's among them."""
        groups: dict[tuple[Any, ...], list[Trial]] = {}
        for trial in trials:
            groups.setdefault(tuple(trial.params.get(key) for key in self.space), []).append(trial)
        default = tuple(self.default.values())
        return [
            Setting(
                params=group[0].params,
                trials=tuple(group),
                by_seed={self.seed(t): t.value for t in group if t.state == "complete" and t.value is not None},
                default=values == default,
            )
            for values, group in groups.items()
        ]

    def repetition(self, trials: Sequence[Trial], total: int) -> tuple[Params, int] | None:
        """Return the setting and seed that the next of `total` trials repeats; None where it draws new values.

        The last trials are kept for the settings that are best under the first seed, under the default's other seeds;
        of the trials beside the default at most half.
        """
        first = self.config["seed"]
        seeds = [self.seed(trial) for trial in trials if trial.default and trial.state != "failed"]
        ranked = [setting for setting in self.settings(trials) if first in setting.by_seed and not setting.default]
        ranked.sort(key=lambda setting: -setting.by_seed[first])
        begun = sum(self.seed(trial) != first and not trial.default for trial in trials)
        missing = [
            (setting.params, seed)
            for setting in ranked[: self.repeats]
            for seed in seeds
            if seed != first and seed not in map(self.seed, setting.trials)
        ][: max(0, (total - self.seeds) // 2 - begun)]
        return missing[0] if missing and total - len(trials) <= len(missing) else None

    @cached_property
    def default(self) -> JsonObject:
        """The values of the space's keys as the configuration has them."""
        return {key: self.config.value(key) for key in self.space}

    @cached_property
    def identity(self) -> JsonObject:
        """The part of an identity that trials of one study share."""
        job = self.job(self.default, self.config["seed"])
        evaluate = {key: value for key, value in job.identity.items() if key not in ("members", "recipes", "kind")}
        return {
            "search": self.search,
            "preset": self.config.preset,
            "split": self.split,
            "space": {key: axis.description() for key, axis in self.space.items()},
            "looks": self.looks,
            "train": job.members[0].identity,
            "evaluate": evaluate,
        }

    @cached_property
    def names(self) -> dict[str, str]:
        """The space's keys as people call them: the label, else as many last words as tell a key from the others."""
        names = {key: axis.label or key.rpartition(".")[2] for key, axis in self.space.items()}
        for words in range(2, 1 + max(key.count(".") + 1 for key in names)):
            twice = {name for name in names.values() if list(names.values()).count(name) > 1}
            names |= {key: ".".join(key.split(".")[-words:]) for key, name in names.items() if name in twice}
        return names

    @property
    def digest(self) -> str:
        """Names the study in MLflow."""
        return digest([self.name, self.identity])

    @property
    def iterations(self) -> int:
        """Of a trial that is not pruned."""
        return self.config.iterations()

    def job(self, params: Params, seed: int) -> Evaluate:
        """Return a trial's evaluation."""
        return self.objective(self.config.with_values(params).with_seed(seed), self.split)

    def plan(self, params: Params, seed: int, root: Path) -> Plan:
        """Return a trial as a plan of one cell."""
        cell = Cell("trial", self.label(params), self.job(params, seed))
        return Plan(
            (Experiment(f"search_{self.search}", self.title, "comparison", self.config, ((seed, cell),)),), root
        )

    def label(self, params: Params) -> str:
        """Return a trial's values for people: 'm=0.031 poly'."""
        words = []
        for key, axis in self.space.items():
            if key in params:
                value = params[key]
                text = f"{value:.2g}" if isinstance(value, float) else str(value)
                named = axis.label or isinstance(axis, Uniform) or not isinstance(value, str)  # 'poly' says what it is
                words.append(f"{self.names[key]}={text}" if named else text)
        return " ".join(words)


def make(
    name: str,
    config: Config,
    root: Path,
    split: str = hold_out.SPLIT,
    study: str | None = None,
    compute: bool = False,
    progress: Progress = SILENT,
) -> Study:
    """Return a study of a search by name or by the path of a .py file. Raise UsageError for what does not fit."""
    module = plugins.load_named("searches", name, config.folders, NEEDED)
    typed = schema(config.folders)
    for key, axis in module.SPACE.items():
        axis.check(f"search {name}: {key}")
        if not axis.holds(value := config.value(key)):
            space = axis.description()
            raise UsageError(f"{key}={value}, the default, is outside the search space ({space}); set it inside")
        for end in (axis.low, axis.high) if isinstance(axis, Uniform) else axis.options:
            for violation in ranges.violations(typed, config.with_values({key: end}).tree):
                raise UsageError(f"search {name}: its space contains {violation}")
    if split not in SPLITS:
        raise UsageError(f"split={split}{plugins.suggestion(split, SPLITS)}: trials are scored on dev or on val")
    changes: JsonObject = {"train.evaluate_split": split, "train.evaluate_videos": module.LOOK_VIDEOS}
    if split == hold_out.SPLIT and config.data.hold_out is None:
        changes["data.hold_out"] = module.HOLD_OUT
    config = adoption.resolve(config.with_values(changes), root, compute, progress)
    config = config.with_values({"train.evaluate_every": math.ceil(config.iterations() / module.LOOKS)})
    stem = Path(name).stem
    return Study(
        name=study or stem,
        search=stem,
        title=module.TITLE,
        config=config,
        space=module.SPACE,
        split=split,
        seeds=module.SEEDS,
        looks=module.LOOKS,
        sampler=module.SAMPLER,
        pruner=module.PRUNER,
        objective=module.objective,
        repeats=repeats(module, name),
    )


def repeats(module: ModuleType, name: str) -> int:
    """Return the REPEATS of a search's file, REPEATS of this one without it. Raise UsageError for another thing."""
    value = getattr(module, "REPEATS", REPEATS)
    if type(value) is not int or value < 0:
        raise UsageError(f"search {name}: REPEATS = {value!r}: must be a whole number, 0 for none")
    return value


def split_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """Take `split=…` out of key=value words; return what trials are scored on, and the other words."""
    splits = [word.partition("=")[2] for word in words if word.partition("=")[0] == "split"]
    return (splits[-1] if splits else hold_out.SPLIT), [word for word in words if word.partition("=")[0] != "split"]


def differences(ours: JsonObject, theirs: JsonObject) -> list[Difference]:
    """Return the keys in which two identities differ."""
    mine, other = dict(flat(ours)), dict(flat(theirs))
    keys = [key for key in {**mine, **other} if mine.get(key) != other.get(key)]  # preset and space come first
    return [Difference(key, mine.get(key), other.get(key)) for key in keys]


def refuse(study: Study, stored: JsonObject, names: Sequence[str], most: int = 4) -> None:
    """Raise UsageError where a stored study is not this one: the keys, and a name that is free."""
    differ = differences(study.identity, stored)
    if differ:
        keys = [f"{key} ({theirs} there, {ours} here)" for key, ours, theirs in differ[:most]]
        more = f" and {len(differ) - most} more" if len(differ) > most else ""
        offers = (f"{study.search}_{study.config.preset}", f"{study.search}_{study.digest[:6]}")
        free = next((offer for offer in offers if offer not in names), offers[-1])
        raise UsageError(
            f"the study '{study.name}' has a different {', '.join(keys)}{more}; choose a new name: --study {free}"
        )
