"""The checks of a metric: that its sums add up over videos, however these are split, in any order and any process."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.common.atomic_files import JsonObject
from harness.config import metrics, plugins
from harness.results import records
from harness.results.metric import Counter, Floats, Metric, ScoredFrame, counts_itself
from harness.tools.check._result import expect

CLASSES, VOID = 5, 255
SIZES = ((32, 48), (32, 48), (24, 40), (32, 48))  # of four videos
FRAMES = (6, 3, 4, 1)
LARGE = (480, 853)  # a frame whose milliseconds are told
NAME = "abcdefghijklmnopqrstuvwxyz0123456789_"
LIMIT = 120  # seconds that the other process has
Check = tuple[str, Callable[[], str]]
Make = Callable[[], Metric]


def checks(name: str, path: Path, module: ModuleType, folders: tuple[str, ...], fields: JsonObject) -> Iterator[Check]:
    """Yield what is tried of a metric, by name."""
    del path
    make = partial(make_metric, name, folders, fields)
    own = counts_itself(module.Metric)
    yield "its numbers have names", partial(names, name, module.Metric, folders)
    yield "frames of every kind are accepted", partial(kinds, make) if own else lambda: "has no counts of its own"
    yield "sums always have the same shape", partial(shapes, make)
    yield "any split of videos merges to the same", partial(merges, make)
    yield "each video twice changes no number", partial(scale, make)
    yield "sums do not depend on other videos", partial(order, make)
    yield "another process gives the same bits", partial(processes, name, folders, fields, make)
    yield "without ground truth it is undefined", partial(nothing, make)
    yield "its cost", partial(cost, make) if own else lambda: "none: it is computed from sums that evaluations keep"


def make_metric(name: str, folders: tuple[str, ...], fields: JsonObject) -> Metric:
    """Return a metric for CLASSES classes."""
    return records.maker(name, fields, folders)(CLASSES)


def names(name: str, metric: type[Metric], folders: tuple[str, ...]) -> str:
    """Every number has a name that no other metric has."""
    for number in metric.names:
        expect(number and set(number) <= set(NAME), f"'{number}': a number's name may only contain a-z, 0-9 and _")
    expect(metric.better in ("higher", "lower"), f"better = {metric.better!r}: expected 'higher' or 'lower'")
    for other in plugins.names("metrics", folders):
        twice = set() if other == name else set(metric.names) & set(metrics.load(other, folders).Metric.names)
        expect(not twice, f"the metric '{other}' also has {', '.join(sorted(twice))}; choose another name")
    return ", ".join(f"{number} ({header})" for number, header in metric.names.items())


def kinds(make: Make) -> str:
    """Frames without labels, with void alone, with one class, and a first frame after others."""
    metric = counter(make)
    frames = list(video(0))
    void = np.full(SIZES[0], VOID, np.uint8)
    single = np.zeros(SIZES[0], np.uint8)
    for each in (
        frames[0],
        altered(frames[1], label=None),
        altered(frames[2], label=void),
        altered(frames[3], label=single, mask=single.astype(np.int64)),
        altered(frames[4], first=True),
        next(iter(video(2))),
    ):
        metric.add(each)
    expect(np.isfinite(metric.sums).all(), f"sums are not finite: {shown(metric.sums)}")
    return "without labels, all void, one class, after a gap, of another size"


def shapes(make: Make) -> str:
    """Sums are numbers of one shape, whatever the video."""
    every = [sums_of(make, index) for index in range(len(SIZES))]
    for sums in every:
        expect(sums.dtype.kind in "iuf", f"expected numeric sums, found {sums.dtype}")
        expect(
            sums.shape == every[0].shape,
            f"sums of {sums.shape} and of {every[0].shape}: those of all videos must have the same shape to be added",
        )
    return f"{every[0].shape}"


def merges(make: Make) -> str:
    """Parts in any grouping add up to the same numbers."""
    every = [sums_of(make, index) for index in range(len(SIZES))]
    whole = values(make, sum_of(every))
    splits = 0
    for size in range(1, len(every)):
        for part in combinations(range(len(every)), size):
            rest = [index for index in range(len(every)) if index not in part]
            merged = sum_of([every[i] for i in rest]) + sum_of([every[i] for i in part])
            same(whole, values(make, merged), f"videos {part} and {tuple(rest)} merged")
            splits += 1
    return f"{splits} splits of {len(every)} videos: {told(whole)}"


def scale(make: Make) -> str:
    """Every video twice gives what once gives: sums are sums, their number is among them where it is needed."""
    total = sum_of([sums_of(make, index) for index in range(len(SIZES))])
    once = values(make, total)
    same(
        once,
        values(make, 2 * total),
        "each video twice: expected the same values as with each once (is a mean being added?)",
    )
    for number, value in once.items():
        expect(np.isnan(value) or -1e-9 <= value <= 1 + 1e-9, f"{number} = {value:g}: expected a fraction from 0 to 1")
    return "equal with each video once and twice"


def order(make: Make) -> str:
    """A video's sums are its own: alone, and after others."""
    alone = sums_of(make, 0)
    for index in (3, 2, 1):
        sums_of(make, index)
    again = sums_of(make, 0)
    expect(np.array_equal(alone, again), f"a video after others has {shown(again)}, alone {shown(alone)}")
    return "bit-equal after other videos"


