"""What only a GPU can show: NCCL, every precision, resuming, the paper's size. Without one it says so and skips.

    pytest tests/gpu/test_on_gpu.py       # prints distances, losses, peaks; harness is called as a person calls it

Every body runs on a CPU too, so that all of it but the device's name has been executed: gloo stands for NCCL, bf16 for
fp16, two threads instead of one for kernels that add up in any order, a tiny model for the paper's.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mlflow_server import free_port
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.common import machine
from harness.common.atomic_files import read_json
from harness.config import compose, plugins
from harness.engine import build, distributed, runtime
from harness.jobdir.events import Begin, Checkpoint, Event, Metrics, read_events
from harness.plan.spec import TrainSpec, read, read_as

pytestmark = pytest.mark.timeout(1800)

K = TypeVar("K", bound=Event)
GPU = ("cuda",) if torch.cuda.is_available() else ()
SLOW, DEVICES = (pytest.param("cpu", marks=pytest.mark.slow), *GPU), ("cpu", *GPU)
PATIENCE = 600  # seconds for one command
EXPERIMENT = '''"""A cell a model."""
from harness.plan.cell import Cell, Evaluate, Train

TITLE, REPORT = "Models", "comparison"


def cells(config):
    return [Cell(name, name, Evaluate((Train(config, name),))) for name in {names}]
'''
STILL = '''

class Decoder(Decoder):
    """Without dropout: ranks draw other numbers than one process does."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        for module in self.modules():
            if type(module).__name__ == "Dropout2d":
                module.p = 0.0
