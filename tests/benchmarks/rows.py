"""The rows of `make bench`: each a function from a Measure, and sizes that default to the issue's, to a Row.

Shapes: B images, K classes, C channels; h × w cells of R, H × W pixels of labels; N positions, d channels of a key.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiny_jobs
import torch
import torch.nn.functional as F
from benchmarks.measure import Measure, Row, extra_memory, peak_of, shown, sizes
from torch import Tensor

from harness.config import plugins
from harness.config.compose import DataSpec
from harness.config.sections import EvaluateConfig
from harness.engine import flops as count
from harness.engine import sliding_window, worker
from harness.engine.multistage import Stages
from harness.engine.runtime import Stop
from harness.results import metrics, stats
from models import segmentor
from models.layers import context_read, feature_memory
from models.layers.head import resize

MB = 1e6
BEIT = "beit_{}_patch16_224.in22k_ft_in22k"
MEMBERS = ("upernet", "decoder_a", "decoder_b")


def memory_update(
    measure: Measure, B: int = 2, C: int = 512, cells: int = 64, pixels: int = 512, K: int = 124, present: int = 23
) -> Row:
    """Eqs 1-4 without the upsampled features, against a loop over the classes on them."""
    features, labels, memory = _memory_inputs(B, C, cells, pixels, K, present)
    initialised = torch.ones(K, dtype=torch.bool)

    def ours() -> Tensor:
        sums = feature_memory.class_sums(features, labels, memory)
        return feature_memory.update(memory, initialised, sums, 0.9, "first_seen_mean")

    def loop() -> Tensor:
        return per_class_loop(features, labels, memory, 0.9)

    torch.testing.assert_close(ours(), loop(), rtol=1e-3, atol=1e-4)
    fast, slow = measure.seconds(ours, loop)
    extra, much = extra_memory(ours), extra_memory(loop)
    return Row(
        "memory update (Eqs 1-4)",
        f"{sizes(B=B, C=C)}, {cells}² → {pixels}², {sizes(K=K)}, {present} present",
        f"{shown(fast)}, +{extra / MB:.0f} MB",
        f"loop over classes on upsampled R: {shown(slow)}, +{much / MB:.0f} MB",
        slow / fast,
        low=40,
        also=("under 0.1 GB extra", extra < 100 * MB),
    )


def _memory_inputs(
    batch: int, channels: int, cells: int, pixels: int, classes: int, present: int
) -> tuple[Tensor, ...]:
    """R, labels in blocks with void at the top, and M."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, channels, cells, cells, generator=generator).relu()
    memory = torch.randn(classes, channels, generator=generator).relu()
    some = torch.randperm(classes, generator=generator)[:present]
    side = max(1, pixels // 16)
    blocks = some[torch.randint(present, (batch, -(-pixels // side), -(-pixels // side)), generator=generator)]
    labels = blocks.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :pixels, :pixels].clone()
    labels[:, : pixels // 32] = 255
    return features, labels, memory


def per_class_loop(features: Tensor, labels: Tensor, memory: Tensor, momentum: float) -> Tensor:
    """M_t by a loop over the classes present, on features upsampled to the labels.  # (K, C)"""
    rows = resize(features, labels.shape[1:]).permute(0, 2, 3, 1).flatten(0, 2)  # (B·H·W, C)
    flat, moved = labels.flatten(), memory.clone()
    for label in flat.unique().tolist():
        if label < len(memory):
            own = rows[flat == label]
            weight = (1 - F.cosine_similarity(own, memory[label][None], dim=1)).clamp_min(0)
            moved[label] = (1 - momentum) * memory[label] + momentum * (weight[:, None] * own).sum(0) / weight.sum()
    return moved


def read_context(measure: Measure, N: int = 4096, K: int = 124, d: int = 256) -> Row:
    """Eq 5 over class rows with log n_c, against fused attention over the N positions of P."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, N, d, generator=generator)
    keys, values = torch.randn(2, K, d, generator=generator)
    mask = torch.randint(K, (1, N), generator=generator)
    counts = torch.bincount(mask[0], minlength=K)[None].to(query.dtype)
    many_keys, many_values = keys[mask], values[mask]  # (1, N, d)

    def ours() -> Tensor:
        scores = query @ keys.T * d**-0.5
        return context_read._attend(scores, counts.log()[:, None], counts > 0, values)

    def dense() -> Tensor:
        return F.scaled_dot_product_attention(query, many_keys, many_values)

    torch.testing.assert_close(ours(), dense(), rtol=1e-3, atol=1e-4)
    fast, slow = measure.seconds(ours, dense)
    reference = f"scaled_dot_product_attention over N keys: {shown(slow)}"
    return Row("context read (Eq 5)", sizes(N=N, K=K, d=d), shown(fast), reference, slow / fast, low=20)


def four_stages(measure: Measure, size: str = "large", crop: int = 512, classes: int = 124, **widths: int) -> Row:
    """Four stages of Decoder A on one window over one stage, against the ratio of their counted operations."""
    stages, image = _member("decoder_a", size, crop, classes, widths), _image(crop)
    flops = []
    for more in (0, 3):  # also the run that warms up
        with count.counter() as counter:
            _predict(stages, image, more, classes)
        flops.append(counter.get_total_flops())
    forms = (lambda: _predict(stages, image, 0, classes), lambda: _predict(stages, image, 3, classes))
    one, four = measure.seconds(*forms, most=3, warm=False)
    counted = flops[1] / flops[0]
    return Row(
        "four stages over one",
        f"BEiT {size}, Decoder A, a window of {crop}, {sizes(K=classes)}",
        f"{four / one:.3f} ({shown(four)} over {shown(one)})",
        f"operations counted: {counted:.3f} ({flops[0] / 1e12:.2f} TFLOP for one)",
        four / one / counted,
        "of the FLOP ratio",
        high=1.05,
    )


def both_tables(measure: Measure, size: str = "base", crop: int = 512, classes: int = 124, **widths: int) -> Row:
    """What Tables 1 and 2 ask of a frame's three members, over Table 1 alone: A's stages 1 to 3, and P = truth."""
    members = {name: _member(name, size, crop, classes, widths) for name in MEMBERS}
    image = _image(crop)

    def run(more: int) -> None:
        for name, stages in members.items():
            _predict(stages, image, more if name == "decoder_a" else 0, classes)

    first, both = measure.seconds(lambda: run(0), lambda: run(4), most=2, warm=False)
    setting = f"BEiT {size}, UPerNet + A + B, a frame of {crop}, {sizes(K=classes)}"
    reference = f"Table 1 alone: {shown(first)}"
    return Row("Tables 1 and 2 over Table 1", setting, shown(both), reference, both / first, "times Table 1", high=1.25)


def _member(name: str, size: str, crop: int, classes: int, widths: dict[str, int]) -> Stages:
    """An untrained member ready for frames, its memory's rows set; `size` is base, large or tiny."""
    encoder, decoder = plugins.load("encoders", "beit"), plugins.load("decoders", name)
    known = {key: value for key, value in widths.items() if hasattr(decoder.Config(), key)}
    torch.manual_seed(0)
    model = segmentor.build(
        encoder,
        encoder.Config(model="tiny" if size == "tiny" else BEIT.format(size)),
        decoder,
        decoder.Config(**known),
        classes,
        crop,
    )
    if hasattr(model.decoder, "memory"):
        model.decoder.memory.rows.normal_()
        model.decoder.memory.initialised.fill_(True)
    geometry = sliding_window.geometry(EvaluateConfig(window=crop))
    return Stages(model, geometry, "fp32", torch.device("cpu"))


def _predict(stages: Stages, image: Tensor, more: int, classes: int) -> None:
    """A frame's first stage and `more` later ones, their P drawn at random so that none is a fixed point and exits."""
    generator = torch.Generator().manual_seed(2)
    stages.start()
    masks = [torch.randint(classes, image.shape[2:], generator=generator) for _ in range(more)]
    for _ in stages.predict(image, 0, masks):
        pass


def _image(side: int) -> Tensor:
    return torch.randint(0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(1)).float()


def evaluation_memory(measure: Measure, few: int = 20, many: int = 2000) -> Row:
    """Peak memory of evaluating a video of many frames, against one of few."""
    del measure  # nothing is timed
    with tempfile.TemporaryDirectory() as folder:
        jobs = {frames: _evaluation(Path(folder), frames) for frames in dict.fromkeys((4, few, many))}

        def run(frames: int) -> None:
            assert worker.launch([jobs[frames]], tiny_jobs.ALONE, Stop()) == 0

        run(4)  # libraries take their own workspaces at the first run
        peaks = {frames: peak_of(lambda frames=frames: run(frames))[1] for frames in (few, many)}
    return Row(
        "evaluation's peak memory",
        f"{many} frames of 64 × 96, Decoder A, tiny BEiT",
        f"{peaks[many] / MB:.0f} MB",
        f"{few} frames: {peaks[few] / MB:.0f} MB",
        peaks[many] / peaks[few],
        "times the peak",
        high=1.02,
    )


def _evaluation(root: Path, frames: int) -> Path:
    """An evaluation job of an untrained Decoder A over one synthetic video."""
    data = DataSpec("synthetic", {**tiny_jobs.DATA, "frames": frames, "height": 64, "width": 96, "val_videos": 1})
    member = tiny_jobs.untrained(root, f"{frames:016}", data=data, crop=64, short_side=64)
    return tiny_jobs.evaluation(root, f"{frames:015}e", [member.name], data=data, evaluate=EvaluateConfig(window=64))


def jackknife(measure: Measure, videos: int = 343, classes: int = 124, shown_of: int = 20) -> Row:
    """mIoU without each video from 3·K sums a video, against summing the matrices of all others."""
    generator = np.random.default_rng(0)
    matrices = generator.integers(0, 1000, (videos, classes, classes))
    sums = stats.unit_sums({f"video{index:04}": matrix for index, matrix in enumerate(matrices)}).sums

    def ours() -> stats.Floats:
        return stats.miou(sums.sum(axis=0) - sums)

    def slow() -> list[float]:
        return [metrics.miou(np.delete(matrices, index, axis=0).sum(axis=0)) for index in range(shown_of)]

    np.testing.assert_allclose(ours()[:shown_of], slow(), rtol=1e-12)
    fast, part = measure.seconds(ours, slow)
    whole = part / shown_of * videos
    return Row(
        "jackknife of mIoU",
        f"{videos} videos × {classes} classes",
        shown(fast),
        f"summing the matrices of all other videos: {shown(whole)} (from {shown_of} of them)",
        whole / fast,
        also=("under 1 s", fast < 1),
    )


ROWS: list[Callable[[Measure], Row]] = [
    memory_update,
    read_context,
    four_stages,
    both_tables,
    evaluation_memory,
    jackknife,
]