def processes(name: str, folders: tuple[str, ...], fields: JsonObject, make: Make) -> str:
    """A rank that has the videos in another order writes the same files."""
    ours = [sums_of(make, index) for index in range(len(SIZES))]
    with get_context("spawn").Pool(1) as pool:
        theirs = pool.apply_async(in_order, (name, folders, fields, [3, 1, 2, 0])).get(LIMIT)
    for index, sums in zip([3, 1, 2, 0], theirs, strict=True):
        expect(np.array_equal(ours[index], sums), f"video {index} has {shown(sums)} there, {shown(ours[index])} here")
    return "bit-equal in another process, in another order"


def in_order(name: str, folders: tuple[str, ...], fields: JsonObject, indices: Sequence[int]) -> list[Floats]:
    """Return videos' sums."""
    return [sums_of(partial(make_metric, name, folders, fields), index) for index in indices]


def nothing(make: Make) -> str:
    """Sums of nothing, as a unit left out may leave them, have every name and no number."""
    empty = values(make, 0.0 * sums_of(make, 0))
    numbers = {number: value for number, value in empty.items() if not np.isnan(value)}
    expect(not numbers, f"without any pixels: {told(numbers)}; expected nan")
    return "nan, without an exception"


def cost(make: Make) -> str:
    """Milliseconds that a large frame takes; a flow is not counted."""
    rng = np.random.default_rng(0)
    metric = counter(make)
    frames = [scored(rng, LARGE, index == 0) for index in range(2)]
    metric.add(frames[0])
    begun = time.perf_counter()
    metric.add(frames[1])
    seconds = time.perf_counter() - begun
    return f"{1000 * seconds:.0f} ms per frame of {LARGE[1]}×{LARGE[0]}, {metric.sums.nbytes} bytes per video"


def values(make: Make, sums: Floats) -> dict[str, float]:
    """Return a metric's numbers, all of its names and no other."""
    metric = make()
    with np.errstate(all="ignore"):
        numbers = {number: float(value) for number, value in metric.values(sums).items()}
    expect(
        set(numbers) == set(metric.names), f"`values` returns {sorted(numbers)}, but `names` are {sorted(metric.names)}"
    )
    return numbers


def same(expected: dict[str, float], found: dict[str, float], when: str) -> None:
    """Raise Broken where numbers differ by more than the order of a sum explains."""
    for number, value in expected.items():
        close = np.isclose(found[number], value, rtol=1e-9, atol=1e-12, equal_nan=True)
        expect(close, f"{when}: {number} is {found[number]:.12g}, not {value:.12g}")


def sums_of(make: Make, index: int) -> Floats:
    """Return what a video leaves: the metric's own sums, or the class sums (3, K)."""
    metric = make()
    if not counts_itself(metric):
        rng = np.random.default_rng(index)
        hits = rng.integers(0, 100, CLASSES)
        return np.array([hits, hits + rng.integers(0, 50, CLASSES), hits + rng.integers(0, 50, CLASSES)], float)
    own = counter(make)
    for frame in video(index):
        own.add(frame)
    return np.array(own.sums)


def counter(make: Make) -> Counter:
    """Return a metric with counts of its own."""
    metric: Any = make()
    expect(hasattr(metric, "sums"), "expected __init__ to set self.sums: a video may have no frame that counts")
    own: Counter = metric
    return own


def sum_of(every: Sequence[Floats]) -> Floats:
    """Return the sum of sums."""
    total: Floats = np.sum(every, axis=0)
    return total


def video(index: int) -> Iterator[ScoredFrame]:
    """Yield a video's frames, always the same: blocks of classes, masks that are right in most pixels."""
    rng = np.random.default_rng(index)
    for number in range(FRAMES[index]):
        yield scored(rng, SIZES[index], number == 0)


def scored(rng: np.random.Generator, size: tuple[int, int], first: bool) -> ScoredFrame:
    """Return a frame with probabilities, of which a tenth is void; its mask shows all classes but one."""
    height, width = size
    blocks = rng.integers(0, CLASSES, (-(-height // 8), -(-width // 8)))
    label = np.kron(blocks, np.ones((8, 8), np.uint8))[:height, :width].astype(np.uint8)
    logits = 4 * rng.random((CLASSES, height, width), np.float32)
    logits += 2 * (np.arange(CLASSES)[:, None, None] == label)
    logits[rng.integers(CLASSES)] -= 9
    probabilities: NDArray[np.float32] = np.exp(logits)
    probabilities /= probabilities.sum(axis=0)
    label[rng.random(size) < 0.1] = VOID
    image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    field = rng.normal(0, 2, (height, width, 2)).astype(np.float32)
    return ScoredFrame(image, label, probabilities.argmax(axis=0), first, lambda: probabilities, lambda *_: field)


def altered(frame: ScoredFrame, **changes: Any) -> ScoredFrame:
    """Return a frame with another label, mask or place."""
    mask = changes.get("mask")
    if mask is not None:
        certain = np.eye(CLASSES, dtype=np.float32)[mask].transpose(2, 0, 1)
        changes["compute_probabilities"] = lambda: certain
    fields = ("image", "label", "mask", "first", "compute_probabilities", "compute_flow")
    return ScoredFrame(**{**{name: getattr(frame, name) for name in fields}, **changes})


def shown(sums: Floats) -> str:
    """Return sums in a message."""
    return np.array2string(sums.ravel()[:6], precision=4, separator=", ") + ("…" if sums.size > 6 else "")


def told(numbers: dict[str, float]) -> str:
    """Return numbers in a line, in percent."""
    return ", ".join(f"{number} {100 * value:.2f}" for number, value in numbers.items())