'''
DEMO = ("channels=32", "aux_channels=16", "memory_channels=32", "tma_key=16", "tma_value=32")  # of Decoder B
DECODERS = ("upernet", "decoder_b")
BATCH, STEPS = 8, 16  # the demo's batch; steps, ten of them warm-up
SHORT = (
    *("data.synthetic.train_videos=8", "data.synthetic.val_videos=1", "data.synthetic.frames=2", "train.epochs=4"),
    *("train.checkpoint_every=4", "train.log_every=1"),
)
# docs/LONG_RUNS.md, "How equal": how far two runs may end from each other, as a share of their way, after STEPS of the
# demo's model. Five to thirty times what 1 and 2 threads and 1 and 2 ranks differ by on a CPU.
APART = {"weights": 0.05, "statistics": 0.01, "memory": 0.01}
TIMES, FLOOR = 3, 0.2  # of two undisturbed runs' distance, and of APART: what a resumed run may be away
UNIT = 2**-8  # bf16's rounding of one operation
LOSS = 0.05  # of fp32's, at every step; fp16's scaler may pass over the first few
PAPER = (
    *("--preset", "paper", "data.name=synthetic", "data.synthetic.classes=124", "data.synthetic.train_videos=16"),
    *("data.synthetic.val_videos=2", "data.synthetic.frames=3", "data.synthetic.height=480"),
    *("data.synthetic.width=853", "encoder.beit.pretrained=false", "train.micro_batch=2"),  # a GPU's share of 8
)
TINY = (
    *("precision=bf16", "encoder.beit.model=tiny", "train.crop=64", "train.short_side=64", "evaluate.window=64"),
    *("evaluate.stride=43", "evaluate.short_side=64", "data.synthetic.height=64", "data.synthetic.width=96"),
    *(f"decoder.{name}.{size}" for name in ("decoder_a", "decoder_b") for size in DEMO[:3]),
    *("decoder.upernet.channels=32", "decoder.upernet.aux_channels=16"),
)


@pytest.fixture(params=SLOW)
def device(request: pytest.FixtureRequest) -> str:
    """Where the body runs."""
    return str(request.param)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Print a figure past pytest."""

    def said(*words: object) -> None:
        with capsys.disabled():
            print("\n ", *words, end="")

    yield said
    said("\n")


def start(folder: Path, device: str, *words: str, threads: int = 1) -> "subprocess.Popen[str]":
    """`harness run` of words in a folder, all it says in said.txt."""
    folder.mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    env = {**kept, "HARNESS_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "harness.cli", "run", *words, "--offline"]
    with (folder / "said.txt").open("a") as said:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=said, text=True)


def finish(folder: Path, device: str, *words: str, threads: int = 1) -> Path:
    """The same to its end."""
    code = start(folder, device, *words, threads=threads).wait(PATIENCE)
    assert code == 0, (folder / "said.txt").read_text()
    return folder


def experiment(folder: Path, *names: str) -> str:
    """The path of an experiment that trains these decoders."""
    path = folder / "models.py"
    path.write_text(EXPERIMENT.format(names=names))
    return str(path)


def training(folder: Path, decoder: str) -> Path | None:
    """The job directory of a decoder's training."""
    for path in folder.glob("runs/jobs/*/job.yaml"):
        job = read(path.parent)
        if isinstance(job, TrainSpec) and job.decoder.name == decoder:
            return path.parent
    return None


def events(folder: Path, decoder: str, kind: type[K]) -> list[K]:
    """A training's events of a kind."""
    job = training(folder, decoder)
    assert job is not None
    return [event for event in read_events(job / "events.jsonl")[0] if isinstance(event, kind)]


class Trained(NamedTuple):
    """A training's weights, by name, and those it began with."""

    first: dict[str, Tensor]
    last: dict[str, Tensor]


def trained(folder: Path, decoder: str) -> Trained:
    """What became of a decoder."""
    place = training(folder, decoder)
    assert place is not None
    job = read_as(place, TrainSpec)
    runtime.seed_all(job.seed)
    model = build.segmentor(job, len(build.dataset(job.data).classes))
    return Trained(model.state_dict(), load_file(place / "weights.safetensors"))


def apart(one: Trained, other: Trained) -> dict[str, float]:
    """How far two trainings end from each other, as a share of the first one's way; weights, statistics and M."""

    def kind(name: str) -> str:
        return "memory" if name.endswith("memory.rows") else "statistics" if "running_" in name else "weights"

    found = {}
    for wanted in APART:
        names = [name for name, value in one.last.items() if kind(name) == wanted and value.is_floating_point()]
        if names:
            first, mine, theirs = (
                torch.cat([state[name].flatten() for name in names]) for state in (one.first, one.last, other.last)
            )
            found[wanted] = float((mine - theirs).norm() / (mine - first).norm())
    return found


def equal(one: Trained, other: Trained) -> bool:
    """Whether two trainings end with the same bits."""
    return all(torch.equal(one.last[name], other.last[name]) for name in one.last.keys() | other.last.keys())


def disturb(folder: Path, device: str, decoder: str, number: int, *words: str, threads: int = 1) -> None:
    """Start the command and send it a signal once a decoder's first checkpoint of this start is there."""
    process = start(folder, device, *words, threads=threads)
    deadline = time.monotonic() + PATIENCE
    while not ((job := training(folder, decoder)) and list(job.glob("checkpoints/*.pt"))):
        assert process.poll() is None, (folder / "said.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    code = process.wait(PATIENCE)
    assert code == (75 if number == signal.SIGTERM else -number), (folder / "said.txt").read_text()


def test_a_gpu_is_there() -> None:
    """The one that says why those below run on a CPU alone."""
    if not GPU:
        pytest.skip("torch sees no GPU (`harness doctor` says why): all checks here run on a CPU, or not at all")
    assert torch.cuda.device_count() == machine.gpus()


@pytest.mark.parametrize(
    ("exact", "mixed"), [(False, False), (True, False), (True, True)], ids=["any order", "exact", "exact, mixed"]
)
def test_a_resume_adds_nothing_to_what_two_runs_differ_by(
    tmp_path: Path, device: str, exact: bool, mixed: bool, say: Any
) -> None:
    """SIGTERM for UPerNet, kill -9 for Decoder B; in mixed precision what the scaler knows has to come back too."""
    words = [experiment(tmp_path, *DECODERS), *SHORT, "--launcher", "inline"]
    words += ["--deterministic"] if exact else []
    words += [f"precision={'fp16' if device == 'cuda' else 'bf16'}"] if mixed else []
    others = 2 if device == "cpu" and not exact else 1  # threads
    first, second = tmp_path / "first", tmp_path / "second"
    finish(first, device, *words)
    finish(second, device, *words, threads=others)
    third = tmp_path / "third"
    disturb(third, device, "upernet", signal.SIGTERM, *words)
    disturb(third, device, "decoder_b", signal.SIGKILL, *words, threads=others)
    finish(third, device, *words, threads=others)
    for decoder in DECODERS:
        assert 0 < events(third, decoder, Begin)[-1].step < STEPS, "it went on from a checkpoint"
        one, other, resumed = (trained(folder, decoder) for folder in (first, second, third))
        spread, found = apart(one, other), apart(one, resumed)
        say(decoder, "two runs:", shown(spread), "resumed:", shown(found))
        if exact:
            assert equal(one, other)
            assert equal(one, resumed)
        for kind, bound in APART.items():
            if kind in found:
                assert spread[kind] <= bound, kind
                assert found[kind] <= min(bound, TIMES * spread[kind] + FLOOR * bound), kind


def shown(shares: dict[str, float]) -> str:
    return ", ".join(f"{kind} {share:.1e}" for kind, share in shares.items())


def test_ranks_equal_one_process(tmp_path: Path, device: str, say: Any) -> None:
    """By torchrun, on as many GPUs as share the batch, even one. At each checkpoint the engine compares M's bits."""
    ranks = 2 if device == "cpu" else machine.ranks(BATCH, torch.cuda.device_count())
    (tmp_path / "decoders").mkdir()
    whole = plugins.find("decoders", "decoder_b").read_text()
    (tmp_path / "decoders" / "still.py").write_text(whole + STILL)
    words = [experiment(tmp_path, "still"), *SHORT, *(f"decoder.still.{size}" for size in DEMO)]
    words += ["--plugins", str(tmp_path)]
    alone = finish(tmp_path / "alone", device, *words, "--launcher", "inline")
    several = finish(tmp_path / "several", device, *words, "--launcher", "torchrun", "--nproc", str(ranks))
    assert [event.world for event in events(several, "still", Begin)] == [ranks]
    assert [event.step for event in events(several, "still", Checkpoint)] == [4, 8, 12, 16]
    found = apart(trained(alone, "still"), trained(several, "still"))
    say(f"{ranks} rank(s) against one process:", shown(found))
    assert all(found[kind] <= bound for kind, bound in APART.items())


def in_a_group(index: int, world: int, port: int, device: str, folder: Path) -> None:
    """A rank: everything that the engine asks of the group, in a world of one too, for which it makes none itself."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    os.environ.update(LOCAL_RANK=str(index), LOCAL_WORLD_SIZE=str(world))
    rank = runtime.this_rank()
    assert rank.device.type == device
    with distributed.process_group(rank._replace(world=max(2, world))):
        assert dist.get_world_size() == world
        value = torch.full((3,), index + 1.0, device=rank.device, requires_grad=True)
        whole = distributed.all_sum(value)
        whole.sum().backward()
        assert value.grad is not None
        torch.manual_seed(0)
        norms = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).to(rank.device)
        net = distributed.data_parallel(distributed.convert_batch_norm(norms, rank.device))
        images = torch.randn(world, 2, 3, 5, 5)[index].to(rank.device)
        net(images).square().mul(images.mean()).mean().backward()
        found = {
            "sum": (whole.tolist(), value.grad.tolist()),
            "counts": distributed.agree(index + 1, 5),
            "stop": distributed.agreed("preempted" if index == 0 else None),
            "words": distributed.gather_words([str(index)]),
            "first": distributed.gather_sums([Pair(value.detach(), value.detach() * 2)])[1].tolist(),
            "same": (distributed.same(norms), distributed.same(Pair.apart(index))),
            "gradients": [
                parameter.grad.norm().item() for parameter in norms.parameters() if parameter.grad is not None
            ],
        }
    (folder / f"{index}.json").write_text(json.dumps(found))


class Pair(NamedTuple):
    """Class sums of which the last in the batch's order wins."""

    one: Tensor
    other: Tensor

    def merge(self, later: "Pair") -> "Pair":
        return later

    @staticmethod
    def apart(index: int) -> nn.Module:
        """A module that differs from rank to rank."""
        norm = nn.BatchNorm2d(1)
        norm.running_mean += index
        return norm


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("most", [1, 2], ids=["a world of one", "of several"])
def test_what_the_engine_asks_of_a_group(
    tmp_path: Path, device: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    world = min(most, torch.cuda.device_count()) if device == "cuda" else most
    mp.spawn(in_a_group, (world, free_port(), device, tmp_path), world)
    for index in range(world):
        found = json.loads((tmp_path / f"{index}.json").read_text())
        assert found["sum"] == [[world * (world + 1) / 2] * 3, [float(world)] * 3]
        assert found["counts"] == [world * (world + 1) / 2, 5 * world]
        assert found["stop"] == "preempted"
        assert found["words"] == [str(rank) for rank in range(world)]
        assert found["first"] == [2.0 * world] * 3
        assert found["same"] == [True, world == 1]
        assert found["gradients"] == json.loads((tmp_path / "0.json").read_text())["gradients"]


def precisions(device: str) -> list[str]:
    """All that the configuration knows, fp32 first; but for what a CPU refuses and old GPUs have not."""
    known = get_args(compose.schema().__dataclass_fields__["precision"].type)
    assert known[0] == "fp32"
    absent = "fp16" if device == "cpu" else None if torch.cuda.is_bf16_supported(including_emulation=False) else "bf16"
    return [precision for precision in known if precision != absent]


def test_every_precision_trains_as_fp32_does(tmp_path: Path, device: str, say: Any) -> None:
    """The first loss within one rounding, a mean over pixels whose roundings are many; the others within LOSS."""
    curves: dict[str, list[float]] = {}
    for precision in precisions(device):
        words = [experiment(tmp_path, "decoder_b"), *SHORT, f"precision={precision}", "--launcher", "inline"]
        folder = finish(tmp_path / precision, device, *words)
        told = {event.step: event.values for event in events(folder, "decoder_b", Metrics)}
        curve = curves[precision] = [told[step]["train/loss"] for step in range(1, STEPS + 1)]
        away = [abs(loss / wanted - 1) for loss, wanted in zip(curve, curves["fp32"], strict=True)]
        say(f"{precision}: loss {curve[0]:.4f} to {curve[-1]:.4f}, from fp32's {away[0]:.1e}, at most {max(away):.1e}")
        assert all(math.isfinite(loss) for loss in curve)
        assert curve[-1] < (1 - LOSS) * curve[0]
        assert away[0] <= UNIT
        assert max(away) <= LOSS


def test_the_papers_size_is_rehearsed(tmp_path: Path, device: str, say: Any) -> None:
    """BEiT-Large, crop 512, batch 16 in micro-batches of 2, made videos, no pre-trained weights; three models."""
    words = ["ablation_ensemble", *PAPER, *(TINY if device == "cpu" else ()), "--launcher", "inline", "--rehearse"]
    finish(tmp_path / "paper", device, *words)
    lines = (tmp_path / "paper" / "said.txt").read_text().splitlines()
    pattern = r"train (\w+) seed 0: peak ([\d.]+) GiB a rank, (\d+) ms a step"
    found = [match for line in lines if (match := re.fullmatch(pattern, line))]
    assert [match[1] for match in found] == ["upernet", "decoder_a", "decoder_b"]
    assert all(float(match[2]) > 0 and int(match[3]) > 0 for match in found)
    for line in lines:
        if " a step" in line or " a video" in line:
            say(line)
    for path in (tmp_path / "paper/runs/rehearsal/jobs").glob("*/outcome.json"):
        assert read_json(path)["status"] == "finished"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("side", [2, 3, 6])
@pytest.mark.parametrize("shape", [(2, 2), (16, 16), (5, 7)], ids=str)
def test_exact_pooling_is_torchs_but_for_rounding(device: str, side: int, shape: tuple[int, int]) -> None:
    given = torch.randn(2, 3, *shape, dtype=torch.float64, device=device, requires_grad=True)
    ours, theirs = nn.Sequential(nn.AdaptiveAvgPool2d(side)), nn.AdaptiveAvgPool2d(side)
    runtime.pool_exactly(ours)
    assert type(ours[0]) is runtime.ExactPool
    outs = [pool(given) for pool in (ours, theirs)]
    weights = torch.randn_like(outs[0])
    gradients = [torch.autograd.grad(out, given, weights)[0] for out in outs]
    for mine, wanted in (outs, gradients):
        assert torch.allclose(mine, wanted, rtol=1e-6, atol=1e-7)


def test_fused_attention_is_off_while_bits_must_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = torch.backends.cuda
    asked = (flags.flash_sdp_enabled, flags.mem_efficient_sdp_enabled, flags.cudnn_sdp_enabled)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        runtime.deterministic(True)
        assert [enabled() for enabled in asked] == [False] * 3
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert flags.math_sdp_enabled()
    finally:
        runtime.deterministic(False)
    assert [enabled() for enabled in asked] == [True] * 3
    assert not torch.are_deterministic_algorithms_enabled()
