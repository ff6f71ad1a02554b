"""The common part of Decoders A and B: UPerNet's C_wi joined with C_bi, read from the feature memory M by a mask P.

Shapes: B images, K classes, C channels of R and M, D channels of the head, H × W pixels, h × w = H/8 × W/8.

They differ in R (`_source`), in the earlier frames they read and in whose mask P is. Source: the paper, §3; the coarse
head and the auxiliary head, of which the paper does not speak, are the authors' MCIBI code's.
"""

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models import contract
from models.contract import Auxiliary, Features, Output, Target
from models.layers.context_read import ContextRead, Projection, class_counts, to_grid
from models.layers.feature_memory import ClassSums, FeatureMemory, Init
from models.layers.head import AuxiliaryHead, Classifier, conv, resize
from models.layers.pyramid import UPerHead

COARSE_WEIGHT = 0.4
POWER = 0.9  # of the poly schedule, which ends at a hundredth of where it starts

FirstFrame = Literal["coarse", "uniform", "self2"]
WITHOUT_P = ("no_context", "no_memory")  # controls that look at neither M nor P


class MemoryConfig(Protocol):
    """The fields that the Configs of A and B have in common."""

    @property
    def channels(self) -> int: ...
    @property
    def aux_channels(self) -> int: ...
    @property
    def memory_channels(self) -> int: ...
    @property
    def momentum(self) -> float: ...
    @property
    def schedule(self) -> Literal["poly", "fixed"]: ...
    @property
    def gt_warmup(self) -> float: ...
    @property
    def init(self) -> Init: ...
    @property
    def proj(self) -> Projection: ...
    @property
    def control(self) -> str | None: ...


class Cache(NamedTuple):
    """All that does not depend on P."""

    within: Tensor  # C_wi through its half of the fusing convolution, (B, D, H/4, W/4)
    query: Tensor  # g_q(R), (B, C/2, h, w)
    coarse: Tensor  # the coarse head's own mask, (B, h, w) int64


