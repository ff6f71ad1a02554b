import signal
from dataclasses import replace

import pytest
import tiny_jobs
import torch
from tiny_jobs import ALONE, stop_at, train_now, training, weights

from harness.common.errors import UnfitError
from harness.engine import checkpoint, jobs, train, worker
from harness.engine.runtime import Stop
from harness.jobdir.events import Begin, Checkpoint, Log, Metrics, read_events
from harness.jobdir.lease import Claim
from harness.jobdir.replay import Replay
from harness.plan.spec import read
from models.contract import Auxiliary, Output


@pytest.mark.parametrize("decoder", sorted(tiny_jobs.HEADS))
def test_resumed_training_is_bit_equal(tmp_path, monkeypatch, decoder):
    whole = train_now(training(tmp_path / "whole", decoder=decoder))
    parts = training(tmp_path / "parts", decoder=decoder)
    with monkeypatch.context() as patch:
        stop = stop_at(patch, 2)
        assert train.train(parts, ALONE, stop) == (
            "preempted",
            3,
            "stopped by a signal at step 3; rerun the same command to continue",
            75,
        )
    assert checkpoint.latest(parts / "checkpoints", print) == 3
    torch.rand(5)  # a generator elsewhere must not matter
    train_now(parts)
    expected, found = weights(whole), weights(parts)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_damaged_checkpoint_is_told_and_costs_only_its_iterations(tmp_path, monkeypatch):
    whole, parts = train_now(training(tmp_path / "whole")), training(tmp_path / "parts")
    with monkeypatch.context() as patch:
        train.train(parts, ALONE, stop_at(patch, 4, "cancelled"))
    checkpoint.path_of(parts / "checkpoints", 5).write_bytes(b"torn")
    train_now(parts)
    events, _ = read_events(parts / "events.jsonl")
    second = [event for event in events if isinstance(event, Begin)][1]
    assert (second.attempt, second.step) == (2, 4)
    assert any(isinstance(event, Log) and "step-000000005.pt" in event.message for event in events)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())


def test_memory_moves_and_is_saved(tmp_path):
    state = weights(train_now(training(tmp_path)))
    assert state["decoder.memory.initialised"].any()
    assert state["decoder.memory.rows"][state["decoder.memory.initialised"]].abs().sum(1).min() > 0


def test_journal_tells_the_whole_story(tmp_path):
    folder = train_now(training(tmp_path, log_every=2))
    events, _ = read_events(folder / "events.jsonl")
    begin = events[0]
    assert isinstance(begin, Begin)
    assert (begin.attempt, begin.step, begin.steps, begin.unit) == (1, 0, 6, "iterations")
    metrics = [event for event in events if isinstance(event, Metrics)]
    assert [event.step for event in metrics] == [2, 4, 6]
    assert set(metrics[0].values) == {
        "train/loss",
        "train/loss_main",
        "train/loss_total",
        "train/coarse",
        "train/auxiliary",
        "train/lr",
        "train/momentum",
        "time/iterations_per_second",
    }
    assert [event.step for event in events if isinstance(event, Checkpoint)] == [2, 4, 6]
    assert not list((folder / "checkpoints").glob("*"))


def test_accumulated_losses_add_up_to_the_batch(tmp_path):
    """The first iteration's forward differs by batch norm only, so compare parts of one output."""
    del tmp_path
    logits, labels = torch.randn(4, 3, 2, 2), torch.randint(0, 3, (4, 8, 8))
    labels[:2, :6] = 255  # uneven numbers of valid pixels
    valid = int((labels != 255).sum())
    auxiliary = torch.randn(4, 3, 1, 1)

    def part(rows):
        output = Output(logits[rows], (Auxiliary("aux", auxiliary[rows], 0.4),))
        return train.losses(output, labels[rows], valid)["loss"]

    whole = part(slice(0, 4))
    assert torch.allclose(part(slice(0, 2)) + part(slice(2, 4)), whole, atol=1e-6)
    full = torch.nn.functional.interpolate(logits, (8, 8), mode="bilinear")
    wide = auxiliary.expand(4, 3, 8, 8)
    mean = torch.nn.functional.cross_entropy
    expected = mean(full, labels, ignore_index=255) + 0.4 * mean(wide, labels, ignore_index=255)
    assert torch.allclose(whole, expected, atol=1e-6)
    parts = train.losses(Output(logits, (Auxiliary("aux", auxiliary, 0.4),)), labels, valid)
    assert torch.allclose(parts["loss_main"], mean(full, labels, ignore_index=255), atol=1e-6)
    assert torch.allclose(parts["loss_main"] + 0.4 * parts["aux"], parts["loss"], atol=1e-6)


