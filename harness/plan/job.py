"""A job is a value: what its number depends on, and nothing else.

Two kinds: Train(config, decoder) and Evaluate(members, prior, ...). A job holds the jobs it needs; one model is an
ensemble of one; stage s is an evaluation whose prior is stage s - 1. Equal fingerprints are the same work.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from harness.common.atomic_files import JsonObject
from harness.common.errors import UsageError
from harness.config import metrics, plugins
from harness.config.compose import Config, PluginSpec, used
from harness.config.sections import EvaluateConfig, TrainConfig
from harness.config.training_options import AS_NONE
from harness.data import hold_out
from harness.plan.spec import EvaluateSpec, TrainSpec

Given = Literal["truth", "truth_before", "truth_other"]  # labels as P: the frame's, those of frame N-1, of any frame
TRUTH: Given = "truth"
GIVEN: tuple[Given, ...] = get_args(Given)


@dataclass(frozen=True, eq=False)
class _Job(ABC):
    @property
    @abstractmethod
    def identity(self) -> JsonObject:
        """Everything that the job's number depends on."""

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the sha256 of the identity."""
        return digest(self.identity)

    @cached_property
    def config_hash(self) -> str:
        """The fingerprint without content digests: how a reviewer without the data finds the same job."""
        return digest(without_content(self.identity))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Job) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


@dataclass(frozen=True, eq=False)
class Train(_Job):
    """One training of one decoder."""

    config: Config
    decoder: str

    def __post_init__(self) -> None:
        plugins.find("decoders", self.decoder, self.config.folders)

    @property
    def inputs(self) -> tuple["Job", ...]:
        """The jobs that must be done first."""
        return ()

    @property
    def name(self) -> str:
        """For people."""
        return f"train {self.decoder} seed {self.config['seed']}"

    @cached_property
    def identity(self) -> JsonObject:
        """Everything that the weights depend on."""
        config = self.config
        train = used(config["train"], TrainConfig)
        if config.micro_batch == config.train.batch:
            train.pop("micro_batch", None)  # the default, written out
        for key, value in AS_NONE:
            if train.get(key) == value:
                train.pop(key)
        identity = {
            "kind": "train",
            "seed": config["seed"],
            "precision": config["precision"],
            "data": data_identity(config, "train"),
            "encoder": plugin_identity(config, "encoder", "encoders", config.encoder),
            "decoder": plugin_identity(config, "decoder", "decoders", config.decoder(self.decoder)),
            "train": train,
            "version": plugins.version_of("harness/engine/train.py"),
        }
        if config.train.start is not None:
            identity["start"] = {
                "version": plugins.version_of("harness/engine/warm_start.py"),
                "content": {key: config.content.files.get(key) for key in ("train.start",)},
            }
        if config.train.selects:
            identity["selection"] = {
                "every": config.train.evaluate_every,
                "videos": config.train.evaluate_videos,
                "evaluate": used(config["evaluate"], EvaluateConfig),
                "version": plugins.version_of("harness/engine/selection.py"),
            }
        return identity

    def spec(self) -> TrainSpec:
        """Return what a worker needs to run it."""
        config = self.config
        return TrainSpec(
            fingerprint=self.fingerprint,
            seed=config["seed"],
            precision=config["precision"],
            data=config.data,
            encoder=config.encoder,
            decoder=config.decoder(self.decoder),
            train=replace(config.train, micro_batch=config.micro_batch),
            evaluate=replace(config.evaluate, window=config.window),
            iterations=config.iterations(),
            plugins=config.folders,
            identity=self.identity,
        )


@dataclass(frozen=True, eq=False)
class Evaluate(_Job):
    """One evaluation of one model or of an ensemble: argmax of the sum of its members' class probabilities (paper §3).

    With a prior, P is that evaluation's mask of the same frame, each member's its own (multi-stage, paper §4), or the
    truth. `control` takes a part of the trained decoders away (models/contract.py, `Decoder.controls`). Raises
    UsageError for a prior of other models, frames or views: its masks are not this one's stage before.
    """

    members: tuple[Train, ...]
    prior: "Evaluate | Given | None" = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    split: str = "val"
    control: str | None = None

    def __post_init__(self) -> None:
        assert self.members, "an ensemble has at least one member"
        object.__setattr__(self, "members", tuple(sorted(self.members, key=lambda job: job.fingerprint)))
        before = self.before
        if before is not None:
            for name in ("members", "split", "scales", "flip", "control"):
                if getattr(before, name) != getattr(self, name):
                    raise UsageError(f"{self.name}: its prior '{before.name}' has other {name}; stages must keep them")
            if before.prior in GIVEN:
                raise UsageError(f"{self.name}: its prior had the ground truth as P; stages start at stage 0")

    @property
    def config(self) -> Config:
        """The configuration that its members share, up to the seed."""
        return self.members[0].config

    @property
    def inputs(self) -> tuple["Job", ...]:
        """The jobs that must be done first; a prior stage is computed off the same features, not read."""
        return tuple(dict.fromkeys(self.members))

    @property
    def before(self) -> "Evaluate | None":
        """The stage before, whose mask P is."""
        return self.prior if isinstance(self.prior, Evaluate) else None

    @property
    def stage(self) -> int:
        """The number of times that P has been replaced by the mask before."""
        return 0 if self.before is None else self.before.stage + 1

    @property
    def small_views(self) -> Literal["enlarge", "pad"]:
        """Return the treatment of views below the window: "enlarge" or "pad" (EvaluateConfig)."""
        return self.config.evaluate.small_views or ("pad" if self.scales == (1.0,) else "enlarge")

    @property
    def enlarges(self) -> bool:
        """Whether a view may have to be enlarged; frames of unknown size may."""
        short_side = self.config.evaluate.short_side
        below = short_side is None or short_side * min(self.scales) < self.config.window
        return below and self.small_views == "enlarge"

    @property
    def name(self) -> str:
        """For people."""
        decoders = " + ".join(sorted(member.decoder for member in self.members))
        seeds = sorted({member.config["seed"] for member in self.members})
        views = f" at {len(self.scales)} scales" if len(self.scales) > 1 else ""
        extra = f" stage {self.stage}" if self.stage else ""
        extra += f" with P = {str(self.prior).replace('_', ' ')}" if self.prior in GIVEN else ""
        extra += f" under {self.control}" if self.control else ""
        extra += views + (" and flipped" if self.flip else "") + (f" on {self.split}" if self.split != "val" else "")
        return f"evaluate {decoders}{extra} seed {','.join(map(str, seeds))}"

    @cached_property
    def identity(self) -> JsonObject:
        """Everything that the masks and their counts depend on."""
        config = self.config
        evaluate = used(config["evaluate"], EvaluateConfig)
        evaluate.pop("small_views", None)  # as "views" below
        counted = metrics.counted(config)
        identity: JsonObject = {
            "kind": "evaluate",
            "members": [member.fingerprint for member in self.members],
            "recipes": [member.config_hash for member in self.members],
            "precision": config["precision"],
            "data": data_identity(config, self.split),
            "split": self.split,
            "scales": list(self.scales),
            "flip": self.flip,
            "evaluate": evaluate,
            "version": plugins.version_of("harness/engine/evaluate.py"),
        }
        if self.enlarges:
            identity["views"] = plugins.version_of("harness/engine/sliding_window.py")
        if self.before is not None:
            identity["prior"] = self.before.fingerprint
            identity["stage"] = self.stage
        elif self.prior is not None:
            identity["prior"] = self.prior
        if counted:
            identity["metrics"] = [plugin_identity(config, "metric", "metrics", metric) for metric in counted]
        return identity | ({"control": self.control} if self.control else {})

    @property
    def frames(self) -> str:
        """Equal for evaluations that read the same frames, which one launch serves together."""
        config = self.config
        keys = [asdict(config.evaluate), config.train.crop, config["precision"], self.split]
        return digest([asdict(config.data), *keys])

    def spec(self) -> EvaluateSpec:
        """Return what a worker needs to run it."""
        config = self.config
        return EvaluateSpec(
            fingerprint=self.fingerprint,
            members=tuple(member.fingerprint for member in self.members),
            prior=self.prior.fingerprint if isinstance(self.prior, Evaluate) else self.prior,
            stage=self.stage,
            scales=self.scales,
            flip=self.flip,
            split=self.split,
            control=self.control,
            precision=config["precision"],
            data=config.data,
            evaluate=replace(config.evaluate, window=config.window, small_views=self.small_views),
            plugins=config.folders,
            identity=self.identity,
            metrics={metric.name: metric.config for metric in metrics.counted(config)},
        )


Job = Train | Evaluate


def plugin_identity(config: Config, section: str, kind: str, plugin: PluginSpec) -> JsonObject:
    """Return the name, VERSION, options and file digests of one plug-in: the other plug-ins' sections never enter."""
    schema = plugins.read_schema(plugins.find(kind, plugin.name, config.folders))
    identity = {"name": plugin.name, "version": schema.version, "options": used(plugin.config, schema.config)}
    prefix = f"{section}.{plugin.name}."
    content = {key: value for key, value in config.content.files.items() if key.startswith(prefix)}
    return {**identity, "content": content} if content else identity