class MemoryDecoder(contract.Decoder):
    """A decoder with a feature memory; a subclass says what R is.

    `first_frame` is the rule for P where no mask was given and `prior` is "previous": the coarse head's mask, every
    class once (`uniform`), or the coarse mask's own prediction (`self2`).

    `control` takes a part away. In training: `no_context` leaves C_bi out, `no_memory` has g_o(g_q(R)) in its place,
    `random_memory` keeps M at the random rows it starts with. In evaluation: `permuted_memory` exchanges the rows of M
    between the classes, `uniform_prior` has P name every class once.
    """

    first_frame: FirstFrame = "coarse"
    controls: tuple[str, ...] = ("permuted_memory", "uniform_prior")

    def __init__(self, channels: tuple[int, ...], num_classes: int, config: MemoryConfig) -> None:
        super().__init__()
        self.momentum, self.schedule, self.gt_warmup = config.momentum, config.schedule, config.gt_warmup
        self.head = UPerHead(channels, config.channels)
        self.auxiliary = AuxiliaryHead(channels[AuxiliaryHead.LEVEL], config.aux_channels, num_classes)
        self.coarse = Classifier(config.memory_channels, num_classes)
        self.memory = FeatureMemory(num_classes, config.memory_channels, config.init)
        self.read = ContextRead(config.memory_channels, config.proj)
        # one convolution over cat(C_wi, C_bi), split because only C_bi depends on P
        self.fuse_within = conv(config.channels, config.channels, 3)
        self.fuse_beyond = conv(config.memory_channels, config.channels, 3)
        self.fuse_norm = nn.Sequential(nn.BatchNorm2d(config.channels), nn.ReLU(inplace=True))
        self.classifier = Classifier(config.channels, num_classes)
        self.control = getattr(config, "control", None)  # the Config of a decoder derived from this may lack it
        if self.control == "random_memory":
            self.memory.rows.normal_()
            self.memory.initialised.fill_(True)
        unused = {"no_context": (self.read, self.fuse_beyond), "no_memory": (self.read.keys, self.read.values)}
        for module in unused.get(self.control or "", ()):
            module.requires_grad_(False)

    def _source(self, features: Features, past: tuple[Features, ...]) -> Tensor:
        """R, whose pixels feed the memory and ask it.  # (B, C, h, w)"""
        raise NotImplementedError

    def encode(self, features: Features, past: tuple[Features, ...] = ()) -> Cache:
        """All that does not depend on P; `past` holds one Features for each offset of `self.past`."""
        return self._encode(features, past)[0]

    def _encode(self, features: Features, past: tuple[Features, ...]) -> tuple[Cache, Tensor, Tensor]:
        """The cache, R and the coarse head's logits (B, K, h, w)."""
        source = self._source(features, past)
        coarse = self.coarse(source)
        within = self.fuse_within(self.head(features.levels))
        return Cache(within, self.read.query(source), coarse.detach().argmax(1)), source, coarse

    def predict(self, cache: Cache, prior: Tensor | None = None) -> Tensor:
        """Logits (B, K, H/4, W/4) for the mask P (B, H, W), 255 void, or by the decoder's own rule if None."""
        counts = self.prior_key(cache, prior)
        if self.control in WITHOUT_P:
            return self._fuse(cache, None)
        if counts is None:  # self2: the coarse mask's own prediction is P
            mask = self._fuse(cache, self._counts(cache.coarse, cache)).detach().argmax(1)
            counts = self._counts(mask, cache)
        return self._fuse(cache, counts)

    def prior_key(self, cache: Cache, prior: Tensor | None = None) -> Tensor | None:
        """n_c on R's grid: Eqs 5-6 know no more of P than that. None for `self2`, whose P is a prediction.  # (B, K)"""
        if self.control in WITHOUT_P:
            return torch.zeros(0)
        if prior is not None:
            return self._counts(prior, cache)
        rule = self.first_frame if self.prior == "previous" else "coarse"
        if rule == "uniform":
            return self._once(cache)
        return self._counts(cache.coarse, cache) if rule == "coarse" else None

    def forward(self, features: Features, past: tuple[Features, ...], prior: Tensor | None, target: Target) -> Output:
        """One training step; P is `prior`, or the coarse head's own mask. M is read as it stands before the step."""
        cache, source, coarse = self._encode(features, past)
        mask = cache.coarse if prior is None else prior
        logits = self._fuse(cache, None if self.control in WITHOUT_P else self._counts(mask, cache))
        auxiliary = self.auxiliary(features.levels[AuxiliaryHead.LEVEL])
        return Output(
            logits,
            (Auxiliary("coarse", coarse, COARSE_WEIGHT), Auxiliary("auxiliary", auxiliary, AuxiliaryHead.WEIGHT)),
            None if self.control in (*WITHOUT_P, "random_memory") else self.memory.sums(source, target),
        )

    def _counts(self, mask: Tensor, cache: Cache) -> Tensor:
        """n_c: the number of positions at which P names each row that may be read.  # (B, K)"""
        if self.control == "uniform_prior":
            return self._once(cache)
        return class_counts(to_grid(mask, cache.query.shape[2:]), self.memory.initialised)

    def _once(self, cache: Cache) -> Tensor:
        """n_c = 1 for every row that was set.  # (B, K)"""
        return self.memory.initialised.expand(len(cache.coarse), -1).to(cache.query.dtype)

    def _fuse(self, cache: Cache, counts: Tensor | None) -> Tensor:
        """Eqs 5-6, then cat(C_wi, C_bi) -> logits; `counts` is None for controls without P.  # (B, K, H/4, W/4)"""
        fused = cache.within
        if self.control != "no_context":
            beyond = self._beyond(cache.query, counts)  # (B, C, h, w)
            fused = fused + self.fuse_beyond(resize(beyond, fused.shape[2:]))  # (B, D, H/4, W/4)
        logits: Tensor = self.classifier(self.fuse_norm(fused))
        return logits

    def _beyond(self, query: Tensor, counts: Tensor | None) -> Tensor:
        """C_bi, or R through g_q and g_o alone where there is no P.  # (B, C, h, w)"""
        if counts is None:
            beyond: Tensor = self.read.out(query)
        else:
            rows = self.memory.permuted() if self.control == "permuted_memory" else self.memory.rows
            beyond = self.read(query, rows, counts)
        return beyond

    def momentum_at(self, progress: float) -> float:
        """m of Eq 1: the weight of the new value; constant, or falling by a power to a hundredth."""
        if self.schedule == "fixed":
            return self.momentum
        last = self.momentum / 100
        decay: float = (1 - progress) ** POWER
        return decay * (self.momentum - last) + last

    @torch.no_grad()
    def update(self, sums: ClassSums, momentum: float) -> None:
        """Move the memory once by the sums of the whole batch (Eq 1)."""
        self.memory.update(sums, momentum)