def test_batch_without_valid_pixels_contributes_nothing():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = train.losses(Output(logits), torch.full((1, 4, 4), 255), 0)["loss"]
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_micro_batches_are_the_same_samples(tmp_path):
    job = read(training(tmp_path, iterations=2, batch=8, micro_batch=None))
    whole = train.plan(job, 1)
    split = train.plan(replace(job, train=replace(job.train, micro_batch=4)), 2)
    assert list(train.positions(whole, 0, 0)) == [list(range(8)), list(range(8, 16))]
    ranks = [list(train.positions(split, rank, 1)) for rank in range(2)]
    assert ranks == [[[8, 9], [12, 13]], [[10, 11], [14, 15]]]


def test_accumulation_trains_and_moves_memory_once_an_iteration(tmp_path, monkeypatch):
    updates = []
    folder = training(tmp_path, micro_batch=2, batch=4, iterations=2)
    from models.decoders.decoder_a import Decoder

    update = Decoder.update
    monkeypatch.setattr(
        Decoder, "update", lambda self, sums, m: (updates.append(int(sums.pixels.sum())), update(self, sums, m))
    )
    train_now(folder)
    assert len(updates) == 2
    assert all(0 < pixels <= 4 * 32 * 32 for pixels in updates)
    assert max(updates) > 2 * 32 * 32  # more than one micro-batch can hold


def test_ranks_must_share_a_micro_batch(tmp_path):
    with pytest.raises(UnfitError, match="3 ranks"):
        train.plan(read(training(tmp_path, batch=8, micro_batch=4)), 3)


def test_fp16_needs_a_gpu(tmp_path):
    with pytest.raises(UnfitError, match="fp16 needs a GPU"):
        train.train(training(tmp_path, precision="fp16"), ALONE, Stop())


def test_bf16_trains_with_a_float32_memory(tmp_path):
    state = weights(train_now(training(tmp_path, precision="bf16", iterations=2)))
    assert state["decoder.memory.rows"].dtype == torch.float32
    assert all(bool(value.isfinite().all()) for value in state.values())


def test_truth_is_the_prior_at_first_and_a_prediction_later(tmp_path):
    job = read(training(tmp_path))
    trainer = train.Trainer(job, 4, ALONE)
    trainer.start(None)
    assert trainer.offsets == (-1, 0)
    frames, labels = torch.zeros(1, 2, 3, 32, 32), torch.stack([torch.full((32, 32), value) for value in (1, 2)])[None]
    assert torch.equal(trainer._prior(frames, labels, 0.0), labels[:, 0])  # frame N-1's
    later = trainer._prior(frames, labels, 0.5)
    assert torch.equal(later, train.predict(trainer.model, frames[:, 0]))
    assert trainer.model.training


def test_own_prior_is_the_truth_of_the_frame_itself_then_none(tmp_path):
    job = read(training(tmp_path, decoder="decoder_b"))
    trainer = train.Trainer(job, 4, ALONE)
    trainer.start(None)
    assert trainer.offsets == (-2, -1, 0)
    labels = torch.stack([torch.full((32, 32), value) for value in (0, 1, 2)])[None]
    frames = torch.zeros(1, 3, 3, 32, 32)
    assert torch.equal(trainer._prior(frames, labels, 0.0), labels[:, 2])
    assert trainer._prior(frames, labels, 0.5) is None


