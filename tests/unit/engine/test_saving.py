"""Checkpoints are written beside training: as it was when they were due, each told of once it has its name."""

import threading
import time

import pytest
import torch
from test_freezing import batch, begun
from tiny_jobs import ALONE, stop_at, train_now, training, weights

from harness.engine import checkpoint, saving, train
from harness.engine.stop import Stop
from harness.jobdir.events import Begin, Checkpoint, Progress, read_events
from harness.jobdir.lease import SupersededError


def slowly(monkeypatch, until):
    """Let each checkpoint be written once `until` is set."""
    write = checkpoint.save

    def wait_and_save(*words):
        assert until.wait(60)
        return write(*words)

    monkeypatch.setattr(checkpoint, "save", wait_and_save)


def test_a_copied_state_is_not_changed_by_later_steps(tmp_path):
    trainer = begun(training(tmp_path))
    trainer.step(0, [batch(trainer)], 2 * 32 * 32)
    expected = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    state = checkpoint.copied(trainer.state())
    trainer.step(1, [batch(trainer)], 2 * 32 * 32)
    assert any(not torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())
    assert all(torch.equal(value, expected[name]) for name, value in state["model"].items())
    assert state["model"]._metadata == trainer.model.state_dict()._metadata
    moments = [entry["exp_avg"] for entry in state["optimizer"]["state"].values()]
    assert all(value.isfinite().all() and value.untyped_storage().nbytes() == value.nbytes for value in moments)


def test_training_goes_on_while_one_is_written_and_resumes_from_it(tmp_path, monkeypatch):
    """The first checkpoint, of step 2, gets its name only after step 3; the preempted one is there when it returns."""
    whole = train_now(training(tmp_path / "whole"))
    folder = training(tmp_path / "parts")
    until = threading.Event()
    with monkeypatch.context() as patch:
        slowly(patch, until)
        stop = stop_at(patch, 3)
        step = train.Trainer.step

        def released(self, now, *rest):
            if now == 3:
                assert checkpoint.latest(folder / "checkpoints", print) is None, "step 3 did not wait for it"
                until.set()
            return step(self, now, *rest)

        patch.setattr(train.Trainer, "step", released)
        train.train(folder, ALONE, stop)
    assert sorted(path.name for path in (folder / "checkpoints").glob("*.pt")) == [
        "step-000000002.pt",
        "step-000000004.pt",
    ]
    told = [event for event in read_events(folder / "events.jsonl")[0] if isinstance(event, Checkpoint)]
    assert [event.step for event in told] == [2, 4]
    assert all(event.seconds > 0 for event in told)
    train_now(folder)
    begins = [event.step for event in read_events(folder / "events.jsonl")[0] if isinstance(event, Begin)]
    assert begins == [0, 4]
    assert all(torch.equal(value, weights(folder)[name]) for name, value in weights(whole).items())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SupersededError("another attempt has it")])
def test_what_goes_wrong_in_writing_ends_the_training(tmp_path, monkeypatch, error):
    def fail(*words):
        raise error

    monkeypatch.setattr(checkpoint, "save", fail)
    folder = training(tmp_path, checkpoint_every=1)
    with pytest.raises(type(error)) as raised:
        train.train(folder, ALONE, Stop())
    assert raised.value is error
    events = read_events(folder / "events.jsonl")[0]
    assert not any(isinstance(event, Checkpoint) for event in events)
    assert max(event.step for event in events if isinstance(event, Progress)) < 6


def test_another_end_is_not_hidden_by_one_that_is_being_written(tmp_path, monkeypatch):
    """It is waited for: nobody may write into the folder of a training that has ended."""
    ended = []

    def late(*words):
        time.sleep(0.5)
        ended.append(True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", late)
    step = train.Trainer.step

    def broken(self, now, *rest):
        if now == 2:
            raise RuntimeError("broken")
        return step(self, now, *rest)

    monkeypatch.setattr(train.Trainer, "step", broken)
    with pytest.raises(RuntimeError, match="broken"):
        train.train(training(tmp_path), ALONE, Stop())
    assert ended


@pytest.mark.parametrize(
    ("value", "finite", "no_nan"),
    [
        (torch.full((3,), 3e38), True, True),  # whose sum is not finite
        (torch.tensor([1.0, torch.inf, -torch.inf]), False, True),  # whose sum is nan
        (torch.tensor([1.0, torch.nan]), False, False),
        (torch.tensor([1.0, -torch.inf]), False, True),
        (torch.tensor([True, False]), True, True),
        (torch.tensor(7), True, True),
        (torch.zeros(0), True, True),
        (torch.full((4,), 60000.0, dtype=torch.float16), True, True),
    ],
)
def test_a_sum_tells_no_more_than_its_terms(value, finite, no_nan):
    assert saving.all_of(torch.isfinite, value) is finite is bool(value.isfinite().all())
    assert saving.all_of(saving.not_nan, value) is no_nan is bool((~value.isnan()).all())