def data_identity(config: Config, split: str) -> JsonObject:
    """Return the data set by name, VERSION, options and the digest of one split; what is held out, if it matters."""
    identity = plugin_identity(config, "data", "datasets", config.data)
    source, share = hold_out.source(split), config.data.hold_out
    if share is not None and source == "train":
        identity["hold_out"] = {"share": share, "version": hold_out.VERSION}
    digests = {source: config.content.splits.get(source), f"{source}.files": config.content.manifests.get(source)}
    content = {key: value for key, value in digests.items() if value}
    return {**identity, "content": content} if content else identity


def digest(value: Any) -> str:
    """Return 16 hex digits of the sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_content(identity: Any) -> Any:
    """Return an identity as it is where neither data nor weights are at hand."""
    if isinstance(identity, dict):
        dropped = ("content", "members") if identity.get("prior") in GIVEN else ("content", "members", "prior")
        rest = {key: without_content(value) for key, value in identity.items() if key not in dropped}
        files = sorted(key for key in identity.get("content", {}) if key.startswith("encoder."))
        if files:  # which there are, if not what is in them: weights or none is another result
            rest["given"] = files
        # members stand in the order of their fingerprints, which content decides
        return {**rest, "recipes": sorted(rest["recipes"])} if "recipes" in rest else rest
    return identity