def test_signal_sets_the_flag(monkeypatch):
    stop = Stop()
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)}
    try:
        stop.install()
        signal.raise_signal(signal.SIGUSR1)
        assert stop.status == "preempted"
        signal.raise_signal(signal.SIGINT)
        assert stop.status == "preempted"  # the first word stands
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@pytest.mark.parametrize("decoder", ["decoder_a", "decoder_b"])
def test_bf16_reaches_every_weight_after_a_pass_without_gradient(tmp_path, decoder):
    """Autocast caches weights that it casts; cast under no_grad first, they would have no gradient afterwards."""
    job = read(training(tmp_path, decoder=decoder, precision="bf16"))
    trainer = train.Trainer(job, 4, ALONE)
    trainer.start(None)
    trainer.model.decoder.memory.initialised.fill_(True)
    trainer.model.decoder.memory.rows.normal_()
    frames = len(trainer.offsets)
    batch = train.Batch(
        torch.randint(0, 256, (2, frames, 3, 32, 32), dtype=torch.uint8),
        torch.randint(0, 4, (2, frames, 32, 32), dtype=torch.uint8),
        torch.arange(2),
        ("", ""),
    )
    trainer.backward(batch, 2 * 32 * 32, progress=0.9)
    missing = [name for name, parameter in trainer.model.named_parameters() if parameter.grad is None]
    assert missing == []


@pytest.mark.parametrize("error", ["NCCL error: remote process exited or there was a network error", "Socket closed"])
def test_a_peers_end_is_not_taken_for_a_reason(tmp_path, error):
    found = jobs.failure(training(tmp_path), torch.distributed.DistBackendError(error))
    assert found.reason.startswith("another rank ended first")


NCCL = "NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)\nLast error:\n"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.distributed.DistBackendError(f"{NCCL}Cuda failure 2 'out of memory'"),
    ],
    ids=["allocator", "CUDA", "cuBLAS", "NCCL"],
)
def test_out_of_memory_names_what_lowers_it(tmp_path, error):
    folder = training(tmp_path)
    found = jobs.failure(folder, error)
    assert found.status == "failed"
    assert "--nproc" in found.reason
    assert "train.micro_batch (now 4" in found.reason
    assert "train.crop (now 32)" in found.reason


def test_weights_without_an_outcome_are_a_finished_training(tmp_path, monkeypatch):
    """Killed between the two, with the checkpoints gone: nothing is trained again."""
    folder = train_now(training(tmp_path))
    before = (folder / "weights.safetensors").read_bytes()
    monkeypatch.setattr(train, "run", None)
    train_now(folder)
    assert (folder / "weights.safetensors").read_bytes() == before
    begins = [event.step for event in read_events(folder / "events.jsonl")[0] if isinstance(event, Begin)]
    assert begins == [0, 6]


def test_damaged_weights_are_no_finished_training(tmp_path):
    folder = train_now(training(tmp_path))
    path = folder / "weights.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-100])
    train_now(folder)
    assert path.read_bytes() == before
    assert checkpoint.whole(path)
    assert Replay.of(folder / "events.jsonl").messages == [
        "weights.safetensors does not match its checksum; it is written again"
    ]


def test_a_superseded_training_writes_nothing_more(tmp_path, monkeypatch):
    folder = training(tmp_path)
    first = Claim(folder).take()
    tiny_jobs.set_attempt(folder, first.number)
    step, seen = train.Trainer.step, {}

    def times():
        files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "stacks")  # its own beats
        return {path: path.stat().st_mtime_ns for path in files}

    def taken_over(self, iteration, *rest):
        if iteration == 3:
            first.renew(released=True)
            assert Claim(folder).take().number == 2
            seen.update(times())
        return step(self, iteration, *rest)

    monkeypatch.setattr(train.Trainer, "step", taken_over)
    assert worker.launch([folder], ALONE, Stop()) == 75
    assert times() == seen
    assert not (folder / "outcome.json").exists()


def test_a_training_that_is_superseded_at_its_end_keeps_nothing(tmp_path, monkeypatch):
    folder = training(tmp_path)
    first = Claim(folder).take()
    tiny_jobs.set_attempt(folder, first.number)
    finish = train.finish

    def taken_over(*arguments):
        first.renew(released=True)
        assert Claim(folder).take().number == 2
        finish(*arguments)

    monkeypatch.setattr(train, "finish", taken_over)
    assert worker.launch([folder], ALONE, Stop()) == 75
    assert not (folder / "memory" / "step-000000006.npy").exists()
    assert not (folder / "weights.safetensors").exists()
    assert not (folder / "outcome.json").exists()
