"""A search on one configuration, as a value: what its trials are, and what they came to. Neither optuna nor files.

A trial is an evaluation and its trainings, with the fingerprints that any other experiment would give them. The
configuration as it stands is the default: the first trials, one a seed, that every lead is measured against.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.common.atomic_files import JsonObject
from harness.common.errors import UsageError
from harness.config import plugins
from harness.config.compose import Config
from harness.data import hold_out
from harness.data.manifest import ProgressCallback, no_progress
from harness.plan import adoption
from harness.plan.cell import Cell
from harness.plan.explain import Difference, flat
from harness.plan.job import Evaluate, digest
from harness.plan.plan import Experiment, Plan
from harness.plan.search_space import Axis, Named, Params, Uniform

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
        """A trial's evaluation."""
        return self.objective(self.config.with_values(params).with_seed(seed), self.split)

    def plan(self, params: Params, seed: int, root: Path) -> Plan:
        """A trial as a plan of one cell."""
        cell = Cell("trial", self.said(params), self.job(params, seed))
        return Plan(
            (Experiment(f"search_{self.search}", self.title, "comparison", self.config, ((seed, cell),)),), root
        )

    def said(self, params: Params) -> str:
        """A trial's values for people: 'm=0.031 poly'."""
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
    progress: ProgressCallback = no_progress,
) -> Study:
    """A study of a search by name or by the path of a .py file. Raises UsageError for what does not fit."""
    module = plugins.load_named("searches", name, config.folders, NEEDED)
    for key, axis in module.SPACE.items():
        axis.check(f"search {name}: {key}")
        if not axis.holds(value := config.value(key)):
            raise UsageError(
                f"{key}={value}, the default, is not in the search's space ({axis.description()}); set it within"
            )
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
    )


def split_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """`split=…` taken out of key=value words: what trials are scored on, and the other words."""
    splits = [word.partition("=")[2] for word in words if word.partition("=")[0] == "split"]
    return (splits[-1] if splits else hold_out.SPLIT), [word for word in words if word.partition("=")[0] != "split"]


def differences(ours: JsonObject, theirs: JsonObject) -> list[Difference]:
    """The keys in which two identities differ."""
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
            f"the study '{study.name}' was made with another {', '.join(keys)}{more}; take a new name: --study {free}"
        )
