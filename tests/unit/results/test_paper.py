import ast
import re
from pathlib import Path

import pytest

from harness.results import paper

THEIRS = {
    "dataset": "vspw",
    "classes": 124,
    "train_videos": 2806,
    "val_videos": 343,
    "encoder": "beit_large_patch16_224.in22k_ft_in22k",
    "pretrained": True,
    "epochs": 240,
    "batch": 16,
    "micro_batch": 16,
    "crop": 512,
    "lr": 2e-5,
    "weight_decay": 0.05,
    "frames_per_video": 1,
}


def test_gains_are_the_papers_own_arithmetic() -> None:
    base = paper.CELLS["ablation_ensemble", "upernet"].miou
    gains = {cell: known for (experiment, cell), known in paper.CELLS.items() if known.gain is not None}
    assert {"decoder_a", "decoder_b"} == set(gains)
    for known in gains.values():
        assert known.miou - base == pytest.approx(known.gain)


def test_claims_are_differences_of_the_papers_numbers() -> None:
    gains = {(claim.cell, claim.baseline): claim.gain for claim in paper.CLAIMS}
    assert list(gains.values()) == [1.22, 1.16, 0.88, 0.19]
    for claim in paper.CLAIMS:
        cell, over = (paper.published(claim.experiment, name) for name in (claim.cell, claim.baseline))
        assert cell is not None
        assert over is not None
        assert cell.miou - over.miou == pytest.approx(claim.gain)
        assert "Table" in claim.source
    assert paper.claims("ablation_momentum") == ()
    assert [claim.cell for claim in paper.claims("ablation_stages")] == ["stage1"]


def test_table_2_begins_where_table_1_has_decoder_a() -> None:
    a, stage0 = paper.published("ablation_ensemble", "decoder_a"), paper.published("ablation_stages", "stage0")
    assert a is not None
    assert stage0 is not None
    assert a.miou == stage0.miou


def test_what_the_paper_does_not_print_is_none() -> None:
    assert paper.published("ablation_momentum", "m_0_9") is None
    assert paper.published("ablation_ensemble", "my_decoder") is None


def test_every_number_says_where_it_stands() -> None:
    assert all("Table" in known.source or "§" in known.source for known in paper.CELLS.values())


def test_the_papers_setting_is_comparable() -> None:
    assert paper.not_the_papers(THEIRS) == []
    assert paper.not_the_papers({**THEIRS, "precision": "fp16", "momentum": 0.1, "classes": None}) == []


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"dataset": "synthetic", "classes": 5}, "data: synthetic"),
        ({"classes": 11}, "data: 11 classes instead of 124"),
        ({"train_videos": 13}, "data: 13 training videos instead of 2806"),
        ({"encoder": "tiny"}, "backbone: tiny BEiT"),
        ({"encoder": "resnet50"}, "backbone: resnet50"),
        ({"pretrained": False}, "backbone: random weights"),
        ({"epochs": 3}, "schedule: 3 epochs"),
        ({"epochs": 1}, "schedule: 1 epoch"),
        ({"batch": 8}, "batch 8 instead of 16"),
        ({"micro_batch": 4}, "BN group 4 instead of 16"),
        ({"micro_batch": None}, "BN group not known"),
        ({"crop": 64}, "crop 64 instead of 512"),
        ({"lr": 1e-3}, "learning rate 0.001 instead of 2e-05"),
        ({"frames_per_video": 4}, "frames per video 4 instead of 1"),
    ],
)
def test_each_difference_is_named_alone(change: dict[str, object], phrase: str) -> None:
    assert paper.not_the_papers({**THEIRS, **change}) == [phrase]


def test_silence_is_no_agreement() -> None:
    assert paper.not_the_papers({})[:3] == ["data: not known", "backbone: not known", "schedule: not known"]


def test_the_papers_numbers_stand_nowhere_else_but_in_what_experiments_expect() -> None:
    project = Path(__file__).resolve().parents[3]
    numbers = {f"{one.miou:.2f}" for one in paper.CELLS.values()}
    numbers |= {f"{one.gain:.2f}" for one in paper.CLAIMS}
    pattern = re.compile(r"(?<![\d.])(?:" + "|".join(map(re.escape, sorted(numbers))) + r")(?![\d.]*\d)")
    for folder in ("harness", "models", "reports", "experiments"):
        for path in (project / folder).rglob("*.py"):
            text = path.read_text()
            doc = ast.get_docstring(ast.parse(text), clean=False) or ""
            if folder == "experiments":
                expected = doc.partition("Expected")[2].partition("\n")[0]
                assert set(re.findall(r"\b\d\d\.\d\d\b", expected)) <= numbers, path
                text = text.replace(doc, "")
            if path.name != "paper.py":
                assert not pattern.findall(text), path
