"""`harness plan --memory`: sizes, what is asked of the child, and the lines that say what fits."""

import json

import pytest

from harness import cli
from harness.common.errors import UsageError
from harness.plan import memory
from harness.plan.memory import Need, lines, parse

SMALL = ("data.synthetic.train_videos=4", "data.synthetic.val_videos=3", "train.epochs=5")


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("40GiB", 40 * 2**30), ("1.5 GiB", 3 * 2**29), ("800MB", 8 * 10**8)]
)
def test_sizes(text, size):
    assert parse(text) == size


@pytest.mark.parametrize("text", ["24", "GB", "-1GB", "24gb", "0GB", "nanGB", ""])
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError, match="must be a size such as 24GB or 40GiB"):
        parse(text)


def test_each_need_has_its_line_and_what_makes_it_fit():
    needed = [
        Need(("a",), "train upernet seed 0", 2, 10 * 2**30),
        Need(("b",), "train decoder_a seed 0", 2, 30 * 2**30, ("train.micro_batch=2", 20 * 2**30)),
        Need(("c",), "train decoder_b seed 0", 2, 90 * 2**30),
        Need(("d",), "train mine seed 0", 2, None, reason="asks for a value"),
    ]
    text = "\n".join(lines(needed, parse("24GB"), "24GB"))
    assert "train upernet seed 0    10 GiB with 2 image(s)  OK" in text
    assert "train decoder_a seed 0  30 GiB with 2 image(s)  FAIL\n    train.micro_batch=2: 20 GiB" in text
    assert "FAIL\n    no activation checkpointing or smaller micro-batch suffices" in text
    assert "train mine seed 0       unknown: asks for a value" in text
    assert "changes numbers" in text
    assert lines([], 1, "24GB") == ["", "Memory of a step: no training is missing"]


def test_like_trainings_are_traced_once_by_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.common.machine.gpus", lambda: 0)
    words = ["plan", "ablation_ensemble", *SMALL, "--seeds", "2", "--memory", "30MB", "--json"]
    assert cli.main(words) == 0
    needed = json.loads(capsys.readouterr().out)["memory"]
    assert [(need["name"], len(need["jobs"])) for need in needed] == [
        (f"train {name} seed 0 (and 1 like it)", 2) for name in ("upernet", "decoder_a", "decoder_b")
    ]
    assert all(need["peak"] > 2**20 and need["images"] == 8 for need in needed)
    assert all(need["fits"] == (need["peak"] <= 30 * 10**6) for need in needed)
    assert list(tmp_path.iterdir()) == []
    assert memory.UNITS["GB"] == 10**9
